"""Numbers and files of an evaluation of masks; `docs/segmentation.md` says what stands where."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oct_xla
from oct_vjepa.measures.units import Interval
from oct_vjepa.probes.protocol import Round
from oct_vjepa.saving import write_text
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.scores.measured import Gap, Readings, compare_measured, measure_card
from oct_vjepa.scores.subgroups import subgroup_means
from oct_vjepa.trials.verdict import groups_of

from oct_judge.asking import draw_subsets, subset_sizes
from oct_judge.candidates import PRETRAINED, RANDOM
from oct_judge.family import Family
from oct_judge.findings.flow import count_flow
from oct_judge.masks.candidates import Drawings
from oct_judge.masks.measuring import HEADLINE, Ruler
from oct_judge.masks.study import MaskStudy
from oct_judge.question import FinetuneConfig
from oct_judge.recipe import ENCODER_LEARNS
from oct_judge.results import FORMAT
from oct_judge.study import met_by

TASK = "segmentation"
MEASURES = {HEADLINE: "Dice", "auroc": "AUROC, patch by patch,"}
"""What a sentence calls the headline."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundMasks:
    """All that was asked, and what was drawn.

    Attributes:
        config: of the evaluation.
        study: the question.
        drawings: of each candidate; the encoder first.
        few: candidate, share of the participants with masks, drawings.
        touches: by how many settings these test participants have been scored.
        command: that repeats the run.
    """

    config: FinetuneConfig
    study: MaskStudy
    drawings: dict[str, Drawings]
    few: Sequence[tuple[str, float, Drawings]]
    touches: int
    command: str


def describe_masks(
    found: FoundMasks, ruler: Ruler, readings: Mapping[str, Readings]
) -> dict[str, Any]:
    """results.json: every number, plain; intervals are a value and the ends of 95 %.

    Args:
        found: what was drawn.
        ruler: measures drawings.
        readings: what it has read of each candidate's.
    """
    config, study = found.config, found.study
    draws = {"seed": config.seed, "bootstrap": config.bootstrap}
    gains = compare_measured(readings, ruler.metrics, HEADLINE, reference=PRETRAINED, **draws)
    rows = []
    for name, drawings in found.drawings.items():
        metrics = measure_card(readings[name], ruler.metrics, **draws)
        chosen = [dict(one.chosen) for rounds in drawings for one in rounds]
        gain = gain_of(gains.get(name))
        rows.append({"name": name, "card": {"metrics": metrics}, "gain": gain, "chosen": chosen})
    few = [(name, fraction, ruler.read(drawings)) for name, fraction, drawings in found.few]
    subsets = partial(draw_subsets, config, study.rounds, study.amounts, study.people)
    shown = [HEADLINE, *(f"dice_{study.names[one]}" for one in study.counted)]
    if len(study.counted) == 1:
        shown = [HEADLINE]
    if study.boundaries:
        shown = [HEADLINE, "boundary_um"]
    question = {
        "counted": [study.names[one] for one in study.counted],
        "thickness": [study.boundaries[one] for one in ruler.band],
        "unit": "um",
    }
    return document_of(
        config, study, kind=TASK, headline=HEADLINE, question=question, touches=found.touches,
        candidates=rows,
        efficiency=efficiency_of(config, study, few, ruler.metrics, HEADLINE, subsets=subsets),
        further={"trained": config.training.mode}, command=found.command,
        subgroups=subgroups_of(config, study, readings[PRETRAINED], ruler.metrics, shown),
    )  # fmt: skip


def efficiency_of(
    config: FinetuneConfig,
    study: MaskStudy,
    few: Sequence[tuple[str, float, Readings]],
    metrics: Sequence[str],
    headline: str,
    *,
    subsets: Callable[[float], Sequence[Sequence[Round]]],
) -> list[dict[str, Any]]:
    """The headline after a share of the participants, and what the encoder has over each.

    Args:
        config: of the evaluation.
        study: scans, masks and rounds.
        few: candidate, share, what was measured.
        metrics: names of its columns.
        headline: one of them.
        subsets: of a share, the rounds as they were asked in each turn.
    """
    rows = []
    for share in dict.fromkeys(fraction for _, fraction, _ in few):
        turns = config.compare.turns_of(share)
        draws = {"seed": config.seed, "bootstrap": config.bootstrap, "turns": turns}
        asked = {name: readings for name, fraction, readings in few if fraction == share}
        sizes = subset_sizes(subsets(share), study.people)
        gains = compare_measured(asked, metrics, headline, reference=PRETRAINED, **draws)
        rows += [
            {
                "candidate": name,
                "fraction": share,
                "participants": sizes,
                "headline": measure_card(readings, metrics, **draws)[headline],
                "gain": gain_of(gains.get(name)),
            }
            for name, readings in asked.items()
        ]
    return rows


