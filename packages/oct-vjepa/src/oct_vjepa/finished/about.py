"""What a finished model says of itself: model.json, checked when it is read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import KINDS, Target

FORMAT, VERSION = "oct-vjepa-model", 1
SEGMENTATION = "segmentation"
"""Kind of a model that gives every voxel a class."""
PATCHES = "patches"
"""Kind of a model that says of each patch what it holds; the others are those of `Target`."""
Triple = tuple[float, float, float]
SLACK = 0.05  # share by which a spacing may leave the range that was seen: eyes differ in length
ATTENTION, PAIRS = "attention", "pairs"
"""Ways of joining volumes that are fitted, beside mean and max."""
SCAN_FLAGS = "scan_flags"
"""What reading a scan found suspicious, and the flag of one that the fit left out for it."""
PLACES = {name: name for name in ("device", "protocol", "region", SCAN_FLAGS)}
"""What a volume may come from, and the flag of one that comes from elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeFor:
    """What the volumes were like that the model was fitted on.

    Attributes:
        seen: "device", "protocol", "region" to the values that occurred; a key may be missing.
        spacing: least and greatest spacing of the volumes along (Z, Y, X); None where unknown.
        scan_spacing: likewise of the scans before they were resampled.
        left_out: scans in which reading found one of these were not looked at.
    """

    seen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    spacing: tuple[Triple, Triple] | None = None
    scan_spacing: tuple[Triple, Triple] | None = None
    left_out: Sequence[str] = ()

    def flags(
        self,
        count: int,
        spacing: NDArray[Any] | None = None,
        places: Mapping[str, Sequence[str]] | None = None,
        scan_spacing: NDArray[Any] | None = None,
    ) -> list[list[str]]:
        """Names of what is unlike the fit rows, for each of `count` volumes.

        Args:
            count: volumes.
            spacing: (count, 3) or (3,).
            places: "device" and others to `count` values each.
            scan_spacing: as `spacing`.
        """
        found: list[list[str]] = [[] for _ in range(count)]
        for name, values in (places or {}).items():
            known, left_out = set(self.seen.get(name, ())), set(self.left_out)
            for number, value in enumerate(values):
                unlike = bool(known) and value not in known
                if name == SCAN_FLAGS:
                    unlike = not left_out.isdisjoint(value.split())
                if unlike:
                    found[number].append(PLACES[name])
        for name, given, seen in (
            ("spacing", spacing, self.spacing),
            ("scan_spacing", scan_spacing, self.scan_spacing),
        ):
            if given is None or seen is None:
                continue
            for number in np.flatnonzero(_outside(given, seen, count)).tolist():
                found[number].append(name)
        return found


def _outside(given: NDArray[Any], seen: tuple[Triple, Triple], count: int) -> NDArray[np.bool_]:
    """Whether any known spacing of a volume is outside the range."""
    rows = np.broadcast_to(np.asarray(given, np.float64), (count, 3))
    low, high = (np.asarray(one, np.float64) for one in seen)
    out: NDArray[np.bool_] = (rows < low * (1 - SLACK)) | (rows > high * (1 + SLACK))
    return np.any(out, axis=1)


