"""Numbers of the mask sets of a step, on their way into one report."""

import torch
from torch import Tensor

from oct_vjepa.objectives.diagnostics import feature_spread, prediction_cosine, variance_ratio


class Tally:
    """Numbers of each mask set on their way into one report; all 0-dim and on the device."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self._cosines: list[Tensor] = []
        self._ratios: list[Tensor] = []

    @torch.no_grad()
    def _compare(self, prediction_BMD: Tensor, target_BMD: Tensor) -> None:
        self._cosines.append(prediction_cosine(prediction_BMD, target_BMD))
        self._ratios.append(variance_ratio(prediction_BMD, target_BMD))

    def add(self, loss: Tensor, prediction_BMD: Tensor, target_BMD: Tensor) -> None:
        """Note the loss of one mask set, and how prediction and target compare."""
        self.losses.append(loss)
        self._compare(prediction_BMD.detach(), target_BMD)

    def mean(self) -> Tensor:
        """Loss over all mask sets, differentiable."""
        return torch.stack(self.losses).mean()

    @torch.no_grad()
    def report(self, target_BND: Tensor, baseline: Tensor) -> dict[str, Tensor]:
        """Everything but the loss itself, detached.

        Args:
            target_BND: targets of all patches.
            baseline: the loss of always predicting their mean.
        """
        losses = [one.detach() for one in self.losses]
        return {
            **{f"loss_{index}": one for index, one in enumerate(losses)},
            "baseline_loss": baseline,
            "loss_over_baseline": torch.stack(losses).mean() / baseline.clamp_min(1e-12),
            "target_std": feature_spread(target_BND),
            "prediction_cosine": torch.stack(self._cosines).mean(),
            "variance_ratio": torch.stack(self._ratios).mean(),
        }
