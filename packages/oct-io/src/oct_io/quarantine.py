"""Scans that could not be used: a line each in quarantine.jsonl, and how many are too many.

A build of the cache writes it and goes on; `oct-io quarantine` shows it and tries again.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from oct_io.errors import TreeError
from oct_io.saving import appearing

QUARANTINE = "quarantine.jsonl"
OUTAGES = ("transport failed", "no credentials found", "it cannot be reached")
"""How refusals began that older versions wrote for what is no fact about a scan."""


class TooManyBadError(TreeError):
    """So many scans are refused that it must be the data set, its address or the network."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One scan that was left out.

    Attributes:
        key: hashed path, as in `ScanRecord.key`.
        suffix: ending of the file's name.
        stage: one of `oct_io.errors.STAGES`.
        reason: one line without identity.
        path: relative path. In AI-READI's layout it names the participant, so it stands in the
            local quarantine file only and never in a log, a report or this object's repr.
        source: hash of the scan's record and of the state of its file; "" if not known.
    """

    key: str
    suffix: str
    stage: str
    reason: str
    path: str = field(repr=False)
    source: str = ""


def refuse(key: str, path: str, stage: str, reason: str, *, source: str = "") -> Refusal:
    """Describe a scan that is left out."""
    named = without_name(reason, path)
    return Refusal(key, PurePosixPath(path).suffix[:10], stage, named, path, source)


def was_outage(refusal: Refusal) -> bool:
    """Whether a scan was refused because a store was out of reach, which says nothing about it.

    A file that is not there, or that nobody may read, is a fact of the data set and stays.
    """
    return refusal.stage == "fetch" and refusal.reason.startswith(OUTAGES)


def without_name(reason: str, path: str) -> str:
    """Take the name of the file at `path` out of a reason, because names often hold an id."""
    stem = PurePosixPath(path).name.split(".")[0]
    return reason.replace(stem, "SCAN") if len(stem) > 3 else reason


def write_quarantine(path: Path, refusals: Sequence[Refusal]) -> None:
    """Write one JSON object a line; an empty file says that nothing was refused."""
    lines = (json.dumps(asdict(refusal), sort_keys=True) + "\n" for refusal in refusals)
    with appearing(path, durable=True, private=True) as part:
        part.write_text("".join(lines), encoding="utf-8")


def read_quarantine(path: Path) -> tuple[Refusal, ...]:
    """Refusals of a quarantine file, in order.

    Raises:
        TreeError: a line that is not a refusal.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(Refusal(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise TreeError(f"{path}: line {number} is not a quarantine line") from error
    return tuple(found)


def count_stages(refusals: Sequence[Refusal]) -> str:
    """Counts by stage in words, such as "3 parse, 1 decode"."""
    counts = Counter(refusal.stage for refusal in refusals).most_common()
    return ", ".join(f"{number} {stage}" for stage, number in counts)


def check_share(refusals: Sequence[Refusal], total: int, max_bad_fraction: float) -> None:
    """Stop when too many scans are bad, because then it is the data set or its address that is.

    Raises:
        TooManyBadError: more than `max_bad_fraction` of `total` are refused, or all of them.
    """
    bad = len(refusals)
    if not bad or (bad < total and bad <= max_bad_fraction * total):
        return
    first = refusals[0]
    raise TooManyBadError(
        f"{bad} of {total} scans cannot be used ({count_stages(refusals)}), above the limit of "
        f"{max_bad_fraction:.0%}; the first: {first.stage}: {first.reason}"
    )
