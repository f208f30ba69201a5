"""The folder of a finished model: model.json with the hash of every other file, and those files."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from oct_vjepa.finished.about import ATTENTION, PAIRS, About
from oct_vjepa.model.weights import WeightsError
from oct_vjepa.saving import write_whole

ABOUT, CARD = "model.json", "README.md"
CHUNK = 1 << 22
FITTED = {ATTENTION: "config.json", PAIRS: "probe.json"}
"""What the folder of a fitted join must have."""


def write_about(folder: Path, about: About, card: Callable[[About], str]) -> None:
    """Write model.json and the card; last of all, for a folder without model.json is no model."""
    text = card(about)
    write_whole(folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))
    names = sorted(one for one in folder.rglob("*") if one.is_file() and one.name != ABOUT)
    tree = about.as_json() | {
        "files": {one.relative_to(folder).as_posix(): hash_file(one) for one in names}
    }
    whole = json.dumps(tree, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / ABOUT, lambda path: path.write_text(whole, encoding="utf-8"))


def read_about(folder: str | Path) -> tuple[About, str]:
    """What model.json says, and a fingerprint of the model; every file is checked.

    Raises:
        WeightsError: no finished model there, or a file that is missing or was changed.
    """
    folder = Path(folder)
    path = folder / ABOUT
    if folder.is_file():
        raise WeightsError(f"{folder}: is a file; give the folder of a finished model, RUN/model")
    try:
        text = path.read_text(encoding="utf-8")
        tree: dict[str, Any] = json.loads(text)
        files = dict(tree.pop("files"))
        about = About.from_json(tree)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder}: no finished model: it has no {ABOUT}; an evaluation writes one, RUN/model"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"has no part {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(f"{path}: {reason}") from error
    for name, digest in files.items():
        if name == CARD:
            continue  # people may add to it
        part = inside(folder, name)
        if not part.is_file():
            raise WeightsError(f"{part}: is missing; copy the whole folder of the model")
        if hash_file(part) != digest:
            raise WeightsError(f"{part}: is not what was written with {ABOUT}")
    for one in about.members:
        wanted = [f"{one.encoder}/config.json", *([f"{one.probe}/probe.json"] if one.probe else [])]
        if one.joined is not None:
            wanted.append(f"{one.joined.folder}/{FITTED[about.join]}")
        if lost := [name for name in wanted if name not in files]:
            raise WeightsError(f"{path}: names {lost[0]}, of which it has no hash")
    return about, hashlib.sha256(text.encode()).hexdigest()


def inside(folder: Path, name: str) -> Path:
    """A path within the folder.

    Raises:
        WeightsError: it leads out of it.
    """
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not name:
        raise WeightsError(f"{folder / ABOUT}: {name!r} is no place within the folder")
    return folder / pure


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()
