"""How often test participants were looked at: once is a test, often is a choice."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

LEDGER = "test-touches.jsonl"
NOT_A_CHOICE = ("run_dir", "name", "features", "batch_size", "runtime", "bootstrap")
"""Settings that leave what is tested alone."""


def touch(folder: Path, question: str, settings: DictConfig) -> int:
    """Write down that the test participants were scored; return by how many different settings.

    Args:
        folder: where the ledger is kept, beside the features.
        question: fingerprint of the question and of those who are tested.
        settings: of this evaluation; the same again is no further look.
    """
    plain = OmegaConf.to_container(settings, resolve=True)
    assert isinstance(plain, dict)
    chosen = {name: value for name, value in plain.items() if name not in NOT_A_CHOICE}
    mark = sha256(json.dumps(chosen, sort_keys=True, default=str).encode()).hexdigest()[:16]
    ledger = folder / LEDGER
    seen = marks_of(ledger, question)
    if mark not in seen:
        folder.mkdir(parents=True, exist_ok=True)
        line = {"question": question, "settings": mark, "at": datetime.now(UTC).isoformat()}
        with ledger.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        seen.add(mark)
    return len(seen)


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
