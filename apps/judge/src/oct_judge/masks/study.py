"""Which scans have masks or boundaries, what their classes are, and who is tested."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import oct_io
from numpy.typing import NDArray
from oct_io.space.layers import layer_classes
from oct_io.volume import UNLABELLED
from oct_launch import Launch, Mistake, mistakes
from oct_vjepa.heads.segmentation import UNLABELLED_VOXEL
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.protocol import Round, make_rounds

from oct_judge.question import SPLIT, FinetuneConfig

FOLDS = 4  # the first of so many is the test where no split is given
COMMON = 0.9  # share of the scans that a boundary is asked for without being named
TRAIN, VAL, TEST = "train", "val", "test"


RIVALS = ("compare.networks", "compare.baselines")
"""Settings that name candidates, which for masks are others."""

LABELS_ONLY = (
    *("compare.ranked", "compare.shortcuts", "compare.ensemble"),
    *("compare.prevalence", "compare.maps", "join"),
    *("tracking", "tracking.wandb"),
)
"""Settings that nothing reads here."""


def refuse_unread(launch: Launch, *more: str) -> None:
    """Refuse settings of the command line that only act where labels are asked for.

    Args:
        launch: with the command line.
        more: further ones that the mode does not read.

    Raises:
        Mistake: names the setting.
    """
    for key in RIVALS:
        launch.refuse_unread(key, "masks have their own candidates (docs/segmentation.md)")
    for key in (*LABELS_ONLY, *more):
        launch.refuse_unread(key, "it is for labels, not for masks (docs/segmentation.md)")


class CachedMasks:
    """Classes of the voxels of cached volumes, `UNLABELLED_VOXEL` where unknown.

    Args:
        volumes: with masks or boundaries.
        boundaries: whose layers are the classes; none: the classes of masks.
    """

    def __init__(self, volumes: oct_io.CachedVolumes, boundaries: Sequence[str] = ()) -> None:
        self._volumes, self._boundaries = volumes, tuple(boundaries)

    def __len__(self) -> int:
        return len(self._volumes)

    def __getitem__(self, number: int, /) -> NDArray[np.int16]:
        volumes = self._volumes
        found = (
            volumes.layer_mask(number, self._boundaries)
            if self._boundaries
            else volumes.mask(number)
        )
        return np.where(found == UNLABELLED, UNLABELLED_VOXEL, found.astype(np.int16))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskStudy:
    """Volumes with a class of every voxel, and the rounds in which it is asked for.

    Attributes:
        source: where they come from.
        volumes: those that have a mask, or all boundaries that are asked for.
        masks: their classes.
        names: of the classes from 0, background or what lies above the first boundary included.
        boundaries: whose layers the classes are; none for masks.
        people: number of the participant of each row.
        participants: hash of each row's participant.
        eyes: "R", "L" or "unknown" of each row.
        holds: whether a row has a voxel of a class, (rows, classes).
        columns: what `compare.subgroups` asks for and is known, a text a row.
        amounts: share of each row's voxels that are of a counted class; rounds and few labels are
            balanced by it.
        rounds: of the protocol.
        rule: who is tested, in words.
    """

    source: oct_io.Source
    volumes: oct_io.CachedVolumes
    masks: CachedMasks
    names: tuple[str, ...]
    boundaries: tuple[str, ...]
    people: NDArray[np.int64]
    participants: NDArray[np.str_]
    eyes: NDArray[np.str_]
    holds: NDArray[np.bool_]
    columns: Mapping[str, NDArray[np.str_]]
    amounts: Target
    rounds: list[Round]
    rule: str

    @property
    def counted(self) -> list[int]:
        """Classes whose Dice is averaged: no background, and of layers what has two boundaries."""
        last = len(self.names) - 1 if len(self.boundaries) > 1 else len(self.names)
        return list(range(1, last))

    @property
    def tested(self) -> list[str]:
        """Hashed participants whom any round tests, sorted."""
        held = np.any([one.test for one in self.rounds], axis=0)
        return sorted(set(self.participants[held].tolist()))

    def by_class(self, rows: NDArray[np.int64]) -> dict[str, int]:
        """Participants among some rows who have each counted class."""
        return {
            self.names[one]: len(np.unique(self.people[rows[self.holds[rows, one]]]))
            for one in self.counted
        }

    def fingerprint(self) -> str:
        """Stands for the classes and those who are tested."""
        said = json.dumps(["segmentation", self.names, self.tested])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def describe(self) -> str:
        """One line: how many scans of how many participants, and who is tested."""
        held = np.any([one.test for one in self.rounds], axis=0)
        return (
            f"{len(self.volumes)} scans of {len(set(self.participants.tolist()))} participants have"
            f" {'boundaries' if self.boundaries else 'masks'}, {int(held.sum())} scans of"
            f" {len(self.tested)} participants are tested ({self.rule})"
        )


def open_masks(config: FinetuneConfig, source: oct_io.Source) -> MaskStudy:
    """Find the scans with masks and make the rounds.

    Raises:
        Mistake: nothing or two things are asked for, no scan has it, a boundary that is not there,
            or too few participants for the protocol.
    """
    boundaries = boundaries_of(config, source.volumes)
    entries = source.volumes.entries
    numbers = entries.with_annotation("layers" if boundaries else "mask")
    if boundaries:
        numbers = np.array(
            [one for one in numbers.tolist() if set(boundaries) <= set(entries[one].layers)],
            np.int64,
        )
    if not len(numbers):
        what = f"the boundaries {', '.join(boundaries)}" if boundaries else "a mask"
        where = config.data.bscans is not None and not (boundaries or config.data.bscans.masks)
        hint = "; data.bscans.masks=DIR says where masks of images lie" if where else ""
        raise Mistake(f"no scan of {len(source.volumes)} has {what}{hint}")
    volumes = source.volumes.select(numbers)
    masks = CachedMasks(volumes, boundaries)
    names = layer_classes(boundaries) if boundaries else volumes.mask_classes
    participants = volumes.entries.coded("participant").texts()
    counts = np.stack([count_classes(masks[row], len(names)) for row in range(len(masks))])
    shares = counts[:, 1:].sum(axis=1) / np.prod(volumes.shape)
    amounts = Target(kind="regression", values=shares, names=("share",))
    known = source.columns()
    asked = [one for one in config.compare.subgroups if one in known]
    with mistakes(ValueError):
        rounds, rule = rounds_of(config, source, volumes, amounts, participants)
    return MaskStudy(
        source=source,
        volumes=volumes,
        masks=masks,
        names=tuple(names),
        boundaries=boundaries,
        people=np.unique(participants, return_inverse=True)[1].reshape(-1),
        participants=participants,
        eyes=volumes.entries.coded("laterality").texts(),
        holds=counts > 0,
        columns=cells_of(source, volumes, asked),
        amounts=amounts,
        rounds=rounds,
        rule=rule,
    )


def count_classes(mask: NDArray[np.int16], number: int) -> NDArray[np.int64]:
    """Voxels of each of so many classes; unlabelled ones count nowhere."""
    labelled = mask[mask != UNLABELLED_VOXEL]
    return np.bincount(labelled, minlength=number)[:number]


def cells_of(
    source: oct_io.Source, volumes: oct_io.CachedVolumes, columns: Sequence[str]
) -> dict[str, NDArray[np.str_]]:
    """What columns say of some of the source's volumes."""
    place = {name: number for number, name in enumerate(source.volumes.ids)}
    rows = np.array([place[one] for one in volumes.ids], np.int64)
    return {name: cells[rows] for name, cells in source.attributes(columns).items()}