def subgroups_of(
    config: FinetuneConfig,
    study: MaskStudy,
    readings: Readings,
    metrics: Sequence[str],
    shown: Sequence[str],
) -> list[dict[str, Any]]:
    """A table for each column of which those who are tested have several values.

    Args:
        config: of the evaluation.
        study: who was asked.
        readings: of the encoder.
        metrics: names of their columns.
        shown: those to tell.
    """
    draws = {"seed": config.seed, "bootstrap": config.bootstrap}
    return [
        subgroup_means(readings, metrics, values, shown=shown, column=column, **draws).as_json()
        for column, values in groups_of(study.columns, study.people).items()
    ]


def document_of(
    config: FinetuneConfig,
    study: MaskStudy,
    *,
    kind: str,
    headline: str,
    question: Mapping[str, Any],
    touches: int,
    candidates: Sequence[Mapping[str, Any]],
    efficiency: Sequence[Mapping[str, Any]],
    further: Mapping[str, Any],
    command: str,
    subgroups: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What results.json says of any question that masks answer, plain, with its sentence.

    Args:
        config: of the evaluation.
        study: who was asked.
        kind: of the question.
        headline: metric of the sentence.
        question: further facts of the question.
        touches: by how many settings these test participants have been scored.
        candidates: a row each, the encoder first.
        efficiency: a row a candidate and share of the participants.
        further: facts beside the question.
        command: that repeats the run.
        subgroups: a table a column.
    """
    document: dict[str, Any] = {
        "format": FORMAT,
        "made_up_data": study.source.made_up,
        "question": {
            "name": "layers" if study.boundaries else "masks",
            "kind": kind,
            "names": list(study.names),
            "boundaries": list(study.boundaries),
            **question,
            "fingerprint": study.fingerprint(),
        },
        "mode": config.mode,
        **further,
        "headline": headline,
        "protocol": asdict(config.protocol) | {"rounds": [one.name for one in study.rounds]},
        "seeds": config.seeds,
        "split": study.describe(),
        "test_touches": touches,
        "candidates": candidates,
        "efficiency": efficiency,
        "few_validation": config.compare.few_validation,
        "subgroups": subgroups,
        "command": command,
        "allow_seen": config.allow_seen,
        "flow": count_flow(study, rule=study.rule, notes=(), by_class=study.by_class),
    }
    document = as_plain(document)
    document["sentence"] = sentence_of(document)
    return document


def note_origin(
    run_dir: Path,
    config: FinetuneConfig,
    study: MaskStudy,
    family: Family,
    runtime: oct_xla.Runtime,
    touches: int,
) -> dict[str, Any]:
    """Write provenance.json: who was asked of what, and how often these were tested; returns it."""
    source = study.source
    learns = config.mode == "segment" and config.training.mode in ENCODER_LEARNS
    extra = {
        "encoder": family.fingerprint(),
        "dataset_fingerprint": source.volumes.fingerprint,
        "made_up_data": source.made_up,
        "split": study.rule,
        "remarks": list(source.remarks),
        "test_touches": touches,
        **met_by(study, family, trained=learns),
    }
    return oct_xla.write_provenance(run_dir, runtime, seed=config.seed, extra=extra)


def gain_of(gap: Gap | None) -> dict[str, Any] | None:
    """What the encoder has over a candidate."""
    if gap is None:
        return None
    return {"difference": list(gap.difference), "p": gap.p, "p_holm": gap.p_holm}


def sentence_of(document: Mapping[str, Any]) -> str:
    """The result in one sentence that says whether the encoder was worth it."""
    rows = {one["name"]: one for one in document["candidates"]}
    own = Interval(*numbers_of(rows[PRETRAINED]["card"]["metrics"][document["headline"]]))
    phantom = "On made-up retinas: " if document["made_up_data"] else ""
    measure = MEASURES[document["headline"]]
    said = f"{phantom}{document['question']['name']}: {measure} {own.text()} of the encoder"
    parts = []
    for name, row in rows.items():
        if not row["gain"]:
            continue
        gain = Interval(*numbers_of(row["gain"]["difference"]))
        told = gain.low > 0 or gain.high < 0
        called = "its random init" if name == RANDOM else name
        parts.append(f"{gain.text('+')}{'' if told else ', which may be luck,'} over {called}")
    return f"{said}; {'; '.join(parts)}." if parts else f"{said}."


def mask_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows for a terminal and a page: each candidate with what the encoder gains."""
    question = document["question"]
    headings, columns = ["candidate"], list[str]()
    if len(question["counted"]) > 1:
        headings, columns = [*headings, "Dice"], [HEADLINE]
    if question["boundaries"]:
        headings, columns = [*headings, "boundaries off by (um)"], [*columns, "boundary_um"]
    else:
        for name in question["counted"]:
            headings += [f"Dice, {name}", f"95 % surface distance, {name} (um)"]
            columns += [f"dice_{name}", f"surface_95_um_{name}"]
    rows = []
    for one in document["candidates"]:
        values = [one["card"]["metrics"][name] for name in columns]
        texts = [
            in_short(value, um="um" in name) for name, value in zip(columns, values, strict=True)
        ]
        rows.append([one["name"], *texts, *gain_cells(one["gain"])])
    return [*headings, "encoder over it", "p (Holm)"], rows


def gain_cells(gain: Mapping[str, Any] | None) -> list[str]:
    """What the encoder has over a candidate, and p, as a table shows them; empty for its own."""
    if not gain:
        return ["", ""]
    p = f"{gain['p_holm']:.3f}" if gain["p_holm"] is not None else ""
    return [Interval(*numbers_of(gain["difference"])).text("+"), p]


def boundary_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: how far each boundary is off."""
    names = document["question"]["boundaries"]
    rows = [
        [
            one["name"],
            *(in_short(one["card"]["metrics"][f"boundary_um_{name}"], um=True) for name in names),
        ]
        for one in document["candidates"]
    ]
    return ["candidate", *names], rows


def sector_table(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: mean thickness by ETDRS sector, as drawn by the encoder and as it is."""
    metrics = document["candidates"][0]["card"]["metrics"]
    kinds = ("etdrs_true_um", "etdrs_predicted_um", "etdrs_error_um")
    sectors = [
        name.removeprefix(f"{kinds[0]}_") for name in metrics if name.startswith(f"{kinds[0]}_")
    ]
    rows = [
        [
            sector.replace("_", " "),
            *(in_short(metrics[f"{kind}_{sector}"], um=True) for kind in kinds),
        ]
        for sector in sectors
    ]
    return ["sector", "true (um)", "predicted (um)", "off by, mean of scans (um)"], rows


def in_short(value: Sequence[float | None], *, um: bool) -> str:
    """An interval as text; micrometres with one digit behind the point."""
    numbers = numbers_of(value)
    if not um:
        return Interval(*numbers).text()
    if not np.isfinite(numbers[0]):
        return "-"
    return f"{numbers[0]:.1f} ({numbers[1]:.1f} to {numbers[2]:.1f})"


def numbers_of(value: Sequence[float | None]) -> list[float]:
    """What a JSON null stands for is NaN."""
    return [float("nan") if one is None else float(one) for one in value]


def write_masks(run_dir: Path, found: FoundMasks, document: Mapping[str, Any]) -> dict[int, Path]:
    """Write results.json, and masks/KEY.npz of each tested scan as the encoder draws it.

    A file holds `mask` (Z, Y, X) uint8, `names` of its classes and `spacing_mm`; KEY is the hash
    that stands for the scan in the cache. With several seeds it is the first, with several shuffles
    the first in which the scan is tested.

    Returns:
        Row to file.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False)
    write_text(run_dir / "results.json", text + "\n")
    folder = run_dir / "masks"
    folder.mkdir(exist_ok=True)
    study, written = found.study, dict[int, Path]()
    keys = study.volumes.ids
    for one in found.drawings[PRETRAINED][0]:
        for row in one.rows:
            if row in written:
                continue
            written[row] = folder / f"{keys[row]}.npz"
            np.savez_compressed(
                written[row],
                mask=one.draw(row),
                names=np.array(study.names),
                spacing_mm=study.volumes.spacings[row],
            )
    return written
