"""Layer norms that XLA cuts over devices like all else, which torch-xla's own are not."""

from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class PlainNorms(TorchFunctionMode):
    """As a context, computes layer norms by means and squares.

    torch-xla 2.9 makes of a layer norm the batch norm of one image with a channel for each token.
    XLA's partitioner knows no way to cut that operation: the tokens of the whole batch come
    together on every device, at each layer norm, forward and backward.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call what was called, or what stands in its place."""
        del types
        taken = layer_norm if func is functional.layer_norm else func
        return taken(*args, **(kwargs or {}))


def layer_norm(
    values: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return what `torch.nn.functional.layer_norm` does, in the type of `values`; in float32."""
    axes = tuple(range(-len(normalized_shape), 0))
    found = values.float()
    found = found - found.mean(axes, keepdim=True)
    found = found * (found.square().mean(axes, keepdim=True) + eps).rsqrt()
    if weight is not None:
        found = found * weight
    if bias is not None:
        found = found + bias
    return found.to(values.dtype)
