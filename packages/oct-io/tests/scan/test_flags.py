"""Suspicions about scans: on real and made-up volumes, spoiled one way each, in every codec."""

import json
from dataclasses import replace

import numpy as np
import pytest
from oct_io import (
    WINDOWS,
    SourceConfig,
    Spacing,
    TreeError,
    build_cache,
    open_cache,
    open_source,
    read_manifest,
    read_volume,
)
from oct_io.cache.entries import entry_from_tree
from oct_io.cli import main
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.phantom import DEVICES, Phantom, draw_phantom
from oct_io.phantom.scanners import SCANNERS
from oct_io.scan.flags import FLAGS, LOW_SIGNAL_DB, find_flags, measure_signal
from oct_io.volume import OctVolume

LOSSLESS = ("native", "rle", "jpeg2000", "jpegls", "ljpeg", "htj2k")
SPECTRALIS = Spacing(0.030, 0.003872, 0.011182)
DISPLACED_ROWS = 20  # 77 um
SMALLER = {**dict.fromkeys(SCANNERS, 0.12), "spectralis_like": 0.5}  # drawn whole they take seconds


@pytest.fixture(scope="module")
def real(samples):
    with np.load(samples / "spectralis_medvisbonn/volume_145x496x512_u8.npz") as file:
        return file["volume"]


@pytest.fixture(scope="module")
def drawn():
    return draw_phantom(Phantom(device="spectralis_like", shape=(16, 496, 256)), 1)


def flags_of(voxels, spacing=SPECTRALIS, **changes):
    return find_flags(OctVolume(voxels, spacing, "given", **changes)).names


def displaced(voxels, frame, rows=DISPLACED_ROWS):
    moved = voxels.copy()
    moved[frame] = np.roll(moved[frame], rows, axis=0)
    return moved


def noise(shape):
    return np.random.default_rng(0).normal(0, 30, shape)


