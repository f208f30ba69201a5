"""What the objectives share: a student, a predictor, a slow teacher, and how they are trained."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.masking.foreground import foreground_patches
from oct_vjepa.masking.masks import Masks, sample_masks
from oct_vjepa.model.decay import decay_groups
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.configuration import TeacherConfig
from oct_vjepa.objectives.diagnostics import (
    dead_dimensions,
    effective_rank,
    feature_spread,
    pairwise_cosine,
    prediction_cosine,
    split_spread,
    variance_ratio,
)
from oct_vjepa.objectives.losses import normalise_targets
from oct_vjepa.objectives.schedules import momentum_at
from oct_vjepa.objectives.teacher import Teacher


class JepaBatch(NamedTuple):
    """Volumes with the masks drawn for them, one `Masks` per mask set."""

    volume_BCZYX: Tensor  # uint8 or floating, not normalised
    masks: tuple[Masks, ...]
    spacing_B3: Tensor | None = None  # between voxels along (Z, Y, X); for positions in lengths


class Objective(nn.Module):
    """Encoder, predictor and teacher; a subclass brings the loss that trains the first two.

    Args:
        encoder: the student; trained in place.
        predictor: says what the teacher will.
        config: how the teacher follows.
        masking: the mask sets; every volume goes through each.
        frozen: the teacher stays as it is now.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: nn.Module,
        config: TeacherConfig,
        masking: MaskingConfig,
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.teacher_config, self.masking, self.frozen = config, masking, frozen
        self.encoder, self.predictor = encoder, predictor
        self.teacher = Teacher(encoder)

    @property
    def result(self) -> Encoder:
        """What a run leaves behind: the teacher's encoder; the student where that never moves."""
        return self.encoder if self.frozen else self.teacher.encoder

    def forward(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Same as `loss`, for wrappers that call the module."""
        return self.loss(batch, generator)

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The loss and cheap diagnostics, each 0-dim; see the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def after_step(self, step: int, steps: int) -> dict[str, float]:
        """Move the teacher; call once after each optimiser step that was not skipped.

        Args:
            step: number of the optimiser step just taken, from 0.
            steps: planned number of steps.
        """
        if self.frozen:
            return {"momentum": 1.0}
        config = self.teacher_config
        momentum = momentum_at(
            step, steps, start=config.ema_start, end=config.ema_end, kind=config.ema_kind
        )
        self.teacher.update(self.encoder, momentum)
        return {"momentum": momentum}

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups: matrices with decay; biases, norms, mask tokens and places without."""
        return decay_groups(self, weight_decay)

    @torch.no_grad()
    def diagnostics(
        self,
        volume_BCZYX: Tensor,
        *,
        spacing_B3: Tensor | None = None,
        foreground_BN: Tensor | None = None,
    ) -> dict[str, float]:
        """Slower signs of collapse for the log, from the teacher's features; waits for the device.

        Give it more volumes than one step holds: the rank of B vectors is at most B - 1.

        Args:
            volume_BCZYX: the volumes to watch; the same ones each time.
            spacing_B3: distance between their voxels, if positions are lengths.
            foreground_BN: above 0 for patches of the foreground; None finds them by
                `masking.foreground`.

        Returns:
            "effective_rank" of the mean-pooled volumes, "token_rank" of at most 4 * D of their
            tokens, "pairwise_cosine" between volumes (0 for a single one), "spread_foreground" and
            "spread_background" of the normalised targets, "dead_dimensions" among them, and
            "teacher_drift", how far the student's weights are from the teacher's.
        """
        tokens_BND = self.teacher(volume_BCZYX, spacing_B3=spacing_B3).float().cpu()
        if foreground_BN is None:
            patch_size = self.encoder.config.patch_size
            foreground_BN = foreground_patches(volume_BCZYX, patch_size, self.masking.foreground)
        target_BND = normalise_targets(tokens_BND)
        front, back = split_spread(target_BND, foreground_BN.cpu())
        pooled_BD = tokens_BND.mean(dim=1)
        rows = tokens_BND.flatten(0, 1)
        stride = max(1, rows.shape[0] // (4 * rows.shape[1]))
        alike = float(pairwise_cosine(pooled_BD)) if len(pooled_BD) > 1 else 0.0
        return {
            "effective_rank": effective_rank(pooled_BD),
            "token_rank": effective_rank(rows[::stride]),
            "pairwise_cosine": alike,
            "spread_foreground": float(front),
            "spread_background": float(back),
            "dead_dimensions": float(dead_dimensions(target_BND)),
            "teacher_drift": float(self.teacher.drift(self.encoder)),
        }

    def _unpack(self, batch: Tensor | JepaBatch, generator: torch.Generator | None) -> JepaBatch:
        """The batch with masks on the device of its volumes; drawn now if there are none."""
        if isinstance(batch, Tensor):
            batch = JepaBatch(batch, ())
        volume = batch.volume_BCZYX
        self._check_shape(volume)
        if batch.masks:
            if len(batch.masks) != len(self.masking.sets):
                raise ValueError(
                    f"the batch has {len(batch.masks)} masks, masking.sets "
                    f"has {len(self.masking.sets)}"
                )
            return batch
        if generator is None:
            raise ValueError("give loss() a JepaBatch, or volumes and a generator for the masks")
        config = self.encoder.config
        foreground_BN = None
        if self.masking.needs_foreground:  # copies to the host; a feed that draws masks does not
            foreground_BN = foreground_patches(volume, config.patch_size, self.masking.foreground)
        drawn = sample_masks(
            self.masking,
            config.grid,
            volume.shape[0],
            generator=generator,
            foreground_BN=foreground_BN,
        )
        masks = tuple(Masks(*(ids.to(volume.device) for ids in one)) for one in drawn)
        return batch._replace(masks=masks)

    def _check_shape(self, volume_BCZYX: Tensor) -> None:
        wanted = self.encoder.config.input_shape
        if tuple(volume_BCZYX.shape[2:]) != wanted:
            raise ValueError(
                f"volumes must be (B, C, {wanted[0]}, {wanted[1]}, {wanted[2]}) as in "
                f"encoder.input_shape, not {tuple(volume_BCZYX.shape)}"
            )


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
