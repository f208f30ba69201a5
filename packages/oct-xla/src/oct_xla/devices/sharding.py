"""Parameters cut over processes (FSDP2), and the pieces that a tensor is cut into."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

Module = TypeVar("Module", bound=nn.Module)

PARALLELS = ("ddp", "fsdp")
"""ddp: every device holds all parameters. fsdp: each holds a part of parameters, gradients, moments
of the optimiser and the teacher, and gathers a block when it computes it."""


class Piece(NamedTuple):
    """A part of a tensor, or all of it.

    Attributes:
        tensor: the part.
        offset: where it begins in each dimension.
        shape: of the whole tensor.
    """

    tensor: Tensor
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def whole(cls, tensor: Tensor) -> "Piece":
        """Return a tensor as its only piece."""
        return cls(tensor, (0,) * tensor.ndim, tuple(tensor.shape))


class Whole(Protocol):
    """A whole tensor of which a process may need some rows only; one in a file reads just those."""

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        ...

    def __getitem__(self, rows: Any, /) -> Tensor:
        """All of it for `...`, or a slice of its first dimension."""
        ...


def check_parallel(parallel: str) -> str:
    """Return `parallel`.

    Raises:
        ValueError: if it is not one of `PARALLELS`.
    """
    if parallel not in PARALLELS:
        raise ValueError(f"parallel ({parallel!r}) must be one of {', '.join(PARALLELS)}")
    return parallel


def shard_module(module: Module, device: torch.device) -> Module:
    """Cut the parameters of a module over all processes, in place; `loss` gathers them.

    The module may lie in host memory: FSDP2 moves a block to the device as it cuts it.

    What is gathered at once is a block: an element of a `ModuleList`, or what the module's own
    `sharding_units()` lists. All that stands in no block is gathered together. A parameter that is
    a single number stays whole.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    numbers = {parameter for parameter in module.parameters() if not parameter.ndim}
    for unit in units(module):
        fully_shard(unit, mesh=mesh, ignored_params=numbers)
    fully_shard(module, mesh=mesh, ignored_params=numbers)
    for number in numbers:
        number.data = number.data.to(device)
    register_fsdp_forward_method(module, "loss")
    return module


def units(module: nn.Module) -> list[nn.Module]:
    """List the blocks of a module that are gathered one at a time, inner ones first."""
    own = getattr(module, "sharding_units", None)
    if own is not None:
        return list(own())
    lists = [one for one in module.modules() if isinstance(one, nn.ModuleList)]
    found = [block for one in lists for block in one if any(True for _ in block.parameters())]
    return [block for block in reversed(found) if type(block).forward is not nn.Module.forward]


def sync_gradients(module: nn.Module, wanted: bool) -> None:
    """Have the next backward pass reduce gradients over the processes, or only add them up."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_ones(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that are not cut."""
    return [tensor for tensor in tensors if not isinstance(tensor, DTensor)]


def gathered(tensor: Tensor) -> Tensor:
    """Return a tensor whole, on every process, which must all ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(whole: Whole, own: Tensor) -> Tensor:
    """Return a copy of a whole tensor cut over the processes, and on the device, as `own` is."""
    if not isinstance(own, DTensor):
        return whole[...].to(own.device, copy=True)
    first, count = _rows(own)
    return DTensor.from_local(
        whole[first : first + count].to(own.device, copy=True),
        own.device_mesh,
        own.placements,
        run_check=False,
        shape=own.shape,
        stride=own.stride(),
    )


def own_pieces(tensors: Mapping[str, Tensor], *, first: bool) -> dict[str, Piece]:
    """Return what this process is to save, copied to host memory.

    Args:
        tensors: by name, the same names on all processes.
        first: whether this is the first process, which saves what is not cut.
    """
    found: dict[str, Piece] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            part = tensor.to_local().detach()
            if part.numel():
                offset = (_rows(tensor)[0], *(0 for _ in tensor.shape[1:]))
                found[name] = Piece(part.to("cpu", copy=True), offset, tuple(tensor.shape))
        elif first:
            found[name] = Piece.whole(tensor.detach().to("cpu", copy=True))
    return found


def whole_pieces(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Piece]:
    """Gather tensors one by one, and return copies of them in host memory to whom keeps them.

    Args:
        tensors: by name, the same names on all processes, which must all ask.
        keep: whether this process gets any.
    """
    found: dict[str, Piece] = {}
    for name, tensor in tensors.items():
        whole = gathered(tensor.detach())
        if keep:
            found[name] = Piece.whole(whole.to("cpu", copy=True))
    return found


def joined(parts: Sequence[tuple[tuple[slice, ...], Tensor]], shape: Sequence[int]) -> Piece | None:
    """Put parts of a tensor that touch each other together; None if something is amiss between.

    Args:
        parts: where each lies in the whole, and its values, of which those beyond are padding; one
            that several devices hold may come several times.
        shape: of the whole.

    Returns:
        A piece in host memory that has all of them, and nothing else.
    """
    ways = [[one.indices(size)[:2] for one, size in zip(p, shape, strict=True)] for p, _ in parts]
    first = [min(way[d][0] for way in ways) for d in range(len(shape))]
    last = [max(way[d][1] for way in ways) for d in range(len(shape))]
    sizes = [stop - start for start, stop in zip(first, last, strict=True)]
    whole = torch.empty(sizes, dtype=parts[0][1].dtype)
    filled = torch.zeros(sizes, dtype=torch.bool)
    for way, (_, values) in zip(ways, parts, strict=True):
        place = tuple(slice(a - f, b - f) for (a, b), f in zip(way, first, strict=True))
        whole[place] = values[tuple(slice(0, b - a) for a, b in way)]
        filled[place] = True
    return Piece(whole, tuple(first), tuple(shape)) if bool(filled.all()) else None


def _rows(own: DTensor) -> tuple[int, int]:
    """First row and number of rows that this process has; FSDP cuts as `torch.chunk` does."""
    (placement,) = own.placements
    assert isinstance(placement, Shard)
    assert placement.dim == 0
    rows, world = own.shape[0], own.device_mesh.size()
    first = min(own.device_mesh.get_local_rank() * -(-rows // world), rows)
    return first, int(own.to_local().shape[0])


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together, 0-dim, in float32; all processes must ask."""
    cut = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    norm = torch.nn.utils.get_total_norm(whole_ones(gradients)).float()
    if cut:
        square = torch.nn.utils.get_total_norm(cut).float().square()
        dist.all_reduce(square)
        norm = (square + norm.square()).sqrt()
    return norm
