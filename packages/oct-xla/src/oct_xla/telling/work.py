"""What training costs in arithmetic, and how much of it the devices can do: MFU."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from oct_xla.devices.runtime import Runtime

EDGES = (512, 1024, 2048, 4096, 8192)
"""Rows and columns of the matrices, tried in turn: what shows the peak of a TPU or GPU takes a CPU
minutes."""
_CHAIN, _TRIES, _LONG_S = 4, 5, 0.2


class Work(NamedTuple):
    """Operations of matrix products, multiplications and additions each as one.

    Attributes:
        flops_per_volume: forward and backward, what is computed twice to save memory counted once.
        peak_flops_per_s: of all devices together.
    """

    flops_per_volume: float
    peak_flops_per_s: float

    def mfu(self, volumes_per_s: float) -> float:
        """Model FLOPs utilisation: which part of the peak the training makes use of.

        Source: Chowdhery et al. 2022, "PaLM" (arXiv 2204.02311), appendix B.
        """
        return volumes_per_s * self.flops_per_volume / self.peak_flops_per_s


def measure_peak(runtime: Runtime, edges: Sequence[int] = EDGES) -> float:
    """Time products of large square matrices; returns operations a second of all devices.

    They are of the runtime's precision, so the ratio says what the model loses, not what numbers of
    fewer bits would win. Processes measure at the same time, as they train. Devices of one program
    that share the cores of a CPU each count as whole, and a machine that is busy with other things
    shows less than its peak.

    Args:
        runtime: where, and with which precision.
        edges: rows and columns; larger ones are tried until some products take long enough.
    """
    best = 0.0
    for edge in edges:
        seconds = _time_products(runtime, edge)
        best = max(best, 2 * edge**3 * _CHAIN / seconds)
        if seconds > _LONG_S:
            break
    return best * runtime.devices


def _time_products(runtime: Runtime, edge: int) -> float:
    """Seconds of some products, each of the last one's result, in the fastest of some tries."""
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    left = torch.full((edge, edge), 1.0 / edge).to(runtime.device, dtype)

    def multiply() -> float:
        start, product = time.perf_counter(), left
        for _ in range(_CHAIN):
            product = left @ product
        runtime.cut()
        float(product.abs().max())  # waits; a sum or one element might be had without the products
        return time.perf_counter() - start

    multiply()  # compiles, and wakes what saves power
    return min(multiply() for _ in range(_TRIES))
