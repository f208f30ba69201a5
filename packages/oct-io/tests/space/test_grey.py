"""White of 16-bit scans: stated bits, stray voxels, and what a cache records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from oct_io import (
    WINDOWS,
    SourceConfig,
    Spacing,
    build_cache,
    open_cache,
    open_source,
    read_manifest,
    read_volume,
    resample,
)
from oct_io.cache.index import read_index
from oct_io.cache.table import map_entries
from oct_io.cli import main
from oct_io.dicom.writer import write_dicom
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


def test_a_cache_says_which_white_its_scans_have_and_names_a_mixture(tmp_path, draw, capsys):
    (tmp_path / "scans").mkdir()
    deep = draw(dtype=np.uint16)
    for name, volume in {
        "a": replace(deep, voxels=deep.voxels // 16),
        "b": deep,
        "c": replace(draw(), device="phantom"),
    }.items():
        write_dicom(volume, tmp_path / f"scans/{name}.dcm", uid_seed=name)
    command = ["cache", str(tmp_path / "scans"), str(tmp_path / "cache"), "--window", "tiny"]
    assert main([*command, "--jobs", "1"]) == 0
    cache = open_cache(tmp_path / "cache")
    counts = {"255 by 8 bits": 1, "4095 by voxels": 1, "65535 by voxels": 1}
    assert cache.entries.count_whites() == read_index(tmp_path / "cache").whites == counts
    printed = " ".join(capsys.readouterr().out.split())
    assert "white: 1 at 255 by 8 bits, 1 at 4095 by voxels, 1 at 65535 by voxels" in printed
    assert "MIXED within topcon_triton" in printed
    config = SourceConfig(
        root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"), window="tiny"
    )
    source = open_source(config)
    assert source.describe([0], [])["scans_by_white_level"] == counts
    assert cache.entries.take([0, 2]).mixed_whites() == []


def test_a_table_from_before_the_rule_of_white_is_still_read(tmp_path, draw):
    (tmp_path / "scans").mkdir()
    write_dicom(draw(), tmp_path / "scans/a.dcm", uid_seed="a")
    records = read_manifest(tmp_path / "scans")
    entries = build_cache(records, tmp_path / "scans", WINDOWS["tiny"], tmp_path / "c").entries
    old = entries.table.drop_columns(["white_rule"])
    path = str(tmp_path / "old.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, old.schema) as out:
        out.write_table(old)
    (entry,) = map_entries(Path(path))
    assert entry == replace(entries[0], white_rule=None)
    assert map_entries(Path(path)).count_whites() == {"255": 1}
