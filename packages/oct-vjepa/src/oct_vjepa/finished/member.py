"""An encoder with what was fitted on its features: it scores volumes, and says how strange."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from oct_vjepa.evaluation.features import Features, embed_batch
from oct_vjepa.evaluation.readouts import ReadoutConfig, read_out
from oct_vjepa.evaluation.sliced import over_volumes
from oct_vjepa.finished.about import MemberAbout
from oct_vjepa.finished.joining import Joiner
from oct_vjepa.heads.head import Head
from oct_vjepa.measures.shares import Floats
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.pooling import class_tokens_of, pool_tokens
from oct_vjepa.probes.answers import shift_priors
from oct_vjepa.probes.fitted import FittedProbe
from oct_vjepa.saving import write_whole
from oct_vjepa.scores.calibration import calibrated
from oct_vjepa.scores.novelty import Novelty, find_threshold, fit_novelty

NOVELTY = "novelty.safetensors"
QUANTILE = 0.99  # of the validation rows; what lies further out is called strange
HEAD_POOL = "mean"  # of the last tokens, in which the novelty for a trained head is looked for


class Scored(NamedTuple):
    """What one member, or all together, say of some rows."""

    scores_NK: Floats
    """Calibrated; see `Target`."""
    even_NK: Floats
    """Scores in which all classes weigh alike, so that the greatest is the choice."""
    novelty_N: Floats
    """1 is what 99 of 100 validation rows stay below; NaN where nobody knows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One of the models that answer together.

    Attributes:
        about: what model.json says of it.
        kind: of the question, see `Target`.
        encoder: in evaluation mode; below a probe it may take fewer B-scans than the volumes have.
        probe: fitted on frozen features; or None.
        head: trained with the encoder; or None.
        novelty: what fit rows look like; or None.
        joiner: what reads all volumes of a participant; or None.
    """

    about: MemberAbout
    kind: str
    encoder: Encoder
    probe: FittedProbe | None = None
    head: Head | None = None
    novelty: Novelty | None = None
    joiner: Joiner | None = None

    @property
    def pool(self) -> str:
        """How its features are pooled."""
        return self.about.readout.partition("/")[2] if self.probe else HEAD_POOL

    def score(self, features_ND: NDArray[np.floating], likely_NK: Floats | None = None) -> Scored:
        """Scores of rows whose features are known.

        Args:
            features_ND: at the member's readout.
            likely_NK: what its trained head says of them; None for a probe.

        Raises:
            ValueError: features of another width.
        """
        if self.probe is not None:
            rows = {self.about.readout: features_ND}
            likely, even = self.probe.predict(rows, at_fit_priors=True), self.probe.predict(rows)
        else:
            assert likely_NK is not None  # a head looks at tokens
            likely = even = likely_NK
            if self.about.priors:
                likely = shift_priors(self.kind, likely, np.array(self.about.priors))
        scores = calibrated(self.kind, likely, self.about.temperature)
        return Scored(scores, even, self.strangeness(features_ND))

    def strangeness(self, features_ND: NDArray[np.floating]) -> Floats:
        """Novelty of rows whose features are known; NaN where nobody knows."""
        if self.novelty is None or self.about.usual is None:
            return np.full(len(features_ND), np.nan)
        usual = max(self.about.usual, np.finfo(np.float64).tiny)
        return self.novelty.score(features_ND) / usual


def score_batch(
    members: Iterable[Member], volumes_BZYX: NDArray[np.generic], spacing_B3: Tensor | None
) -> Scored:
    """What the members say of one batch, averaged; each encoder sees it once."""
    return read_batch(members, volumes_BZYX, spacing_B3)[0]


def read_batch(
    members: Iterable[Member], volumes_BZYX: NDArray[np.generic], spacing_B3: Tensor | None
) -> tuple[Scored, tuple[NDArray[np.floating], ...]]:
    """What `score_batch` says, and of each member that has a joiner the features that it reads."""
    kept: dict[tuple[int, str], Features] = {}
    parts, joined = [], []

    def read(one: Member, readout: str) -> NDArray[np.floating]:
        blocks, _, pool = readout.partition("/")
        key, depth = (id(one.encoder), pool), one.encoder.config.depth
        if key not in kept:
            kept[key] = embed_batch(
                over_volumes(one.encoder, volumes_BZYX.shape[1]),
                volumes_BZYX,
                pools=[pool],
                spacing_B3=spacing_B3,
                layers=range(depth),
            )
        return read_out(kept[key], ReadoutConfig(blocks=[blocks], pools=[pool]), depth)[readout]

    for one in members:
        if one.head is not None:
            parts.append(_score_head(one, one.head, volumes_BZYX, spacing_B3))
            continue
        parts.append(one.score(read(one, one.about.readout)))
        if one.joiner is not None:
            joined.append(read(one, one.joiner.about.readout))
    return average(parts), tuple(joined)


def average(parts: list[Scored]) -> Scored:
    """The mean of what several say; of one, what it says."""
    if len(parts) == 1:
        return parts[0]
    return Scored(*(np.mean(column, axis=0) for column in zip(*parts, strict=True)))


@torch.no_grad()
def _score_head(
    member: Member, head: Head, volumes_BZYX: NDArray[np.generic], spacing_B3: Tensor | None
) -> Scored:
    tokens, features = look(member.encoder, head.levels, volumes_BZYX, spacing_B3)
    first = class_tokens_of(member.encoder)
    said = head.answer.scores(head.from_tokens(tokens, class_tokens=first))
    return member.score(features, said.cpu().double().numpy())


@torch.no_grad()
def look(
    encoder: Encoder,
    levels: tuple[int, ...],
    volumes_BZYX: NDArray[np.generic],
    spacing_B3: Tensor | None,
) -> tuple[Tensor, NDArray[np.float32]]:
    """Tokens that a head takes, and the features in which novelty is looked for, of its output.

    Args:
        encoder: that looks.
        levels: numbers of the blocks whose tokens are joined; empty for the output.
        volumes_BZYX: of the encoder's shape.
        spacing_B3: where the encoder wants it.
    """
    place = next(encoder.parameters()).device
    volume = torch.from_numpy(np.ascontiguousarray(volumes_BZYX)).unsqueeze(1).to(place)
    extra = {} if spacing_B3 is None else {"spacing_B3": spacing_B3.to(place)}
    tokens = output = encoder(volume, **extra)
    if levels:  # whose last one may have a norm of its own, so that it is no output
        tokens = torch.cat(encoder(volume, layers=levels, **extra), dim=-1)
    pooled = pool_tokens(output.float(), HEAD_POOL, class_tokens=class_tokens_of(encoder))
    return tokens, pooled.cpu().numpy()


def learn_novelty(
    features_ND: NDArray[np.floating], fit_N: NDArray[np.bool_], validation_N: NDArray[np.bool_]
) -> tuple[Novelty | None, float | None]:
    """What fit rows look like, and the novelty that 99 of 100 validation rows stay below.

    None where features do not vary, or nobody is there to validate.
    """
    if not validation_N.any():
        return None, None
    try:
        novelty = fit_novelty(features_ND[fit_N])
    except ValueError:
        return None, None
    usual = find_threshold(novelty.score(features_ND[validation_N]), quantile=QUANTILE)
    return novelty, usual


def save_novelty(novelty: Novelty, folder: Path) -> None:
    """Write novelty.safetensors; nothing in it is of single fit rows."""
    arrays = {
        "middle_D": novelty.middle_D,
        "scale_D": novelty.scale_D,
        "axes_KD": novelty.axes_KD,
        "variance_K": novelty.variance_K,
        "shrinkage": np.array([novelty.shrinkage]),
    }
    whole = {name: np.ascontiguousarray(one) for name, one in arrays.items()}
    write_whole(folder / NOVELTY, lambda path: save_file(whole, path))


def load_novelty(folder: Path) -> Novelty:
    """Read what `save_novelty` wrote.

    Raises:
        ValueError: it is missing or damaged.
    """
    wanted = {one.name for one in fields(Novelty)}
    try:
        arrays = load_file(folder / NOVELTY)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / NOVELTY}: cannot be read: {error}") from error
    if arrays.keys() != wanted:
        raise ValueError(f"{folder / NOVELTY}: holds {sorted(arrays)}, not {sorted(wanted)}")
    shrinkage = float(arrays.pop("shrinkage")[0])
    return Novelty(**arrays, shrinkage=shrinkage)
