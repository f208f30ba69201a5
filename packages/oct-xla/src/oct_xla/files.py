"""Small files that are replaced as a whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from oct_xla.errors import OctXlaError


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file so that a reader, or a crash, sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, which makes a rename last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, error_type: type[OctXlaError]) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OctXlaError: of the given type, if the file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_type(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(content, dict):
        raise error_type(f"{path}: holds {type(content).__name__}, not a JSON object")
    return content
