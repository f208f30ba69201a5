"""Attention and blocks that hold less in memory: fused kernels, and recomputing in the backward."""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

FLASH_BLOCK = 1024  # torch_xla.experimental.custom_kernel: the largest of DEFAULT_BLOCK_SIZES
FLASH_SHORT = (128, 256, 512)  # shorter lengths that the smaller blocks divide

Fused = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values (B, H, N, D) in, what the queries become out."""


def attend(query_BMHD: Tensor, key_BNHD: Tensor, value_BNHD: Tensor, kernel: str) -> Tensor:
    """Softmax attention without a matrix of M x N in memory, heads side by side, (B, M, H * D).

    Args:
        query_BMHD: M tokens that ask, in H heads of width D.
        key_BNHD: N tokens that are asked.
        value_BNHD: what they answer.
        kernel: one of `ATTENTION_KERNELS`; see `pick_kernel`.
    """
    query, key, value = (part.transpose(1, 2) for part in (query_BMHD, key_BNHD, value_BNHD))
    fused = pick_kernel(kernel, query.device, query.shape[2])
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
        with torch.autocast("cpu", enabled=False):  # its backward in bfloat16 takes thrice as long
            mixed = fused(query.float(), key.float(), value.float()).to(query.dtype)
    else:
        mixed = fused(query, key, value)
    return mixed.transpose(1, 2).flatten(-2)


def pick_kernel(kernel: str, device: torch.device, tokens: int) -> Fused:
    """The function that attends among `tokens` on `device`.

    PyTorch's fused attention everywhere. On a TPU it would be taken apart into the matrix of all
    pairs, so "auto" takes torch-xla's Pallas kernel there, where its blocks divide the tokens. That
    path has not been run on a TPU yet; "sdpa" avoids it.
    """
    if kernel == "auto" and device.type == "xla" and fits_flash(tokens):
        return _tpu_flash() or functional.scaled_dot_product_attention
    return functional.scaled_dot_product_attention


def fits_flash(tokens: int) -> bool:
    """Whether the blocks of torch-xla's kernel divide `tokens`.

    The kernel pads keys with zeros that its softmax would count, so other lengths are not for it.
    """
    return tokens in FLASH_SHORT or (tokens > 0 and tokens % FLASH_BLOCK == 0)


@cache
def _tpu_flash() -> Fused | None:
    """torch-xla's kernel on a TPU with jax installed (it compiles the kernel), else None."""
    import torch_xla.runtime as xr

    if xr.device_type() != "TPU" or find_spec("jax") is None:
        return None
    import torch_xla.distributed.spmd as xs
    from torch_xla.experimental import custom_kernel

    kernel: Any = custom_kernel.flash_attention
    meshes: Any = xs

    def flash(query_BHND: Tensor, key_BHND: Tensor, value_BHND: Tensor) -> Tensor:
        shared: dict[str, Any] = {"sm_scale": query_BHND.shape[-1] ** -0.5}  # its own default is 1
        mesh = meshes.get_global_mesh()
        if mesh is not None:  # SPMD: each device attends within its own part of the batch
            shared |= {"mesh": mesh, "partition_spec": (mesh.axis_names[0], None, None, None)}
        return kernel(query_BHND, key_BHND, value_BHND, **shared)

    return flash


def recompute(part: Callable[..., Tensor], x_BND: Tensor, *others: Tensor | None) -> Tensor:
    """`part(x_BND, *others)`, keeping only its inputs until the backward pass.

    On XLA torch's own function fails (torch 2.9) and the compiler would merge the recomputation
    with the first pass, so torch-xla's is used. That one gives no gradient to the weights if the
    input needs none, and then nothing is recomputed.
    """
    if not torch.is_grad_enabled():
        return part(x_BND, *others)
    if x_BND.device.type != "xla":
        return checkpoint(part, x_BND, *others, use_reentrant=False)
    if not x_BND.requires_grad:
        return part(x_BND, *others)
    from torch_xla.utils.checkpoint import checkpoint as xla_checkpoint

    return xla_checkpoint(part, x_BND, *others, use_reentrant=True)
