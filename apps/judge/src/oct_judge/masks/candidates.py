"""Who draws masks: the encoder, its random init, a U-Net, and rules that nobody learned."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oct_vjepa
import oct_xla
from numpy.typing import NDArray
from oct_launch import Stages
from oct_vjepa.heads.segmentation import VoxelNetwork
from oct_vjepa.probes.protocol import Round
from oct_vjepa.probes.voxels import KINDS, VoxelRule

from oct_judge.asking import Stopped, draw_subsets, seeds_of
from oct_judge.candidates import PRETRAINED, RANDOM, random_encoder
from oct_judge.family import Family
from oct_judge.learning import Place
from oct_judge.masks.study import MaskStudy
from oct_judge.question import FinetuneConfig
from oct_judge.rivals.encoders import Named, candidate_name
from oct_judge.rivals.networks import count, make_unet
from oct_judge.rivals.training import grey_levels, save_network
from oct_judge.segmenting import Segmented, learn_masks, make_segmenter, score_volume, segment

UNET = "U-Net from scratch"
Mask = NDArray[np.uint8]


class Drawn(NamedTuple):
    """What one candidate drew in one round with one seed.

    Attributes:
        round: name of the round.
        seed: of the training.
        rows: that were tested.
        draw: the mask of a row.
        table: of each row and class `row`, `class`, `dice`, `surface_mean_um`, `surface_95_um`.
        chosen: what validation chose, with its Dice there.
    """

    round: str
    seed: int
    rows: list[int]
    draw: Callable[[int], Mask]
    table: list[dict[str, Any]]
    chosen: dict[str, Any]


Drawings = list[list[Drawn]]
"""Of one candidate: a list over seeds of lists over rounds."""
Ask = Callable[[Round, int, Path], Drawn]
"""Trains in a round with a seed in a folder, and draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draughtsmen:
    """Makes the candidates of an evaluation of masks.

    Attributes:
        config: of the evaluation.
        study: the question.
        family: who is asked.
        runtime: where to train.
        folder: of the evaluation.
        rivals: further encoders of ours, trained by the same recipe.
    """

    config: FinetuneConfig
    study: MaskStudy
    family: Family
    runtime: oct_xla.Runtime
    folder: Path
    rivals: Sequence[Named] = ()

    def trained(self) -> dict[str, Ask]:
        """Those that are trained, the encoder first."""
        found: dict[str, Ask] = {PRETRAINED: self._with(self.family.of)}
        if self.config.compare.random_init:
            found[RANDOM] = self._with(
                lambda one, seed: random_encoder(self.family.of(one, seed).config, seed)
            )
        found |= {
            candidate_name(one): self._with(one.family.of) for one in self.rivals if one.family
        }
        if self.config.segment.unet:
            found[UNET] = self._unet
        return found

    def trivial(self) -> dict[str, Ask]:
        """Those that only count."""
        return {kind: self._rule(kind) for kind in KINDS} if self.config.segment.trivial else {}

    def ask(self, stages: Stages) -> dict[str, Drawings]:
        """Every candidate in every round with every seed."""
        everyone = self.trained() | self.trivial()
        found = {}
        for number, (name, ask) in enumerate(everyone.items()):
            stages("asking", number, len(everyone))
            found[name] = self._everywhere(name, ask, self.study.rounds)
        stages("asking", len(everyone), len(everyone))
        return found

    def ask_with_few_masks(self) -> Iterator[tuple[str, float, Drawings]]:
        """Candidate, share of the participants with masks, drawings; of each seed every subset.

        All candidates and seeds see the same subsets.
        """
        config, study = self.config, self.study
        for fraction in sorted(config.compare.fractions):
            drawn = draw_subsets(config, study.rounds, study.amounts, study.people, fraction)
            for name, ask in (self.trained() | self.trivial()).items():
                drawings: Drawings = []
                for seed in seeds_of(config):
                    for turn, rounds in enumerate(drawn):
                        label = f"{name} {fraction:g} turn {turn}"
                        drawings += self._everywhere(label, ask, rounds, [seed])
                yield name, fraction, drawings

    def _everywhere(
        self, name: str, ask: Ask, rounds: Sequence[Round], seeds: Sequence[int] | None = None
    ) -> Drawings:
        return [
            [
                ask(one, seed, drawing_folder(self.folder, name, seed, number))
                for number, one in enumerate(rounds)
            ]
            for seed in (seeds_of(self.config) if seeds is None else seeds)
        ]

    def _with(self, start: Callable[[str, int], oct_vjepa.Encoder]) -> Ask:
        def ask(one: Round, seed: int, folder: Path) -> Drawn:
            study = self.study
            given = study.volumes, study.masks, study.names, one, self._place(seed, folder)
            return drawn(segment(self.config.training, start(one.name, seed), *given), one, seed)

        return ask

    def _place(self, seed: int, folder: Path) -> Place:
        data = self.study.volumes.fingerprint
        return Place(self.runtime, folder, seed, data, progress=True)

    def _unet(self, one: Round, seed: int, folder: Path) -> Drawn:
        study, config = self.study, self.config.training
        objective, parameters = self.unet(one, seed)
        place = self._place(seed, folder)
        who = f"{UNET} {parameters} seed {seed}"
        found = learn_masks(
            config, objective, study.volumes, study.masks, study.names, one, place, who
        )
        if found.ending.reason != "stopped":
            save_network(objective.network, place)
        return drawn(found, one, seed, parameters=parameters)

    def unet(self, one: Round, seed: int) -> tuple[VoxelNetwork, int]:
        """A U-Net of about the encoder's size before any training, and how many weights it has."""
        study, config = self.study, self.config.training
        size = count(make_segmenter(config, self.family.first, study.names, 1, seed))
        network, parameters = make_unet(
            study.volumes.shape, len(study.names), parameters=size, seed=seed
        )
        mean, std = grey_levels(study.volumes, np.flatnonzero(one.fit))
        return VoxelNetwork(network, mean=mean, std=std), parameters

    def _rule(self, kind: str) -> Ask:
        def ask(one: Round, seed: int, folder: Path) -> Drawn:
            study = self.study
            rule = VoxelRule(kind, len(study.names))
            rule.fit(study.volumes, study.masks, np.flatnonzero(one.fit).tolist())
            watched = np.flatnonzero(one.validation).tolist()
            rule.choose(study.volumes, study.masks, watched, study.counted)
            table = []
            rows = np.flatnonzero(one.test).tolist()
            for row in rows:
                scores = score_volume(
                    rule.predict(study.volumes[row]),
                    study.masks[row],
                    study.names,
                    study.volumes.spacings[row],
                )
                table += [{"row": row, **score} for score in scores]
            return Drawn(
                one.name,
                seed,
                rows,
                lambda row: rule.predict(study.volumes[row]),
                table,
                {"lift": rule.lift},
            )

        return ask


def drawing_folder(folder: Path, candidate: str, seed: int, number: int) -> Path:
    """Where training in a round happens, and leaves encoder and head.

    Args:
        folder: of the evaluation.
        candidate: its name.
        seed: of the training.
        number: of the round.
    """
    return folder / "training" / f"{candidate.replace(' ', '-')}-seed{seed}-round{number}"


def drawn(found: Segmented, one: Round, seed: int, **told: Any) -> Drawn:
    """What training came to, as the test rows see it.

    Raises:
        Stopped: it was told to stop.
    """
    if found.ending.reason == "stopped":
        raise Stopped(found.ending.step)
    return Drawn(
        round=one.name,
        seed=seed,
        rows=np.flatnonzero(one.test).tolist(),
        draw=lambda row: np.load(found.folder / "masks" / f"{row:06d}.npy"),
        table=[row for row in found.table if row["part"] == "test"],
        chosen={"steps": found.ending.best_step, "dice": found.validation["dice"], **told},
    )
