"""The V-JEPA 2.1 objective: features of several blocks, of hidden and of visible patches.

With a loss on hidden patches only, nothing asks a visible token to say what is in its own place,
and it may serve as a notepad for the whole. V-JEPA 2.1 (arXiv 2603.14482, app/vjepa_2_1/train.py)
asks that of the visible patches too, more so near the hidden ones, and predicts four blocks of the
teacher at once. Both help where features must be right in each place, as in segmentation.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from oct_vjepa.masking.masks import MaskingConfig, Masks
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.objectives.jepa import JepaConfig, Predicting, Said, Terms
from oct_vjepa.objectives.losses import context_loss, normalise_levels, target_distance
from oct_vjepa.objectives.objective import JepaBatch
from oct_vjepa.objectives.schedules import ramp_at
from oct_vjepa.rules import AT_LEAST_1, NOT_NEGATIVE, check_numbers


@dataclass(kw_only=True, slots=True)
class DenseJepaConfig(JepaConfig):
    """V-JEPA 2.1: as `JepaConfig`, with levels and a loss on the context."""

    levels: int = 4
    """Blocks whose features go into the predictor and are predicted, spread evenly: 2, 5, 8 and 11
    of 12 (app/vjepa_2_1/models/vision_transformer.py)."""
    layers: list[int] = field(default_factory=list)
    """Numbers of those blocks, from 0 and ascending; empty spreads `levels` evenly."""
    context_weight: float = 0.5
    """Weight of the loss on context tokens when it is fully on; 2.1: 0.5 for video."""
    context_start: float = 0.11
    """Share of the steps before it sets in; 2.1: step 15,000 of 135,000."""
    context_full: float = 0.22
    """Share of the steps after which it is fully on; 2.1: step 30,000 of 135,000."""
    distance_weighted: bool = True
    """Whether a context token counts less, by the root of its distance to the nearest target."""

    def __post_init__(self) -> None:
        JepaConfig.__post_init__(self)
        check_numbers(self, "jepa", AT_LEAST_1, "levels")
        check_numbers(self, "jepa", NOT_NEGATIVE, "context_weight")
        if not 0 <= self.context_start <= self.context_full <= 1:
            raise ValueError(
                f"jepa.context_start ({self.context_start}) and context_full "
                f"({self.context_full}) must be from 0 to 1, the first not above the second"
            )

    def blocks_of(self, depth: int) -> list[int]:
        """Numbers of the blocks for an encoder of `depth` blocks.

        Raises:
            ValueError: the encoder has fewer blocks than there are levels, or not those asked for.
        """
        if not self.layers:
            if self.levels > depth:
                raise ValueError(
                    f"jepa.levels ({self.levels}) must be at most encoder.depth ({depth})"
                )
            return [(level + 1) * depth // self.levels - 1 for level in range(self.levels)]
        if self.layers != sorted(set(self.layers)) or not 0 <= self.layers[0] < depth:
            raise ValueError(f"jepa.layers ({self.layers}) must be ascending and from 0")
        if self.layers[-1] >= depth:
            raise ValueError(f"jepa.layers ({self.layers}) must be below encoder.depth ({depth})")
        return list(self.layers)


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
