"""Folders of single B-scans: whose they are, what is refused, and what becomes of their size."""

import logging
import struct
import zlib

import numpy as np
import pytest
from oct_io import ScanError, SourceConfig, TreeError, open_source, open_volume, read_volume
from oct_io.bscans import ALONE, BscanConfig, list_bscans
from oct_io.records.opening import open_scan, read_scan
from PIL import Image

NAMES = r"(?P<participant>[0-9]+)_(?P<eye>O[DI])_o_(?P<number>[0-9]+)"


def layers(rows=60, columns=80, shift=0, dtype=np.uint8):
    """A bright band on a dark ground, brighter to the right."""
    level = np.zeros((rows, columns))
    level[rows // 3 + shift : rows // 2 + shift] = np.linspace(90, 220, columns)
    noise = np.random.default_rng(shift).integers(0, 20, (rows, columns))
    return (level + noise + 5).astype(dtype)


@pytest.fixture
def tree(tmp_path):
    """Two eyes of one participant and one of another, in two folders and three formats."""
    root = tmp_path / "images"
    for path in ("a/11_OD_o_1.png", "a/11_OI_o_1.jpg", "b/12_OD_o_1.tif", "b/12_OD_o_2.bmp"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(layers()).save(root / path)
    (root / "readme.txt").write_text("not an image")
    return root


def config(root, tmp_path, **settings):
    said = {"window": "16x32", "bscans": BscanConfig(pattern=NAMES), "jobs": 1}
    return SourceConfig(root=str(root), cache=str(tmp_path / "cache"), **said | settings)


def test_a_pattern_says_whose_image_it_is_and_of_which_eye(tree):
    records = list_bscans(tree, BscanConfig(pattern=NAMES)).records
    assert [(one.path, one.participant_id, one.laterality) for one in records] == [
        ("a/11_OD_o_1.png", "11", "R"), ("a/11_OI_o_1.jpg", "11", "L"),
        ("b/12_OD_o_1.tif", "12", "R"), ("b/12_OD_o_2.bmp", "12", "R"),
    ]  # fmt: skip
    assert all(one.bscan and one.refused is None for one in records)


def test_folders_may_name_participants_too(tree):
    records = list_bscans(tree, BscanConfig(pattern="(?P<participant>[^/]+)/[^/]+")).records
    assert [one.participant_id for one in records] == ["a", "a", "b", "b"]


def test_without_names_each_image_is_its_own_participant_and_that_is_said(tree, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="oct_io"):
        source = open_source(config(tree, tmp_path, bscans=BscanConfig()))
    assert ALONE in caplog.text
    assert len(source.participants(range(4))) == 4
    assert source.remarks[0] == ALONE
    assert source.describe([0], [])["remarks"] == list(source.remarks)


def test_a_table_stands_above_the_pattern_and_may_leave_gaps(tree, tmp_path):
    table = tmp_path / "who.csv"
    table.write_text(
        "Name,participant_id,eye,device,spacing_mm,DME\n"
        "11_OD_o_1,77,OS,Cirrus,0.004 0.012,1\n"
        "b/12_OD_o_1.tif,,,,,0\n"
    )
    said = BscanConfig(pattern=NAMES, table=str(table), spacing_mm=[0.005, 0.01])
    first, second, third, _ = list_bscans(tree, said).records
    assert (first.participant_id, first.laterality, first.device) == ("77", "L", "zeiss_cirrus")
    assert first.spacing_mm[1:] == (0.004, 0.012)
    assert second.spacing_mm[1:] == (0.005, 0.01)
    assert (third.participant_id, third.laterality) == ("12", "R")
    alone = list_bscans(tree, BscanConfig(table=str(table))).records
    assert [one.refused is None for one in alone] == [True, False, False, False]
    assert "does not list it" in alone[1].refused[1]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("who\n1\n", "needs a column such as filepath"),
        ("path,participant_id\nx.png,1\nx.png,2\n", "line 2 names 2 images"),
        ("path,participant_id\na/x.png,1\na/x,2\n", "line 3 repeats the image"),
        ("path,spacing_mm\na/x.png,0.1\n", "line 2: spacing_mm is not two numbers"),
    ],
)
def test_a_table_that_does_not_say_it_plainly_is_refused(tmp_path, rows, complaint):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(layers()).save(tmp_path / folder / "x.png")
    table = tmp_path / "who.csv"
    table.write_text(rows)
    with pytest.raises(TreeError, match=complaint):
        list_bscans(tmp_path, BscanConfig(table=str(table)))


