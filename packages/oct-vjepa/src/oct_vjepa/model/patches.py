"""Cut a volume into patches and embed each one with a linear map."""

from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.model.configuration import grid_of
from oct_vjepa.model.linear import linear


def split_patches(x_BCZYX: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Voxels of each patch, (B, N, C * pz * py * px), patches in raster order, X fastest."""
    batch, channels, *shape = x_BCZYX.shape
    (gz, gy, gx), (pz, py, px) = grid_of((shape[0], shape[1], shape[2]), patch_size), patch_size
    cells = x_BCZYX.reshape(batch, channels, gz, pz, gy, py, gx, px)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, gz * gy * gx, -1)


def gather_patches(x_BND: Tensor, ids_BK: Tensor) -> Tensor:
    """Rows of `x_BND` that `ids_BK` lists, (B, K, D).

    Raises:
        ValueError: ids for another number of volumes.
    """
    if len(ids_BK) != len(x_BND):  # torch's gather would take the first volumes without a word
        raise ValueError(f"ids for {len(ids_BK)} volumes do not belong to {len(x_BND)} volumes")
    return x_BND.gather(1, ids_BK.unsqueeze(-1).expand(-1, -1, x_BND.shape[-1]))


def mean_around(map_BDZYX: Tensor, side: int) -> Tensor:
    """Mean over the square of `side` x `side` patches around each patch, of the same shape.

    Within its slice, and of those patches that are there: less of them count at an edge.

    Args:
        map_BDZYX: D values of each patch on the grid.
        side: odd.
    """
    slices = map_BDZYX.flatten(1, 2)
    means = functional.avg_pool2d(slices, side, 1, side // 2, count_include_pad=False)
    return means.reshape(map_BDZYX.shape)


class PatchEmbedding(nn.Module):
    """A 3-D convolution whose stride is its kernel, computed for the kept patches only.

    The parameters are those of a Conv3d, so that V-JEPA 2 weights fit. The product is taken
    patch by patch: that equals the convolution and never touches a voxel of a dropped patch.

    Args:
        channels: channels of the volume.
        patch_size: voxels of a patch along (Z, Y, X).
        width: features of a token.
        mean: subtracted from each voxel, in units of the input.
        std: each voxel is divided by it, in units of the input.
    """

    def __init__(
        self,
        *,
        channels: int,
        patch_size: tuple[int, int, int],
        width: int,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__()
        self.patch_size, self.mean, self.std = patch_size, mean, std
        self.proj = nn.Conv3d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_BCZYX: Tensor, ids_BK: Tensor | None = None) -> Tensor:
        """Tokens of all patches, (B, N, D), or of the listed ones, (B, K, D).

        Raises:
            ValueError: not five axes, other channels, or a size the patches do not divide.
        """
        if x_BCZYX.ndim != 5 or x_BCZYX.shape[1] != self.proj.in_channels:
            raise ValueError(
                f"the volume must be (B, {self.proj.in_channels}, Z, Y, X), "
                f"not {tuple(x_BCZYX.shape)}"
            )
        voxels = split_patches(x_BCZYX, self.patch_size)
        if ids_BK is not None:  # still in the input's type: one byte a voxel for uint8
            voxels = gather_patches(voxels, ids_BK)
        voxels = (voxels.to(self.proj.weight.dtype) - self.mean) / self.std
        return linear(voxels, self.proj.weight.flatten(1), self.proj.bias)