def range_of(spacings_N3: NDArray[Any]) -> tuple[Triple, Triple] | None:
    """Least and greatest of each column; None if one is not known of every row."""
    if not len(spacings_N3) or not np.isfinite(spacings_N3).all():
        return None
    low, high = (tuple(one.tolist()) for one in (spacings_N3.min(axis=0), spacings_N3.max(axis=0)))
    return low, high


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedAbout:
    """What a member reads the volumes of a participant together with.

    Attributes:
        folder: of the fitted pool, or of the probe on pairs, within that of the model.
        readout: which features of each volume it takes, such as "last/mean".
        temperature: as of `MemberAbout`.
        priors: shares of the classes to which the scores of a pool are brought; empty: as they are.
    """

    folder: str
    readout: str
    temperature: float = 1.0
    priors: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Turn the JSON form back."""
        return cls(**{**tree, "priors": tuple(tree["priors"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class MemberAbout:
    """One of the models that answer together.

    Attributes:
        encoder: folder of its encoder, within that of the model.
        probe: folder of its fitted probe; "" if it has a trained head.
        head: folder of its trained head; "" if it has a probe.
        readout: what the probe reads, such as "last/mean"; of a head the pool for the novelty.
        temperature: that calibration rows asked for; 1 changes nothing.
        priors: shares of the classes to which the probabilities of a head are brought, for one that
            was trained with classes alike; empty: as they are.
        round: name of the round that it was fitted in.
        seed: of its fit.
        usual: novelty that 99 of 100 validation rows stay below; None: novelty is not known.
        joined: what reads all volumes of a participant; None where scores of volumes are joined.
    """

    encoder: str
    probe: str = ""
    head: str = ""
    readout: str = ""
    temperature: float = 1.0
    priors: tuple[float, ...] = ()
    round: str = ""
    seed: int = 0
    usual: float | None = None
    joined: JoinedAbout | None = None

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Turn the JSON form back; those of models without `joined` have none."""
        joined = tree.get("joined")
        parts = {
            **tree,
            "priors": tuple(tree["priors"]),
            "joined": None if joined is None else JoinedAbout.from_json(joined),
        }
        return cls(**parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """model.json, but for the hashes of the files.

    Attributes:
        question: name of the task.
        kind: see `Target`; or "segmentation", or "patches".
        names: of the classes or labels, or of the quantity alone.
        unit: of the quantity or time.
        mode: how it was fitted, such as "linear" or "full".
        join: mean or max: how volumes become eyes, and eyes participants; attention or pairs: each
            member has what reads all volumes of a participant at once.
        made_up: fitted on phantoms.
        shape: (Z, Y, X) of the volumes.
        window: how scans become such volumes, in the words of who opens scans.
        made_for: what the fit rows were like.
        members: who answer; their scores are averaged.
        alpha: share of sets, or ranges, that may miss the truth.
        threshold: "volume" and "participant" to the conformal threshold of the classes, or to half
            the width of a range; None where there were too few to promise anything.
        label_thresholds: the same of each of several labels, in their order.
        cutoffs: class or label to the score from which `specificity` is expected; of patches to
            the chance below which so many stay that do not hold it.
        specificity: see `cutoffs`.
        levels: of masks, numbers of the blocks whose tokens the decoder joins; empty: the output.
        boundaries: whose layers the classes of masks are, from the first to be met; none: masks.
        band: the two boundaries between which thickness is measured, or none.
        results: metrics with intervals, and other numbers of the evaluation.
        provenance: fingerprints and versions.
    """

    question: str
    kind: str
    names: tuple[str, ...]
    unit: str = ""
    mode: str
    join: str = "mean"
    made_up: bool = False
    shape: tuple[int, int, int]
    window: Mapping[str, Any] = field(default_factory=dict)
    made_for: MadeFor = MadeFor()
    members: tuple[MemberAbout, ...]
    alpha: float = 0.1
    threshold: Mapping[str, float | None] = field(default_factory=dict)
    label_thresholds: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    cutoffs: Mapping[str, float] = field(default_factory=dict)
    specificity: float = 0.9
    levels: tuple[int, ...] = ()
    boundaries: tuple[str, ...] = ()
    band: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, SEGMENTATION, PATCHES):
            known = ", ".join((*KINDS, SEGMENTATION, PATCHES))
            raise ValueError(f"kind ({self.kind}) must be one of {known}")
        if not self.members:
            raise ValueError("members: there is none")
        if len(self.shape) != 3:
            raise ValueError(f"shape ({self.shape}) must be (Z, Y, X)")

    @property
    def draws(self) -> bool:
        """Whether it gives classes of voxels instead of answers of volumes."""
        return self.kind == SEGMENTATION

    @property
    def locates(self) -> bool:
        """Whether it gives the chance of each patch instead of answers of volumes."""
        return self.kind == PATCHES

    def nobody(self, count: int) -> Target:
        """A target of `count` rows that tells nothing: as joining rows needs one."""
        counted = self.kind in ("nominal", "ordinal", "multilabel")
        width = {"multilabel": (len(self.names),), "survival": (2,)}.get(self.kind, ())
        values = np.zeros((count, *width), np.int64 if counted else np.float64)
        return Target(kind=self.kind, values=values, names=self.names, unit=self.unit)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": FORMAT, "version": VERSION, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_json(cls, tree: Any) -> Self:
        """Turn the JSON form back.

        Raises:
            ValueError: it is none, or of another version.
        """
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise ValueError("is no finished model's")
        if tree.get("version") != VERSION:
            raise ValueError(f"is of version {tree.get('version')}; this reads {VERSION}")
        values = {key: one for key, one in tree.items() if key not in ("format", "version")}
        try:
            made_for = dict(values.pop("made_for"))
            ranges: dict[str, Any] = {
                name: None if made_for[name] is None else tuple(map(tuple, made_for[name]))
                for name in ("spacing", "scan_spacing")
            }
            members = tuple(map(MemberAbout.from_json, values.pop("members")))
            seen = {name: tuple(one) for name, one in made_for["seen"].items()}
            lists = ("shape", "names", "levels", "boundaries", "band")
            values |= {name: tuple(values[name]) for name in lists if name in values}
            each = values.get("label_thresholds", {})
            values["label_thresholds"] = {name: tuple(one) for name, one in each.items()}
            return cls(
                **values,
                members=members,
                made_for=MadeFor(seen=seen, left_out=tuple(made_for.get("left_out", ())), **ranges),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"is not valid: {error}") from error
