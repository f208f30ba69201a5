"""The filter bank is SciPy's Gaussian derivatives and NumPy's eigenvalues."""

import numpy as np
import pytest
import torch
from oct_vjepa.filters import SCALES, filter_patches, filter_slices
from scipy import ndimage


def _slices(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("which", range(len(SCALES)))
def test_maps_are_those_of_scipy_to_the_edge(which: int) -> None:
    scale, image = SCALES[which], _slices(2, 24, 40)
    found = filter_slices(torch.from_numpy(image)).numpy()
    np.testing.assert_array_equal(found[:, 0], image)

    def derived(*order: int) -> np.ndarray:
        whole = image.astype(np.float64)
        return np.stack(
            [ndimage.gaussian_filter(one, scale, order, mode="nearest") for one in whole]
        )

    down, across = derived(1, 0), derived(0, 1)
    mixed = derived(1, 1)
    hessian = np.array([[derived(2, 0), mixed], [mixed, derived(0, 2)]]).transpose(2, 3, 4, 0, 1)
    low, high = np.moveaxis(np.linalg.eigvalsh(hessian), -1, 0) * scale**2
    wanted = [derived(0, 0), scale * np.hypot(down, across), scale * down, high, low]
    own = found[:, 1 + 5 * which : 6 + 5 * which]
    np.testing.assert_allclose(own, np.stack(wanted, axis=1), atol=1e-5)


def test_a_patch_says_mean_lowest_and_highest_of_each_map() -> None:
    volume = torch.from_numpy(_slices(2, 4, 9, 16))
    found = filter_patches(volume, (2, 4, 8), scales=[1.0]).numpy()
    assert found.shape == (2, 2 * 2 * 2, 3 * 6)
    maps = filter_slices(volume[1, 2:], scales=[1.0]).numpy()[:, :, 4:8, 8:]  # the last patch
    np.testing.assert_allclose(found[1, -1, :6], maps.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_array_equal(found[1, -1, 6:12], maps.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(found[1, -1, 12:], maps.max(axis=(0, 2, 3)))


def test_an_image_smaller_than_the_widest_filter_is_no_hindrance() -> None:
    flat = torch.full((1, 1, 6, 5), 3.0)
    found = filter_patches(flat, (1, 3, 5))
    levels = found[..., [0, 1, 6, 11, 16]]  # the image, smooth at each scale
    torch.testing.assert_close(levels, torch.full_like(levels, 3.0))
    assert (
        found[..., 2:6].abs().max() < 1e-3
    )  # a Gaussian that is cut off bends a little, SciPy's too
