"""Which steps count: decided on the device, and counted there until somebody asks."""

import math

import torch
from torch import Tensor


class Guard:
    """Decides where the numbers of a step are whether it is applied, so that no host waits for it.

    Once `most` steps in a row were not applied, no other one is. So a run that reads this late, and
    then ends, leaves what one that had read it at once would have left.

    A CPU has the numbers: there it takes and gives those of Python, a tenth of the cost.

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
        self._here = [float(skipped), float(min(in_a_row, self._most - 1))]
        self._skipped, self._in_a_row = (torch.tensor(n).to(self._device) for n in self._here)

    def decide(self, loss: float, norm: float, bound: float) -> bool:
        """Tell whether the step is applied, and count it if it is not.

        Args:
            loss: mean over all processes, which so decide alike.
            norm: of the whole gradient.
            bound: what the loss may be.
        """
        skipped, in_a_row = self._here
        fine = math.isfinite(loss) and math.isfinite(norm) and loss <= bound
        applied = fine and in_a_row < self._most
        self._here = [skipped, 0.0] if applied else [skipped + 1, in_a_row + 1]
        return applied

    def decide_there(self, loss: Tensor, norm: Tensor, bound: float) -> Tensor:
        """Do the same with 0-dim tensors on the device; nobody waits."""
        applied = torch.isfinite(loss) & torch.isfinite(norm) & (self._in_a_row < self._most)
        if bound < math.inf:
            applied = applied & (loss <= bound)
        missed = (~applied).float()
        self._skipped = self._skipped + missed
        self._in_a_row = (self._in_a_row + missed) * missed
        return applied

    def facts(self, applied: bool) -> list[float]:
        """Whether the last step was applied, how many were not, and how many of them in a row."""
        return [float(applied), *self._here]

    def facts_there(self, applied: Tensor) -> Tensor:
        """The same of what was decided on the device."""
        return torch.stack([applied.float(), self._skipped, self._in_a_row])