def boundaries_of(config: FinetuneConfig, volumes: oct_io.CachedVolumes) -> tuple[str, ...]:
    """Boundaries to learn; none for masks.

    Raises:
        Mistake: as `open_masks`.
    """
    asked = list(config.data.annotations)
    if len(asked) != 1:
        raise Mistake(
            f"mode={config.mode} learns one thing: data.annotations=[mask] or [layers], not {asked}"
        )
    if asked == ["mask"]:
        if config.segment.boundaries:
            raise Mistake("segment.boundaries are learnt with data.annotations=[layers]")
        return ()
    there = volumes.layer_names
    chosen = config.segment.boundaries or common(volumes)
    if lost := [one for one in chosen if one not in there]:
        raise Mistake(f"segment.boundaries ({lost[0]}) must be among {', '.join(there) or 'none'}")
    return tuple(one for one in there if one in chosen)


def common(volumes: oct_io.CachedVolumes) -> list[str]:
    """Boundaries that `COMMON` of the scans with any have."""
    entries = volumes.entries
    lists = [entries[one].layers for one in entries.with_annotation("layers").tolist()]
    counts = Counter(name for names in lists for name in names)
    return [name for name in volumes.layer_names if counts[name] >= COMMON * len(lists)]


def rounds_of(
    config: FinetuneConfig,
    source: oct_io.Source,
    volumes: oct_io.CachedVolumes,
    amounts: Target,
    participants: NDArray[np.str_],
) -> tuple[list[Round], str]:
    """The rounds of the protocol and who is tested, in words.

    Raises:
        ValueError: as `make_rounds`.
    """
    protocol = config.protocol
    name, parts, by = protocol.name, None, None
    rule = f"{name.replace('_', ' ')} by participant"
    if name == "given" and source.split is None:
        rounds = make_rounds("kfold", amounts, participants, folds=FOLDS, seed=protocol.seed)
        return rounds[:1], f"no split is given: the first of {FOLDS} folds by participant"
    split = source.split.parts if source.split is not None else {}
    part_of = {one: part for part, some in split.items() for one in some}
    said = np.array([part_of.get(one, "") for one in participants.tolist()])
    if name == "given" and source.split is not None:
        parts = np.where(said == config.test_split, TEST, TRAIN)
        parts[(said == VAL) & (config.test_split != VAL)] = VAL
        rule = f"{source.split.rule} {config.test_split}".strip()
    if name == "leave_one_out":
        own = protocol.by == SPLIT
        by = said if own else cells_of(source, volumes, [protocol.by])[protocol.by]
    rounds = make_rounds(
        name,
        amounts,
        participants,
        parts=parts,
        by=by,
        folds=protocol.folds,
        repeats=protocol.repeats if name == "repeated_kfold" else 1,
        seed=protocol.seed,
    )
    return rounds, rule
