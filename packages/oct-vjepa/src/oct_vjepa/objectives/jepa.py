"""The V-JEPA objective: predict a slow teacher's features of patches the encoder never saw.

As V-JEPA 2 does it (arXiv 2506.09985, app/vjepa/train.py), the features are those of the last block
and the loss is on hidden patches alone. Then nothing asks a visible token to say what is in its own
place, and it may serve as a notepad for the whole. V-JEPA 2.1 (arXiv 2603.14482, app/vjepa_2_1)
asks that of the visible patches too, more so near the hidden ones (`context_weight`), and predicts
four blocks of the teacher at once (`levels`). Five further terms are ours: `voxel_weight` asks for
the voxels of every patch, which no network's features can hide, `unit_weight` for what fixed random
units see of it and its neighbours, `filter_weight` for what classical filters see of it,
`volume_weight` for the mean token of the whole volume, and `partner_weight` for that of another
scan of the same eye or participant. Each is off at weight 0, and then costs nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.masking.masks import Masks
from oct_vjepa.model.blocks import initialise
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.model.predictor import Mixed, Predictor
from oct_vjepa.objectives.configuration import JepaConfig
from oct_vjepa.objectives.diagnostics import baseline_loss
from oct_vjepa.objectives.losses import (
    context_loss,
    normalise_levels,
    normalise_targets,
    prediction_loss,
    smooth_loss,
    standard_voxels,
    target_distance,
    variance_hinge,
)
from oct_vjepa.objectives.objective import JepaBatch, PairBatch, Taught
from oct_vjepa.objectives.schedules import ramp_at
from oct_vjepa.objectives.tally import Tally
from oct_vjepa.objectives.teacher import as_data
from oct_vjepa.objectives.units import FixedFilters, FixedUnits

__all__ = ["Jepa", "JepaBatch", "JepaConfig"]


class Said(NamedTuple):
    """What student and predictor make of one mask set; E is the D of one block or of several."""

    context_BKD: Tensor  # the student's tokens of the context, from the last block asked for
    target_BME: Tensor  # what is predicted of the targets
    mixed: Mixed  # the predictor's own tokens, from which the rest is said


class Asked(NamedTuple):
    """What is to be said of each patch beside features of it: voxels, or what fixed units see."""

    name: str  # of its loss in the report
    weight: float
    proj: nn.Module  # says it, of the predictor's tokens
    values_BNV: Tensor  # of all patches


class Goals(NamedTuple):
    """What is to be said of a batch; without gradients."""

    target_BNE: Tensor  # features of all patches
    asked: list[Asked]  # that have a weight
    partner_BD: Tensor | None  # the mean token of each volume's partner, if it is asked for


Terms = dict[str, tuple[float | Tensor, Tensor]]
"""Name in the report to the weight of a loss beside the prediction's, and its value, 0-dim."""


