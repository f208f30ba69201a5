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
MEASURES = "measures.parquet"
"""What questions of masks leave instead of predictions: metrics of each participant."""
MEASURED = ("segmentation", "patches")
"""Kinds of questions that masks answer."""
OWN = "pretrained"
"""Candidate of a run that its leaderboard entry is about; the others stand beside it."""
DECIDED = "decided_"
"""How the columns begin of scores that choices are taken from."""
KEYS = ("candidate", "seed", "round")
FIXED = (*KEYS, "part", "participant", "answer")
ASKED = ("name", "kind", "names", "unit")
ASKED_OF_MASKS = ("counted", "boundaries", "thickness", "grid", "least")
"""What the question is, where masks answer it; those that a kind does not have are left out."""
COUNTED = ("nominal", "ordinal", "multilabel")


class BoardError(Exception):
    """Runs that cannot stand side by side; the text is one line that names them."""


class Block(NamedTuple):
    """The test rows of one candidate with one seed in one round."""

    participants: NDArray[np.str_]
    answers: NDArray[Any]  # as `Target.values`; of masks 0, for what is true is not in a number
    scores_NC: NDArray[np.float64]  # of masks the metrics of a participant
    decided_NC: NDArray[np.float64]  # what choices are taken from; the scores where nobody said


Rounds = dict[str, Block]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One finished evaluation.

    Attributes:
        place: its folder, as messages name it.
        question: name, kind, names and unit of what was asked, and what else makes it another.
        encoder: place of the encoder as it was given.
        fingerprint: of the encoder's weights.
        settings: all that may make a difference, dotted name to text.
        made_up: whether the scans were drawn by the phantom.
        answers: candidate to seed to rounds.
        metrics: of masks what the columns of scores are; empty for labels.
        headline: of masks the metric that ranks.
    """

    place: str
    question: Mapping[str, Any]
    encoder: str
    fingerprint: str
    settings: Mapping[str, str]
    made_up: bool
    answers: Mapping[str, Mapping[int, Rounds]] = field(repr=False)
    metrics: tuple[str, ...] = ()
    headline: str = ""


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
        folder: with results.json and predictions.parquet, or of masks measures.parquet.
        name: what messages call it; left out, the folder.

    Raises:
        BoardError: a file is missing, damaged, or of another format; or pyarrow is missing.
    """
    place = name or str(folder)
    try:
        document = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        entry, question = document["entry"], document["question"]
        asked = {key: question[key] for key in ASKED}
        told: dict[str, Any] = {
            "encoder": str(entry["encoder"]),
            "fingerprint": str(entry["fingerprint"]),
            "settings": {str(key): str(value) for key, value in entry["settings"].items()},
            "made_up": bool(document["made_up_data"]),
        }
        if asked["kind"] not in MEASURED:
            answers = _read_answers(folder / PREDICTIONS, asked["kind"])
            return Run(place=place, question=asked, answers=answers, **told)
        asked |= {key: question[key] for key in ASKED_OF_MASKS if key in question}
        answers, metrics = _read_measures(folder / MEASURES)
        headline = str(document["headline"])
        if headline not in metrics:
            raise ValueError(f"{MEASURES} lacks {headline}")
        return Run(
            place=place, question=asked, answers=answers, metrics=metrics, headline=headline, **told
        )
    except OSError as error:
        raise BoardError(f"{place}: cannot be read ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise BoardError(
            f"{place}: is no evaluation that leaderboards can take ({reason}); run it again"
        ) from error


def _read_columns(path: Path, wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BoardError("leaderboards need pyarrow: install oct-vjepa[parquet]") from error
    table = parquet.read_table(path)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    if missing := set(wanted) - columns.keys():
        raise ValueError(f"{path.name} lacks {sorted(missing)}")
    return columns


def _read_measures(path: Path) -> tuple[dict[str, dict[int, Rounds]], tuple[str, ...]]:
    """Candidate to seed to rounds, and the names of the metrics."""
    columns = _read_columns(path, [*KEYS, "participant"])
    metrics = tuple(name for name in columns if name not in FIXED)
    found: dict[str, dict[int, Rounds]] = {}
    for (candidate, seed, one), own in _rows_by_key(columns, range(len(columns["seed"]))):
        values = np.column_stack([columns[name][own] for name in metrics]).astype(np.float64)
        names = columns["participant"][own].astype(np.str_)
        block = Block(names, np.zeros(len(own), np.int64), values, values)
        found.setdefault(str(candidate), {}).setdefault(int(seed), {})[str(one)] = block
    if OWN not in found:
        raise ValueError(f"{path.name} has no rows of {OWN}")
    return found, metrics


def _rows_by_key(
    columns: Mapping[str, NDArray[Any]], rows: Iterable[int]
) -> Iterable[tuple[tuple[Any, ...], list[int]]]:
    """Candidate, seed and round, and which of the rows are theirs."""
    keys = list(zip(*(columns[one] for one in KEYS), strict=True))
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        found.setdefault(keys[row], []).append(row)
    return found.items()


def _read_answers(path: Path, kind: str) -> dict[str, dict[int, Rounds]]:
    columns = _read_columns(path, FIXED)
    chosen = [one for one in columns if one.startswith(DECIDED)]
    scores = [one for one in columns if one not in FIXED and one not in chosen]
    answers = np.array([np.asarray(one, np.float64) for one in columns["answer"]])
    if kind in COUNTED:
        answers = answers.astype(np.int64)
    found: dict[str, dict[int, Rounds]] = {}
    tested = np.flatnonzero(columns["part"] == "test").tolist()
    for (candidate, seed, one), own in _rows_by_key(columns, tested):
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
            if (asked := other.question.get(key)) != value:
                differs = f"{key} of the question is {value}, and {asked}"
                raise BoardError(
                    f"{first.place} and {other.place} are not of one question: the {differs}"
                )
        if other.metrics != first.metrics:
            raise BoardError(f"{first.place} and {other.place} have not measured the same")
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
