"""CPUs and CUDA GPUs, one a process, joined by torch.distributed."""

import copy
import gc
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Before there is a group: its functions take the group of that moment as default arguments and
# would hold it for ever, see `close`. The optimiser imports it by and by.
import torch.distributed.nn.functional
from torch import Tensor

from oct_xla.devices.malloc import keep_freed_memory
from oct_xla.devices.runtime import Module, Pass, autocast, check_precision, detached
from oct_xla.devices.sharding import (
    Piece,
    Whole,
    check_parallel,
    cut_like,
    gathered,
    global_norm,
    local,
    own_pieces,
    shard_module,
    sync_gradients,
    whole_ones,
    whole_pieces,
)
from oct_xla.errors import DeviceError
from oct_xla.tree import map_tensors, tensors_of

BUCKET_ELEMENTS = 8 * 1024 * 1024  # 32 MB of float32 a collective: few calls, little extra memory

_JOINED = count()  # groups that this program has been in


class NativeRuntime:
    """CPU or CUDA, one device a process, processes joined by torch.distributed.

    Started by torchrun (RANK is set), the processes join through gloo on CPUs and through gloo and
    NCCL on GPUs. Gradients are averaged here, in flat buckets after the last micro-batch, not by
    DistributedDataParallel: that wraps `forward` only, and an objective is called through `loss`.
    Another accelerator of torch.distributed needs its device type and backend below, no more.

    Args:
        kind: "cpu" or "cuda".
        precision: see `oct_xla.devices.runtime.PRECISIONS`.
        parallel: see `oct_xla.devices.sharding.PARALLELS`; one process alone cuts nothing.

    Raises:
        DeviceError: if the device is not there.
    """

    local_devices = 1

    def __init__(self, kind: str, precision: str = "fp32", parallel: str = "ddp") -> None:
        self.name, self.precision = kind, check_precision(precision)
        self.parallel = check_parallel(parallel)
        if kind == "cuda" and not torch.cuda.is_available():
            raise DeviceError(
                "runtime cuda: this PyTorch finds no CUDA GPU; check nvidia-smi, install a CUDA"
                " build of torch, or set runtime=cpu"
            )
        if kind == "cpu":
            keep_freed_memory()
        self._joined = self._join(kind)
        self.rank = dist.get_rank() if self._distributed else 0
        self.world = dist.get_world_size() if self._distributed else 1
        self.device = self._pick_device(kind)
        self._checked = False
        self._copies: torch.cuda.Stream | None = None

    @property
    def _cut(self) -> bool:
        return self.parallel == "fsdp" and self.world > 1

    @property
    def writers(self) -> int:
        """Processes that each save a part of every tensor."""
        return self.world if self._cut else 1

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
        backends = "cpu:gloo,cuda:nccl" if kind == "cuda" else "cpu:gloo"
        # Several hosts count their starts apart, so those of one alone may be told by it.
        alone = os.environ.get("GROUP_WORLD_SIZE") == "1"
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"
        number = next(_JOINED)
        if again == "0" and number == 0:
            dist.init_process_group(backends)
            return True
        # The store of torchrun outlives a group, and keeps the addresses at which its processes
        # could be reached: those of the last start, or of the last runtime of this program.
        store, rank, world = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
        own = dist.PrefixStore(f"start-{again}-{number}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backends, store=own, rank=rank, world_size=world)
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
        """Move a module to the device and give every process the values of the first.

        What is cut is a copy, so that whoever holds the module can go on using it, see `whole`. It
        is cut from host memory, block by block: the device need not hold all of it even once.
        """
        if self._cut:
            module = copy.deepcopy(module).to("cpu")
        else:
            module.to(self.device)
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)
        return shard_module(module, self.device) if self._cut else module

    @contextmanager
    def whole(self, module: Module, given: Module, *, computes: bool = True) -> Iterator[Module]:
        """Give the module that `prepare` was given the trained values.

        What was cut lies on the device meanwhile if it `computes`, else in host memory.
        """
        if module is not given:
            if computes:
                given.to(self.device)
            trained = module.state_dict()
            with torch.no_grad():
                for name, own in given.state_dict().items():
                    own.copy_(gathered(trained[name]))
        yield given
        if module is not given:
            given.to("cpu")

    def put(self, batch: Any) -> Any:
        """Copy a batch to the device; from pinned memory the copy overlaps with work."""
        return map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True), batch)

    def send(self, batch: Any) -> Callable[[], Any]:
        """Begin to move a batch beside what the device is doing; the result waits for it."""
        if self.device.type != "cuda":
            return partial(self.put, batch)
        # A stream of its own: on that of the kernels the copy would wait for them.
        self._copies = self._copies or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._copies):
            moved = self.put(batch)

        def arrived() -> Any:
            working = torch.cuda.current_stream(self.device)
            working.wait_stream(self._copies)
            for tensor in tensors_of(moved):
                tensor.record_stream(working)  # else its memory is free for the next copy too early
            return moved

        return arrived

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return autocast(self.device.type, self.precision)

    def cut(self) -> None:
        """Do nothing: arithmetic is eager."""

    def seed(self, seed: int) -> None:
        """Seed PyTorch's generators of the host and of the device."""
        # Not torch.manual_seed: it also writes down a stack trace for a CUDA that is not started,
        # 90 us a step.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)

    @contextmanager
    def passing(
        self, module: torch.nn.Module, batch: Any, *, number: int, count: int
    ) -> Iterator[Pass]:
        """Return the context of one of `count` passes of a step; only the last one reduces."""
        if self._cut:
            sync_gradients(module, number == count - 1)
        yield Pass(batch, True, detached)

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Average the gradients over the processes; returns this process's parts of them.

        Whole ones are reduced here, in buckets of one dtype; FSDP has done it on the way.

        Raises:
            DeviceError: if the processes used different parameters in their first step.
        """
        used = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.world == 1:
            return used
        if not self._checked:
            self._check_equal_count(len(used))
        for bucket in _buckets(whole_ones(used)):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            flat.div_(self.world)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        return [local(gradient) for gradient in used]

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the norm of the whole gradient, 0-dim, float32."""
        return global_norm([p.grad for p in parameters if p.grad is not None])

    def _check_equal_count(self, count: int) -> None:
        largest, fewest = self.agree(count, -count)
        if largest != -fewest:
            raise DeviceError(
                f"gradients: processes have between {-fewest} and {largest} of them; each"
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

    def agree(self, *values: int) -> list[int]:
        """Return the largest of each value over all processes, on each of them."""
        return largest_of_all(values) if self.world > 1 else list(values)

    def share(self, text: str) -> list[str]:
        """Return the texts of all processes by rank, on each of them."""
        return texts_of_all(text) if self.world > 1 else [text]

    def pieces(self, tensors: Mapping[str, Tensor], *, whole: bool = False) -> dict[str, Piece]:
        """Return copies in host memory of what this process is to save; see `Runtime.pieces`."""
        if whole and self._cut:
            return whole_pieces(tensors, keep=self.rank == 0)
        if self.rank >= self.writers:
            return {}
        return own_pieces(tensors, first=self.rank == 0)

    def like(self, whole: Whole, own: Tensor) -> Tensor:
        """Return a copy of `whole` on the device, cut as `own` is."""
        return cut_like(whole, own)

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """Trace nothing: torch.profiler sees CPUs and CUDA."""
        del folder
        return nullcontext()

    def compilations(self) -> int:
        """Return 0: nothing is compiled."""
        return 0

    def close(self) -> None:
        """Leave the group of processes, if this runtime joined it, and end its threads.

        A thread of it that still lets go of a tensor while Python ends takes the process down with
        it: "terminate called without an active exception".
        """
        if self._joined:
            dist.destroy_process_group()
            gc.collect()  # FSDP's modules hold the group in cycles
            self._joined = False


def largest_of_all(values: Sequence[int]) -> list[int]:
    """Return the largest of each value over all processes, on each of them."""
    shared = torch.tensor(values)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    largest: list[int] = shared.tolist()
    return largest


def texts_of_all(text: str) -> list[str]:
    """Return the texts of all processes by rank, on each of them; without pickle."""
    own = text.encode()
    longest = largest_of_all([len(own)])[0]
    # Spaces fill up: all tensors need one length.
    padded = torch.frombuffer(bytearray(own.ljust(longest + 1)), dtype=torch.uint8)
    every = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(every, padded)
    return [bytes(one.tolist()).decode().rstrip(" ") for one in every]


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
