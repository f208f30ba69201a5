"""Which runtime a program gets: by its name, or by what the machine has."""

import os
from collections.abc import Callable
from importlib.util import find_spec

import torch

from oct_xla.devices.processes import NativeRuntime
from oct_xla.devices.runtime import Runtime, check_precision
from oct_xla.devices.sharding import check_parallel
from oct_xla.errors import DeviceError

RUNTIMES = ("auto", "cpu", "cuda", "xla")


def pick_runtime(name: str = "auto", precision: str = "fp32", parallel: str = "ddp") -> Runtime:
    """Return the runtime of that name.

    "auto" is xla where PJRT_DEVICE names an accelerator and torch-xla is installed, else cuda where
    there is a GPU, else cpu. XLA on the CPU must be asked for by name: torch-xla sets PJRT_DEVICE
    to CPU as soon as any library, such as MONAI or PEFT, imports it.

    Args:
        name: "auto", "cpu", "cuda" or "xla".
        precision: see `oct_xla.devices.runtime.PRECISIONS`.
        parallel: "ddp" copies parameters to every device; "fsdp" cuts them, their gradients and
            moments, and the teacher, over all devices. The results are the same up to rounding.

    Raises:
        DeviceError: if it is not available; the text says what to install or set.
        ValueError: if `name`, `precision` or `parallel` is unknown.
    """
    check_precision(precision)
    check_parallel(parallel)
    if name not in RUNTIMES:
        raise ValueError(f"runtime ({name!r}) must be one of {', '.join(RUNTIMES)}")
    if name == "auto":
        name = _first_available()
    if name == "xla":
        return _start_xla(precision, parallel)
    return NativeRuntime(name, precision, parallel)


def _first_available() -> str:
    if os.environ.get("PJRT_DEVICE", "CPU").upper() != "CPU" and find_spec("torch_xla"):
        return "xla"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _start_xla(precision: str, parallel: str) -> Runtime:
    if not os.environ.get("PJRT_DEVICE"):
        raise DeviceError("runtime xla: set PJRT_DEVICE=TPU, or PJRT_DEVICE=CPU to try it without")
    started = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if started > 1:
        raise DeviceError(
            f"runtime xla: torchrun started {started} processes on this host, XLA takes one for all"
            " its devices; start the command without torchrun"
        )
    start: Callable[[str, str], Runtime]
    try:
        from oct_xla.devices.xla import XlaRuntime as start  # imports torch-xla, which takes 10 s
    except ImportError as error:
        raise DeviceError(
            "runtime xla: torch-xla is not installed; install oct-xla[tpu] on a TPU host or"
            " oct-xla[xla] for the CPU (Linux x86_64, Python 3.11 or 3.12 for TPUs)"
        ) from error
    return start(precision, parallel)
