"""Which steps count: decided on the device, and counted there until somebody asks."""

import math

import torch
from torch import Tensor


class Guard:
    """Decides where the numbers of a step are whether it is applied, so that no host waits for it.

    Once `most` steps in a row were not applied, no other one is. So a run that reads this late, and
    then ends, leaves what one that had read it at once would have left.

    Args:
        device: where the numbers are.
        most: steps in a row that may not be applied before the run is to end.
    """

    def __init__(self, device: torch.device, *, most: int) -> None:
        self._device, self._most = device, most
        self.begin(0, 0)

    def begin(self, skipped: int, in_a_row: int) -> None:
        """Count on from where a run stands: all steps that were not applied, and the last ones."""
        # Floats, as they are read with the numbers; exact to 16 million. One more may always count.
        self._skipped = torch.tensor(float(skipped)).to(self._device)
        self._in_a_row = torch.tensor(float(min(in_a_row, self._most - 1))).to(self._device)

    def decide(self, loss: Tensor, norm: Tensor, bound: float) -> Tensor:
        """Tell whether the step is applied, 0-dim bool, and count it if it is not.

        Args:
            loss: mean over all processes, which so decide alike.
            norm: of the whole gradient.
            bound: what the loss may be.
        """
        applied = torch.isfinite(loss) & torch.isfinite(norm) & (self._in_a_row < self._most)
        if bound < math.inf:
            applied = applied & (loss <= bound)
        missed = (~applied).float()
        self._skipped = self._skipped + missed
        self._in_a_row = (self._in_a_row + missed) * missed
        return applied

    def facts(self, applied: Tensor) -> Tensor:
        """Whether the last step was applied, how many were not, and how many of them in a row."""
        return torch.stack([applied.float(), self._skipped, self._in_a_row])
