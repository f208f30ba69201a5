"""Make weights fit a model with other channels, thicker patches or another grid."""

from torch import Tensor

from oct_vjepa.model.absolute import resize_table
from oct_vjepa.model.configuration import AXES
from oct_vjepa.model.weights import WeightsError


def sum_channels(weight_DCZYX: Tensor) -> Tensor:
    """One input channel instead of several, for volumes whose channels would all be the same.

    The sum, not the mean: a grey volume copied to C channels gives the same tokens.
    """
    return weight_DCZYX.sum(dim=1, keepdim=True)


def repeat_channels(weight_DCZYX: Tensor, channels: int) -> Tensor:
    """Several input channels instead of one; equal channels give the same tokens."""
    return weight_DCZYX.repeat(1, channels, 1, 1, 1) / channels


def grow_patch(weight_DCZYX: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Patches that are a whole number of times larger along some axes.

    Each weight is repeated and divided by how often: a volume that was made finer by repeating its
    voxels gives the same tokens. From 2 to 4 slices a patch that is repetition and halving.

    Raises:
        WeightsError: an axis is not a whole multiple.
    """
    for axis, (name, wanted) in enumerate(zip(AXES, patch_size, strict=True), start=2):
        size = weight_DCZYX.shape[axis]
        if wanted % size:
            raise WeightsError(
                f"patch_size along {name} is {size} in the file and cannot become {wanted}; "
                f"choose a multiple of {size}"
            )
        times = wanted // size
        if times > 1:
            weight_DCZYX = weight_DCZYX.repeat_interleave(times, dim=axis) / times
    return weight_DCZYX


def adapt_patches(
    weight_DCZYX: Tensor, channels: int, patch_size: tuple[int, int, int]
) -> tuple[Tensor, str]:
    """The patch embedding for `channels` and `patch_size`, and what was done to it.

    Raises:
        WeightsError: it cannot be done without inventing weights.
    """
    done, have = [], weight_DCZYX.shape[1]
    if have != channels:
        if channels == 1:
            weight_DCZYX = sum_channels(weight_DCZYX)
            done.append(f"{have} channels summed to 1")
        elif have == 1:
            weight_DCZYX = repeat_channels(weight_DCZYX, channels)
            done.append(f"1 channel repeated {channels} times and divided")
        else:
            raise WeightsError(f"{have} channels in the file cannot become {channels}; use 1")
    z, y, x = weight_DCZYX.shape[2:]
    if (z, y, x) != patch_size:
        weight_DCZYX = grow_patch(weight_DCZYX, patch_size)
        done.append(f"patches of {(z, y, x)} repeated to {patch_size} and divided")
    return weight_DCZYX, ", ".join(done)


def adapt_table(
    table_ND: Tensor, old: tuple[int, int, int], new: tuple[int, int, int]
) -> tuple[Tensor, str]:
    """The position table for the grid `new`, and what was done to it.

    Raises:
        WeightsError: the rows are not those of the grid `old`.
    """
    try:
        resized = resize_table(table_ND.float(), old, new)
    except ValueError as error:
        raise WeightsError(f"{error}; say what volumes the file was made for") from error
    return resized, "" if old == new else f"resized from the grid {old} to {new}"
