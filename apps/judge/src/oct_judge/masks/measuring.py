"""What a drawing is worth: Dice, distances of surfaces and boundaries, thickness by sector."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from oct_io import Spacing
from oct_io.space.layers import mask_to_layers
from oct_io.space.thickness import SECTORS, map_thickness, measure_etdrs
from oct_io.volume import Laterality
from oct_launch import Stages
from oct_vjepa.boards.runs import MEASURES
from oct_vjepa.measures.shares import known_mean
from oct_vjepa.saving import write_whole
from oct_vjepa.scores.measured import Measured, Readings, by_participant

from oct_judge.asking import seeds_of
from oct_judge.masks.candidates import Drawings, Drawn
from oct_judge.masks.study import MaskStudy
from oct_judge.question import FinetuneConfig
from oct_judge.segmenting import UM_PER_MM

HEADLINE = "dice"
RETINA = (("ILM",), ("BM", "RPE/BM", "RPE"))
"""Between which boundaries the retina lies; of several the first that is there."""
Map = NDArray[np.float64]


class Thickness(NamedTuple):
    """Micrometres between the two chosen boundaries of one scan, (bscans, columns)."""

    predicted: Map
    true: Map


class Ruler:
    """Measures the drawings of an evaluation.

    Args:
        study: the question.
        config: says between which boundaries thickness is measured.
    """

    def __init__(self, study: MaskStudy, config: FinetuneConfig) -> None:
        self.study = study
        chosen = list(config.segment.thickness) or [
            next((one for one in pair if one in study.boundaries), "") for pair in RETINA
        ]
        self.band = [study.boundaries.index(one) for one in chosen if one in study.boundaries]
        kinds = ("dice", "surface_mean_um", "surface_95_um")
        self.metrics = [HEADLINE]
        self.metrics += [f"{kind}_{name}" for kind in kinds for name in study.names]
        if study.boundaries:
            self.metrics += ["boundary_um"]
        self.metrics += [f"boundary_um_{name}" for name in study.boundaries]
        self.has_thickness = len(set(self.band)) == 2
        if self.has_thickness:
            kinds = ("etdrs_error_um", "etdrs_predicted_um", "etdrs_true_um")
            self.metrics += [f"{kind}_{sector}" for kind in kinds for sector in SECTORS]

    def read(self, drawings: Drawings) -> list[list[Measured]]:
        """Every metric of every tested participant, by seed and round."""
        return [[self.measure(one) for one in rounds] for rounds in drawings]

    def read_all(self, drawings: Mapping[str, Drawings], stages: Stages) -> dict[str, Readings]:
        """What each candidate's drawings are worth."""
        found: dict[str, Readings] = {}
        for number, (name, one) in enumerate(drawings.items()):
            stages("scoring", number + 1, len(drawings))
            found[name] = self.read(one)
        return found

    def measure(self, drawn: Drawn) -> Measured:
        """Every metric of one round, a row a participant."""
        rows = self.by_row(drawn)
        return by_participant(rows, self.study.people[drawn.rows])

    def by_row(self, drawn: Drawn) -> Map:
        """Every metric of one round, a row a scan."""
        place = {name: number for number, name in enumerate(self.metrics)}
        where = {row: number for number, row in enumerate(drawn.rows)}
        found = np.full((len(drawn.rows), len(self.metrics)), np.nan)
        for score in drawn.table:
            for kind in ("dice", "surface_mean_um", "surface_95_um"):
                found[where[score["row"]], place[f"{kind}_{score['class']}"]] = score[kind]
        counted = [place[f"dice_{self.study.names[one]}"] for one in self.study.counted]
        found[:, 0] = known_mean(found[:, counted], 1)
        if self.study.boundaries:
            for row, number in where.items():
                for name, value in self.layers(row, drawn.draw(row)).items():
                    found[number, place[name]] = value
        return found

    def layers(self, row: int, mask: NDArray[np.uint8]) -> dict[str, float]:
        """How far boundaries are off, and thickness by sector, of one scan."""
        names, spacing = self.study.boundaries, Spacing(*self.study.volumes.spacings[row])
        truth = self.study.volumes.layers(row)
        drawn = mask_to_layers(mask, len(names))
        off = {
            f"boundary_um_{name}": _mean(np.abs(drawn[number] - truth[name]))
            * (spacing.row * UM_PER_MM)
            for number, name in enumerate(names)
        }
        off["boundary_um"] = _mean(np.array(list(off.values())))
        if not self.has_thickness or not np.isfinite(spacing).all():
            return off
        maps = self.thickness(row, mask)
        # Where the truth is not known a sector would be the mean of other A-scans.
        predicted = np.where(np.isfinite(maps.true), maps.predicted, np.nan)
        mine, theirs = (
            measure_etdrs(one, spacing, self._side(row)).thickness_um
            for one in (predicted, maps.true)
        )
        for sector in SECTORS:
            off[f"etdrs_error_um_{sector}"] = abs(mine[sector] - theirs[sector])
            off[f"etdrs_predicted_um_{sector}"] = mine[sector]
            off[f"etdrs_true_um_{sector}"] = theirs[sector]
        return off

    def thickness(self, row: int, mask: NDArray[np.uint8]) -> Thickness:
        """Between the chosen boundaries, as drawn and as it is."""
        names, step = self.study.boundaries, float(self.study.volumes.spacings[row][1])
        truth = self.study.volumes.layers(row)
        drawn = mask_to_layers(mask, len(names))
        upper, lower = self.band
        return Thickness(
            map_thickness(drawn[upper] * step, drawn[lower] * step),
            map_thickness(truth[names[upper]] * step, truth[names[lower]] * step),
        )

    def _side(self, row: int) -> Laterality:
        """On which side the nose is: a left eye that was mirrored counts as a right one."""
        if self.study.volumes.entries[row].mirrored:
            return "R"
        return cast(Laterality, str(self.study.eyes[row]))


