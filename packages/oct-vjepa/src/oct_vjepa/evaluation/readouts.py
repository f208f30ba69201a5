"""From which blocks an encoder is read out, and how tokens become one vector.

What is small and local stands in earlier blocks and may be gone from the last; all blocks side by
side are often best, and a probe's grid decides on validation participants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from oct_vjepa.model.configuration import CELLS, POOLS

BLOCKS = ("last", "late", "all")
"""The last block; the upper half, side by side; all, side by side. A number is one block from 0."""


@dataclass(kw_only=True, slots=True)
class ReadoutConfig:
    """Which ways to read an encoder out are tried."""

    blocks: list[str] = field(default_factory=lambda: ["last", "all"])
    """last, late (the upper half side by side), all (side by side), or the number of a block from
    0. All side by side are often best; last alone is what is mostly reported."""

    pools: list[str] = field(default_factory=lambda: list(POOLS))
    """How the tokens of a volume become one vector; small findings want `tails` or `max`. `cells`,
    which must be asked for, keeps what is where, on a grid of at most 2 x 8 x 4, and is read from
    the last block alone; it wants scans in which a place means the same, as `data.flatten` makes
    them, and there lets random weights do as well as a thumbnail."""

    def __post_init__(self) -> None:
        known_pools = (*POOLS, CELLS)
        if unknown := [one for one in self.pools if one not in known_pools]:
            known = ", ".join(known_pools)
            raise ValueError(f"readout.pools ({unknown[0]}) must be among {known}")
        check_blocks(self.blocks)
        if not self.pools or not self.blocks:
            raise ValueError("readout.blocks and readout.pools must name one each")

    def names(self, depth: int) -> dict[str, tuple[list[int], str]]:
        """Name, such as `last/mean`, to the blocks and the pool that it means.

        Args:
            depth: blocks of the encoder.

        Raises:
            ValueError: a block that the encoder lacks.
        """
        found: dict[str, tuple[list[int], str]] = {}
        for block in self.blocks:
            for pool in self.pools:
                if pool != CELLS:
                    found[f"{block}/{pool}"] = block_numbers(block, depth), pool
        if CELLS in self.pools:
            found[f"last/{CELLS}"] = block_numbers("last", depth), CELLS
        return found


def read_out(
    features: Mapping[str, NDArray[np.float32]], config: ReadoutConfig, depth: int
) -> dict[str, NDArray[np.float32]]:
    """Cut the readouts out of features of all blocks: name to (N, width).

    Args:
        features: pool to (N, depth * width), all blocks of the encoder side by side in their order;
            `cells` are those of the last.
        config: which readouts.
        depth: blocks of the encoder.

    Raises:
        ValueError: a block that the encoder lacks.
    """
    found = {}
    for name, (numbers, pool) in config.names(depth).items():
        if pool == CELLS:
            found[name] = features[pool]
            continue
        rows = features[pool].reshape(len(features[pool]), depth, -1)
        found[name] = rows[:, numbers].reshape(len(rows), -1)
    return found


def check_blocks(blocks: Sequence[str], setting: str = "readout.blocks") -> None:
    """Refuse what is neither a word for blocks nor a number.

    Args:
        blocks: as `ReadoutConfig.blocks`.
        setting: what to call them where one is refused.

    Raises:
        ValueError: names the setting and the first that is unknown.
    """
    if unknown := [one for one in blocks if one not in BLOCKS and not one.isdecimal()]:
        known = ", ".join(BLOCKS)
        raise ValueError(f"{setting} ({unknown[0]}) must be {known} or a block's number")


def block_numbers(block: str, depth: int, setting: str = "readout.blocks") -> list[int]:
    """Numbers, from 0 and ascending, of what `ReadoutConfig.blocks` calls by a word or a number.

    Args:
        block: the word or the number.
        depth: blocks of the encoder.
        setting: what to call it where it is refused.

    Raises:
        ValueError: a block that the encoder lacks.
    """
    if block.isdecimal():
        if int(block) >= depth:
            raise ValueError(f"{setting} ({block}) must be below {depth}, the blocks there are")
        return [int(block)]
    first = {"last": depth - 1, "late": depth // 2, "all": 0}[block]
    return list(range(first, depth))
