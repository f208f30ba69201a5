"""Encoders side by side on labelled volumes: each embeds them once, then all are compared."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.model.configuration import POOLS
from oct_vjepa.probes.baselines import axial_profile
from oct_vjepa.probes.linear import BOOTSTRAP
from oct_vjepa.trials.comparison import ProbeRow, compare_features

if TYPE_CHECKING:  # a program that only reads its settings does not wait for torch
    from oct_vjepa.evaluation.features import Features
    from oct_vjepa.model.encoder import Encoder


@dataclass(kw_only=True, slots=True)
class ProbeConfig:
    """What the frozen features are asked."""

    columns: list[str] = field(default_factory=list)
    """Label columns; none: no probe."""

    pools: list[str] = field(default_factory=lambda: list(POOLS))
    """How the tokens of a volume become one vector; small findings want `max`."""

    bootstrap: int = BOOTSTRAP
    """Resamplings of the test participants behind each interval."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.pools) - set(POOLS)):
            raise ValueError(f"probe.pools ({unknown[0]}) must be among {', '.join(POOLS)}")
        if self.bootstrap < 100:
            raise ValueError(f"probe.bootstrap ({self.bootstrap}) must be at least 100")


class Examples(Protocol):
    """Volumes with a label each; `oct_io.LabelledVolumes` is one."""

    @property
    def volumes(self) -> "SpacedVolumes":
        """N volumes, (Z, Y, X) each."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """N classes, from 0."""

    @property
    def participants(self) -> NDArray[np.str_]:
        """N participants."""

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """N; true for the volumes of test participants."""

    @property
    def fingerprint(self) -> str:
        """What stands for the volumes and their order."""


class SpacedVolumes(Protocol):
    """Volumes that know how far apart their voxels are."""

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield (Z, Y, X) each."""

    @property
    def spacings(self) -> NDArray[Any]:
        """(N, 3) between voxel centres along (Z, Y, X)."""


def probe_encoders(
    config: ProbeConfig,
    encoders: "Mapping[str, Encoder]",
    questions: Mapping[str, Examples],
    embed: "Callable[[Encoder, Examples], Features]",
    *,
    reference: str = "random init",
    seed: int,
) -> list[ProbeRow]:
    """Probe the encoders and the axial profile for every question; pools in the order of `POOLS`.

    Args:
        config: which pools, and how many bootstrap samples.
        encoders: name to encoder.
        questions: label column to the volumes that have a label in it.
        embed: gives an encoder's features of some examples; called once for equal volumes, since
            columns mostly label the same ones.
        reference: name of the encoder that gains are measured against.
        seed: of folds and bootstrap.

    Raises:
        ValueError: as `compare_features`.
    """
    rows: list[ProbeRow] = []
    embedded: dict[tuple[str, str], Features] = {}
    for column, examples in questions.items():
        features: dict[str, Features] = {}
        for name, encoder in encoders.items():
            key = name, examples.fingerprint
            if key not in embedded:
                embedded[key] = embed(encoder, examples)
            features[name] = {pool: embedded[key][pool] for pool in POOLS if pool in config.pools}
        features["axial profile"] = {"": axial_profile(examples.volumes)}
        rows += compare_features(
            features,
            {column: examples.labels},
            examples.participants,
            examples.held_out,
            reference=reference,
            seed=seed,
            bootstrap=config.bootstrap,
        )
    return rows
