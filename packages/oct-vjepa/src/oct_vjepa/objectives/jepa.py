"""The V-JEPA 2 objective: predict a slow teacher's features of patches the encoder never saw."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from oct_vjepa.masking.masks import MaskingConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.model.predictor import Predictor, PredictorConfig
from oct_vjepa.objectives.diagnostics import baseline_loss
from oct_vjepa.objectives.losses import normalise_targets, prediction_loss, variance_hinge
from oct_vjepa.objectives.objective import JepaBatch, Objective, Tally, TeacherConfig

__all__ = ["Jepa", "JepaBatch", "JepaConfig"]


@dataclass(kw_only=True, slots=True)
class JepaConfig(TeacherConfig):
    """What is predicted from what, and how fast the teacher follows."""

    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """Shape of the predictor."""
    variance_weight: float = 0.0
    """Weight of the variance term on the context tokens (VICReg, equation 1); V-JEPA 2 has none. A
    spur against collapse where the momentum cannot be slow."""

    def __post_init__(self) -> None:
        TeacherConfig.__post_init__(self)
        if not self.variance_weight >= 0:
            raise ValueError(f"jepa.variance_weight ({self.variance_weight}) must not be negative")


def add_variance_loss(
    out: dict[str, Tensor], hinges: Sequence[Tensor], weight: float
) -> dict[str, Tensor]:
    """`out` with the variance term, one hinge a mask set, in "loss" and as "variance_loss"."""
    if not hinges:
        return out
    hinge = torch.stack(list(hinges)).mean()
    return out | {"loss": out["loss"] + weight * hinge, "variance_loss": hinge.detach()}


class Jepa(Objective):
    """Encoder, predictor and teacher with the loss that trains the first two.

    Args:
        encoder: the student; trained in place.
        config: see `JepaConfig`.
        masking: the mask sets; every volume goes through each. None: those of V-JEPA 2.

    Raises:
        ValueError: the masks do not fit the encoder's grid.
    """

    def __init__(
        self, encoder: Encoder, config: JepaConfig, masking: MaskingConfig | None = None
    ) -> None:
        masking = MaskingConfig() if masking is None else masking
        masking.check(encoder.config.grid)
        predictor = Predictor(config.predictor, encoder.config, mask_tokens=len(masking.sets))
        super().__init__(encoder, predictor, config, masking)
        self.config = config

    def loss(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device; nothing is read back.

        Args:
            batch: volumes (B, C, Z, Y, X) with their masks, or volumes alone.
            generator: on the CPU; draws the masks when `batch` is volumes alone.

        Returns:
            "loss" (differentiable); detached: "loss_0", "loss_1", ... one a mask set,
            "baseline_loss" (the loss of predicting the mean), "loss_over_baseline" (1: nothing
            learned), "target_std", "prediction_cosine", "variance_ratio", and "variance_loss" if
            it has a weight.

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or neither masks nor a generator.
        """
        batch = self._unpack(batch, generator)
        volume, spacing = batch.volume_BCZYX, batch.spacing_B3
        target_BND = self.targets(volume, spacing)
        tally, hinges = Tally(), []
        for index, one in enumerate(batch.masks):
            context = self.encoder(volume, one.context_BK, spacing_B3=spacing)
            prediction = self.predictor(context, one, index, spacing)
            target = gather_patches(target_BND, one.target_BM)
            tally.add(prediction_loss(prediction, target), prediction, target)
            if self.config.variance_weight:
                hinges.append(variance_hinge(context))
        out = {"loss": tally.mean(), **tally.report(target_BND, baseline_loss(target_BND))}
        return add_variance_loss(out, hinges, self.config.variance_weight)

    def targets(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What is to be predicted of every patch, (B, N, D), float32, without gradients."""
        return normalise_targets(self.teacher(volume_BCZYX, spacing_B3=spacing_B3))
