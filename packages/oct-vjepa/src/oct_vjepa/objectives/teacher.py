"""The teacher: a slow copy of the encoder, moved towards it after every optimiser step."""

import copy
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from oct_vjepa.model.encoder import Encoder


class Teacher(nn.Module):
    """Exponential moving average of an encoder, in float32, without gradients, always in eval mode.

    float32 because one step moves a weight by less than bfloat16 can tell apart.
    """

    def __init__(self, student: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student).float().requires_grad_(False)
        self.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Go where the module around it goes, but keep the numbers: `bfloat16()` is not for it."""

        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        return super()._apply(moved, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        x_BCZYX: Tensor,
        *,
        spacing_B3: Tensor | None = None,
        layers: Sequence[int] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Features of every patch of the whole volume: what `Encoder.forward` gives, (B, N, D).

        Args:
            x_BCZYX: the volume.
            spacing_B3: distance between voxels along (z, y, x), if positions are lengths.
            layers: numbers of blocks; with them a tuple, one (B, N, D) a block.
        """
        return self.encoder(x_BCZYX, spacing_B3=spacing_B3, layers=layers)

    @torch.no_grad()
    def drift(self, student: Encoder) -> Tensor:
        """Distance between the student's weights and these, over the length of these, 0-dim."""
        pairs = list(zip(student.parameters(), self.encoder.parameters(), strict=True))
        apart = torch.stack([(theirs.float() - mine).norm() for theirs, mine in pairs]).norm()
        length = torch.stack([mine.norm() for _, mine in pairs]).norm()
        return apart / length.clamp_min(1e-12)

    @torch.no_grad()
    def update(self, student: Encoder, momentum: float, applied: Tensor | None = None) -> None:
        """Set each weight to momentum * itself + (1 - momentum) * the student's.

        `momentum` is a Python number and nothing is read back, so the device does not wait.

        Args:
            student: who is followed.
            momentum: share that stays.
            applied: 0-dim bool on the device; False holds the teacher still. None: it moves.
        """
        follow(self.encoder, student, momentum, applied)


@torch.no_grad()
def follow(
    teacher: nn.Module, student: nn.Module, momentum: float, applied: Tensor | None = None
) -> None:
    """Move each weight of a teacher, all at once; see `Teacher.update`."""
    mine: list[Tensor] = list(teacher.parameters())
    pairs = zip(mine, student.parameters(), strict=True)
    theirs = [weight.detach().to(own.dtype) for own, weight in pairs]
    if applied is not None:
        share = as_data(1.0 - momentum, applied.device) * applied
        for own, other in zip(mine, theirs, strict=True):
            own.lerp_(other, share)
        return
    torch._foreach_mul_(mine, momentum)
    torch._foreach_add_(mine, theirs, alpha=1.0 - momentum)


def as_data(value: float, device: torch.device) -> Tensor:
    """A number of each step, 0-dim on the device; nobody waits for it.

    torch-xla writes a 0 or 1 into the graph, of Python or of a 0-dim tensor, and compiles another
    one where a schedule comes to it. One of a vector is data like any other.
    """
    return torch.tensor([value]).to(device, non_blocking=True)[0]
