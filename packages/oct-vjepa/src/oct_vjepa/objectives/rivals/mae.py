"""Masked autoencoding: fill in the voxels of patches that the encoder never saw.

He et al. 2021 (arXiv 2111.06377; models_mae.py of facebookresearch/mae): the encoder sees the
context alone, a decoder gets its tokens and mask tokens, the loss is the mean squared difference on
hidden patches, whose voxels are less their own mean and over their own spread. It hides 75 % of
single patches (main_pretrain.py: mask_ratio; masking=mae). Under the masks of V-JEPA it is the
first stage of SALT (arXiv 2509.24317). Positions are the encoder's, not the fixed tables of MAE.

The spectral term (`spectral_weight`): arXiv 2606.13315 adds a loss in the spectral domain and gains
where fine structure tells. We have read its abstract alone, so the form is ours: mean absolute
difference of the amplitudes of each patch's Fourier transform, as a product with one matrix, which
runs on any device. It asks for the right amount of fine structure, wherever in the patch.
"""

import torch
from torch import Tensor
from torch.nn import functional

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.model.patches import gather_patches
from oct_vjepa.model.predictor import Predictor
from oct_vjepa.objectives.losses import standard_voxels
from oct_vjepa.objectives.objective import JepaBatch, Objective
from oct_vjepa.objectives.rivals.configuration import MaeConfig
from oct_vjepa.objectives.tally import Tally

EPSILON = 1e-6  # models_mae.py: added to the variance, there over V - 1 voxels, here over V


class Mae(Objective):
    """Encoder and decoder with the loss that trains both.

    Args:
        encoder: the student; trained in place.
        config: see `MaeConfig`.
        masking: the mask sets; every volume goes through each.

    Raises:
        ValueError: the masks do not fit the encoder's grid.
    """

    predictor: Predictor
    waves: Tensor

    def __init__(self, encoder: Encoder, config: MaeConfig, masking: MaskingConfig) -> None:
        masking.check(encoder.config.grid)
        z, y, x = encoder.config.patch_size
        voxels = encoder.config.channels * z * y * x
        decoder = Predictor(config.decoder, encoder.config, len(masking.sets), out=voxels)
        super().__init__(encoder, decoder, masking)
        self.config = config
        if config.spectral_weight > 0:
            self.register_buffer("waves", fourier_matrix((z, y, x)), persistent=False)

    def loss(
        self, batch: Tensor | JepaBatch, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Loss and cheap diagnostics, each 0-dim and on the device, as `Jepa.loss`.

        "target_std" is the spread of the voxels that are asked for, which no collapse can change;
        "spectral_loss" is there if it has a weight.

        Raises:
            ValueError: as `Jepa.loss`.
        """
        batch = self._unpack(batch, generator)
        voxels_BNV = self.targets(batch.volume_BCZYX)
        tally, spectral = Tally(), []
        for index, one in enumerate(batch.masks):
            said = self.predict(batch, index)
            target = gather_patches(voxels_BNV, one.target_BM)
            tally.add((said - target).square().mean(), said, target)
            if self.config.spectral_weight > 0:
                spectral.append((self.amplitudes(said) - self.amplitudes(target)).abs().mean())
        baseline = (voxels_BNV - voxels_BNV.mean(dim=(0, 1))).square().mean()
        out = {"loss": tally.mean(), **tally.report(voxels_BNV, baseline)}
        if spectral:
            mean = torch.stack(spectral).mean()
            out |= {
                "loss": out["loss"] + self.config.spectral_weight * mean,
                "spectral_loss": mean.detach(),
            }
        return out

    def targets(self, volume_BCZYX: Tensor) -> Tensor:
        """The voxels to be said of every patch, (B, N, V), float32."""
        voxels_BNV = standard_voxels(volume_BCZYX, self.encoder.config)
        if not self.config.normalised:
            return voxels_BNV
        return functional.layer_norm(voxels_BNV, voxels_BNV.shape[-1:], eps=EPSILON)

    def predict(self, batch: JepaBatch, index: int) -> Tensor:
        """Voxels that are said of the targets of a mask set, (B, M, V), float32."""
        masks, spacing = batch.masks[index], batch.spacing_B3
        context = self.encoder(batch.volume_BCZYX, masks.context_BK, spacing_B3=spacing)
        return self.predictor(context, masks, index, spacing).to(torch.float32)

    def amplitudes(self, voxels_BMV: Tensor) -> Tensor:
        """Amplitude of each wave in each patch and channel, (B, M, C, F)."""
        parts = voxels_BMV.unflatten(-1, (self.encoder.config.channels, -1)) @ self.waves
        real, imaginary = parts.chunk(2, dim=-1)
        return (real.square() + imaginary.square() + EPSILON).sqrt()


def fourier_matrix(patch_size: tuple[int, int, int]) -> Tensor:
    """What takes the V voxels of a patch to the real and imaginary parts of its F waves, (V, 2 F).

    Orthonormal, and half of the waves, as those of real numbers come in pairs.
    """
    z, y, x = patch_size
    units = torch.eye(z * y * x).view(-1, z, y, x)
    waves = torch.fft.rfftn(units, dim=(1, 2, 3), norm="ortho").flatten(1)
    return torch.cat([waves.real, waves.imag], dim=1)
