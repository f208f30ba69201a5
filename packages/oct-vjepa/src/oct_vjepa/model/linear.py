"""Linear maps; on an AMD CPU by oneDNN, which is twice as fast there as what PyTorch takes.

PyTorch's products in float32 are MKL's, and MKL keeps its AVX-512 kernels to Intel: on an EPYC 9005
it reaches 100 GFLOP/s a core, oneDNN 230 (benchmarks/training_step.py). Both are float32
throughout and differ in the last bits only. Under autocast, on other devices and while a graph is
traced PyTorch's own linear map is taken.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class Linear(nn.Linear):
    """`torch.nn.Linear`, with its parameters, by the faster of two libraries."""

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `torch.nn.functional.linear` gives, up to rounding."""
    if not (_plain(x, weight) and onednn_wins()):  # in this order: the latter cannot be traced
        return functional.linear(x, weight, bias)
    return linear_by_onednn(x, weight, bias)


def linear_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same for float32 on a CPU, by oneDNN; differentiable once."""
    return _OneDnn.apply(x, weight, bias)  # type: ignore[no-untyped-call]


@cache
def onednn_wins() -> bool:
    """Whether this is a CPU on which MKL leaves AVX-512 aside: one with it that is not Intel's."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    has_both &= hasattr(torch.ops.mkldnn, "_linear_pointwise")  # no public name of PyTorch
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    cpus = Path("/proc/cpuinfo")
    return has_both and wide and cpus.exists() and "AuthenticAMD" in cpus.read_text()


def _plain(x: Tensor, weight: Tensor) -> bool:
    """Whether PyTorch would multiply in float32 on the CPU now, and no graph is being traced."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    jit: Any = torch.jit
    traced = torch.compiler.is_compiling() or jit.is_tracing()
    return on_cpu and not traced and x.dtype == weight.dtype == torch.float32


def _multiply(left_MK: Tensor, right_NK: Tensor, bias: Tensor | None = None) -> Tensor:
    """Left times right transposed, (M, N); each may be a transposed view."""
    product: Any = torch.ops.mkldnn._linear_pointwise
    return product(left_MK, right_NK, bias, "none", [], "")


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows_MN, x_MK = upstream.flatten(0, -2), x.flatten(0, -2)
        to_x = _multiply(upstream, weight.T) if needs_x else None
        to_weight = None
        if needs_weight:  # fewer rows than columns are faster
            wide = weight.shape[0] > weight.shape[1]
            to_weight = _multiply(x_MK.T, rows_MN.T).T if wide else _multiply(rows_MN.T, x_MK.T)
        return to_x, to_weight, rows_MN.sum(dim=0) if needs_bias else None
