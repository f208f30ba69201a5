"""Answers of a finished model: scores, a choice, a set or range, and what speaks against them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.finished.about import PAIRS, About
from oct_vjepa.finished.joining import Joiner
from oct_vjepa.finished.member import Scored
from oct_vjepa.measures.shares import Floats
from oct_vjepa.scores.conformal import label_sets, prediction_ranges, prediction_sets
from oct_vjepa.trials.verdict import Panel

STRANGE = "strange"
"""Flag of a volume whose features lie further out than those of 99 of 100 validation rows."""
ALONE = "alone"
"""Flag of a participant of one volume, where a model of `join=pairs` compares several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """What is said of N volumes, or of N participants.

    Attributes:
        names: of the classes or labels, or of the quantity.
        scores: (N, K) calibrated probabilities, the quantity, or a risk; see `Target`.
        even: (N, K) scores in which all classes weigh alike; the greatest was chosen.
        decided: the class; the labels that are there, with `+` between them; "" where nothing was
            decided: the row has a flag, or the question has no classes.
        sets: (N, K), true for the classes or labels that the promise does not rule out; all of them
            for rows with a flag. None for questions without classes to rule out.
        certain: (N, K), true for the labels whose absence the promise rules out; none of them for
            rows with a flag. None for questions other than of several labels.
        features: of each member that reads all volumes of a participant at once, what it reads of
            each, (N, D); empty for other models, and of participants.
        ranges: (N, 2) about a quantity, NaN for rows with a flag; None for other questions.
        novelty: (N,); above 1 lies what is stranger than 99 of 100 validation rows. NaN: unknown.
        flags: what of each row is unlike what the model was made for; most have none.
    """

    names: tuple[str, ...]
    scores: Floats
    even: Floats
    decided: tuple[str, ...]
    sets: NDArray[np.bool_] | None
    ranges: Floats | None
    novelty: Floats
    flags: tuple[tuple[str, ...], ...]
    certain: NDArray[np.bool_] | None = None
    features: tuple[NDArray[np.floating], ...] = ()

    def __len__(self) -> int:
        return len(self.scores)


def mark(flags: Sequence[Sequence[str]], novelty_N: Floats) -> tuple[tuple[str, ...], ...]:
    """The flags of each row, with that for its novelty."""
    strange = (novelty_N > 1).tolist()  # false for NaN
    return tuple(
        tuple(dict.fromkeys([*own, *([STRANGE] if far else [])]))
        for own, far in zip(flags, strange, strict=True)
    )


def settle(
    about: About, found: Scored, flags: Sequence[Sequence[str]], *, unit: str = "volume"
) -> Predictions:
    """Make answers of scores: nothing is decided of what has a flag.

    Args:
        about: the model.
        found: scores of the rows.
        flags: of each row, those for its novelty not included.
        unit: "volume" or "participant": whose threshold holds.
    """
    told = mark(flags, found.novelty_N)
    trusted = np.array([not own for own in told], bool)
    threshold = about.threshold.get(unit)
    sets, ranges, certain = None, None, None
    if about.kind in ("nominal", "ordinal") and threshold is not None:
        sets = prediction_sets(found.scores_NK, threshold) | ~trusted[:, None]
    if limits := about.label_thresholds.get(unit):
        known = np.array([np.inf if one is None else one for one in limits])
        both = label_sets(found.scores_NK, known)
        sets = both[:, :, 1] | ~trusted[:, None]
        certain = ~both[:, :, 0] & both[:, :, 1] & trusted[:, None]
    if about.kind == "regression" and threshold is not None:
        ranges = prediction_ranges(found.scores_NK[:, 0], threshold)
        ranges[~trusted] = np.nan
    chosen = _choices(about, found.even_NK)
    return Predictions(
        names=about.names,
        scores=found.scores_NK,
        even=found.even_NK,
        decided=tuple(one if fine else "" for one, fine in zip(chosen, trusted, strict=True)),
        sets=sets,
        ranges=ranges,
        novelty=found.novelty_N,
        flags=told,
        certain=certain,
    )


def _choices(about: About, even_NK: Floats) -> list[str]:
    if about.kind in ("nominal", "ordinal"):
        return [about.names[one] for one in even_NK.argmax(axis=1)]
    if about.kind == "multilabel":
        return [
            "+".join(name for name, there in zip(about.names, row, strict=True) if there) or "none"
            for row in even_NK > 0.5
        ]
    return [""] * len(even_NK)


def join(
    about: About,
    rows: Predictions,
    people: NDArray[np.str_],
    eyes: NDArray[np.str_],
    joiners: Sequence[Joiner] = (),
) -> tuple[NDArray[np.str_], NDArray[np.int64], Predictions]:
    """Volumes to eyes to participants, by the model's rule.

    Volumes with a flag are left out of participants who have others; who has none keeps the flags,
    and nothing is decided of them, nor of who is `ALONE`.

    Args:
        about: the model.
        rows: of N volumes.
        people: whose each is.
        eyes: of which eye each is.
        joiners: of the model's members, where they read all volumes of a participant at once.

    Returns:
        The participants, sorted; how many volumes went into the answer of each; the answers.
    """
    names, number = np.unique(people, return_inverse=True)
    owner = number.reshape(-1)
    fine = np.array([not own for own in rows.flags], bool)
    has = np.bincount(owner, weights=fine, minlength=len(names)) > 0
    kept = np.flatnonzero(fine | ~has[owner])
    if joiners:
        said = [
            one.score(features[kept], owner[kept], eyes[kept])
            for one, features in zip(joiners, rows.features, strict=True)
        ]
        scores, even = (np.mean(each, axis=0) for each in zip(*said, strict=True))
    else:
        eye = np.unique(np.char.add(np.char.add(people, " "), eyes), return_inverse=True)[1]
        panel = Panel(
            target=about.nobody(len(rows)), people=owner, eyes=eye.reshape(-1), how=about.join
        )
        scores, even = (panel.join(one[kept], kept).scores_NC for one in (rows.scores, rows.even))
    flags: list[list[str]] = [[] for _ in names]
    for row in kept.tolist():
        flags[owner[row]] += [one for one in rows.flags[row] if one != STRANGE]
    novelty = _mean_novelty(rows.novelty[kept], owner[kept])
    counts = np.bincount(owner[kept], minlength=len(names)).astype(np.int64)
    if about.join == PAIRS:
        for one in np.flatnonzero(counts == 1).tolist():
            flags[one].append(ALONE)
    found = settle(about, Scored(scores, even, novelty), flags, unit="participant")
    return names, counts, found


def _mean_novelty(novelty_N: Floats, owner_N: NDArray[np.int64]) -> Floats:
    """Of each participant; that of the strangest would make strange whoever has many volumes."""
    sums = np.bincount(owner_N, weights=novelty_N)
    return sums / np.bincount(owner_N)
