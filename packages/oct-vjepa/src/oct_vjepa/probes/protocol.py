"""Who is fitted, who chooses and who is tested: rounds of an evaluation, apart by participant.

`make_rounds` gives them for a given split, for folds and for one site left out after another;
`few_labels` keeps a share of the fit participants, and of validation if wanted, `hold_out` some of
validation for calibration.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.measures.target import Target

Truths = NDArray[np.bool_]
PROTOCOLS = ("given", "kfold", "repeated_kfold", "leave_one_out")
PART_NAMES = ("train", "val", "test")  # what AI-READI's recommended_split calls them


class Round(NamedTuple):
    """One fit and its test; no participant has rows in two of the parts."""

    name: str
    fit: Truths
    """(N,); true for rows that a model is fitted on. Rows without an answer are in no part."""
    validation: Truths
    """(N,); for rows that choose among fitted models."""
    test: Truths
    """(N,); for rows that are looked at once."""
    calibration: Truths | None = None
    """(N,); for rows that set temperature and thresholds of what was chosen; None: validation."""

    @property
    def parts(self) -> dict[str, Truths]:
        """Name to rows of each part that there is; no row is in two."""
        found = {"fit": self.fit, "validation": self.validation, "test": self.test}
        if self.calibration is not None:
            found["calibration"] = self.calibration
        return found

    @property
    def calibrating(self) -> Truths:
        """(N,); rows that set temperature and thresholds, whoever they are."""
        return self.validation if self.calibration is None else self.calibration


def make_rounds(
    protocol: str,
    target: Target,
    groups: NDArray[Any],
    *,
    parts: NDArray[Any] | None = None,
    by: NDArray[Any] | None = None,
    folds: int = 5,
    repeats: int = 1,
    seed: int,
    part_names: tuple[str, str, str] = PART_NAMES,
) -> list[Round]:
    """The rounds of a protocol; equal arguments give equal rounds.

    Where no validation part is given it is one of `folds` stratified parts of the participants who
    are not tested, or of fewer where it would be a single participant.

    Args:
        protocol: given: one round by `parts`. kfold: every participant is tested once.
            repeated_kfold: once in each repeat. leave_one_out: each value of `by` is tested once,
            and a participant with a row of that value is out of the fit with all rows.
        target: the question; rows without an answer take no part.
        groups: (N,) participant of each row.
        parts: (N,) part of each row, for `given`; rows of other parts take no part.
        by: (N,) site or device of each row, for `leave_one_out`; rows of "" take no part.
        folds: of kfold, and of the participants among whom validation is one.
        repeats: of repeated_kfold.
        seed: of all draws.
        part_names: what `parts` calls fit, validation and test; validation may have no row.

    Raises:
        ValueError: too few participants of a class or in a part, one class only, a participant in
            two given parts, or an argument that the protocol lacks.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol ({protocol!r}) must be one of {', '.join(PROTOCOLS)}")
    if folds < 2 or repeats < 1:
        raise ValueError(f"protocol: folds ({folds}) must be 2 or more, repeats ({repeats}) 1")
    if protocol != "repeated_kfold" and repeats != 1:
        raise ValueError(f"protocol: {protocol} takes one repeat; repeated_kfold takes {repeats}")
    people = np.unique(groups, return_inverse=True)[1].reshape(-1)
    if len(people) != len(target):
        raise ValueError(f"protocol: {len(people)} participants for {len(target)} rows")
    _check_classes(target)
    if protocol == "given":
        drafts = [_given(target, people, parts, part_names)]
    elif protocol == "leave_one_out":
        drafts = _left_out(target, people, by)
    else:
        drafts = _folds(target, people, folds, repeats, seed)
    return [
        _finish(draft, target, people, folds, (seed, number)) for number, draft in enumerate(drafts)
    ]


