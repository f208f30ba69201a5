"""Where bfloat16 is used: in the arithmetic of the forward pass; parameters stay float32."""

from contextlib import AbstractContextManager, nullcontext

import torch

PRECISIONS = ("fp32", "bf16")
"""fp32: all arithmetic in float32. bf16: matrix products in bfloat16 under autocast; parameters,
gradients, optimiser state and the EMA teacher in float32. No loss scaling: bfloat16 has the range
of float32."""


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
