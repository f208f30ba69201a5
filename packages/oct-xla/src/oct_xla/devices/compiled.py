"""Where XLA keeps what it has compiled, for the next start on the same machine."""

import os
from pathlib import Path

from oct_xla.errors import DeviceError

PLACE = "XLA_PERSISTENT_CACHE_PATH"
"""Environment variable of torch-xla: the folder; empty keeps nothing."""


def folder_of_compilations() -> Path | None:
    """Return the folder that XLA is to use, made; None to leave it as the environment has it.

    It is for TPUs, below `XDG_CACHE_HOME`, by default `~/.cache`, and only where the environment
    does not say itself where, or that nothing is kept. What XLA compiles for a CPU torch-xla 2.9
    writes and cannot read back.

    Raises:
        DeviceError: if it cannot be made.
    """
    if os.environ.get("PJRT_DEVICE", "").upper() != "TPU" or PLACE in os.environ:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "oct-xla" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # what lies there will be run; that of another owner is refused
    except OSError as error:
        raise DeviceError(
            f"{folder}: cannot be made, and kept to its owner: {error.strerror}; let {PLACE} name"
            " another folder for what XLA compiles, or be empty to keep nothing"
        ) from error
    return folder
