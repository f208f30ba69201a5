"""The teacher: a slow copy of the encoder, moved towards it after every optimiser step."""

import copy
from typing import Self

import torch
from torch import Tensor, nn

from oct_vjepa.encoder import Encoder


class Teacher(nn.Module):
    """Exponential moving average of an encoder, in float32, without gradients, always in eval mode.

    float32 because one step moves a weight by less than bfloat16 can tell apart.
    """

    def __init__(self, student: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student).float().requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the module around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x_BCZYX: Tensor) -> Tensor:
        """Features of every patch of the whole volume, (B, N, D)."""
        return self.encoder(x_BCZYX)

    @torch.no_grad()
    def update(self, student: Encoder, momentum: float) -> None:
        """Set each weight to momentum * itself + (1 - momentum) * the student's.

        `momentum` is a Python number and nothing is read back, so the device does not wait.
        """
        mine: list[Tensor] = list(self.encoder.parameters())
        theirs = [weight.detach().to(torch.float32) for weight in student.parameters()]
        torch._foreach_mul_(mine, momentum)
        torch._foreach_add_(mine, theirs, alpha=1.0 - momentum)
