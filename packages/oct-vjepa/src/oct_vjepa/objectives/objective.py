"""What the objectives share: a student, what stands behind it, a teacher, how they are trained."""

from math import gcd
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
    pairwise_cosine,
    split_spread,
)
from oct_vjepa.objectives.losses import normalise_targets
from oct_vjepa.objectives.schedules import momentum_at
from oct_vjepa.objectives.teacher import Teacher


class JepaBatch(NamedTuple):
    """Volumes with the masks drawn for them, one `Masks` per mask set."""

    volume_BCZYX: Tensor  # uint8 or floating, not normalised
    masks: tuple[Masks, ...]
    spacing_B3: Tensor | None = None  # between voxels along (Z, Y, X); for positions in lengths


class PairBatch(NamedTuple):
    """Volumes with a partner each; the feed chooses them.

    Such as two scans of one participant, on two sides or by two devices, or two of one eye. Where
    there is none, the volume is its own partner.
    """

    volume_BCZYX: Tensor
    partner_BCZYX: Tensor  # of the same shape
    masks: tuple[Masks, ...]
    spacing_B3: Tensor | None = None
    partner_spacing_B3: Tensor | None = None

    @property
    def plain(self) -> JepaBatch:
        """The volumes without their partners."""
        return JepaBatch(self.volume_BCZYX, self.masks, self.spacing_B3)


class Objective(nn.Module):
    """An encoder and what helps to train it; a subclass brings the loss.

    Args:
        encoder: the student; trained in place.
        predictor: what stands behind it in training, and is thrown away after it.
        masking: the mask sets; every volume goes through each.
    """

    coupled: bool = False
    """Whether the loss compares the volumes of a micro-batch, and is no mean over them."""

    def __init__(self, encoder: Encoder, predictor: nn.Module, masking: MaskingConfig) -> None:
        super().__init__()
        self.masking = masking
        self.encoder, self.predictor = encoder, predictor

    @property
    def result(self) -> Encoder:
        """The encoder that a run leaves behind."""
        return self.encoder

    def forward(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Same as `loss`, for wrappers that call the module."""
        return self.loss(batch, generator)

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The loss and cheap diagnostics, each 0-dim; see the subclass."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        """Do what comes after each optimiser step that was not skipped; returns numbers to log.

        Args:
            step: number of the optimiser step just taken, from 0.
            steps: planned number of steps.
            applied: 0-dim bool on the device; False: it was skipped, and nothing changes. For loops
                that do not wait for the device to know. None: it was not skipped.
        """
        return {}

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
        at_once: int = 0,
    ) -> dict[str, float]:
        """Slower signs of collapse for the log, from the features that a run leaves behind.

        Waits for the device.

        Give it more volumes than one step holds: the rank of B vectors is at most B - 1.

        Args:
            volume_BCZYX: the volumes to watch; the same ones each time.
            spacing_B3: distance between their voxels, if positions are lengths.
            foreground_BN: above 0 for patches of the foreground; None finds them by
                `masking.foreground`.
            at_once: most volumes that are copied to the encoder's device and go through it
                together; 0: all.

        Returns:
            "effective_rank" of the mean-pooled volumes, "token_rank" of at most 4 * D of their
            tokens, "pairwise_cosine" between volumes (0 for a single one), "spread_foreground" and
            "spread_background" of the normalised tokens, "dead_dimensions" among them, and, where a
            teacher follows, "teacher_drift", how far the student's weights are from its own.
        """
        tokens_BND = self._features(volume_BCZYX, spacing_B3, at_once or len(volume_BCZYX))
        if foreground_BN is None:
            patch_size = self.encoder.config.patch_size
            foreground_BN = foreground_patches(volume_BCZYX, patch_size, self.masking.foreground)
        target_BND = normalise_targets(tokens_BND)
        front, back = split_spread(target_BND, foreground_BN.cpu())
        pooled_BD = tokens_BND.mean(dim=1)
        rows = tokens_BND.flatten(0, 1)
        stride = max(1, rows.shape[0] // (4 * rows.shape[1]))
        while gcd(stride, tokens_BND.shape[1]) > 1:  # a common divisor would skip places
            stride += 1
        alike = float(pairwise_cosine(pooled_BD)) if len(pooled_BD) > 1 else 0.0
        return {
            "effective_rank": effective_rank(pooled_BD),
            "token_rank": effective_rank(rows[::stride]),
            "pairwise_cosine": alike,
            "spread_foreground": float(front),
            "spread_background": float(back),
            "dead_dimensions": float(dead_dimensions(target_BND)),
        }

    def _features(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None, at_once: int) -> Tensor:
        """Tokens of all volumes, (B, N, D), float32, on the CPU."""
        encoder, place = self.result, next(self.result.parameters()).device
        count = len(volume_BCZYX)
        while place.type == "xla" and count % at_once:  # another size would be compiled again
            at_once -= 1
        was_training, parts = encoder.training, []
        encoder.eval()
        try:
            for first in range(0, count, at_once):
                part = slice(first, first + at_once)
                spacing = None if spacing_B3 is None else spacing_B3[part].to(place)
                tokens = encoder(volume_BCZYX[part].to(place), spacing_B3=spacing)
                parts.append(tokens.float().cpu())
        finally:
            encoder.train(was_training)
        return torch.cat(parts)

    def _unpack(
        self, batch: Tensor | JepaBatch | PairBatch, generator: torch.Generator | None
    ) -> JepaBatch:
        """The batch with masks on the device of its volumes; drawn now if there are none."""
        if isinstance(batch, Tensor):
            batch = JepaBatch(batch, ())
        if isinstance(batch, PairBatch):
            batch = batch.plain
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


class Taught(Objective):
    """An objective whose targets come from a teacher.

    Args:
        encoder: the student; trained in place.
        predictor: says what the teacher will.
        masking: the mask sets; every volume goes through each.
        follows: how a copy of the student follows it. None: the teacher stays as it is.
        teacher: another encoder to learn from. None: a copy of the student as it is now.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: nn.Module,
        masking: MaskingConfig,
        *,
        follows: TeacherConfig | None,
        teacher: Encoder | None = None,
    ) -> None:
        super().__init__(encoder, predictor, masking)
        self.teacher_config = follows
        self.teacher = Teacher(encoder if teacher is None else teacher)

    @property
    def result(self) -> Encoder:
        """What a run leaves behind: the teacher's encoder; the student where that never moves."""
        return self.encoder if self.teacher_config is None else self.teacher.encoder

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        """Move the teacher; see `Objective.after_step`."""
        config = self.teacher_config
        if config is None:
            return {"momentum": 1.0}
        momentum = momentum_at(
            step, steps, start=config.ema_start, end=config.ema_end, kind=config.ema_kind
        )
        self.teacher.update(self.encoder, momentum, applied)
        return {"momentum": momentum}

    @torch.no_grad()
    def diagnostics(
        self,
        volume_BCZYX: Tensor,
        *,
        spacing_B3: Tensor | None = None,
        foreground_BN: Tensor | None = None,
        at_once: int = 0,
    ) -> dict[str, float]:
        """As `Objective.diagnostics`, with "teacher_drift" where the teacher follows."""
        found = super().diagnostics(
            volume_BCZYX, spacing_B3=spacing_B3, foreground_BN=foreground_BN, at_once=at_once
        )
        if self.teacher_config is not None:
            found["teacher_drift"] = float(self.teacher.drift(self.encoder))
        return found
