"""Run folders: whose they are, who writes them, and where they came from."""

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
from typing import Any, Self

from oct_xla.devices.runtime import Runtime
from oct_xla.errors import CheckpointError, RunFolderError
from oct_xla.folder.bucket import is_url
from oct_xla.folder.files import check_local, lock_folder, read_json, write_atomically
from oct_xla.folder.identity import Change, differences, flatten
from oct_xla.folder.journal import say
from oct_xla.folder.remote import CHECKPOINTS, RemoteFolder

CONFIG, PROVENANCE = "config.yaml", "provenance.json"
_CLAIM, _LOCK = ".claim.json", ".lock"
_OURS = (CONFIG, "metrics.jsonl", CHECKPOINTS)
_PACKAGES = ("torch", "numpy", "safetensors", "torch-xla", "oct-io", "oct-vjepa", "oct-xla")

_IN_BUCKETS: dict[Path, RemoteFolder] = {}
"""Working folders that this process has claimed and not released."""


@dataclass(slots=True)
class RunFolder:
    """A folder that this process may write until it ends, or leaves it as a context.

    Attributes:
        path: the folder; of a run in a bucket, the one on this machine that stands for it.
        resumed: whether the run was there before.
        run_id: 12 characters, the same at each resume; for trackers.
        changed: settings that do not define the run, and have changed.
    """

    path: Path
    resumed: bool
    run_id: str
    changed: dict[str, Change]
    remote: RemoteFolder | None = None
    """The bucket that the run lies in."""

    _lock: int | None = None

    def name_of(self, file: Path) -> str:
        """Return where people find a file of the folder: in the bucket, if the run lies in one."""
        if self.remote is None:
            return str(file)
        return f"{self.remote.url}/{file.relative_to(self.path).as_posix()}"

    def release(self, *, failed: bool = False) -> None:
        """Let another process write the folder; a bucket is first sent all that it lacks.

        The end of this process frees a local folder as well. In a bucket the next writer, if it is
        on another machine, then has to wait and see that this one is gone.

        Args:
            failed: an error is on its way; that a bucket does not answer is then only told.

        Raises:
            CheckpointError: if the bucket does not answer.
            RunFolderError: if another process has taken the run over.
        """
        if self._lock is None:
            return
        try:
            if self.remote is not None:
                self.remote.let_go(failed=failed)
        finally:
            _IN_BUCKETS.pop(self.path, None)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self.release(failed=failed is not None)


def claim_run_folder(
    path: Path | str,
    config_text: str,
    config: Mapping[str, Any],
    *,
    resume: str = "auto",
    defining: Sequence[str] = ("*",),
    may_change: Sequence[str] = (),
    rank: int = 0,
) -> RunFolder:
    """Make the folder of a new run, or take up the run that is in it.

    A setting that names the folder itself never counts, so that a run may be moved.

    Args:
        path: the run folder, or the URL of one in a bucket; what the bucket has is then fetched.
        config_text: written to `config.yaml`.
        config: the same settings as nested mappings of plain values, which are compared.
        resume: "auto" goes on with an equal run; "never" refuses a folder that holds a run.
        defining: dotted keys that make it this run, and must be equal on a resume; "feed.*" means a
            whole group, "*" all. What else changes is in `RunFolder.changed`.
        may_change: keys among those that may differ after all.
        rank: only process 0 writes and locks; on others this returns at once.

    Raises:
        RunFolderError: if the folder holds a run with other settings, is not a run folder, or is
            being written by another process. The text names the settings and both values.
        CheckpointError: if a bucket does not answer.
        ValueError: if `resume` is unknown.
    """
    if resume not in ("auto", "never"):
        raise ValueError(f"resume ({resume!r}) must be auto or never")
    flat = flatten(json.loads(json.dumps(config)))
    remote = RemoteFolder(str(path)) if is_url(path) else None
    place = remote.url if remote else str(Path(path).resolve())
    path = remote.path if remote else check_local(Path(path))
    run_id = hashlib.sha256(f"{place}{json.dumps(flat)}".encode()).hexdigest()[:12]
    if rank != 0:
        return RunFolder(path, False, run_id, {}, remote)
    lock = lock_folder(path, _LOCK)
    taken = False
    try:
        if remote is not None:
            remote.take_up()
            taken = True
        folder = _claim(path, flat, run_id, resume)
        folder.changed = {k: c for k, c in folder.changed.items() if not _names(c.now, place)}
        _refuse(place, {k: c for k, c in folder.changed.items() if _binds(k, defining, may_change)})
        _write_claim(folder, config_text, flat)
        folder.remote, folder._lock = remote, lock
        if remote is not None:
            remote.send()
            _IN_BUCKETS[path] = remote
        return folder
    except BaseException:
        if remote is not None and taken:
            remote.let_go(failed=True)
        os.close(lock)
        raise


