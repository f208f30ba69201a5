"""How often test participants were looked at: once is a test, often is a choice."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from oct_judge.family import Family
from oct_judge.question import FinetuneConfig
from oct_judge.study import Tested

LEDGER = "test-touches.jsonl"
DECIDING = (
    *("task", "mode", "seed", "seeds", "join", "balanced", "test_split", "allow_seen"),
    *("protocol", "readout", "attention", "grid", "training", "segment", "checkpoint"),
)
"""Settings that decide how a given encoder scores on given volumes."""
RIVALS = ("networks", "encoders")
"""Of `compare`: others among whom the best might be picked; features nobody learned are no such."""


def touch_tested(config: FinetuneConfig, study: Tested, family: Family) -> int:
    """Write down that encoders answered for those whom a study tests; return as `touch` does."""
    return touch(
        Path(config.features).parent,
        study.fingerprint(),
        config,
        encoder=family.fingerprint(),
        volumes=study.source.volumes.fingerprint,
    )


def touch(
    folder: Path, question: str, config: FinetuneConfig, *, encoder: str, volumes: str
) -> int:
    """Write down that the test participants were scored; return in how many different ways.

    Asked the same way, the same encoder says the same: the end of a pretraining run and the
    evaluation that repeats its question are one look.

    Args:
        folder: where the ledger is kept, beside the features.
        question: fingerprint of the question and of those who are tested.
        config: of this evaluation; the same again is no further look.
        encoder: fingerprint of the weights.
        volumes: fingerprint of what the encoder is shown.
    """
    mark = sha256(" ".join((way_of(config), encoder, volumes)).encode()).hexdigest()[:16]
    ledger = folder / LEDGER
    seen = marks_of(ledger, question)
    if mark not in seen:
        folder.mkdir(parents=True, exist_ok=True)
        line = {"question": question, "settings": mark, "at": datetime.now(UTC).isoformat()}
        with ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        seen.add(mark)
    return len(seen)


def way_of(config: FinetuneConfig) -> str:
    """How an encoder is asked, as JSON: the settings that decide what is said of it."""
    plain = asdict(config)
    chosen = {name: plain[name] for name in DECIDING}
    chosen |= {name: plain["compare"][name] for name in RIVALS}
    return json.dumps(chosen, sort_keys=True, default=str)


def marks_of(ledger: Path, question: str) -> set[str]:
    """Settings by which a question's test participants were scored; a torn line is no line."""
    if not ledger.exists():
        return set()
    found = set()
    for line in ledger.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("question") == question:
            found.add(str(entry.get("settings")))
    return found