SPOIL = {
    "motion": lambda v: displaced(v, len(v) // 2),
    "lost_bytes": lambda v: torn(v, len(v) // 2),
    "saturation": lambda v: np.clip(v * 1.7, 0, 255).astype(np.uint8),
    "low_signal": lambda v: np.clip(v * 0.15 + 60 + noise(v.shape), 0, 255).astype(np.uint8),
    "clipped_retina": lambda v: v[:, first_bright_row(v) :],
    "blink": lambda v: darkened(v, len(v) // 2),
    "mirrored_depth": lambda v: v[:, ::-1].copy(),
}


def torn(voxels, frame):
    """What a decoder leaves that lost its place in one B-scan."""
    broken = voxels.copy()
    rows = len(broken[frame]) // 3
    broken[frame, rows:] = np.roll(broken[frame, rows:], 37, axis=0)[::-1]
    return broken


def darkened(voxels, frame):
    dark = voxels.copy()
    dark[frame] = np.random.default_rng(0).integers(0, 12, dark[frame].shape)
    return dark


def first_bright_row(voxels):
    profile = voxels.mean(axis=(0, 2))
    return int(np.argmax(profile > profile.max() / 2))


def test_every_flag_is_tried_here():
    assert {*SPOIL, "direction"} == set(FLAGS)


@pytest.mark.parametrize("step", [1, 4, 12])
def test_a_real_scan_has_no_flag(real, step):
    found = find_flags(OctVolume(real[::step], SPECTRALIS._replace(bscan=0.03 * step), "given"))
    assert found.names == ()
    assert found.signal_db == pytest.approx(31, abs=0.5)


@pytest.mark.parametrize("flag", SPOIL)
def test_a_real_scan_that_is_spoiled_in_one_way_has_that_flag_alone(real, flag):
    assert flags_of(SPOIL[flag](real[40:104])) == (flag,)


@pytest.mark.parametrize("flag", SPOIL)
def test_a_made_up_scan_that_is_spoiled_in_one_way_has_that_flag_alone(drawn, flag):
    assert flags_of(SPOIL[flag](drawn.voxels), drawn.spacing) == (flag,)


@pytest.mark.parametrize("token", [*SCANNERS, *DEVICES])
def test_a_sound_phantom_has_no_flag(token):
    spec = {"scale": SMALLER[token]} if token in SMALLER else {}
    for seed in range(3):
        volume = draw_phantom(
            Phantom(device=token, fluid=seed > 0, drusen=True, thin=seed > 1, **spec), seed
        )
        if volume.pattern == "raster":
            assert find_flags(volume).names == (), seed


@pytest.mark.parametrize("um", [60, 77, 150, 300])
@pytest.mark.parametrize("frame", [0, 1, 70, 144])
def test_motion_is_seen_wherever_and_however_far(real, um, frame):
    moved = displaced(real, frame, round(um / 3.872))
    assert flags_of(moved) == ("motion",)
    assert flags_of(moved[::-1]) == ("motion",)


def test_an_eye_that_moved_and_stayed_moved(real):
    moved = real.copy()
    moved[70:] = np.roll(moved[70:], -DISPLACED_ROWS, axis=1)
    assert flags_of(moved) == ("motion",)


@pytest.mark.parametrize("flag", [None, "motion", "blink", "mirrored_depth", "saturation"])
def test_the_verdict_on_a_real_scan_does_not_depend_on_the_codec(real, tmp_path, flag):
    voxels = real[64:80] if flag is None else SPOIL[flag](real[64:80])
    volume = OctVolume(voxels, SPECTRALIS, "given", region="Macula", laterality="R")
    verdicts = {}
    for codec in LOSSLESS:
        path = tmp_path / f"{codec}.dcm"
        write_dicom(volume, path, uid_seed="x", style=FileStyle(codec=codec))
        again = read_volume(path)
        assert np.array_equal(again.voxels, voxels), codec
        verdicts[codec] = find_flags(again)
    assert set(verdicts.values()) == {find_flags(volume)}, verdicts
    assert verdicts["native"].names == (() if flag is None else (flag,))


@pytest.mark.parametrize("codec", LOSSLESS)
def test_a_made_up_scan_with_motion_is_cached_with_its_flag_in_every_codec(drawn, tmp_path, codec):
    root = tmp_path / "scans"
    root.mkdir()
    moved = replace(drawn, voxels=displaced(drawn.voxels, 8))
    write_dicom(drawn, root / "a.dcm", uid_seed="a", style=FileStyle(codec=codec))
    write_dicom(moved, root / "b.dcm", uid_seed="b", style=FileStyle(codec=codec))
    index = build_cache(read_manifest(root), root, WINDOWS["tiny"], tmp_path / "cache")
    assert index.refused == 0
    assert sorted(entry.flags for entry in index.entries) == [(), ("motion",)]
    again = open_cache(tmp_path / "cache")
    assert again.entries == index.entries
    assert all(entry.signal_db > 20 and entry.white == 255 for entry in again.entries)


def test_sixteen_bits_have_the_flags_of_eight(real):
    for flag in ("motion", "saturation", "mirrored_depth"):
        spoiled = SPOIL[flag](real[64:80])
        for wide, bits in (
            (spoiled.astype(np.uint16) * 16 + 15, 12),
            (spoiled * np.uint16(257), 16),
        ):
            assert flags_of(wide, bits=bits) == (flag,), bits


def test_signal_follows_contrast_and_noise_and_not_the_grey_scale(real):
    part = real[64:80].astype(np.float64)
    sound = measure_signal(real[64:80])
    assert measure_signal((part * 100).astype(np.uint16)) == pytest.approx(sound, abs=1)
    half = np.clip(part / 2 + 60 + noise(part.shape), 0, 255).astype(np.uint8)
    less = np.clip(part / 8 + 60 + noise(part.shape), 0, 255).astype(np.uint8)
    assert sound > measure_signal(half) > LOW_SIGNAL_DB > measure_signal(less)


def test_few_b_scans_have_no_motion(real):
    assert flags_of(displaced(real[64:70], 3)) == ()


@pytest.fixture
def source(drawn, tmp_path):
    root = tmp_path / "scans"
    root.mkdir()
    for name, flag in (("a", None), ("b", "motion"), ("c", "blink")):
        voxels = drawn.voxels if flag is None else SPOIL[flag](drawn.voxels)
        write_dicom(replace(drawn, voxels=voxels), root / f"{name}.dcm", uid_seed=name)
    return SourceConfig(root=str(root), cache=str(tmp_path / "cache"), window="tiny", jobs=1)


def test_flags_leave_out_scans_by_choice_and_are_counted(source):
    every = open_source(source)
    assert (len(every.volumes), every.flagged_out) == (3, 0)
    assert every.flags == {"motion": 1, "blink": 1}
    source.flags = ["motion"]
    some = open_source(source)
    assert [entry.flags for entry in some.volumes.entries].count(("motion",)) == 0
    assert (len(some.volumes), some.flagged_out) == (2, 1)
    assert some.flags == {"motion": 1, "blink": 1}
    assert some.volumes.fingerprint != every.volumes.fingerprint


def test_an_unknown_flag_is_an_error_that_lists_those_there_are():
    with pytest.raises(ValueError, match=r"data\.flags \(blurred\) must be some of motion, lost_"):
        SourceConfig(flags=["blurred"])


def test_a_cache_older_than_flags_opens_and_says_so_when_flags_are_asked_for(
    source, as_before_tables
):
    open_source(source)
    path = as_before_tables(source.cache)
    tree = json.loads(path.read_text())
    for entry in tree["entries"]:
        for name in ("flags", "signal_db", "white"):
            del entry[name]
    assert entry_from_tree(dict(tree["entries"][0])).flags == ()
    path.write_text(json.dumps(tree))
    assert len(open_source(source).volumes) == 3
    source.flags = ["motion"]
    with pytest.raises(TreeError, match="made before scans had flags"):
        open_source(source)


def test_commands_and_the_page_show_flags(source, tmp_path, capsys):
    open_source(source)
    scan, page = f"{source.root}/b.dcm", tmp_path / "page.html"
    assert main(["inspect", scan, "--flags"]) == 0
    printed = capsys.readouterr().out
    assert "displaced in depth" in printed
    assert "dB" in printed
    assert main(["audit", source.root, "--cache", source.cache, "--html", str(page)]) == 0
    assert "motion: a B-scan is displaced" in capsys.readouterr().out
    assert "<td>blink: B-scans are dark</td>" in page.read_text()
    assert main(["cache", source.root, str(tmp_path / "c"), "--window", "tiny", "--jobs", "1"]) == 0
    assert "flags: 1 motion, 1 blink" in capsys.readouterr().out