def test_words_for_the_eye_are_known_or_asked_for(tree):
    foreign = BscanConfig(pattern=r"(?P<participant>[0-9]+)_(?P<eye>O[DI]_o)_[0-9]+")
    with pytest.raises(TreeError, match=r"'OD_o' is no eye.*data.bscans.eye_words"):
        list_bscans(tree, foreign)
    foreign.eye_words = {"OD_o": "R", "oi_O": "L"}
    assert [one.laterality for one in list_bscans(tree, foreign).records] == ["R", "L", "R", "R"]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "x"}, r"must have a group \(\?P<participant>"),
        ({"pattern": "(?P<participant>x)(?P<who>y)"}, "has a group who"),
        ({"eye_words": {"izq": "left"}}, "must be R or L"),
        ({"spacing_mm": [0.004]}, r"must be \[row, column\]"),
        ({"spacing_mm": [0.004, -1.0]}, r"must be \[row, column\]"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        BscanConfig(**settings)


def test_settings_beside_b_scans_must_go_with_them():
    with pytest.raises(ValueError, match=r"data\.window=tiny takes 8 B-scans"):
        SourceConfig(window="tiny", bscans=BscanConfig())
    with pytest.raises(ValueError, match=r"data\.manifest does nothing"):
        SourceConfig(window="96x256", bscans=BscanConfig(), manifest="m.tsv")


def test_no_image_and_no_match_are_each_one_line(tree, tmp_path):
    with pytest.raises(TreeError, match=r"pattern matches none of 4 images") as found:
        list_bscans(tree, BscanConfig(pattern="(?P<participant>zz)"))
    assert "11_OD" not in str(found.value), "paths name patients"
    (tmp_path / "empty").mkdir()
    with pytest.raises(TreeError, match=r"no images; looked for \.png"):
        list_bscans(tmp_path / "empty", BscanConfig())


def test_what_is_no_b_scan_costs_a_line_each(tree, tmp_path):
    (tree / "a/13_OD_o_1.png").write_text("this is text")
    coloured = np.zeros((60, 80, 3), np.uint8)
    coloured[:, :, 0] = layers()
    Image.fromarray(coloured).save(tree / "a/14_OD_o_1.png")
    Image.fromarray(np.full((60, 80), 7, np.uint8)).save(tree / "a/15_OD_o_1.png")
    Image.fromarray(layers()).save(tree / "a/other.png")
    source = open_source(config(tree, tmp_path))
    assert len(source.volumes) == 4
    reasons = sorted(f"{one.stage}: {one.reason}" for one in source.volumes.quarantined)
    assert reasons == [
        "content: every one of the 1 frames is of one grey level: no image",
        "decode: the image is not a readable image (UnidentifiedImageError)",
        "parse: its path does not match data.bscans.pattern",
        "parse: the image is coloured; B-scans are grey",
    ]


def test_a_claim_of_gigabytes_is_refused_before_it_is_unpacked(tree, tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    check = struct.pack(">I", zlib.crc32(header))
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + check
    (tree / "a/13_OD_o_1.png").write_bytes(content)
    source = open_source(config(tree, tmp_path))
    (refused,) = source.volumes.quarantined
    assert refused.stage == "decode"


def test_grey_jpegs_with_a_tint_are_taken_as_their_mean(tmp_path):
    tinted = np.repeat(layers()[..., None], 3, axis=2).astype(np.int16)
    tinted += np.array([6, 0, -6])
    tinted[:4, :4] = (250, 20, 20)  # a mark in the corner
    Image.fromarray(np.clip(tinted, 0, 255).astype(np.uint8)).save(tmp_path / "x.png")
    (record,) = list_bscans(tmp_path, BscanConfig()).records
    found = read_scan(tmp_path, record).voxels[0]
    assert np.abs(found[8:].astype(int) - layers()[8:]).max() <= 2


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_an_image_that_says_it_is_turned_is_turned_upright(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = np.rot90(layers(), 1)
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / f"x.{ending}", exif=exif)
    (record,) = list_bscans(tmp_path, BscanConfig()).records
    found = read_scan(tmp_path, record).voxels[0]
    assert found.shape == (60, 80)
    assert np.abs(found.astype(int) - layers()).mean() < 5
    assert open_scan(tmp_path, record).shape == (1, 60, 80)


@pytest.mark.parametrize("ending", ["jpg", "tif"])
def test_a_folder_of_turned_images_is_announced_as_it_is_read(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 8
    for n in range(3):
        turned = np.ascontiguousarray(np.rot90(layers(shift=n), -1))
        Image.fromarray(turned).save(tmp_path / f"{n}.{ending}", exif=exif)
    (tmp_path / "volume.json").write_text('{"spacing_mm": [0.1, 0.01, 0.02]}')
    assert open_volume(tmp_path).shape == read_volume(tmp_path).voxels.shape == (3, 60, 80)


def test_sixteen_bits_become_eight_by_their_white(tmp_path):
    deep = layers(dtype=np.uint16) * 16
    Image.fromarray(deep).save(tmp_path / "x.png")
    (record,) = list_bscans(tmp_path, BscanConfig()).records
    assert np.array_equal(read_scan(tmp_path, record).voxels[0], deep)
    source = open_source(config(tmp_path, tmp_path, window="60x80", bscans=BscanConfig()))
    assert source.volumes.entries[0].white == 4095
    assert np.abs(source.volumes[0][0].astype(int) - layers()).max() <= 1


def test_grey_levels_that_are_no_whole_numbers_are_refused_and_not_cut_to_black(tmp_path):
    Image.fromarray(layers().astype(np.float32) / 255).save(tmp_path / "x.tif")
    (record,) = list_bscans(tmp_path, BscanConfig()).records
    with pytest.raises(ScanError, match="no whole numbers; write 8 or 16 bit") as caught:
        read_scan(tmp_path, record)
    assert caught.value.stage == "content"


def test_every_page_of_a_tiff_is_a_b_scan(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    pages = [Image.fromarray(layers(shift=n)) for n in range(3)]
    pages[0].save(root / "7_OD_o_1.tif", save_all=True, append_images=pages[1:])
    source = open_source(config(root, tmp_path, window="60x80"))
    assert len(source.volumes) == 3
    assert len(source.participants(range(3))) == 1
    assert sorted(volume.tobytes() for volume in source.volumes) == sorted(
        layers(shift=n).tobytes() for n in range(3)
    )


def test_unknown_millimetres_stay_unknown_and_known_ones_follow_the_stretch(tree, tmp_path):
    source = open_source(config(tree, tmp_path))
    assert np.isnan(source.volumes.spacings).all()
    assert source.volumes.entries[0].spacing_source == "unknown"
    assert source.remarks == (
        "positions count patches: of 4 of 4 scans nobody knows how far apart their voxels are",
    )
    known = BscanConfig(pattern=NAMES, spacing_mm=[0.004, 0.012])
    sized = open_source(config(tree, tmp_path, bscans=known))
    assert sized.remarks == ()
    assert sized.volumes.spacings[:, 1:] == pytest.approx(
        np.tile([0.004 * 60 / 16, 0.012 * 80 / 32], (4, 1))
    )
    assert np.isnan(sized.volumes.spacings[:, 0]).all()
    assert sized.volumes.fingerprint == source.volumes.fingerprint, "the same voxels"


def test_a_window_in_millimetres_needs_them(tree, tmp_path):
    with pytest.raises(TreeError, match="nothing tells its millimetres"):
        open_source(config(tree, tmp_path, window="bscan"))
    known = BscanConfig(pattern=NAMES, spacing_mm=[0.02, 0.05])
    sized = open_source(config(tree, tmp_path, window="bscan", bscans=known))
    assert sized.volumes.shape == (1, 96, 256)
    assert sized.volumes.spacings[0, 1:] == pytest.approx([2 / 96, 6 / 256])


def test_a_second_start_decodes_nothing_and_a_change_of_names_everything(tree, tmp_path):
    first = open_source(config(tree, tmp_path)).volumes.index
    assert open_source(config(tree, tmp_path)).volumes.index.inputs == first.inputs
    other = BscanConfig(pattern="(?P<participant>[^/]+)/[^/]+")
    again = open_source(config(tree, tmp_path, bscans=other)).volumes.index
    assert again.inputs != first.inputs
    assert again.fingerprint == first.fingerprint


def test_labels_of_participants_meet_their_images(tree, tmp_path):
    (tree / "participants.tsv").write_text(
        "participant_id\till\n11\tno\n12\tyes\n13\tno\n14\tyes\n"
    )
    for name in ("13_OD_o_1.png", "14_OD_o_1.png"):
        Image.fromarray(layers()).save(tree / name)
    found = open_source(config(tree, tmp_path)).labelled("ill")
    assert len(found.labels) == 6
    assert found.classes == ("false", "true")