class Jepa(Taught):
    """Encoder, predictor and teacher with the loss that trains the first two.

    Args:
        encoder: the student; trained in place.
        config: see `JepaConfig`.
        masking: the mask sets; every volume goes through each. None: those of V-JEPA 2.

    Raises:
        ValueError: masks or levels do not fit the encoder.
    """

    predictor: Predictor
    context_weight: Tensor

    def __init__(
        self, encoder: Encoder, config: JepaConfig, masking: MaskingConfig | None = None
    ) -> None:
        masking = MaskingConfig() if masking is None else masking
        shape = encoder.config
        masking.check(shape.grid)
        layers = config.blocks_of(shape.depth)
        z, y, x = shape.patch_size
        predictor = Predictor(
            config.predictor,
            shape,
            len(masking.sets),
            levels=len(layers),
            dense=config.context_weight > 0,
            voxels=shape.channels * z * y * x if config.voxel_weight > 0 else 0,
            units=config.units if config.unit_weight > 0 else 0,
            filters=FixedFilters.values(shape) if config.filter_weight > 0 else 0,
        )
        super().__init__(encoder, predictor, masking, follows=config)
        self.config, self.layers = config, layers
        self.coupled = config.variance_weight > 0
        if config.context_weight > 0:
            # A tensor and part of the state: a changed number would be a new graph on XLA, and a
            # run that resumes must not start without it.
            self.register_buffer("context_weight", torch.tensor(self._context_weight(0, 1)))
        if config.unit_weight > 0:
            self.units = FixedUnits(shape, config.units)
        if config.filter_weight > 0:
            self.filters = FixedFilters(shape)
        if config.volume_weight > 0:
            self.volume = nn.Linear(predictor.config.width, shape.width)
            initialise(self.volume)
        if config.partner_weight > 0:
            self.partner = nn.Linear(predictor.config.width, shape.width)
            initialise(self.partner)

    @property
    def separable(self) -> bool:
        """Whether the loss is a mean over samples that draws nothing, if their masks are given."""
        return self.encoder.config.drop_path == 0 and not self.coupled

    def loss(
        self,
        batch: Tensor | JepaBatch | PairBatch,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device; nothing is read back.

        Args:
            batch: volumes (B, C, Z, Y, X) with their masks, or volumes alone; with partners if
                they have a weight, else each volume is its own.
            generator: on the CPU; draws the masks when `batch` is volumes alone.

        Returns:
            "loss" (differentiable); detached: "loss_0", "loss_1", ... the prediction's, one a mask
            set, "baseline_loss" (the loss of predicting the mean), "loss_over_baseline" (1: nothing
            learned), "target_std", "prediction_cosine", "variance_ratio", and of what else has a
            weight "context_loss" with "context_weight", "voxel_loss", "unit_loss",
            "filter_loss", "volume_loss", "partner_loss" and "variance_loss".

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or neither masks nor a generator.
        """
        plain = self._unpack(batch, generator)
        goals = self._goals(plain, batch)
        tally, terms = Tally(), []
        for index, one in enumerate(plain.masks):
            said = self.predict(plain, index)
            target = gather_patches(goals.target_BNE, one.target_BM)
            tally.add(prediction_loss(said.target_BME, target), said.target_BME, target)
            terms.append(self._terms(said, one, goals))
        report = tally.report(goals.target_BNE, baseline_loss(goals.target_BNE))
        out = {"loss": tally.mean(), **report}
        for name, (weight, _) in terms[0].items():
            mean = torch.stack([one[name][1] for one in terms]).mean()
            out |= {"loss": out["loss"] + weight * mean, name: mean.detach()}
        if self.config.context_weight > 0:
            out["context_weight"] = self.context_weight.clone()
        return out

    def targets(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What is to be predicted of every patch, (B, N, levels * D), float32, no gradients."""
        return normalise_levels(
            self.teacher(volume_BCZYX, spacing_B3=spacing_B3, layers=self.layers)
        )

    def predict(self, batch: JepaBatch, index: int) -> Said:
        """What student and predictor make of the mask set `index` of a batch."""
        masks, spacing = batch.masks[index], batch.spacing_B3
        levels = self.encoder(
            batch.volume_BCZYX, masks.context_BK, spacing_B3=spacing, layers=self.layers
        )
        mixed = self.predictor.mix(torch.cat(levels, dim=-1), masks, index, spacing)
        return Said(levels[-1], self.predictor.proj(mixed.target_BMP), mixed)

    def after_step(self, step: int, steps: int, applied: Tensor | None = None) -> dict[str, float]:
        """Move the teacher, and set the weight of the context loss for the next step."""
        weight = self._context_weight(step + 1, steps)
        if weight != self._context_weight(step, steps):
            new = as_data(weight, self.context_weight.device)
            if applied is not None:
                new = torch.where(applied, new, self.context_weight)
            self.context_weight.copy_(new)
        return super().after_step(step, steps, applied)

    def _goals(self, batch: JepaBatch, given: Tensor | JepaBatch | PairBatch) -> Goals:
        volume, config, predictor = batch.volume_BCZYX, self.config, self.predictor
        asked, partner = list[Asked](), None
        if (weight := config.voxel_weight) > 0:
            voxels = standard_voxels(volume, self.encoder.config)
            asked.append(Asked("voxel_loss", weight, predictor.proj_voxels, voxels))
        if (weight := config.unit_weight) > 0:
            asked.append(Asked("unit_loss", weight, predictor.proj_units, self.units(volume)))
        if (weight := config.filter_weight) > 0:
            asked.append(Asked("filter_loss", weight, predictor.proj_filters, self.filters(volume)))
        target_BNE = self.targets(volume, batch.spacing_B3)
        if config.partner_weight > 0:
            theirs_BNE = target_BNE
            if isinstance(given, PairBatch):
                self._check_shape(given.partner_BCZYX)
                theirs_BNE = self.targets(given.partner_BCZYX, given.partner_spacing_B3)
            partner = self._mean_token(theirs_BNE)
        return Goals(target_BNE, asked, partner)

    def _mean_token(self, target_BNE: Tensor) -> Tensor:
        """What is to be predicted of whole volumes: the last block's mean, normalised, (B, D)."""
        return normalise_targets(target_BNE[..., -self.encoder.config.width :].mean(dim=1))

    def _terms(self, said: Said, masks: Masks, goals: Goals) -> Terms:
        """What counts beside the prediction of one mask set: the same names for every set."""
        config, terms = self.config, Terms()
        if config.context_weight > 0:
            told = self.predictor.proj_context(said.mixed.context_BKP)
            given = gather_patches(goals.target_BNE, masks.context_BK)
            loss = context_loss(told, given, self._distance(masks))
            terms["context_loss"] = (self.context_weight, loss)
        for one in goals.asked:
            terms[one.name] = (one.weight, patch_loss(one.proj, said, masks, one.values_BNV))
        if config.volume_weight > 0:
            told = self.volume(torch.cat(said.mixed, dim=1).mean(dim=1))
            loss = prediction_loss(told, self._mean_token(goals.target_BNE))
            terms["volume_loss"] = (config.volume_weight, loss)
        if goals.partner_BD is not None:
            told = self.partner(torch.cat(said.mixed, dim=1).mean(dim=1))
            terms["partner_loss"] = (config.partner_weight, prediction_loss(told, goals.partner_BD))
        if config.variance_weight > 0:
            terms["variance_loss"] = (config.variance_weight, variance_hinge(said.context_BKD))
        return terms

    def _context_weight(self, step: int, steps: int) -> float:
        config = self.config
        share = ramp_at(step, steps, start=config.context_start, full=config.context_full)
        return config.context_weight * share

    def _distance(self, masks: Masks) -> Tensor | None:
        if not self.config.distance_weighted:
            return None
        return target_distance(masks.target_BM, masks.context_BK, self.encoder.config.grid)


def patch_loss(proj: nn.Module, said: Said, masks: Masks, values_BNV: Tensor) -> Tensor:
    """How far off a map of the predictor's tokens is on values of target and context, 0-dim."""
    ids = torch.cat([masks.target_BM, masks.context_BK], dim=1)
    return smooth_loss(proj(torch.cat(said.mixed, dim=1)), gather_patches(values_BNV, ids))
