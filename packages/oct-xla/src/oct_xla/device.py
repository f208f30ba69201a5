"""Where training runs: one small protocol, and its implementation on CPU and CUDA."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from oct_xla.errors import DeviceError
from oct_xla.precision import autocast, check_precision
from oct_xla.tree import map_tensors

RUNTIMES = ("auto", "cpu", "cuda", "xla")
BUCKET_ELEMENTS = 8 * 1024 * 1024  # 32 MB of float32 a collective: few calls, little extra memory

Module = TypeVar("Module", bound=nn.Module)


class Runtime(Protocol):
    """What `fit` asks of a device and of the other processes.

    Attributes:
        name: "cpu", "cuda" or "xla".
        device: where parameters and batches lie.
        precision: one of `oct_xla.precision.PRECISIONS`.
        rank: which stripe of the batch this process feeds.
        world: number of processes that feed.
        local_devices: parts into which this process's micro-batch is cut.
    """

    name: str
    device: torch.device
    precision: str
    rank: int
    world: int
    local_devices: int

    @property
    def devices(self) -> int:
        """Number of devices of all processes."""
        ...

    def prepare(self, module: Module) -> Module:
        """Move a module to the device, equal on all processes."""
        ...

    def put(self, batch: Any) -> Any:
        """Move a batch of this process to the device."""
        ...

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        ...

    def cut(self) -> None:
        """End a lazily recorded graph; nothing where arithmetic is eager."""
        ...

    def seed(self, seed: int) -> None:
        """Seed the device's own generator, for dropout."""
        ...

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the processes."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a 1-D tensor over the processes."""
        ...

    def agree(self, value: int) -> int:
        """Return the largest value of all processes, on each of them."""
        ...

    def host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors in host memory."""
        ...

    def compilations(self) -> int:
        """Return how many graphs were compiled so far; 0 where arithmetic is eager."""
        ...

    def close(self) -> None:
        """Leave the group of processes, if this runtime joined it."""
        ...


class NativeRuntime:
    """CPU or CUDA, one device a process, processes joined by torch.distributed.

    Started by torchrun (RANK is set), the processes join through gloo on CPUs and through gloo and
    NCCL on GPUs. Gradients are averaged here, in flat buckets after the last micro-batch, not by
    DistributedDataParallel: that wraps `forward` only, and an objective is called through `loss`.
    Another accelerator of torch.distributed needs its device type and backend below, no more.

    Args:
        kind: "cpu" or "cuda".
        precision: see `oct_xla.precision`.

    Raises:
        DeviceError: if the device is not there.
    """

    local_devices = 1

    def __init__(self, kind: str, precision: str = "fp32") -> None:
        self.name, self.precision = kind, check_precision(precision)
        if kind == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                "runtime cuda: this PyTorch finds no CUDA GPU; check nvidia-smi, install a CUDA"
                " build of torch, or set runtime=cpu"
            )
        self._joined = self._join(kind)
        self.rank = dist.get_rank() if self._distributed else 0
        self.world = dist.get_world_size() if self._distributed else 1
        self.device = self._pick_device(kind)
        self._checked = False

    @property
    def devices(self) -> int:
        """One device a process."""
        return self.world

    @property
    def _distributed(self) -> bool:
        return dist.is_available() and dist.is_initialized()

    def _join(self, kind: str) -> bool:
        if self._distributed or "RANK" not in os.environ:
            return False
        # gloo stands beside NCCL for the agreements, which are host integers.
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "cpu:gloo")
        return True

    @staticmethod
    def _pick_device(kind: str) -> torch.device:
        if kind == "cpu":
            return torch.device("cpu")
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise DeviceError(
                f"runtime cuda: local rank {index} has no GPU of its own, this host has"
                f" {torch.cuda.device_count()}; start as many processes as there are GPUs"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def prepare(self, module: Module) -> Module:
        """Move a module to the device and give every process the values of the first."""
        module.to(self.device)
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)
        return module

    def put(self, batch: Any) -> Any:
        """Copy a batch to the device; from pinned memory the copy overlaps with work."""
        return map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True), batch)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return autocast(self.device.type, self.precision)

    def cut(self) -> None:
        """Do nothing: arithmetic is eager."""

    def seed(self, seed: int) -> None:
        """Seed PyTorch's generators of the host and of the device."""
        torch.manual_seed(seed)

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Average the gradients over the processes, in buckets of one dtype.

        Raises:
            DeviceError: if the processes used different parameters in their first step.
        """
        if self.world == 1:
            return
        used = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not self._checked:
            self._check_equal_count(len(used))
        for bucket in _buckets(used):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat.div_(self.world)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def _check_equal_count(self, count: int) -> None:
        largest, smallest = self.agree(count), -self.agree(-count)
        if largest != smallest:
            raise DeviceError(
                f"gradients: processes have between {smallest} and {largest} of them; each"
                " parameter must take part in the loss on every process or on none"
            )
        self._checked = True

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a 1-D tensor over the processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def agree(self, value: int) -> int:
        """Return the largest value of all processes, on each of them."""
        return largest_of_all(value) if self.world > 1 else value

    def host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors in host memory; those already there are not copied."""
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}

    def compilations(self) -> int:
        """Return 0: nothing is compiled."""
        return 0

    def close(self) -> None:
        """Leave the group of processes, if this runtime joined it."""
        if self._joined:
            dist.destroy_process_group()
            self._joined = False


def largest_of_all(value: int) -> int:
    """Return the largest value of all processes, on each of them."""
    shared = torch.tensor(value)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return int(shared)


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    bucket: list[Tensor] = []
    elements = 0
    for tensor in tensors:
        full = elements + tensor.numel() > BUCKET_ELEMENTS
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, elements = [], 0
        bucket.append(tensor)
        elements += tensor.numel()
    if bucket:
        yield bucket


def pick_runtime(name: str = "auto", precision: str = "fp32") -> Runtime:
    """Return the runtime of that name.

    "auto" is xla where PJRT_DEVICE names an accelerator and torch-xla is installed, else cuda where
    there is a GPU, else cpu. XLA on the CPU must be asked for by name: torch-xla sets PJRT_DEVICE
    to CPU as soon as any library, such as MONAI or PEFT, imports it.

    Raises:
        DeviceError: if it is not available; the text says what to install or set.
        ValueError: if `name` or `precision` is unknown.
    """
    check_precision(precision)
    if name not in RUNTIMES:
        raise ValueError(f"runtime ({name!r}) must be one of {', '.join(RUNTIMES)}")
    if name == "auto":
        name = _first_available()
    if name == "xla":
        return _start_xla(precision)
    return NativeRuntime(name, precision)


def _first_available() -> str:
    if os.environ.get("PJRT_DEVICE", "CPU").upper() != "CPU" and find_spec("torch_xla"):
        return "xla"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _start_xla(precision: str) -> Runtime:
    if not os.environ.get("PJRT_DEVICE"):
        raise DeviceError("runtime xla: set PJRT_DEVICE=TPU, or PJRT_DEVICE=CPU to try it without")
    start: Callable[[str], Runtime]
    try:
        from oct_xla.xla import XlaRuntime as start  # imports torch-xla, which takes 10 s
    except ImportError as error:
        raise DeviceError(
            "runtime xla: torch-xla is not installed; install oct-xla[tpu] on a TPU host or"
            " oct-xla[xla] for the CPU (Linux x86_64, Python 3.11 or 3.12 for TPUs)"
        ) from error
    return start(precision)