def few_labels(
    one: Round,
    target: Target,
    groups: NDArray[Any],
    fraction: float,
    *,
    seed: int,
    turn: int = 0,
    validation: bool = False,
) -> Round:
    """The round with a share of its fit participants, at least two of each class.

    Of several labels two with each and two without. The test stays, and calibration where it was
    set apart. What is drawn depends on labels, participants and seed, never on features: two
    encoders see the same subsets. A larger share of the same turn has those of a smaller one, but
    for who is added or left out by rounding.

    Args:
        one: the round.
        target: the question.
        groups: (N,) participant of each row.
        fraction: of the fit participants, above 0 and at most 1.
        seed: of the draw.
        turn: which of several draws.
        validation: keep the share of validation participants too, at least two of each class, as
            where nobody has labelled more; else all of them choose.

    Raises:
        ValueError: a fraction out of its bounds.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction ({fraction}) must be above 0 and at most 1")

    def share_of(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows = np.flatnonzero(part)
        wanted = round(fraction * len(np.unique(groups[rows])))
        own, people = target.take(rows), groups[rows]
        drawn = draw_participants(_alike(own), people, wanted, seed=(seed, turn))
        if target.kind == "multilabel":
            drawn = _complete(drawn, own, people, seed=(seed, turn, 1))
        kept = np.zeros_like(part)
        kept[rows[drawn]] = True
        return kept

    few = one._replace(fit=share_of(one.fit))
    if validation and one.validation.any():
        few = few._replace(validation=share_of(one.validation))
    return few


def draw_participants(
    y_N: NDArray[Any], groups_N: NDArray[Any], size: int, *, seed: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Rows of `size` participants drawn without replacement, true where drawn, (N,).

    The first of an order that hangs on the seed and not on the size. Drawn within those who have
    the same label or labels, in proportion, at least two each or all of them if they are fewer; a
    size below what that needs is raised to it.
    """
    labels = np.unique(y_N, return_inverse=True)[1].reshape(-1)
    people, member = np.unique(groups_N, return_inverse=True)
    member = member.reshape(-1)
    has = np.zeros((len(people), int(labels.max()) + 1), dtype=bool)
    has[member, labels] = True
    stratum = np.unique(has, axis=0, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(stratum)
    least = np.minimum(counts, 2)
    size = max(size, int(least.sum()))
    wanted = counts / counts.sum() * size
    take = np.maximum(np.floor(wanted).astype(np.int64), least)
    while take.sum() != size:  # rounding: give to, or take from, whoever is furthest from the share
        gap = wanted - take
        if take.sum() < size:
            take[np.argmax(np.where(take < counts, gap, -np.inf))] += 1
        else:
            take[np.argmin(np.where(take > least, gap, np.inf))] -= 1
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(stratum == one))[:count]
        for one, count in enumerate(take)
    ]
    return np.isin(member, np.concatenate(drawn))


def _complete(
    drawn_N: NDArray[np.bool_], target: Target, groups_N: NDArray[Any], *, seed: tuple[int, ...]
) -> NDArray[np.bool_]:
    """`drawn_N` and who it lacks to have each mark in two participants, or in all who have it."""
    marks, members = marks_of(target, groups_N)
    kept = np.isin(members, groups_N[drawn_N])
    order = np.random.default_rng(seed).permutation(len(members))
    for has in marks.T:
        lacking = max(0, 2 - int(has[kept].sum()))
        kept[order[has[order] & ~kept[order]][:lacking]] = True
    return np.isin(groups_N, members[kept])


def check_part(
    target: Target, people: NDArray[Any], name: str, *, all_of: bool = True, least: int = 1
) -> None:
    """Refuse rows that a model cannot be fitted on, or a score not be read from.

    Args:
        target: the question for these rows.
        people: their participants.
        name: of the part, for the error.
        all_of: every class or label must be there; otherwise two classes, or one label, will do.
        least: participants that each of those classes must have.

    Raises:
        ValueError: names the part and what it lacks.
    """
    if (count := len(np.unique(people))) < 2 * least:
        raise ValueError(f"{name} has {count} participants; it needs {2 * least} or more")
    lacking = []
    questions = _questions(target)
    for values, names in questions:
        counts = [len(np.unique(people[values == value])) for value in range(len(names))]
        found = sum(count >= least for count in counts)
        if found < (len(names) if all_of else min(2, len(names))):
            lacking.append(
                ", ".join(f"{count} of {one}" for one, count in zip(names, counts, strict=True))
            )
    if lacking and (all_of or len(lacking) == len(questions)):
        need = "each" if all_of or len(questions) > 1 else "two classes"
        raise ValueError(f"{name} has participants: {lacking[0]}; it needs {least} of {need}")


def _questions(target: Target) -> list[tuple[NDArray[Any], tuple[str, ...]]]:
    """Values and what they are called, for each thing that must occur with and without."""
    if target.is_classes:
        return [(target.values, target.names)]
    if target.kind == "regression":
        return []
    if target.kind == "survival":
        return [(1 - target.values[:, 1], ("event",))]
    return [
        (column, (f"no {name}", name))
        for column, name in zip(target.values.T, target.names, strict=True)
    ]


def _check_classes(target: Target) -> None:
    """Refuse a question that has one answer only."""
    if target.is_classes and len(found := np.unique(target.values[target.known])) < 2:
        names = [target.names[one] for one in found]
        raise ValueError(f"protocol: the rows with an answer are of one class only: {names}")


def _given(
    target: Target,
    people: NDArray[np.int64],
    parts: NDArray[Any] | None,
    names: tuple[str, str, str],
) -> Round:
    if parts is None:
        raise ValueError("protocol: given needs the part of each row")
    fit, validation, test = (target.known & (np.asarray(parts) == name) for name in names)
    for one, other, pair in (
        (fit, validation, names[:2]),
        (fit, test, names[::2]),
        (validation, test, names[1:]),
    ):
        if both := len(np.intersect1d(people[one], people[other])):
            raise ValueError(f"protocol: {both} participants are in both {' and '.join(pair)}")
    return Round(names[2], fit, validation, test)


