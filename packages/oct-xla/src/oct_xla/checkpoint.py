"""One checkpoint: a folder without pickle whose every byte is vouched for.

Its tensors are the objective's weights and buffers, a teacher's among them, and the moments of the
optimiser; its state the step, what identifies the run, settings, the best so far and the last row.
No generator and no place in the feed: order, masks and seeds are functions of the step.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from oct_xla.errors import CheckpointError
from oct_xla.files import file_hash, fsync_folder, read_json, write_atomically

STATE, TENSORS = "state.json", "tensors.safetensors"
_FILES, _HASH = "files", "sha256"


class Checkpoint(NamedTuple):
    """What one checkpoint folder holds."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Fill an empty folder: the tensors first, and last `state.json`, which vouches for them.

    Args:
        folder: not yet under its final name; the caller's rename commits it.
        tensors: in host memory; each of them whole.
        state: anything JSON can hold; a number that is not finite comes back as NaN.

    Raises:
        OSError: if it cannot be written.
    """
    path = folder / TENSORS
    try:
        save_file(_separate(tensors), path)
    except SafetensorError as error:  # how its writer tells of a full disk
        raise OSError(_reason(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
    files = {TENSORS: {"size": path.stat().st_size, _HASH: file_hash(path)}}
    _write_state(folder, files, state)
    fsync_folder(folder)


def replace_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the state of a checkpoint as a whole; its tensors stay.

    Raises:
        CheckpointError: if the old state is damaged.
        OSError: if the new one cannot be written; the old one then stays.
    """
    _write_state(folder, _read_state(folder)[_FILES], state)


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state of a checkpoint whose files have the right sizes; cheap.

    Raises:
        CheckpointError: if a file is missing or of another size, or the state is damaged.
    """
    content = _read_state(folder)
    for name, facts in content[_FILES].items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise CheckpointError(f"{folder}: damaged: {name} is missing") from error
        if size != facts["size"]:
            raise CheckpointError(
                f"{folder}: damaged: {name} has {size} bytes, {facts['size']} were written"
            )
    return _with_nan(content["state"])


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder into host memory; nothing in it is executed.

    Files that the checkpoint does not list are not looked at.

    Raises:
        CheckpointError: if a byte is not as it was written, or a file is not readable.
    """
    state = read_state(folder)
    tensors: dict[str, Tensor] = {}
    for name, facts in _read_state(folder)[_FILES].items():
        try:
            if file_hash(folder / name) != facts[_HASH]:
                raise CheckpointError(f"{folder}: damaged: {name} is not as it was written")
            tensors |= load_file(folder / name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder}: cannot be read: {_reason(error)}") from error
    return Checkpoint(tensors, state)


def is_whole(folder: Path) -> bool:
    """Tell whether a folder holds a sound state and every file at its size; hashes no tensor."""
    try:
        read_state(folder)
    except CheckpointError:
        return False
    return True


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each name memory of its own, which the format asks for; tied weights share one."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        place = own.untyped_storage().data_ptr()
        found[name] = own.clone() if place in seen else own
        seen.add(place)
    return found


def _write_state(folder: Path, files: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    content: dict[str, Any] = {_FILES: files, "state": _without_nan(state)}
    content[_HASH] = _own_hash(content)
    write_atomically(folder / STATE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _read_state(folder: Path) -> dict[str, Any]:
    content = read_json(folder / STATE, CheckpointError)
    claimed = content.pop(_HASH, None)
    if claimed != _own_hash(content):
        raise CheckpointError(f"{folder}: damaged: {STATE} is not as it was written")
    return content


def _own_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return {"nan": None} if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            math.nan if value == {"nan": None} else {k: _with_nan(one) for k, one in value.items()}
        )
    return [_with_nan(one) for one in value] if isinstance(value, list) else value


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return text or type(error).__name__
