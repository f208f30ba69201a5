"""White of 16-bit scans: stated bits, stray voxels, and what a cache records."""

from dataclasses import replace

import numpy as np
import pytest
from oct_io import WINDOWS, Spacing, build_cache, open_cache, read_manifest, read_volume, resample
from oct_io.space.grey import white_level
from oct_io.volume import OctVolume


def scan(top, bits=None, shape=(8, 60, 50)):
    """Voxels up to `top`, spread evenly."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, top + 1, shape).astype(np.uint16)
    return OctVolume(voxels, Spacing(0.5, 0.01, 0.08), "given", bits=bits)


def test_one_voxel_does_not_decide_how_bright_a_scan_is():
    plain = scan(2000)
    spoiled = replace(plain, voxels=plain.voxels.copy())
    spoiled.voxels[4, 30, 25] = 4096
    before, after = (resample(one, WINDOWS["native"]) for one in (plain, spoiled))
    assert before.white == after.white == 4095
    assert np.argwhere(before.voxels != after.voxels).tolist() == [[4, 30, 25]]


@pytest.mark.parametrize(
    ("top", "bits", "white"),
    [
        (600, 10, 1023),
        (600, 12, 4095),
        (600, None, 4095),
        (600, 16, 4095),
        (4095, None, 4095),
        (5000, 12, 4095),  # what lies above the stated bits is white
        (5000, None, 65535),
        (65535, 16, 65535),
        (16383, 14, 16383),
    ],
)
def test_white_is_what_the_bits_say_or_what_the_voxels_need(top, bits, white):
    volume = scan(top, bits)
    assert white_level(volume) == white
    cut = resample(volume, WINDOWS["native"])
    expected = np.clip(np.rint(volume.voxels * (255 / white)), 0, 255)
    assert np.abs(cut.voxels - expected).max() <= 1


def test_eight_bits_stay_as_they_are(draw):
    volume = draw()
    assert white_level(replace(volume, bits=6)) == 255
    assert np.array_equal(resample(volume, WINDOWS["native"]).voxels, volume.voxels)


def test_stated_bits_travel_from_the_file_to_the_index(scan_file, draw, tmp_path):
    dim = draw(dtype=np.uint16, shape=(12, 48, 40))
    dim = replace(dim, voxels=dim.voxels // 64)  # up to 1023

    def state(dataset):
        dataset.BitsStored, dataset.HighBit = 12, 11

    path = scan_file("scans/a.dcm", dim, state)
    assert read_volume(path).bits == 12
    build_cache(read_manifest(path.parent), path.parent, WINDOWS["tiny"], tmp_path / "cache")
    (entry,) = open_cache(tmp_path / "cache").entries
    assert entry.white == 4095
    assert open_cache(tmp_path / "cache")[0].max() < 70  # a dim scan stays dim
