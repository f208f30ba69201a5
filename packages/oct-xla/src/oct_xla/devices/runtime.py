"""What the loop asks of a device and of the other processes: one small protocol."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from oct_xla.devices.sharding import Piece, Whole

Module = TypeVar("Module", bound=nn.Module)

PRECISIONS = ("fp32", "bf16")
"""fp32: all arithmetic in float32. bf16: matrix products in bfloat16 under autocast; parameters,
gradients, optimiser state and the EMA teacher in float32. No loss scaling: bfloat16 has the range
of float32."""


class Pass(NamedTuple):
    """Forward and backward of one micro-batch, as `Runtime.passing` has prepared it.

    Attributes:
        batch: what the objective is to see.
        draws: whether it may draw; not where each device has a program for its own samples, as all
            would draw the same.
        tell: brings numbers of the pass, 0-dim ones by name, out of it: detached, float32.
    """

    batch: Any
    draws: bool
    tell: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def detached(numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return numbers without what they were computed from, float32."""
    return {name: number.detach().float() for name, number in numbers.items()}


class Runtime(Protocol):
    """What `fit` asks of a device and of the other processes.

    Attributes:
        name: "cpu", "cuda" or "xla".
        device: where parameters and batches lie.
        precision: one of `PRECISIONS`.
        parallel: one of `oct_xla.devices.sharding.PARALLELS`.
        rank: which stripe of the batch this process feeds.
        world: number of processes that feed.
        local_devices: parts into which this process's micro-batch is cut.
    """

    name: str
    device: torch.device
    precision: str
    parallel: str
    rank: int
    world: int
    local_devices: int

    @property
    def writers(self) -> int:
        """Number of processes, from the first on, that save a part of every tensor."""
        ...

    @property
    def devices(self) -> int:
        """Number of devices of all processes."""
        ...

    def prepare(self, module: Module) -> Module:
        """Return a module on the device, equal on all processes; another one if it is cut."""
        ...

    def whole(
        self, module: Module, given: Module, *, computes: bool = True
    ) -> AbstractContextManager[Module]:
        """Bring what `prepare` was given up to date with what it returned.

        For evaluations, which compute with it where the training does; or, if nothing computes, to
        hand it back.
        """
        ...

    def put(self, batch: Any) -> Any:
        """Move a batch of this process to the device."""
        ...

    def send(self, batch: Any) -> Callable[[], Any]:
        """Begin to move a batch beside what the device is doing; the result waits for it."""
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

    def passing(
        self, module: nn.Module, batch: Any, *, number: int, count: int
    ) -> AbstractContextManager[Pass]:
        """Return the context of one of `count` passes of a step; only the last one reduces."""
        ...

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Replace each gradient by its mean over the processes; returns this process's parts."""
        ...

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the norm of the whole gradient of these parameters, 0-dim, float32."""
        ...

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a 1-D tensor over the processes."""
        ...

    def agree(self, *values: int) -> list[int]:
        """Return the largest of each value over all processes, on each of them."""
        ...

    def share(self, text: str) -> list[str]:
        """Return the texts of all processes by rank, on each of them."""
        ...

    def pieces(self, tensors: Mapping[str, Tensor], *, whole: bool = False) -> dict[str, Piece]:
        """Return copies in host memory of what this process is to save.

        With `whole` that is everything for the first process, and nothing for the others.
        """
        ...

    def like(self, whole: Whole, own: Tensor) -> Tensor:
        """Return a copy of a whole tensor on the device, cut as `own` is."""
        ...

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """Trace into a folder what devices do that torch.profiler does not see."""
        ...

    def compilations(self) -> int:
        """Return how many graphs were compiled so far; 0 where arithmetic is eager."""
        ...

    def close(self) -> None:
        """Leave the group of processes, if this runtime joined it."""
        ...


def check_precision(precision: str) -> str:
    """Return `precision`.

    Raises:
        ValueError: if it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision ({precision!r}) must be one of {', '.join(PRECISIONS)}")
    return precision


def autocast(device_type: str, precision: str) -> AbstractContextManager[object]:
    """Return the context for the forward pass and the loss on one kind of device."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device_type, dtype=torch.bfloat16)