def _left_out(target: Target, people: NDArray[np.int64], by: NDArray[Any] | None) -> list[Round]:
    if by is None:
        raise ValueError("protocol: leave_one_out needs the site or device of each row")
    where = np.asarray(by).astype(str)
    known = target.known & (where != "")
    values = np.unique(where[known])
    if len(values) < 2:
        raise ValueError(f"protocol: leave_one_out needs two values or more, not {list(values)}")
    drafts = []
    for value in values:
        test = known & (where == value)
        check_part(target.take(test), people[test], f"{value}: test", all_of=False)
        rest = known & ~np.isin(people, people[test])
        drafts.append(Round(str(value), rest, np.zeros_like(rest), test))
    return drafts


def _folds(
    target: Target, people: NDArray[np.int64], folds: int, repeats: int, seed: int
) -> list[Round]:
    known = target.known
    need = max(folds, 3)  # one to fit, one to choose and one to test
    check_part(target.take(known), people[known], f"{folds} folds: the table", least=need)
    marks, members = marks_of(target.take(known), people[known])
    drafts = []
    for turn in range(repeats):
        fold = fold_participants(marks, folds, seed=(seed, turn, 0))
        for one in range(folds):
            test = known & np.isin(people, members[fold == one])
            name = f"repeat {turn + 1}, fold {one + 1}" if repeats > 1 else f"fold {one + 1}"
            drafts.append(Round(name, known & ~test, np.zeros_like(test), test))
    return drafts


def _finish(
    draft: Round, target: Target, people: NDArray[np.int64], folds: int, seed: tuple[int, int]
) -> Round:
    """The round with a validation part, if it has none, and refused if a part lacks a class."""
    name, fit, validation, test, _ = draft
    if not validation.any():
        check_part(target.take(fit), people[fit], f"{name}: fit and validation", least=2)
        marks, members = marks_of(target.take(fit), people[fit])
        for count in range(min(folds, len(members)), 1, -1):
            fold = fold_participants(marks, count, seed=(*seed, 1))
            if np.sum(fold == 0) > 1:  # one participant is no validation: fewer, larger parts
                break
        validation = fit & np.isin(people, members[fold == 0])
        fit = fit & ~validation
    check_part(target.take(fit), people[fit], f"{name}: fit")
    for rows, part in ((validation, "validation"), (test, "test")):
        check_part(target.take(rows), people[rows], f"{name}: {part}", all_of=False)
    return Round(name, fit, validation, test)


def _alike(target: Target) -> NDArray[np.int64]:
    """Strata to draw few labels from: of several labels the rarest that a row has.

    All combinations of labels would need two participants each, which no small share has.
    """
    if target.kind != "multilabel":
        return target.strata()
    rarity = (target.values == 1).sum(axis=0)
    ranked = np.where(target.values == 1, rarity, len(target) + 1)
    none = len(target.names)
    return np.where((target.values == 1).any(axis=1), ranked.argmin(axis=1), none)


def marks_of(
    target: Target, people: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What each participant has among their rows, (P, marks), and who they are, (P,).

    Marks are classes; each label with and without; parts of a quantity; events and others by time.
    """
    if target.kind == "multilabel":
        marks = np.concatenate([target.values == 1, target.values == 0], axis=1)
    else:
        strata = target.values if target.is_classes else target.strata()
        marks = strata[:, None] == np.unique(strata)
    members, row = np.unique(people, return_inverse=True)
    has = np.zeros((len(members), marks.shape[1]), dtype=bool)
    np.logical_or.at(has, row.reshape(-1), marks)
    return has, members


def fold_participants(
    marks_PM: NDArray[np.bool_], folds: int | Sequence[float], *, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """Part of each participant, (P,), from 0; `folds` equal parts, or shares, alike in marks.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011): the rarest mark is dealt first,
    to the part that still lacks most of it. Unlike folds by combination of labels, this works where
    nearly every participant has one of their own: two eyes, several devices, several labels.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(marks_PM))
    marks = marks_PM[order].astype(np.int64)
    shares = np.full(folds, 1 / folds) if isinstance(folds, int) else np.asarray(folds)
    lack = np.outer(shares, marks.sum(axis=0))  # of each mark, by part
    room = shares * len(marks)
    fold = np.full(len(marks), -1)
    left = marks.sum(axis=0)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, len(marks) + 1)))
        for one in np.flatnonzero((fold < 0) & (marks[:, rarest] > 0)):
            best = np.flatnonzero(lack[:, rarest] >= lack[:, rarest].max() - 1e-9)
            best = best[room[best] >= room[best].max() - 1e-9]
            fold[one] = part = int(draw.choice(best))
            lack[part] -= marks[one]
            room[part] -= 1
            left -= marks[one]
    given = np.empty_like(fold)
    given[order] = fold
    return given
