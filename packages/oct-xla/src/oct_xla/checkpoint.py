"""Checkpoints without pickle that appear whole or not at all."""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from oct_xla.errors import CheckpointError
from oct_xla.files import fsync_folder, read_json, write_atomically

STATE = "state.json"
COMMIT = "COMMIT"
BEST = "best.json"
_PREFIX, _TEMPORARY = "step-", ".tmp-"


class Checkpoint(NamedTuple):
    """What one checkpoint folder holds."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The folder `checkpoints/` of one run.

    A checkpoint is written to a temporary folder and flushed to disk; then come its list of sizes
    (`COMMIT`), again flushed, and a rename. So a process that is killed at any moment leaves the
    last whole checkpoint as it was. Tensors lie in safetensors files of
    torch.distributed.checkpoint, everything else in `state.json`.

    Args:
        root: the folder; made at the first save.
        keep_last: how many checkpoints stay, the best one not counted.
    """

    def __init__(self, root: Path, keep_last: int = 2) -> None:
        self.root, self.keep_last = root, keep_last

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.root / f"{_PREFIX}{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of all whole checkpoints, ascending; half ones are passed over."""
        if not self.root.is_dir():
            return []
        folders = [entry for entry in self.root.iterdir() if entry.name.startswith(_PREFIX)]
        return sorted(int(f.name[len(_PREFIX) :]) for f in folders if is_whole(f))

    def newest(self) -> int | None:
        """Return the step of the newest whole checkpoint, None if there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint after `step` steps, then delete those that are no longer kept.

        Args:
            step: number of finished optimiser steps.
            tensors: in host memory; each of them whole.
            state: anything JSON can hold.

        Raises:
            CheckpointError: if it cannot be written.
        """
        temporary, final = self.root / f"{_TEMPORARY}{step:08d}", self.path(step)
        try:
            self._remove_unfinished()
            temporary.mkdir(parents=True)
            _write_tensors(temporary, tensors)
            text = json.dumps({**state, "step": step}, indent=1, allow_nan=False)
            write_atomically(temporary / STATE, text + "\n")
            _commit(temporary)
            if final.exists():  # half or damaged, or else there would be nothing to save
                shutil.rmtree(final)
            temporary.rename(final)
            fsync_folder(self.root)
            self._remove_old()
        except OSError as error:
            raise CheckpointError(
                f"{final}: cannot be written: {error.strerror or error}; free space or choose"
                " another run_dir, the checkpoints before it are untouched"
            ) from error
        return final

    def load(self, step: int) -> Checkpoint:
        """Read the checkpoint after `step` steps.

        Raises:
            CheckpointError: if it is not whole or not readable.
        """
        return read_checkpoint(self.path(step))

    def mark_best(self, step: int, metric: str, value: float) -> None:
        """Point `best.json` at a saved checkpoint, which is then kept."""
        text = json.dumps({"step": step, "metric": metric, "value": value})
        write_atomically(self.root / BEST, text + "\n")

    def best(self) -> dict[str, Any] | None:
        """Return {"step", "metric", "value"} of the best checkpoint, None if none is marked."""
        path = self.root / BEST
        return read_json(path, CheckpointError) if path.exists() else None

    def _remove_unfinished(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for entry in self.root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(entry)

    def _remove_old(self) -> None:
        best = self.best()
        kept = set(self.steps()[-self.keep_last :]) | ({best["step"]} if best else set())
        for step in set(self.steps()) - kept:
            # Renamed first, so that a kill in the middle leaves no half checkpoint behind.
            doomed = self.root / f"{_TEMPORARY}old-{step:08d}"
            self.path(step).rename(doomed)
            shutil.rmtree(doomed)


def is_whole(folder: Path) -> bool:
    """Tell whether a checkpoint folder holds every file at the size its COMMIT says."""
    try:
        sizes = json.loads((folder / COMMIT).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder into host memory; nothing in it is executed.

    Raises:
        CheckpointError: if it is not whole or not readable.
    """
    if not is_whole(folder):
        raise CheckpointError(
            f"{folder}: not a whole checkpoint, its {COMMIT} list does not match; delete it or"
            " name another"
        )
    state = read_json(folder / STATE, CheckpointError)
    try:
        with _quiet():
            metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
            tensors = {
                name: torch.empty(entry.size, dtype=entry.properties.dtype)
                for name, entry in metadata.items()
                if isinstance(entry, TensorStorageMetadata)
            }
            load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    # A CheckpointException is a BaseException, not an Exception (torch 2.9).
    except (CheckpointException, SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {_first_reason(error)}") from error
    return Checkpoint(tensors, state)


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with _quiet():
            save(whole, storage_writer=writer, no_dist=True)
    except CheckpointException as error:
        raise CheckpointError(
            f"{folder}: cannot be written: {_first_reason(error)}; free space or choose another"
            " run_dir"
        ) from error


def _commit(folder: Path) -> None:
    sizes = {}
    for entry in sorted(folder.iterdir()):
        with entry.open("rb") as file:
            os.fsync(file.fileno())
        sizes[entry.name] = entry.stat().st_size
    write_atomically(folder / COMMIT, json.dumps(sizes) + "\n")


def _first_reason(error: BaseException) -> str:
    failures = getattr(error, "failures", None)
    if failures:
        inner = next(iter(failures.values()))
        error = inner[0] if isinstance(inner, tuple) else inner
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what torch.distributed.checkpoint warns of its own internals."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
