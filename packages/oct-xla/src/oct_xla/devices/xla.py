"""TPUs, and CPUs in their place, through torch-xla: one program over all devices (SPMD)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as met
import torch_xla.debug.profiler as xp
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr
from torch import Tensor
from torch_xla import _XLAC as native  # type: ignore[attr-defined]

from oct_xla.devices.compiled import folder_of_compilations
from oct_xla.devices.norms import PlainNorms
from oct_xla.devices.processes import largest_of_all, texts_of_all
from oct_xla.devices.runtime import Module, Pass, autocast, check_precision, detached
from oct_xla.devices.sharding import Piece, Whole, check_parallel, global_norm, joined
from oct_xla.errors import DeviceError
from oct_xla.tree import map_tensors, tensors_of


class XlaRuntime:
    """All devices as one mesh axis, "data"; batches are cut, and so are parameters if asked for.

    There is one process a host. The program is written for the global batch and XLA inserts the
    collectives, so gradients and metrics are global already. Only where an objective says that its
    loss is a mean over samples are the micro-batches of an accumulated step programs of one device,
    which add up gradients that are reduced once. With several hosts the agreements go through gloo
    over torch-xla's own rendezvous; that part runs on TPU hosts only.

    Make the runtime before the first `backward` of the process: a backward on the CPU before the
    XLA client exists breaks every later backward on XLA (torch 2.9).

    Args:
        precision: see `oct_xla.devices.runtime.PRECISIONS`.
        parallel: see `oct_xla.devices.sharding.PARALLELS`; "fsdp" cuts each parameter along its
            largest dimension that the devices divide, on the same axis of the mesh as the batch.

    Raises:
        DeviceError: if the XLA client does not start.
    """

    name = "xla"

    def __init__(self, precision: str = "fp32", parallel: str = "ddp") -> None:
        self.precision, self.parallel = check_precision(precision), check_parallel(parallel)
        _keep_compilations()
        try:
            xr.use_spmd()
            # Counting starts the client, which must exist before any autograd thread does.
            self._devices = int(xr.global_runtime_device_count())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise DeviceError(
                f"runtime xla: the client does not start ({reason}); check PJRT_DEVICE, and that"
                " no other process holds the TPU"
            ) from error
        self._mesh = xs.Mesh(np.arange(self._devices), (self._devices,), ("data",))
        xs.set_global_mesh(self._mesh)
        self.device: torch.device = torch_xla.device()
        self.rank, self.world = int(xr.process_index()), int(xr.process_count())
        self.local_devices = self._devices // self.world
        self._joined = self._join()
        self._writers = self.world if self._cut_in_rows() else 1
        self._sums: dict[int, Tensor] = {}  # gradients of a step, (devices, numbers), one each

    @property
    def devices(self) -> int:
        """Number of devices of all hosts."""
        return self._devices

    @property
    def writers(self) -> int:
        """Hosts that each save a part of every tensor: all, where each holds parts of its own."""
        return self._writers

    def _cut_in_rows(self) -> bool:
        """Whether what is cut lies in one piece on each of several hosts; all must ask."""
        if self.world == 1 or self.parallel != "fsdp":
            return False
        probe = torch.zeros(self._devices, device=self.device)
        xs.mark_sharding(probe, self._mesh, ("data",))  # type: ignore[attr-defined]
        self.cut()
        parts = local_parts(probe)
        return not self.agree(int(parts is None or joined(parts, probe.shape) is None))[0]

    def _join(self) -> bool:
        if self.world == 1 or dist.is_initialized():
            return False
        dist.init_process_group("gloo", init_method="xla://")
        return True

    def prepare(self, module: Module) -> Module:
        """Move a module to the devices, whole to each of them or cut over them.

        Parameters become new objects on the way, so ask for them afterwards.
        """
        module.to(self.device)
        for parameter in module.parameters():
            self._spread(parameter)
        self.cut()
        return module

    def _spread(self, tensor: Tensor) -> Tensor:
        """Cut a tensor over the devices, if they divide one of its dimensions."""
        able = [d for d, size in enumerate(tensor.shape) if size and size % self._devices == 0]
        if self.parallel == "fsdp" and self._devices > 1 and able:
            widest = max(able, key=lambda d: tensor.shape[d])
            axes = tuple("data" if d == widest else None for d in range(tensor.ndim))
            xs.mark_sharding(tensor, self._mesh, axes)  # type: ignore[attr-defined]
        return tensor

    @contextmanager
    def whole(self, module: Module, given: Module, *, computes: bool = True) -> Iterator[Module]:
        """Yield the module: where it lies is no business of who calls it.

        Of parameters that are cut, what it gives meanwhile is whole on each device: to copy a cut
        tensor to the host is a program that XLA compiles anew each time.
        """
        del module
        cut = computes and self.parallel == "fsdp" and self._devices > 1
        hooks = [one.register_forward_hook(self._gather) for one in given.modules() if cut]
        try:
            yield given
        finally:
            for hook in hooks:
                hook.remove()

    def _gather(self, module: Any, given: Any, found: Any) -> None:
        """Have each device hold all of what a module has found."""
        had = {id(one) for one in (*tensors_of(given), *module.parameters(), *module.buffers())}
        for tensor in tensors_of(found):
            if tensor.device.type == "xla" and id(tensor) not in had:
                xs.mark_sharding(tensor, self._mesh, (None,) * tensor.ndim)  # type: ignore[attr-defined]

    def put(self, batch: Any) -> Any:
        """Send this host's part of the batch; the first dimension is cut over the devices."""
        tensors = tensors_of(batch)
        sent: dict[int, Tensor] = {}
        for dimensions in {tensor.ndim for tensor in tensors}:
            group = [tensor for tensor in tensors if tensor.ndim == dimensions]
            # Without minibatch=True every host would have to supply the global batch.
            axes = ("data",) + (None,) * (dimensions - 1)
            spec = xs.ShardingSpec(self._mesh, axes, minibatch=self.world > 1)
            moved: Any = xm.send_cpu_data_to_device(group, self.device, spec)
            sent.update(zip(map(id, group), moved, strict=True))
        return map_tensors(lambda tensor: sent[id(tensor)], batch)

    def send(self, batch: Any) -> Callable[[], Any]:
        """Begin to move a batch beside what the devices are doing."""
        moved = self.put(batch)
        return lambda: moved

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass."""
        return autocast("xla", self.precision)

    def cut(self) -> None:
        """Compile and start what was recorded; one graph a micro-batch keeps graphs small."""
        torch_xla.sync()

    def seed(self, seed: int) -> None:
        """Seed the generators of the host and of the devices."""
        torch.default_generator.manual_seed(seed)  # torch.manual_seed is slower
        torch_xla.manual_seed(seed & 0x7FFFFFFF)  # type: ignore[no-untyped-call]

    @contextmanager
    def passing(
        self, module: torch.nn.Module, batch: Any, *, number: int, count: int
    ) -> Iterator[Pass]:
        """Return the context of one of `count` passes of a step.

        A program for the global batch reduces gradients in each pass. So several passes are
        programs of one device each, if the objective allows it and parameters are whole.
        """
        del number
        separable = bool(getattr(module, "separable", False)) and self.parallel == "ddp"
        if self._devices == 1:
            yield Pass(batch, True, detached)
        elif count == 1 or not separable:
            with PlainNorms():
                yield Pass(batch, True, detached)
        else:
            with self._apart(module):
                yield Pass(map_tensors(self._enter, batch), False, self._mean_of_devices)

    @contextmanager
    def _apart(self, module: torch.nn.Module) -> Iterator[None]:
        """Have a module hold what a device sees of it; adds up the gradients that come of it."""
        places = [
            (held, name, tensor)
            for one in module.modules()
            for held in (one._parameters, one._buffers)
            for name, tensor in held.items()
            if tensor is not None
        ]
        wholes = {id(tensor): tensor for _, _, tensor in places}
        parts = {key: self._enter(tensor) for key, tensor in wholes.items()}
        for key, tensor in wholes.items():
            parts[key].requires_grad_(tensor.requires_grad)
        for held, name, tensor in places:
            held[name] = parts[id(tensor)]  # type: ignore[assignment]
        xs.set_global_mesh(None)  # type: ignore[arg-type]  # kernels ask it whether to cut
        try:
            yield
        finally:
            xs.set_global_mesh(self._mesh)
            for held, name, tensor in places:
                held[name] = tensor  # type: ignore[assignment]
        for key, part in parts.items():
            if part.grad is not None:
                found = self._leave(part.grad)
                self._sums[key] = self._sums[key] + found if key in self._sums else found

    def _enter(self, tensor: Tensor) -> Tensor:
        """Return what one device has of a tensor, for a program of its own."""
        if not native._get_xla_sharding_spec(tensor):
            xs.mark_sharding(tensor, self._mesh, (None,) * tensor.ndim)  # type: ignore[attr-defined]
        part: Tensor = native._spmd_full_to_shard_shape(tensor)
        return part

    def _leave(self, tensor: Tensor) -> Tensor:
        """Return what each device has, cut over them, (devices, numbers)."""
        row = tensor.reshape(1, -1)  # more than five dimensions cannot be cut
        own = native.OpSharding([], [], [], xs.ShardingType.MANUAL)
        native._mark_manual_sharding(row, own)
        cut, shape = self._mesh.get_op_sharding(("data", None)), (self._devices, row.shape[1])
        rows: Tensor = native._spmd_shard_to_full_shape(row, cut, shape, row.dtype)
        return rows

    def _mean_of_devices(self, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring the numbers of a pass out of the programs of the devices."""
        together = torch.stack(list(detached(numbers).values()))
        return dict(zip(numbers, self._leave(together).mean(0).unbind(), strict=True))

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradients of the global batch; here the devices' own become them."""
        for parameter in parameters:
            if (rows := self._sums.pop(id(parameter), None)) is not None:
                parameter.grad = rows.mean(0).view(parameter.shape)
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the norm of the whole gradient, 0-dim, float32."""
        return global_norm([p.grad for p in parameters if p.grad is not None])

    def mean(self, values: Tensor) -> Tensor:
        """Return the values: they are of the global batch."""
        return values

    def agree(self, *values: int) -> list[int]:
        """Return the largest of each value over all hosts, on each of them."""
        return largest_of_all(values) if self.world > 1 else list(values)

    def share(self, text: str) -> list[str]:
        """Return the texts of all hosts by rank, on each of them."""
        return texts_of_all(text) if self.world > 1 else [text]

    def pieces(self, tensors: Mapping[str, Tensor], *, whole: bool = False) -> dict[str, Piece]:
        """Return copies in host memory of what this host is to save; see `Runtime.pieces`.

        To put whole tensors together, every host must ask; the first one keeps them.
        """
        self.cut()
        if not whole and self.writers > 1:
            return self._own_pieces(tensors)
        copies = {name: Piece.whole(self._copy(tensor)) for name, tensor in tensors.items()}
        return copies if self.rank == 0 else {}

    def _own_pieces(self, tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
        """What the devices of this host hold; what all hold is the first one's to save."""
        found: dict[str, Piece] = {}
        for name, tensor in tensors.items():
            parts = local_parts(tensor)
            if parts is None or any(values.shape == tensor.shape for _, values in parts):
                if self.rank == 0:
                    found[name] = Piece.whole(tensor.detach().to("cpu", copy=True))
                continue
            piece = joined(parts, tensor.shape)
            assert piece is not None, "the devices of a host were neighbours at the start"
            found[name] = piece
        return found

    def _copy(self, tensor: Tensor) -> Tensor:
        """Copy a tensor to the host; put together there, as gathering costs a graph a tensor."""
        parts = local_parts(tensor) if self.world == 1 else None
        piece = joined(parts, tensor.shape) if parts else None
        return tensor.detach().to("cpu", copy=True) if piece is None else piece.tensor

    def like(self, whole: Whole, own: Tensor) -> Tensor:
        """Return a copy of `whole` on the devices, cut as parameters are."""
        moved = whole[...].to(own.device, copy=True)
        return self._spread(moved) if own.device.type == "xla" else moved

    @contextmanager
    def trace(self, folder: Path) -> Iterator[None]:
        """Trace programs and transfers of this host's devices with XLA's own profiler."""
        xp.start_trace(str(folder))
        try:
            yield
        finally:
            xm.wait_device_ops()
            xp.stop_trace()

    def compilations(self) -> int:
        """Return how many graphs were compiled so far."""
        data = met.metric_data("CompileTime")  # type: ignore[no-untyped-call]
        return int(data[0]) if data else 0

    def close(self) -> None:
        """Wait for the devices, and leave the group of hosts, if this runtime joined it."""
        xm.wait_device_ops()
        if self._joined:
            dist.destroy_process_group()
            self._joined = False


def local_parts(tensor: Tensor) -> list[tuple[tuple[slice, ...], Tensor]] | None:
    """What each device of this host holds of a tensor, after where; None if nobody has said it."""
    parts: Any = xs.wrap_if_sharded(tensor.detach())
    if not isinstance(parts, xs.XLAShardedTensor):
        return None
    everything = (slice(None),) * tensor.ndim
    return [
        (everything if shard.indices is Ellipsis else tuple(shard.indices), shard.data)
        for shard in parts.local_shards
    ]


def _keep_compilations() -> None:
    """Have torch-xla keep what it compiles for the next start; too late from the first graph on."""
    if native._xla_computation_cache_is_initialized():
        return
    if (folder := folder_of_compilations()) is not None:
        xr.initialize_cache(str(folder))