def keep_part(part: Path) -> None:
    """Copy a part of a run that is over, such as one of its trainings, if the run is in a bucket.

    Else a machine that is taken away takes it along: all but checkpoints of the run itself goes up
    at its end. That a bucket does not answer is told in a line; the end makes up for it.

    Args:
        part: folder below a run folder; of one that this process has not claimed, nothing happens.

    Raises:
        RunFolderError: if another process has taken the run over.
    """
    for folder, remote in _IN_BUCKETS.items():
        if part.is_relative_to(folder):
            try:
                remote.send_below(part)
            except CheckpointError as error:
                say(f"{part.name} is on this machine only, the run goes on: {error}")


def _claim(path: Path, flat: dict[str, Any], run_id: str, resume: str) -> RunFolder:
    claim = path / _CLAIM
    begun = any((path / name).exists() for name in _OURS[1:])
    # A claim without metrics or checkpoints is of a run that a mistake ended before its first step.
    if not (claim.exists() and begun):
        if begun:
            raise RunFolderError(
                f"{path}: holds metrics or checkpoints of a run without its settings; set run_dir"
                " to another folder"
            )
        return RunFolder(path, False, run_id, {})
    if resume == "never":
        raise RunFolderError(
            f"{path}: holds a run already and resume=never; set run_dir to another folder"
        )
    before = read_json(claim, RunFolderError)
    if not isinstance(before.get("config"), dict) or not isinstance(before.get("run_id"), str):
        raise RunFolderError(f"{claim}: is damaged; set run_dir to another folder")
    return RunFolder(path, True, before["run_id"], differences(before["config"], flat))


def _write_claim(folder: RunFolder, config_text: str, flat: dict[str, Any]) -> None:
    text = json.dumps({"run_id": folder.run_id, "config": flat}, indent=1) + "\n"
    try:
        write_atomically(folder.path / CONFIG, config_text)
        # Last, so that a folder with a claim is a folder with everything.
        write_atomically(folder.path / _CLAIM, text)
    except OSError as error:
        raise RunFolderError(
            f"{folder.path}: cannot be written: {error.strerror}; set run_dir to another folder"
        ) from error


def _names(value: Any, place: str) -> bool:
    if not isinstance(value, str) or value == "":
        return False
    return (value.rstrip("/") if is_url(value) else str(Path(value).resolve())) == place


def _binds(key: str, defining: Sequence[str], may_change: Sequence[str]) -> bool:
    return _matches(key, defining) and not _matches(key, may_change)


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _refuse(place: str, changed: Mapping[str, Change]) -> None:
    if not changed:
        return
    shown = [f"{key} was {c.before!r}, now {c.now!r}" for key, c in list(changed.items())[:5]]
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    raise RunFolderError(
        f"{place}: holds a run with other settings: {'; '.join(shown)}{more}; set run_dir to"
        " another folder, or set these back to resume"
    )


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
    """Return commit and cleanliness of the repository that this code lies in.

    Both are None for an installed package: the working folder's repository, or one around the
    environment, says nothing about the code.
    """
    try:
        # Fails where the file lies in no repository, or in one that does not track it.
        _ask_git("ls-files", "--error-unmatch", Path(__file__).name)
        commit = _ask_git("rev-parse", "HEAD")
        clean = not _ask_git("status", "--porcelain", "--untracked-files=no", ":/")
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_clean": None}
    return {"git_commit": commit, "git_clean": clean}


def _ask_git(*words: str) -> str:
    # A hook or `git rebase --exec` sets GIT_DIR and others, which name another repository.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    folder = Path(__file__).parent
    done = subprocess.run(
        ["git", "-C", folder, *words], capture_output=True, text=True, check=True, env=plain
    )
    return done.stdout.strip()
