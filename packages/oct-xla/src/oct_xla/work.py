"""What training costs in arithmetic, and how much of it the devices can do: MFU."""

import time
from typing import NamedTuple

import torch

from oct_xla.runtime import Runtime

EDGES = {"cpu": 1024, "cuda": 8192, "xla": 8192}
"""Rows and columns of the matrices; larger ones are no faster on each kind of device."""
_CHAIN, _TRIES, _LEAST_S = 4, 5, 0.1


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


def measure_peak(runtime: Runtime, edge: int = 0) -> float:
    """Time products of large square matrices; returns operations a second of all devices.

    They are of the runtime's precision, so the ratio says what the model loses, not what numbers of
    fewer bits would win. Processes measure at the same time, as they train. Devices of one program
    that share the cores of a CPU each count as whole.

    Args:
        runtime: where, and with which precision.
        edge: rows and columns of the matrices; 0 takes those of `EDGES`.
    """
    edge = edge or EDGES[runtime.device.type]
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    left = torch.full((edge, edge), 1.0 / edge).to(runtime.device, dtype)

    def multiply(count: int) -> float:
        start, product = time.perf_counter(), left
        for _ in range(count):
            product = left @ product
        runtime.cut()
        float(product.abs().amax())  # waits; a sum or one element might be computed without them
        return time.perf_counter() - start

    multiply(_CHAIN)  # compiles, and wakes what saves power
    count = _CHAIN
    if runtime.name != "xla":  # there another number of products would be another graph
        count *= max(1, round(_LEAST_S / multiply(_CHAIN)))
    fastest_s = min(multiply(count) for _ in range(_TRIES))
    return 2 * edge**3 * count / fastest_s * runtime.devices
