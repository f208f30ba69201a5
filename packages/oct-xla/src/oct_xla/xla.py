"""TPUs, and CPUs in their place, through torch-xla: one program over all devices (SPMD)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch_xla
import torch_xla.core.xla_model as xm
import torch_xla.debug.metrics as met
import torch_xla.distributed.spmd as xs
import torch_xla.runtime as xr
from torch import Tensor

from oct_xla.errors import DeviceError
from oct_xla.processes import largest_of_all, texts_of_all
from oct_xla.runtime import Module, autocast, check_precision
from oct_xla.tree import map_tensors, tensors_of


class XlaRuntime:
    """All devices as one mesh axis, "data"; parameters are copied, batches are cut.

    There is one process a host. The program is written for the global batch and XLA inserts the
    collectives, so gradients and metrics are global already. With several hosts the agreements go
    through gloo over torch-xla's own rendezvous; that part runs on TPU hosts only.

    Make the runtime before the first `backward` of the process: a backward on the CPU before the
    XLA client exists breaks every later backward on XLA (torch 2.9).

    Args:
        precision: see `oct_xla.runtime.PRECISIONS`.

    Raises:
        DeviceError: if the XLA client does not start.
    """

    name = "xla"

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = check_precision(precision)
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

    @property
    def devices(self) -> int:
        """Number of devices of all hosts."""
        return self._devices

    def _join(self) -> bool:
        if self.world == 1 or dist.is_initialized():
            return False
        dist.init_process_group("gloo", init_method="xla://")
        return True

    def prepare(self, module: Module) -> Module:
        """Move a module to the devices; every device holds all of it.

        Parameters become new objects on the way, so ask for them afterwards.
        """
        module.to(self.device)
        self.cut()
        return module

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

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Do nothing: the gradient of the global batch is one program's result."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the values: they are of the global batch."""
        return values

    def agree(self, *values: int) -> list[int]:
        """Return the largest of each value over all hosts, on each of them."""
        return largest_of_all(values) if self.world > 1 else list(values)

    def share(self, text: str) -> list[str]:
        """Return the texts of all hosts by rank, on each of them."""
        return texts_of_all(text) if self.world > 1 else [text]

    def host(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies in host memory."""
        self.cut()
        return {name: tensor.detach().cpu() for name, tensor in tensors.items()}

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
