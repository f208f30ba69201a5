"""Folders of finished evaluations: found, read, and checked to be of one question."""

import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RESULTS, PREDICTIONS, SWEEP = "results.json", "predictions.parquet", "sweep.json"
OWN = "pretrained"
"""Candidate of a run that its leaderboard entry is about; the others stand beside it."""
DECIDED = "decided_"
"""How the columns begin of scores that choices are taken from."""
FIXED = ("candidate", "seed", "round", "part", "participant", "answer")
COUNTED = ("nominal", "ordinal", "multilabel")


class BoardError(Exception):
    """Runs that cannot stand side by side; the text is one line that names them."""


class Block(NamedTuple):
    """The test rows of one candidate with one seed in one round."""

    participants: NDArray[np.str_]
    answers: NDArray[Any]  # as `Target.values`
    scores_NC: NDArray[np.float64]
    decided_NC: NDArray[np.float64]  # what choices are taken from; the scores where nobody said


Rounds = dict[str, Block]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One finished evaluation.

    Attributes:
        place: its folder, as messages name it.
        question: name, kind, names and unit of what was asked.
        encoder: place of the encoder as it was given.
        fingerprint: of the encoder's weights.
        settings: all that may make a difference, dotted name to text.
        made_up: whether the scans were drawn by the phantom.
        answers: candidate to seed to rounds.
    """

    place: str
    question: Mapping[str, Any]
    encoder: str
    fingerprint: str
    settings: Mapping[str, str]
    made_up: bool
    answers: Mapping[str, Mapping[int, Rounds]] = field(repr=False)


class Found(NamedTuple):
    """What lies in some folders."""

    runs: list[Path]
    failed: list[tuple[str, str]]  # job of a sweep, and why there is no result


def find_runs(places: Iterable[str | Path]) -> Found:
    """Run folders in and below `places`; of a sweep those that its table says are done.

    Raises:
        BoardError: no such folder, or nothing in one.
    """
    found = Found([], [])
    for place in map(Path, places):
        if not place.is_dir():
            raise BoardError(f"{place}: no such folder; name run folders, or the folder of a sweep")
        before = len(found.runs) + len(found.failed)
        if (place / SWEEP).is_file():  # a single run may have been there before the sweep
            _take_sweep(place, found)
        elif (place / RESULTS).is_file():
            found.runs.append(place)
        else:
            found.runs.extend(_below(place))
        if before == len(found.runs) + len(found.failed):
            raise BoardError(f"{place}: no {RESULTS} in it or below; a run leaves one at its end")
    return Found(list(dict.fromkeys(found.runs)), found.failed)


def _take_sweep(place: Path, found: Found) -> None:
    try:
        jobs = json.loads((place / SWEEP).read_text(encoding="utf-8"))["jobs"]
        told = [(str(one["name"]), one["exit_code"], str(one["run_dir"])) for one in jobs]
        reasons = [str(one["reason"]) for one in jobs]
    except (ValueError, KeyError, TypeError) as error:
        raise BoardError(f"{place / SWEEP}: is no table of a sweep ({error})") from error
    for (name, code, run_dir), reason in zip(told, reasons, strict=True):
        # The sweep may have been started elsewhere, or its folder moved since.
        folder = next((one for one in (place / name, Path(run_dir)) if one.is_dir()), place / name)
        if code == 0:
            found.runs.append(folder)
        else:
            said = f": {reason}" if reason else ""
            found.failed.append((name, f"exit code {code}{said}"))


def _below(place: Path) -> list[Path]:
    """Folders with results, and not what lies below such a one: trackers keep copies there."""
    found = []
    for folder, inside, files in os.walk(place):
        inside.sort()
        if RESULTS in files:
            found.append(Path(folder))
            inside.clear()
    return found


def read_run(folder: Path, name: str = "") -> Run:
    """Read what an evaluation left behind.

    Args:
        folder: with results.json and predictions.parquet.
        name: what messages call it; left out, the folder.

    Raises:
        BoardError: a file is missing, damaged, or of another format; or pyarrow is missing.
    """
    place = name or str(folder)
    try:
        document = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        entry, question = document["entry"], document["question"]
        return Run(
            place=place,
            question={key: question[key] for key in ("name", "kind", "names", "unit")},
            encoder=str(entry["encoder"]),
            fingerprint=str(entry["fingerprint"]),
            settings={str(key): str(value) for key, value in entry["settings"].items()},
            made_up=bool(document["made_up_data"]),
            answers=_read_answers(folder / PREDICTIONS, question["kind"]),
        )
    except OSError as error:
        raise BoardError(f"{place}: cannot be read ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise BoardError(
            f"{place}: is no evaluation that leaderboards can take ({reason}); run it again"
        ) from error


def _read_answers(path: Path, kind: str) -> dict[str, dict[int, Rounds]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BoardError("leaderboards need pyarrow: install oct-vjepa[parquet]") from error
    table = parquet.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    missing = set(FIXED) - columns.keys()
    if missing:
        raise ValueError(f"{path.name} lacks {sorted(missing)}")
    chosen = [one for one in columns if one.startswith(DECIDED)]
    scores = [one for one in columns if one not in FIXED and one not in chosen]
    answers = np.array([np.asarray(one, np.float64) for one in columns["answer"]])
    if kind in COUNTED:
        answers = answers.astype(np.int64)
    found: dict[str, dict[int, Rounds]] = {}
    keys = list(zip(*(columns[one] for one in ("candidate", "seed", "round")), strict=True))
    tested = np.flatnonzero(columns["part"] == "test")
    rows: dict[tuple[Any, ...], list[int]] = {}
    for row in tested.tolist():
        rows.setdefault(keys[row], []).append(row)
    for (candidate, seed, one), own in rows.items():
        values = np.column_stack([columns[name][own] for name in scores]).astype(np.float64)
        decided = values
        if chosen:
            decided = np.column_stack([columns[name][own] for name in chosen]).astype(np.float64)
        names = columns["participant"][own].astype(np.str_)
        block = Block(names, answers[own], values, decided)
        found.setdefault(str(candidate), {}).setdefault(int(seed), {})[str(one)] = block
    if OWN not in found:
        raise ValueError(f"{path.name} has no test rows of {OWN}")
    return found


def check_alike(runs: Sequence[Run]) -> None:
    """Refuse runs that do not ask the same of the same test participants.

    Raises:
        BoardError: names two runs and what differs.
    """
    first = runs[0]
    for other in runs[1:]:
        for key, value in first.question.items():
            if other.question[key] != value:
                differs = f"{key} of the question is {value}, and {other.question[key]}"
                raise BoardError(
                    f"{first.place} and {other.place} are not of one question: the {differs}"
                )
        if said := _difference(_tested(first), _tested(other)):
            raise BoardError(f"{first.place} and {other.place} have not the same test: {said}")


def _tested(run: Run) -> dict[str, dict[tuple[Any, ...], None]]:
    """Round to the participants with their answers."""
    rounds = next(iter(run.answers[OWN].values()))
    return {
        name: dict.fromkeys(
            (str(who), *np.ravel(answer).tolist())
            for who, answer in zip(block.participants, block.answers, strict=True)
        )
        for name, block in rounds.items()
    }


def _difference(
    one: Mapping[str, Mapping[tuple[Any, ...], None]],
    other: Mapping[str, Mapping[tuple[Any, ...], None]],
) -> str:
    if one.keys() != other.keys():
        return f"rounds {sorted(one)}, and {sorted(other)}"
    for name, asked in one.items():
        people, others = {row[0] for row in asked}, {row[0] for row in other[name]}
        if people != others:
            alone = len(people - others), len(others - people)
            return (
                f"in round {name} {alone[0]} participants are in the first alone, "
                f"{alone[1]} in the second alone"
            )
        if asked.keys() != other[name].keys():
            wrong = len({row[0] for row in asked.keys() ^ other[name].keys()})
            return f"in round {name} {wrong} participants have other answers"
    return ""
