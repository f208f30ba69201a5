"""The V-JEPA 2 objective: predict a slow teacher's features of patches the encoder never saw."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.diagnostics import (
    baseline_loss,
    effective_rank,
    feature_spread,
    pairwise_cosine,
    prediction_cosine,
    variance_ratio,
)
from oct_vjepa.encoder import Encoder
from oct_vjepa.losses import normalise_targets, prediction_loss
from oct_vjepa.masks import MaskingConfig, Masks, sample_masks
from oct_vjepa.patches import gather_patches
from oct_vjepa.predictor import Predictor, PredictorConfig
from oct_vjepa.schedules import momentum_at
from oct_vjepa.teacher import Teacher


class JepaBatch(NamedTuple):
    """Volumes with the masks drawn for them, one `Masks` per mask set."""

    volume_BCZYX: Tensor  # uint8 or floating, not normalised
    masks: tuple[Masks, ...]


@dataclass(kw_only=True, slots=True)
class JepaConfig:
    """What is predicted from what, and how fast the teacher follows."""

    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """Shape of the predictor."""
    ema_start: float = 0.996
    """Teacher momentum at the first step (I-JEPA). Runs of about 1,000 steps want 0.99; V-JEPA 2
    holds 0.99925 over 252,000."""
    ema_end: float = 1.0
    """Teacher momentum at the last step; it is kept just below 1."""

    def __post_init__(self) -> None:
        for name in ("ema_start", "ema_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"jepa.{name} ({getattr(self, name)}) must be from 0 to 1")


class Jepa(nn.Module):
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
        super().__init__()
        self.config = config
        self.masking = MaskingConfig() if masking is None else masking
        for mask_set in self.masking.sets:
            mask_set.columns(encoder.config.grid)
        self.encoder = encoder
        self.predictor = Predictor(
            config.predictor, encoder.config, mask_tokens=len(self.masking.sets)
        )
        self.teacher = Teacher(encoder)

    def forward(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Same as `loss`, for wrappers that call the module."""
        return self.loss(batch, generator)

    def loss(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device; nothing is read back.

        Args:
            batch: volumes (B, C, Z, Y, X) with their masks, or volumes alone.
            generator: on the CPU; draws the masks when `batch` is volumes alone.

        Returns:
            "loss" (differentiable); detached: "loss_0", "loss_1", ... one a mask set,
            "baseline_loss" (the loss of predicting the mean), "target_std", "prediction_cosine" and
            "variance_ratio".

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or neither masks nor a generator.
        """
        volume, masks = self._unpack(batch, generator)
        target_BND = normalise_targets(self.teacher(volume))
        losses, cosines, ratios = [], [], []
        for index, one in enumerate(masks):
            context = self.encoder(volume, one.context_BK)
            prediction = self.predictor(context, one, index)
            target = gather_patches(target_BND, one.target_BM)
            losses.append(prediction_loss(prediction, target))
            with torch.no_grad():
                cosines.append(prediction_cosine(prediction, target))
                ratios.append(variance_ratio(prediction, target))
        return {
            "loss": torch.stack(losses).mean(),
            **{f"loss_{index}": loss.detach() for index, loss in enumerate(losses)},
            "baseline_loss": baseline_loss(target_BND),
            "target_std": feature_spread(target_BND),
            "prediction_cosine": torch.stack(cosines).mean(),
            "variance_ratio": torch.stack(ratios).mean(),
        }

    def after_step(self, step: int, steps: int) -> dict[str, float]:
        """Move the teacher; call once after each optimiser step that was not skipped.

        Args:
            step: number of the optimiser step just taken, from 0.
            steps: planned number of steps.
        """
        config = self.config
        momentum = momentum_at(step, steps, start=config.ema_start, end=config.ema_end)
        self.teacher.update(self.encoder, momentum)
        return {"momentum": momentum}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups: matrices with decay; biases, norms and mask tokens without."""
        decayed: list[nn.Parameter] = []
        free: list[nn.Parameter] = []
        for name, weight in self.named_parameters():
            if weight.requires_grad:
                alone = weight.ndim < 2 or name.endswith("mask_tokens")
                (free if alone else decayed).append(weight)
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": free, "weight_decay": 0.0},
        ]

    @torch.no_grad()
    def diagnostics(self, volume_BCZYX: Tensor) -> dict[str, float]:
        """Slower signs of collapse for the log, from the teacher's features; waits for the device.

        Give it more volumes than one step holds: the rank of B vectors is at most B - 1.

        Returns:
            "effective_rank" of the mean-pooled volumes, "token_rank" of at most 4 * D of their
            tokens, and "pairwise_cosine" between volumes (0 for a single one).
        """
        tokens_BND = self.teacher(volume_BCZYX).float().cpu()
        pooled_BD = tokens_BND.mean(dim=1)
        rows = tokens_BND.flatten(0, 1)
        stride = max(1, rows.shape[0] // (4 * rows.shape[1]))
        alike = float(pairwise_cosine(pooled_BD)) if len(pooled_BD) > 1 else 0.0
        return {
            "effective_rank": effective_rank(pooled_BD),
            "token_rank": effective_rank(rows[::stride]),
            "pairwise_cosine": alike,
        }

    def _unpack(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None
    ) -> tuple[Tensor, tuple[Masks, ...]]:
        volume = batch if isinstance(batch, Tensor) else batch.volume_BCZYX
        wanted = self.encoder.config.input_shape
        if tuple(volume.shape[2:]) != wanted:
            raise ValueError(
                f"volumes must be (B, C, {wanted[0]}, {wanted[1]}, {wanted[2]}) as in "
                f"encoder.input_shape, not {tuple(volume.shape)}"
            )
        if not isinstance(batch, Tensor):
            if len(batch.masks) != len(self.masking.sets):
                raise ValueError(
                    f"the batch has {len(batch.masks)} masks, masking.sets "
                    f"has {len(self.masking.sets)}"
                )
            return volume, batch.masks
        if generator is None:
            raise ValueError("give loss() a JepaBatch, or volumes and a generator for the masks")
        grid = self.encoder.config.grid
        drawn = sample_masks(self.masking, grid, volume.shape[0], generator=generator)
        return volume, tuple(Masks(*(ids.to(volume.device) for ids in one)) for one in drawn)
