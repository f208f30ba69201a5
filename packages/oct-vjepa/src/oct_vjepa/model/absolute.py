"""Absolute positions: a table with one row a patch, resized to any other grid."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from oct_vjepa.model.blocks import INIT_STD
from oct_vjepa.model.positions import THETA, grid_positions


def resize_table(table_ND: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]) -> Tensor:
    """A table made for the grid `old`, interpolated along Z, Y and X for the grid `new`.

    Trilinear, with the edges of the two grids laid on each other, as `interpolate_pos_encoding` of
    V-JEPA 2 (vision_transformer.py). A table whose grid is already right comes back as it is.

    Raises:
        ValueError: the rows are not those of the grid `old`.
    """
    if table_ND.shape[0] != old[0] * old[1] * old[2]:
        raise ValueError(
            f"a position table of {table_ND.shape[0]} rows does not belong to a grid of {old}"
        )
    if old == new:
        return table_ND
    table_1DZYX = table_ND.T.reshape(1, -1, *old)
    resized = functional.interpolate(table_1DZYX, size=new, mode="trilinear", align_corners=False)
    return resized.flatten(2).squeeze(0).T


def sincos_table(grid: tuple[int, int, int], width: int) -> Tensor:
    """Fixed sines and cosines, (N, D), float32: half of the features for Z, a quarter for Y and X.

    The layout of V-JEPA 2 (src/models/utils/pos_embs.py, `uniform_power` off): in each part first
    all sines, then all cosines.

    Raises:
        ValueError: the width is not a multiple of 8.
    """
    if width % 8:
        raise ValueError(f"encoder.width ({width}) must be a multiple of 8 for sin-cos positions")
    host = torch.device("cpu")
    positions_N3 = grid_positions(grid, None, host)[0].double()
    parts = []
    for axis, features in enumerate((width // 2, width // 4, width // 4)):
        exponent = torch.arange(features // 2, dtype=torch.float64, device=host) / (features / 2)
        angle = positions_N3[:, axis, None] * (1.0 / THETA**exponent)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).to(torch.float32)


class AbsolutePositions(nn.Module):
    """A position table added to the patches before the first block.

    Args:
        kind: "learned" (a parameter) or "sincos" (fixed, not saved).
        grid: the grid the table is made for.
        width: features of a token.
    """

    def __init__(self, kind: str, grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.kind, self.grid = kind, grid
        if kind == "learned":
            self.table = nn.Parameter(torch.empty(grid[0] * grid[1] * grid[2], width))
            nn.init.trunc_normal_(self.table, std=INIT_STD)  # as ViT and its 3-D descendants
        else:
            self.register_buffer("fixed", sincos_table(grid, width), persistent=False)

    def forward(
        self, tokens_BND: Tensor, grid: tuple[int, int, int], ids_BK: Tensor | None
    ) -> Tensor:
        """Tokens with their positions added, (B, N, D), in the type of the tokens."""
        table = self.table if self.kind == "learned" else self.get_buffer("fixed")
        table = resize_table(table, self.grid, grid).to(tokens_BND.dtype)
        if ids_BK is None:
            return tokens_BND + table
        return tokens_BND + table[ids_BK]
