"""How to do it again: the command, and what stands for encoder, data and question."""

import json
from collections.abc import Mapping
from typing import Any

from oct_io.catalog.seen import BEFORE, TRAINED
from oct_report import Page

LEFT_OUT = ("earlier",)


def add_origin(page: Page, document: Mapping[str, Any], provenance: Mapping[str, Any]) -> None:
    """The command, the hashes and the versions: results.json and provenance.json."""
    page.section("How to do it again")
    if command := document.get("command"):
        page.code(command, wrap=True)
    facts = {
        "encoder": provenance.get("encoder"),
        "data": provenance.get("dataset_fingerprint"),
        "question and test participants": document["question"]["fingerprint"],
        "code": provenance.get("git_commit"),
        "different settings that these test participants were scored with": document[
            "test_touches"
        ],
    }
    page.table(["what", "hash or number"], [[key, _told(one)] for key, one in facts.items()])
    page.section("Provenance", folded=True)
    rows = [
        [key, f"{len(one)}, in provenance.json" if key in (TRAINED, BEFORE) else _told(one)]
        for key, one in provenance.items() if key not in LEFT_OUT
    ]  # fmt: skip
    rows += [["protocol", _told(document["protocol"])], ["split", document["split"]]]
    if "join" in document:
        rows += [["joined over volumes and eyes by", document["join"]]]
    page.table(["what", "value"], rows)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_told(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_told(one) for one in value) or "none"
    return value if isinstance(value, str) else json.dumps(value)
