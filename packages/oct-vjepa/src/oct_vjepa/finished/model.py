"""`load_model(DIR)`: a finished model that answers, and says when it was not made for a volume."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from oct_vjepa.evaluation.sliced import takes
from oct_vjepa.finished.about import PLACES, About, MemberAbout
from oct_vjepa.finished.drawings import Drawings, draw_batch
from oct_vjepa.finished.folder import inside, read_about
from oct_vjepa.finished.joining import load_joiner
from oct_vjepa.finished.located import Located, locate_batch
from oct_vjepa.finished.member import Member, Scored, average, load_novelty, read_batch
from oct_vjepa.finished.predictions import Predictions, join, mark, settle
from oct_vjepa.heads.build import load_head
from oct_vjepa.heads.head import Head
from oct_vjepa.heads.linear import PatchHead
from oct_vjepa.heads.segmentation import SegmentationHead
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.weights import WeightsError
from oct_vjepa.probes.fitted import FittedProbe

PREDICT, DRAW, LOCATE = "predict", "draw", "locate"
DOES = {
    PREDICT: "answers and draws no masks",
    DRAW: "draws masks",
    LOCATE: "says what patches hold",
}
"""What a model does, by the method that does it."""


class Volumes(Protocol):
    """Volumes by number: an array, a list, or those of a cache."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any:
        """(Z, Y, X)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A finished model; `load_model` reads one.

    Attributes:
        about: the question, what it was made for, thresholds, and the numbers of its evaluation.
        members: who answer; their scores are averaged.
        fingerprint: of all that the folder holds.
    """

    about: About
    members: tuple[Member, ...]
    fingerprint: str

    def predict(
        self,
        volumes: Volumes,
        spacing: Sequence[float] | NDArray[Any] | None = None,
        devices: Sequence[str] | None = None,
        *,
        protocols: Sequence[str] | None = None,
        regions: Sequence[str] | None = None,
        scan_flags: Sequence[str] | None = None,
        scan_spacing: NDArray[Any] | None = None,
        batch_size: int = 32,
    ) -> Predictions:
        """Score volumes that were cut out of scans as those that the model was made with.

        Nothing is decided of a volume with a flag: "strange" for features far from those of the
        fit; "device", "protocol", "region", "spacing", "scan_spacing" for what the fit has not
        seen; "scan_flags" for what it left out.

        Args:
            volumes: N arrays (Z, Y, X), uint8 or floating, of `about.shape`, or whatever gives them
                by number.
            spacing: (z, y, x) between voxel centres, for all, or a row each, (N, 3); encoders whose
                positions are lengths cannot do without.
            devices: N names; None asks nothing.
            protocols: likewise.
            regions: likewise.
            scan_flags: what reading found suspicious in each scan, words with spaces between.
            scan_spacing: (N, 3), of the scans before they were resampled.
            batch_size: volumes in one pass.

        Raises:
            ValueError: no volumes, another shape, not as many names or spacings as volumes, no
                spacing where one is needed, or a model of masks or patches.
        """
        told = devices, protocols, regions, scan_flags
        steps, flags = self._asked(PREDICT, len(volumes), spacing, told, scan_spacing)
        parts = list(self._score(volumes, steps, batch_size))
        scored, read = zip(*parts, strict=True)
        found = Scored(*(np.concatenate(column) for column in zip(*scored, strict=True)))
        features = tuple(np.concatenate(column) for column in zip(*read, strict=True))
        return replace(settle(self.about, found, flags), features=features)

    def join(
        self, rows: Predictions, people: Sequence[str], eyes: Sequence[str]
    ) -> tuple[NDArray[np.str_], NDArray[np.int64], Predictions]:
        """What is said of participants, from what `predict` says of their volumes.

        Volumes with a flag are left out of participants who have others; who has none keeps the
        flags, and nothing is decided of them.

        Args:
            rows: of N volumes, as `predict` gave them.
            people: whose each is.
            eyes: of which eye each is: R, L, or "" where nobody knows.

        Returns:
            The participants, sorted; how many volumes went into the answer of each; the answers.

        Raises:
            ValueError: not as many names as volumes.
        """
        if not len(rows) == len(people) == len(eyes):
            raise ValueError(f"{len(people)} people and {len(eyes)} eyes for {len(rows)} volumes")
        joiners = [one.joiner for one in self.members if one.joiner is not None]
        return join(self.about, rows, np.asarray(people), np.asarray(eyes), joiners)

    def draw(
        self,
        volumes: Volumes,
        spacing: Sequence[float] | NDArray[Any] | None = None,
        devices: Sequence[str] | None = None,
        *,
        protocols: Sequence[str] | None = None,
        regions: Sequence[str] | None = None,
        scan_flags: Sequence[str] | None = None,
        scan_spacing: NDArray[Any] | None = None,
        batch_size: int = 8,
    ) -> Drawings:
        """Draw masks of volumes, for a model of `mode=segment`; see `predict` for the arguments.

        All volumes are drawn; those with a flag are unlike what the model was made for.

        Raises:
            ValueError: as `predict`, or a model of answers or patches.
        """
        told = devices, protocols, regions, scan_flags
        steps, flags = self._asked(DRAW, len(volumes), spacing, told, scan_spacing)
        parts = [
            draw_batch(self.members, self.about.levels, batch, place)
            for batch, place in self._batches(volumes, steps, batch_size)
        ]
        masks, novelty = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Drawings(
            names=self.about.names, masks=masks, novelty=novelty, flags=mark(flags, novelty)
        )

    def locate(
        self,
        volumes: Volumes,
        spacing: Sequence[float] | NDArray[Any] | None = None,
        devices: Sequence[str] | None = None,
        *,
        protocols: Sequence[str] | None = None,
        regions: Sequence[str] | None = None,
        scan_flags: Sequence[str] | None = None,
        scan_spacing: NDArray[Any] | None = None,
        batch_size: int = 32,
    ) -> Located:
        """Say of each patch what it may hold, for a model of `mode=patches`; see `predict`.

        All volumes have a map; those with a flag are unlike what the model was made for.

        Raises:
            ValueError: as `predict`, or a model of answers or masks.
        """
        told = devices, protocols, regions, scan_flags
        steps, flags = self._asked(LOCATE, len(volumes), spacing, told, scan_spacing)
        parts = [
            locate_batch(self.members, batch, place)
            for batch, place in self._batches(volumes, steps, batch_size)
        ]
        chances, novelty = (np.concatenate(column) for column in zip(*parts, strict=True))
        if (bad := ~np.isfinite(chances).reshape(len(chances), -1).all(axis=1)).any():
            raise ValueError(
                f"volumes[{int(bad.argmax())}]: its chances are not finite; are its voxels?"
            )
        return Located(
            names=self.about.names, chances=chances, novelty=novelty, flags=mark(flags, novelty)
        )

    def _asked(
        self,
        what: str,
        count: int,
        spacing: Sequence[float] | NDArray[Any] | None,
        told: tuple[Sequence[str] | None, ...],
        scan_spacing: NDArray[Any] | None,
    ) -> tuple[NDArray[np.float32] | None, list[list[str]]]:
        """Spacing of each volume, and what of each is unlike the fit rows but for its features.

        Args:
            what: the method that is called; a model that does something else refuses.
            count: of the volumes.
            spacing: of all of them, or of each.
            told: names of each, in the order of `PLACES`.
            scan_spacing: of each scan.
        """
        does = DRAW if self.about.draws else LOCATE if self.about.locates else PREDICT
        if what != does:
            raise ValueError(f"this model {DOES[does]}: call {does}(volumes)")
        steps = self._spacing(spacing, count)
        if not count:
            raise ValueError("there are no volumes")
        places = {
            name: values for name, values in zip(PLACES, told, strict=True) if values is not None
        }
        for name, values in places.items():
            if len(values) != count:
                raise ValueError(f"{len(values)} {name} names for {count} volumes")
        return steps, self.about.made_for.flags(count, steps, places, scan_spacing)

    def score(self, readouts: Mapping[str, NDArray[np.floating[Any]]]) -> Scored:
        """Scores of rows whose features are known, for a model of probes.

        Args:
            readouts: such as "last/mean" to (N, D); those that the members read must be there.

        Raises:
            ValueError: a readout is missing, or the model has a trained head, which reads tokens.
        """
        parts = []
        for one in self.members:
            if one.probe is None:
                raise ValueError(f"a model of mode={self.about.mode} reads volumes, not features")
            if one.about.readout not in readouts:
                raise ValueError(f"the model reads {one.about.readout}, not {sorted(readouts)}")
            parts.append(one.score(readouts[one.about.readout]))
        return average(parts)

    def _score(
        self, volumes: Volumes, steps: NDArray[np.float32] | None, batch_size: int
    ) -> Iterator[tuple[Scored, tuple[NDArray[Any], ...]]]:
        first = 0
        for batch, spacing in self._batches(volumes, steps, batch_size):
            found, read = read_batch(self.members, batch, spacing)
            if (bad := ~np.isfinite(found.scores_NK).all(axis=1)).any():
                number = first + int(bad.argmax())
                raise ValueError(f"volumes[{number}]: its scores are not finite; are its voxels?")
            first += len(batch)
            yield found, read

    def _batches(
        self, volumes: Volumes, steps: NDArray[np.float32] | None, batch_size: int
    ) -> Iterator[tuple[NDArray[Any], torch.Tensor | None]]:
        """Voxels of some volumes, and their spacing where the encoder wants it."""
        by_length = self.members[0].encoder.config.position_unit == "length"
        for first in range(0, len(volumes), batch_size):
            some = slice(first, min(first + batch_size, len(volumes)))
            rows = [np.asarray(volumes[number]) for number in range(some.start, some.stop)]
            self._check(rows, first)
            spacing = torch.from_numpy(steps[some]) if by_length and steps is not None else None
            yield np.stack(rows), spacing

    def _check(self, rows: list[NDArray[Any]], first: int) -> None:
        for number, one in enumerate(rows, start=first):
            if one.shape != self.about.shape:
                raise ValueError(
                    f"volumes[{number}] has shape {one.shape}; this model takes "
                    f"{self.about.shape}, cut out as about.window says"
                )

    def _spacing(
        self, spacing: Sequence[float] | NDArray[Any] | None, count: int
    ) -> NDArray[np.float32] | None:
        """(count, 3)."""
        if spacing is None:
            if self.members[0].encoder.config.position_unit == "length":
                raise ValueError("this model's encoder counts in lengths: give spacing=(z, y, x)")
            return None
        rows = np.asarray(spacing, np.float32)
        if rows.shape not in ((3,), (count, 3)):
            raise ValueError(f"spacing {rows.shape} must be (3,), or ({count}, 3): a row a volume")
        return np.ascontiguousarray(np.broadcast_to(rows, (count, 3)))


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """Read a model that an evaluation left behind, RUN/model; every file's hash is checked.

    Args:
        folder: of the model.
        device: where to compute.

    Raises:
        WeightsError: no finished model there, a file that is missing or was changed, or parts that
            do not fit together.
    """
    place = Path(folder)
    about, fingerprint = read_about(place)
    encoders: dict[str, Encoder] = {}
    members = []
    for one in about.members:
        if one.encoder not in encoders:
            path = inside(place, one.encoder)
            encoders[one.encoder] = Encoder.from_pretrained(path, device=device)
        members.append(_load_member(place, about, one, encoders[one.encoder], device))
    if about.locates:
        for member in members:
            _check_patches(place, member)
    for member in members:
        taken = member.encoder.config.input_shape
        stacks = member.probe is not None and takes(member.encoder.config, about.shape)
        if taken != about.shape and not stacks:
            raise WeightsError(
                f"{place}: its encoder takes {taken}, and model.json says {about.shape}"
            )
    return Model(about=about, members=tuple(members), fingerprint=fingerprint)


