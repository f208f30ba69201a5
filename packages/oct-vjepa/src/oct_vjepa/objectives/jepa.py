"""The V-JEPA 2 objective: predict a slow teacher's features of patches the encoder never saw."""

from typing import NamedTuple

import torch
from torch import Tensor

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.masking.masks import Masks
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.model.predictor import Predictor
from oct_vjepa.objectives.configuration import JepaConfig
from oct_vjepa.objectives.diagnostics import baseline_loss
from oct_vjepa.objectives.losses import normalise_targets, prediction_loss, variance_hinge
from oct_vjepa.objectives.objective import JepaBatch, Objective, Tally

__all__ = ["Jepa", "JepaBatch", "JepaConfig"]


class Said(NamedTuple):
    """What student and predictor say for one mask set; E is the D of one block or of several."""

    context_BKD: Tensor  # the student's tokens of the context, from its last block
    target_BME: Tensor  # what is predicted of the targets
    given_BKE: Tensor | None = None  # what is said of the context, by an objective that asks


Terms = dict[str, tuple[float | Tensor, Tensor]]
"""Name in the report to the weight of a loss beside the prediction's, and its value, 0-dim."""


class Predicting(Objective):
    """Encoder, predictor and teacher whose loss is on the teacher's features of hidden patches.

    A subclass says what the features are (`targets`), how they are predicted (`predict`), and what
    else counts (`terms`).

    Args:
        encoder: the student; trained in place.
        config: shape of the predictor, and how the teacher follows.
        masking: the mask sets; every volume goes through each. None: those of V-JEPA 2.
        levels: how many blocks of the encoder are predicted side by side.
        dense: whether the predictor speaks of the context too.

    Raises:
        ValueError: the masks do not fit the encoder's grid.
    """

    predictor: Predictor
    config: JepaConfig

    def __init__(
        self,
        encoder: Encoder,
        config: JepaConfig,
        masking: MaskingConfig | None,
        *,
        levels: int = 1,
        dense: bool = False,
    ) -> None:
        masking = MaskingConfig() if masking is None else masking
        masking.check(encoder.config.grid)
        sets, shape = len(masking.sets), encoder.config
        predictor = Predictor(config.predictor, shape, sets, levels=levels, dense=dense)
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
            learned), "target_std", "prediction_cosine", "variance_ratio", and what else counts,
            such as "variance_loss" if it has a weight.

        Raises:
            ValueError: volumes of another shape than the encoder was made for, masks for another
                number of sets, or neither masks nor a generator.
        """
        batch = self._unpack(batch, generator)
        target_BNE = self.targets(batch.volume_BCZYX, batch.spacing_B3)
        tally, terms = Tally(), []
        for index, one in enumerate(batch.masks):
            said = self.predict(batch, index)
            target = gather_patches(target_BNE, one.target_BM)
            tally.add(prediction_loss(said.target_BME, target), said.target_BME, target)
            terms.append(self.terms(said, one, target_BNE))
        out = {"loss": tally.mean(), **tally.report(target_BNE, baseline_loss(target_BNE))}
        for name, (weight, _) in terms[0].items():
            mean = torch.stack([one[name][1] for one in terms]).mean()
            out |= {"loss": out["loss"] + weight * mean, name: mean.detach()}
        return out

    def targets(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What is to be predicted of every patch, (B, N, E), float32, without gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no targets")

    def predict(self, batch: JepaBatch, index: int) -> Said:
        """What is said for the mask set `index` of a batch."""
        raise NotImplementedError(f"{type(self).__name__} predicts nothing")

    def terms(self, said: Said, masks: Masks, target_BNE: Tensor) -> Terms:
        """What counts beside the prediction of one mask set: the same names for every set."""
        weight = self.config.variance_weight
        return {"variance_loss": (weight, variance_hinge(said.context_BKD))} if weight else {}


class Jepa(Predicting):
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
        super().__init__(encoder, config, masking)

    def targets(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What is to be predicted of every patch, (B, N, D), float32, without gradients."""
        return normalise_targets(self.teacher(volume_BCZYX, spacing_B3=spacing_B3))

    def predict(self, batch: JepaBatch, index: int) -> Said:
        """The student's tokens of the context, and what they say of the targets."""
        masks, spacing = batch.masks[index], batch.spacing_B3
        context = self.encoder(batch.volume_BCZYX, masks.context_BK, spacing_B3=spacing)
        return Said(context, self.predictor(context, masks, index, spacing))
