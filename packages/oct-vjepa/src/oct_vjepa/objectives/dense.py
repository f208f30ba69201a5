"""The V-JEPA 2.1 objective: features of several blocks, of hidden and of visible patches.

With a loss on hidden patches only, nothing asks a visible token to say what is in its own place,
and it may serve as a notepad for the whole. V-JEPA 2.1 (arXiv 2603.14482, app/vjepa_2_1/train.py)
asks that of the visible patches too, more so near the hidden ones, and predicts four blocks of the
teacher at once. Both help where features must be right in each place, as in segmentation.
"""

import torch
from torch import Tensor

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.masking.masks import Masks
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.objectives.configuration import DenseJepaConfig
from oct_vjepa.objectives.jepa import Predicting, Said, Terms
from oct_vjepa.objectives.losses import context_loss, normalise_levels, target_distance
from oct_vjepa.objectives.objective import JepaBatch
from oct_vjepa.objectives.schedules import ramp_at


class DenseJepa(Predicting):
    """Encoder, predictor and teacher with the loss of V-JEPA 2.1.

    The encoder's last norm serves all levels, where 2.1 has a norm for each: before the predictor's
    first linear map, and before the layer norm of the targets, the two differ by little, and the
    encoder keeps the parameters of V-JEPA 2.

    Args:
        encoder: the student; trained in place.
        config: see `DenseJepaConfig`.
        masking: the mask sets; every volume goes through each. None: those of V-JEPA 2.

    Raises:
        ValueError: masks or levels do not fit the encoder.
    """

    config: DenseJepaConfig
    context_weight: Tensor

    def __init__(
        self, encoder: Encoder, config: DenseJepaConfig, masking: MaskingConfig | None = None
    ) -> None:
        layers = config.blocks_of(encoder.config.depth)
        super().__init__(encoder, config, masking, levels=len(layers), dense=True)
        self.layers = layers
        # A tensor and part of the state: a changed number would be a new graph on XLA, and a run
        # that resumes must not start without it.
        self.register_buffer("context_weight", torch.tensor(self._context_weight(0, 1)))

    def loss(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """As `Jepa.loss`; "loss_0", ... speak of the targets alone.

        Besides there are "context_loss" and "context_weight", whose product is part of "loss".
        """
        out = super().loss(batch, generator)
        return out | {"context_weight": self.context_weight.clone()}

    def predict(self, batch: JepaBatch, index: int) -> Said:
        """The student's tokens of the context, and what those of all levels say of all patches."""
        masks, spacing = batch.masks[index], batch.spacing_B3
        levels = self.encoder(
            batch.volume_BCZYX, masks.context_BK, spacing_B3=spacing, layers=self.layers
        )
        said = self.predictor.dense(torch.cat(levels, dim=-1), masks, index, spacing)
        return Said(levels[-1], said.target_BMD, said.context_BKD)

    def terms(self, said: Said, masks: Masks, target_BNE: Tensor) -> Terms:
        """The loss on the context, then what every objective has."""
        assert said.given_BKE is not None, "see `predict`"
        given = gather_patches(target_BNE, masks.context_BK)
        loss = context_loss(said.given_BKE, given, self._distance(masks))
        terms: Terms = {"context_loss": (self.context_weight, loss)}
        return terms | super().terms(said, masks, target_BNE)

    def targets(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What is to be predicted of every patch, (B, N, levels * D), float32, no gradients."""
        return normalise_levels(
            self.teacher(volume_BCZYX, spacing_B3=spacing_B3, layers=self.layers)
        )

    def after_step(self, step: int, steps: int) -> dict[str, float]:
        """Move the teacher, and set the weight of the context loss for the next step."""
        weight = self._context_weight(step + 1, steps)
        if weight != self._context_weight(step, steps):
            self.context_weight.copy_(torch.tensor(weight))
        return super().after_step(step, steps)

    def _context_weight(self, step: int, steps: int) -> float:
        config = self.config
        share = ramp_at(step, steps, start=config.context_start, full=config.context_full)
        return config.context_weight * share

    def _distance(self, masks: Masks) -> Tensor | None:
        if not self.config.distance_weighted:
            return None
        return target_distance(masks.target_BM, masks.context_BK, self.encoder.config.grid)