def _load_member(
    place: Path, about: About, one: MemberAbout, encoder: Encoder, device: torch.device | str
) -> Member:
    try:
        probe = FittedProbe.load(inside(place, one.probe)) if one.probe else None
        head: Head | None = None
        if one.head:
            read: Callable[[Path], Head] = load_head
            if about.draws:
                read = SegmentationHead.from_pretrained
            elif about.locates:
                read = PatchHead.from_pretrained
            head = read(inside(place, one.head)).to(device)
        home = inside(place, one.probe or one.head)
        novelty = None if one.usual is None else load_novelty(home)
        joiner = None
        if one.joined is not None:
            folder = inside(place, one.joined.folder)
            joiner = load_joiner(folder, about.join, about.kind, one.joined)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return Member(
        about=one,
        kind=about.kind,
        encoder=encoder,
        probe=probe,
        head=head,
        novelty=novelty,
        joiner=joiner,
    )


def _check_patches(place: Path, member: Member) -> None:
    """Refuse a patch head that reads another encoder.

    Raises:
        WeightsError: other blocks, width or grid.
    """
    head, config = member.head, member.encoder.config
    assert isinstance(head, PatchHead)
    reads = [one for one in head.levels if one < config.depth]
    fits = len(reads) == len(head.levels) and head.width == config.width * len(reads)
    if not fits or head.grid != config.grid:
        raise WeightsError(
            f"{place}: its head reads blocks {list(head.levels)} on a grid of {head.grid}, and its "
            f"encoder has {config.depth} of width {config.width} on {config.grid}"
        )
