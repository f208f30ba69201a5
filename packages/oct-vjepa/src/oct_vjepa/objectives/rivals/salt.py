"""Predict the features of a teacher that was trained before and stays as it is.

SALT (Li et al. 2025, arXiv 2509.24317) has two stages: a teacher learns to fill in voxels under the
masks of V-JEPA (`mae` with masking=multiblock), then a student learns to predict the features of
that frozen teacher on hidden patches. No moving average, so nothing can collapse and the loss can
be read; by its abstract a small or poor teacher will do, and most of the compute belongs to the
student. Masks, predictor and loss are V-JEPA 2's here: the mean absolute difference from the
teacher's last tokens, layer-normalised. Any saved encoder may be the teacher.
"""

import torch
from torch import Tensor

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.model.configuration import EncoderConfig, grid_of
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.model.predictor import Predictor
from oct_vjepa.objectives.diagnostics import baseline_loss
from oct_vjepa.objectives.losses import normalise_targets, prediction_loss
from oct_vjepa.objectives.objective import JepaBatch, Taught
from oct_vjepa.objectives.rivals.configuration import SaltConfig
from oct_vjepa.objectives.tally import Tally


class Salt(Taught):
    """Encoder and predictor with the loss that trains both, and the frozen teacher.

    Args:
        encoder: the student; trained in place, and what a run leaves behind.
        config: see `SaltConfig`.
        masking: the mask sets; every volume goes through each.

    Raises:
        ValueError: no teacher is named, or masks or teacher do not fit the encoder's grid.
        WeightsError: the teacher cannot be read.
    """

    predictor: Predictor

    def __init__(self, encoder: Encoder, config: SaltConfig, masking: MaskingConfig) -> None:
        masking.check(encoder.config.grid)
        if not config.teacher:
            raise ValueError(
                "salt.teacher ('') must be the folder of a saved encoder, such as the encoder/ "
                "that a run with objective=mae left behind"
            )
        teacher = Encoder.from_pretrained(config.teacher)
        check_teacher(teacher.config, encoder.config)
        sets, width = len(masking.sets), teacher.config.width
        predictor = Predictor(config.predictor, encoder.config, sets, out=width)
        super().__init__(encoder, predictor, masking, follows=None, teacher=teacher)
        self.config = config

    def loss(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device, as `Jepa.loss`.

        Raises:
            ValueError: as `Jepa.loss`.
        """
        batch = self._unpack(batch, generator)
        target_BNE = self.targets(batch.volume_BCZYX, batch.spacing_B3)
        tally = Tally()
        for index, one in enumerate(batch.masks):
            said = self.predict(batch, index)
            target = gather_patches(target_BNE, one.target_BM)
            tally.add(prediction_loss(said, target), said, target)
        return {"loss": tally.mean(), **tally.report(target_BNE, baseline_loss(target_BNE))}

    def targets(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """What is to be predicted of every patch, as wide as the teacher, (B, N, E), float32."""
        return normalise_targets(self.teacher(volume_BCZYX, spacing_B3=spacing_B3))

    def predict(self, batch: JepaBatch, index: int) -> Tensor:
        """What is said of the targets of a mask set, (B, M, E)."""
        masks, spacing = batch.masks[index], batch.spacing_B3
        context = self.encoder(batch.volume_BCZYX, masks.context_BK, spacing_B3=spacing)
        return self.predictor(context, masks, index, spacing)


def check_teacher(teacher: EncoderConfig, student: EncoderConfig) -> None:
    """Refuse a teacher whose tokens are not those of the student's patches.

    Raises:
        ValueError: other channels, or another grid of patches.
    """
    if teacher.channels != student.channels:
        raise ValueError(
            f"salt.teacher takes volumes of {teacher.channels} channels, the student of "
            f"{student.channels}; convert it with --channels {student.channels}"
        )
    grid = grid_of(student.input_shape, teacher.patch_size)
    if grid != student.grid:
        raise ValueError(
            f"salt.teacher cuts {student.input_shape} into {grid} patches of {teacher.patch_size}, "
            f"the student into {student.grid} of {student.patch_size}; make them equal"
        )
