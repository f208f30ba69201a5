"""Run folders: whose they are, who writes them, and where they came from."""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from oct_xla.errors import RunFolderError
from oct_xla.files import read_json, write_atomically
from oct_xla.runtime import Runtime

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
_CLAIM, _LOCK = ".claim.json", ".lock"
_OURS = (CONFIG, "metrics.jsonl", "checkpoints")
_PACKAGES = ("torch", "numpy", "safetensors", "torch-xla", "oct-io", "oct-vjepa", "oct-xla")


class Change(NamedTuple):
    """A setting that differs from the one the run began with."""

    before: Any
    now: Any


@dataclass(slots=True)
class RunFolder:
    """A folder that this process may write until it ends or calls `release`.

    Attributes:
        path: the folder.
        resumed: whether the run was there before.
        run_id: 12 characters, the same at each resume; for trackers.
        changed: settings that were allowed to change, and did.
    """

    path: Path
    resumed: bool
    run_id: str
    changed: dict[str, Change]
    _lock: int | None = None

    def release(self) -> None:
        """Let another process write the folder; the end of this process does the same."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def claim_run_folder(
    path: Path,
    config_text: str,
    config: Mapping[str, Any],
    *,
    resume: str = "auto",
    may_change: Sequence[str] = (),
    rank: int = 0,
) -> RunFolder:
    """Make the folder of a new run, or take up the run that is in it.

    Args:
        path: the run folder.
        config_text: written to `config.yaml`.
        config: the same settings as nested mappings of plain values, which are compared.
        resume: "auto" goes on with an equal run; "never" refuses a folder that holds a run.
        may_change: dotted keys that may differ on a resume; "tracking.*" means a whole group.
        rank: only process 0 writes and locks; on others this returns at once.

    Raises:
        RunFolderError: if the folder holds a run with other settings, is not a run folder, or is
            being written by another process. The text names the settings and both values.
        ValueError: if `resume` is unknown.
    """
    if resume not in ("auto", "never"):
        raise ValueError(f"resume ({resume!r}) must be auto or never")
    flat = flatten(json.loads(json.dumps(config)))
    run_id = hashlib.sha256(f"{path.resolve()}{json.dumps(flat)}".encode()).hexdigest()[:12]
    if rank != 0:
        return RunFolder(path, False, run_id, {})
    lock = _lock(path)
    try:
        return _claim(path, config_text, flat, run_id, lock, resume, may_change)
    except BaseException:
        os.close(lock)
        raise


def _claim(
    path: Path,
    config_text: str,
    flat: dict[str, Any],
    run_id: str,
    lock: int,
    resume: str,
    may_change: Sequence[str],
) -> RunFolder:
    claim, changed = path / _CLAIM, dict[str, Change]()
    begun = any((path / name).exists() for name in _OURS[1:])
    # A claim without metrics or checkpoints is of a run that a mistake ended before its first step.
    resumed = claim.exists() and begun
    if resumed and resume == "never":
        raise RunFolderError(
            f"{path}: holds a run already and resume=never; set run_dir to another folder"
        )
    if resumed:
        before = read_json(claim, RunFolderError)
        run_id, changed = before["run_id"], differences(before["config"], flat)
        _refuse(path, {k: c for k, c in changed.items() if not _allowed(k, may_change)})
    elif begun:
        raise RunFolderError(
            f"{path}: holds metrics or checkpoints of a run without its settings; set run_dir to"
            " another folder"
        )
    write_atomically(path / CONFIG, config_text)
    # Last, so that a folder with a claim is a folder with everything.
    write_atomically(claim, json.dumps({"run_id": run_id, "config": flat}, indent=1) + "\n")
    return RunFolder(path, resumed, run_id, changed, lock)


def _lock(path: Path) -> int:
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Not inherited by worker processes; the kernel releases it at the end, even at kill -9.
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be made or written: {error.strerror}; set run_dir to another folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise RunFolderError(
            f"{path}: another process is writing this run; wait for it, stop it, or set run_dir"
        ) from error
    return lock


def _allowed(key: str, may_change: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in may_change)


def _refuse(path: Path, changed: Mapping[str, Change]) -> None:
    if not changed:
        return
    shown = [f"{key} was {c.before!r}, now {c.now!r}" for key, c in list(changed.items())[:5]]
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    raise RunFolderError(
        f"{path}: holds a run with other settings: {'; '.join(shown)}{more}; set run_dir to another"
        " folder, or set these back to resume"
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """Return the dotted keys whose values differ; a key that is absent counts as "absent"."""
    keys = sorted(before.keys() | now.keys())
    changes = {key: Change(before.get(key, "absent"), now.get(key, "absent")) for key in keys}
    return {key: change for key, change in changes.items() if change.before != change.now}


def write_provenance(
    path: Path, runtime: Runtime, *, seed: int, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write `provenance.json` of this start; earlier starts of the run move to "earlier".

    It names no person, host or folder. Call it on the first process.

    Args:
        path: the run folder.
        runtime: whose device and number of processes are recorded.
        seed: of the run.
        extra: what the caller adds: dataset fingerprint, excluded participants as hashes.
    """
    file = path / PROVENANCE
    earlier: list[Any] = []
    if file.exists():
        before = read_json(file, RunFolderError)
        earlier = [*before.pop("earlier", []), before]
    record: dict[str, Any] = {
        **_git(),
        "versions": _versions(),
        "runtime": runtime.name,
        "precision": runtime.precision,
        "device": _device_name(runtime),
        "devices": runtime.devices,
        "world_size": runtime.world,
        "seed": seed,
        **(extra or {}),
        "earlier": earlier,
    }
    write_atomically(file, json.dumps(record, indent=1) + "\n")
    return record


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": f"{sys.platform} {platform.machine()}"}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _device_name(runtime: Runtime) -> str:
    if runtime.device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(runtime.device)
    return os.environ.get("PJRT_DEVICE", "") if runtime.name == "xla" else platform.machine()


def _git() -> dict[str, Any]:
    """Return commit and cleanliness of the working folder's repository; "unknown" without one."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        clean = not _ask_git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": "unknown", "git_clean": None}
    return {"git_commit": commit, "git_clean": clean}


def _ask_git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
