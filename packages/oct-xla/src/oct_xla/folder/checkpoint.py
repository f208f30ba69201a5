"""One checkpoint: a folder without pickle whose every byte is vouched for.

Its tensors are the objective's weights and buffers, a teacher's among them, and the moments of the
optimiser; its state the step, what identifies the run, settings, the best so far and the last row.
No generator and no place in the feed: order, masks and seeds are functions of the step. Several
processes write a file each, with their pieces; who reads gets whole tensors, or what it needs of
them, one at a time.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from oct_xla.devices.sharding import Piece
from oct_xla.errors import CheckpointError
from oct_xla.folder.files import file_hash, fsync_folder, read_json, write_atomically
from oct_xla.folder.saved import SavedTensors

STATE, TENSORS = "state.json", "tensors.safetensors"
_FILES, _HASH, _CUTS = "files", "sha256", "cuts"


class Checkpoint(NamedTuple):
    """What one checkpoint folder holds.

    Attributes:
        tensors: by name, each read when it is asked for, and put together from its pieces.
        state: what JSON can hold.
    """

    tensors: SavedTensors
    state: dict[str, Any]


class Written(NamedTuple):
    """A file of tensors, as `state.json` will list it; JSON can hold it.

    Attributes:
        file: its name.
        facts: its size and SHA-256.
        cuts: offset and whole shape of each tensor in it that is a part.
    """

    file: str
    facts: dict[str, Any]
    cuts: dict[str, dict[str, Any]]


def write_part(folder: Path, pieces: Mapping[str, Piece], *, part: int, parts: int) -> Written:
    """Write the tensors of one process to a file and flush it to disk.

    Args:
        folder: not yet under its final name; the caller's rename commits it.
        pieces: in host memory.
        part: which process, from 0.
        parts: how many there are.

    Raises:
        OSError: if it cannot be written; what there is of it is gone again.
    """
    path = folder / (
        TENSORS if parts == 1 else f"tensors-{part + 1:05d}-of-{parts:05d}.safetensors"
    )
    try:
        save_file(_separate({name: piece.tensor for name, piece in pieces.items()}), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        facts = {"size": path.stat().st_size, _HASH: file_hash(path)}
    except (SafetensorError, OSError) as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise
        raise OSError(_reason(error)) from error  # how its writer tells of a full disk
    cuts = {
        name: {"offset": list(piece.offset), "shape": list(piece.shape)}
        for name, piece in pieces.items()
        if tuple(piece.tensor.shape) != piece.shape
    }
    return Written(path.name, facts, cuts)


def write_state(folder: Path, written: Sequence[Written], state: Mapping[str, Any]) -> None:
    """Write `state.json`, which vouches for all files; it comes last.

    Args:
        folder: holds the files.
        written: what stands in them.
        state: anything JSON can hold; a number that is not finite comes back as NaN.

    Raises:
        OSError: if it cannot be written.
    """
    content = {
        _FILES: {one.file: one.facts for one in written},
        _CUTS: {one.file: one.cuts for one in written if one.cuts},
    }
    _write_state(folder, content, state)
    fsync_folder(folder)


def replace_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the state of a checkpoint as a whole; its tensors stay.

    Raises:
        CheckpointError: if the old state is damaged.
        OSError: if the new one cannot be written; the old one then stays.
    """
    _write_state(folder, _read_state(folder), state)


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state of a checkpoint whose files have the right sizes; cheap.

    Raises:
        CheckpointError: if a file is missing or of another size, or the state is damaged.
    """
    return _with_nan(_read_sized(folder)["state"])


def read_checkpoint(folder: Path, *, verify: bool = True) -> Checkpoint:
    """Open one checkpoint folder; nothing in it is executed.

    Files that the checkpoint does not list are not looked at.

    Args:
        folder: the checkpoint.
        verify: read every byte once, and compare it with what was written; only sizes, and the
            state, where another process has done so.

    Raises:
        CheckpointError: if a byte is not as it was written, or a file is not readable.
    """
    content = _read_sized(folder)
    try:
        for name, facts in content[_FILES].items():
            if verify and file_hash(folder / name) != facts[_HASH]:
                raise CheckpointError(f"{folder}: damaged: {name} is not as it was written")
        tensors = SavedTensors(folder, content[_FILES], content.get(_CUTS, {}))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {_reason(error)}") from error
    return Checkpoint(tensors, _with_nan(content["state"]))


def files_of(folder: Path) -> list[str]:
    """Return the names of the files that the state of a checkpoint vouches for.

    Raises:
        CheckpointError: if the state is damaged.
    """
    return list(_read_state(folder)[_FILES])


def best_step(state: Mapping[str, Any]) -> int | None:
    """Return the step of the best checkpoint that a state knows of; None if there is none."""
    best = state.get("best")
    return best["step"] if best else None


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


def _write_state(folder: Path, listed: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    content: dict[str, Any] = {name: listed[name] for name in (_FILES, _CUTS) if listed.get(name)}
    content["state"] = _without_nan(state)
    content[_HASH] = _own_hash(content)
    write_atomically(folder / STATE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _read_state(folder: Path) -> dict[str, Any]:
    content = read_json(folder / STATE, CheckpointError)
    claimed = content.pop(_HASH, None)
    if claimed != _own_hash(content):
        raise CheckpointError(f"{folder}: damaged: {STATE} is not as it was written")
    return content


def _read_sized(folder: Path) -> dict[str, Any]:
    """Read `state.json`, and compare the sizes of the files that it lists."""
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
