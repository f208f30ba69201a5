"""A class for every voxel from patch tokens, whatever the shape of a patch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.heads.configuration import FinetuningConfig
from oct_vjepa.heads.finetuning import FineTuned
from oct_vjepa.heads.head import Head
from oct_vjepa.model.blocks import INIT_STD
from oct_vjepa.model.configuration import grid_of
from oct_vjepa.model.decay import decay_groups
from oct_vjepa.model.encoder import Encoder

Shape = tuple[int, int, int]
UNLABELLED_VOXEL = -1
"""Voxels with this label take no part in a loss or a score."""


def join_patches(values_BNV: Tensor, shape: Shape, patch_size: Shape) -> Tensor:
    """Put the voxels of each patch back in their place, (B, C, Z, Y, X).

    The inverse of `oct_vjepa.model.patches.split_patches`.

    Args:
        values_BNV: (B, N, C * pz * py * px), patches in raster order, X fastest.
        shape: voxels along (Z, Y, X).
        patch_size: voxels of a patch along (Z, Y, X).

    Raises:
        ValueError: another number of patches or of values, or patches that do not divide `shape`.
    """
    (gz, gy, gx), (pz, py, px) = grid_of(shape, patch_size), patch_size
    batch, tokens, values = values_BNV.shape
    channels, rest = divmod(values, pz * py * px)
    if tokens != gz * gy * gx or rest:
        raise ValueError(
            f"{tokens} patches of {values} values do not fill {shape} with patches of {patch_size}"
        )
    cells = values_BNV.reshape(batch, gz, gy, gx, channels, pz, py, px)
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, channels, *shape)


class SegmentationHead(Head):
    """Logits of each voxel from the token of its patch.

    Each token is mapped to one logit for every class and voxel of its patch, so that a border can
    run through a patch, also one that is thick along one axis only. Tokens of several levels may be
    joined along their features; `width` is then their sum.

    Args:
        width: features of a token.
        classes: names of the classes, background included.
        patch_size: voxels of a patch along (Z, Y, X), the encoder's.
        hidden: width of a hidden layer with exact GELU; 0 for a linear map.
        layer_norm_eps: of the norm before the map.

    Raises:
        ValueError: fewer than two classes.
    """

    kind = "segmentation_head"

    def __init__(
        self,
        *,
        width: int,
        classes: Sequence[str],
        patch_size: Sequence[int],
        hidden: int = 0,
        layer_norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise ValueError(f"head.classes ({list(classes)}) must be two or more")
        pz, py, px = (int(size) for size in patch_size)
        self.classes, self.patch_size = list(classes), (pz, py, px)
        self.width, self.hidden, self.eps = width, hidden, layer_norm_eps
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        outputs = len(self.classes) * pz * py * px
        layers: list[nn.Module] = []
        if hidden:
            layers = [nn.Linear(width, hidden), nn.GELU()]
        self.map = nn.Sequential(*layers, nn.Linear(hidden or width, outputs))
        for layer in self.map:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=INIT_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens_BND: Tensor, shape: Shape) -> Tensor:
        """Logits (B, classes, Z, Y, X) of a volume of `shape`.

        Raises:
            ValueError: the tokens are not those of a volume of that shape.
        """
        return join_patches(self.map(self.norm(tokens_BND)), shape, self.patch_size)

    def from_tokens(self, tokens_BND: Tensor, *, class_tokens: int = 0) -> Tensor:
        """Refuse: the voxels need the shape of the volume; call the head with it."""
        raise ValueError("segmentation_head: give it tokens and the volume's shape, head(x, shape)")

    def settings(self) -> dict[str, Any]:
        """Keyword arguments that rebuild this head."""
        return {
            "width": self.width,
            "classes": self.classes,
            "patch_size": list(self.patch_size),
            "hidden": self.hidden,
            "layer_norm_eps": self.eps,
        }


class SegmentationBatch(NamedTuple):
    """Volumes and the class of each voxel."""

    volume_BCZYX: Tensor  # uint8 or floating, not normalised
    label_BZYX: Tensor  # int64, from 0; UNLABELLED_VOXEL where unknown
    spacing_B3: Tensor | None = None


class Segmenter(FineTuned):
    """Encoder and segmentation head with the loss that trains them.

    Args:
        encoder: see `FineTuned`.
        head: of the encoder's patch size.
        finetuning: see `FinetuningConfig`.
        levels: numbers of the blocks whose tokens are joined along their features; empty for the
            encoder's output. The head's width is theirs together.

    Raises:
        ValueError: head and encoder differ in patch size; see also `FineTuned`.
    """

    head: SegmentationHead

    def __init__(
        self,
        encoder: Encoder,
        head: SegmentationHead,
        finetuning: FinetuningConfig | None = None,
        *,
        levels: Sequence[int] = (),
    ) -> None:
        super().__init__(encoder, head, finetuning)
        self.levels = tuple(levels)
        if head.patch_size != tuple(encoder.config.patch_size):
            raise ValueError(
                f"head.patch_size ({head.patch_size}) must be the encoder's "
                f"({tuple(encoder.config.patch_size)})"
            )

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Logits (B, classes, Z, Y, X)."""
        z, y, x = volume_BCZYX.shape[2:]
        return self.head(self.tokens(volume_BCZYX, spacing_B3, layers=self.levels), (z, y, x))

    def loss(
        self,
        batch: SegmentationBatch | tuple[Tensor, ...],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy plus soft Dice loss, and the mean Dice score; all 0-dim, on the device.

        Raises:
            ValueError: labels that are not whole numbers in the shape of the volumes.
        """
        self.freeze()
        batch = SegmentationBatch(*batch)
        check_voxels(batch)
        return voxel_costs(self(batch.volume_BCZYX, batch.spacing_B3).float(), batch.label_BZYX)


class VoxelNetwork(nn.Module):
    """Any network of voxels with the loss of `Segmenter`: an objective for any training loop.

    Args:
        network: from (B, C, Z, Y, X) to logits (B, classes, Z, Y, X).
        mean: of the grey levels that it is trained on; subtracted.
        std: of the grey levels; what is left is divided by it.
    """

    def __init__(self, network: nn.Module, *, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, volume_BCZYX: Tensor, spacing_B3: Tensor | None = None) -> Tensor:
        """Logits (B, classes, Z, Y, X); the spacing is not used."""
        logits: Tensor = self.network((volume_BCZYX.float() - self.mean) / self.std)
        return logits

    def loss(
        self,
        batch: SegmentationBatch | tuple[Tensor, ...],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """As `Segmenter.loss`.

        Raises:
            ValueError: likewise.
        """
        batch = SegmentationBatch(*batch)
        check_voxels(batch)
        return voxel_costs(self(batch.volume_BCZYX).float(), batch.label_BZYX)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups; biases and norms have no weight decay."""
        return decay_groups(self.network, weight_decay)


def check_voxels(batch: SegmentationBatch) -> None:
    """Refuse labels that are not whole numbers in the shape of the volumes.

    Raises:
        ValueError: says what they are.
    """
    label, volume = batch.label_BZYX, batch.volume_BCZYX
    if label.is_floating_point() or label.shape != (len(volume), *volume.shape[2:]):
        raise ValueError(
            f"labels: must be whole numbers in the shape of the volumes "
            f"{(len(volume), *volume.shape[2:])}, not {label.dtype} {tuple(label.shape)}"
        )


def voxel_costs(logits_BCZYX: Tensor, label_BZYX: Tensor) -> dict[str, Tensor]:
    """Cross-entropy plus soft Dice loss, and the mean Dice score; 0-dim, on the device."""
    # cross_entropy's own mean would be 0 / 0 where no voxel is labelled.
    known = (label_BZYX != UNLABELLED_VOXEL).sum().clamp_min(1)
    entropy = functional.cross_entropy(
        logits_BCZYX, label_BZYX, ignore_index=UNLABELLED_VOXEL, reduction="sum"
    )
    soft = dice_scores(logits_BCZYX.softmax(dim=1), label_BZYX)
    hard = dice_scores(hard_labels(logits_BCZYX.detach()), label_BZYX)
    return {"loss": entropy / known + 1.0 - soft.nanmean(), "dice": hard.nanmean()}


def hard_labels(logits_BCZYX: Tensor) -> Tensor:
    """One-hot choice of the most likely class, in the shape of the logits."""
    classes = logits_BCZYX.shape[1]
    chosen = functional.one_hot(logits_BCZYX.argmax(dim=1), classes)
    return chosen.movedim(-1, 1).to(logits_BCZYX.dtype)


def dice_scores(chance_BCZYX: Tensor, label_BZYX: Tensor) -> Tensor:
    """Dice score of each class over all voxels of a batch, (C,): 2 |A and B| / (|A| + |B|).

    Differentiable for probabilities (Milletari et al. 2016 with |A| as a sum); exact for one-hot
    choices. NaN for a class that is neither there nor predicted, so that it can be left out of a
    mean; `nanmean` does.

    Args:
        chance_BCZYX: probabilities, or 0 and 1.
        label_BZYX: classes; `UNLABELLED_VOXEL` is left out.
    """
    known = (label_BZYX != UNLABELLED_VOXEL).unsqueeze(1)
    classes = chance_BCZYX.shape[1]
    hot = functional.one_hot(label_BZYX.clamp_min(0), classes).movedim(-1, 1)
    hot = (hot * known).to(chance_BCZYX.dtype)
    chance = chance_BCZYX * known
    both = (chance * hot).sum(dim=(0, 2, 3, 4))
    size = chance.sum(dim=(0, 2, 3, 4)) + hot.sum(dim=(0, 2, 3, 4))
    empty = size <= 0
    score = 2.0 * both / torch.where(empty, torch.ones_like(size), size)
    return torch.where(empty, torch.full_like(size, torch.nan), score)