def write_measures(
    run_dir: Path,
    study: MaskStudy,
    config: FinetuneConfig,
    metrics: Sequence[str],
    readings: Mapping[str, Readings],
) -> None:
    """Write measures.parquet, from which leaderboards are made.

    A row a candidate, seed, round and tested participant, who is a hash, and a column a metric.

    Args:
        run_dir: of the evaluation.
        study: who was tested in which round.
        config: says the seeds.
        metrics: names of the columns of what was measured.
        readings: of each candidate.
    """
    names, blocks = np.unique(study.participants), list[pa.Table]()
    for candidate, sown in readings.items():
        for seed, rounds in zip(seeds_of(config), sown, strict=True):
            for one, found in zip(study.rounds, rounds, strict=True):
                count = len(found.groups_N)
                block: dict[str, Any] = {
                    "candidate": [candidate] * count,
                    "seed": [seed] * count,
                    "round": [one.name] * count,
                    "participant": names[found.groups_N].tolist(),
                }
                block |= {name: found.values_NM[:, at] for at, name in enumerate(metrics)}
                blocks.append(pa.table(block))
    table = pa.concat_tables(blocks)
    write_whole(run_dir / MEASURES, lambda path: pq.write_table(table, path))


def _mean(values: NDArray[np.floating]) -> float:
    return float(known_mean(np.asarray(values, np.float64).reshape(-1), 0))


def cases_of(drawn: Drawn, ruler: Ruler) -> list[tuple[str, int]]:
    """A good, a median and a bad case, by the headline: its name and its row."""
    scores = ruler.by_row(drawn)[:, 0]
    known: Sequence[int] = np.flatnonzero(np.isfinite(scores)).tolist()
    if not known:
        return []
    order = sorted(known, key=lambda number: float(scores[number]))
    places = {"good": -1, "median": len(order) // 2, "bad": 0}
    found: dict[int, str] = {}
    for name, at in places.items():
        found.setdefault(drawn.rows[order[at]], name)
    return [(name, row) for row, name in found.items()]
