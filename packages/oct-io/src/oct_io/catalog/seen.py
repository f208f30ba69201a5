"""Whom an encoder has met: in its own run, and in those that it was begun from.

What it was trained on is compared with what it is tested on, person by person.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from oct_io.errors import TreeError
from oct_io.storage.files import exists, join, read_bytes, redact

PROVENANCE = "provenance.json"
TRAINED, BEFORE = "participants_in_training", "participants_seen_before"
LEVELS = 4  # RUN/model/members/0/encoder


def read_origin(encoder: str | Path) -> dict[str, object] | None:
    """What the run wrote down whose folder an encoder lies in; None if it lies in none.

    Args:
        encoder: path or fsspec URL of its folder or file, such as RUN/encoder or RUN/model/encoder.

    Raises:
        TreeError: what lies there cannot be read.
    """
    place = str(encoder)
    if place.startswith(("http://", "https://")):  # published weights; no run lies there
        return None
    place = place.rstrip("/") if "://" in place else str(Path(place).absolute())
    for _ in range(LEVELS):
        place = place.rpartition("/")[0]
        if not place or place.endswith("/"):
            return None
        url = join(place, PROVENANCE)
        if exists(url):
            try:
                facts = json.loads(read_bytes(url))
            except ValueError as error:
                raise TreeError(f"{redact(url)}: damaged, it is no JSON") from error
            return facts if isinstance(facts, dict) else None
    return None


def seen_before(encoders: Iterable[str | Path]) -> list[str]:
    """Hashed participants that the runs of these encoders have met, sorted.

    Raises:
        TreeError: as `read_origin`.
    """
    origins = [read_origin(one) for one in encoders]
    return sorted({one for facts in origins if facts is not None for one in _met(facts)})


def _met(facts: Mapping[str, object]) -> set[str]:
    lists = [facts.get(name) for name in (TRAINED, BEFORE)]
    return {str(one) for some in lists if isinstance(some, list) for one in some}


def refuse_seen(
    facts: Mapping[str, object], held_out: Collection[str], *, fingerprint: str, version: int | None
) -> None:
    """Refuse a test set of which somebody took part in training the encoder.

    Args:
        facts: provenance.json of the run that the encoder comes from.
        held_out: hashed test participants.
        fingerprint: of the data set that they are from.
        version: its release.

    Raises:
        TreeError: somebody did, or it cannot be excluded that somebody did.
    """
    excluded = facts.get("excluded_participants")
    if isinstance(facts.get(TRAINED), list):
        met = len(set(held_out) & _met(facts))
        if met:
            raise TreeError(
                f"{met} of {len(held_out)} test participants took part in pretraining this encoder"
                f"{_release_note(facts, version)}, by their ids; pretrain again with data.labels, "
                "or data.split, and data.excluded_splits=[PART], and test with test_split=PART; or "
                "allow_seen=true, for other people of the same ids or to measure all the same"
            )
    elif facts.get("dataset_fingerprint") == fingerprint and isinstance(excluded, list):
        met = len(set(held_out) - set(excluded))
        if met:
            raise TreeError(
                f"{met} of {len(held_out)} test participants were not excluded when this encoder "
                "was pretrained on the same volumes; allow_seen=true measures all the same"
            )


def _release_note(facts: Mapping[str, object], version: int | None) -> str:
    before = facts.get("dataset_version")
    if before is None or version is None or before == version:
        return ""
    return f" on release {before} (these scans are of release {version}, whose split is another)"
