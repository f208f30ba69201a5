"""Masks of single B-scans: whose they are, what their grey levels mean, and where they end up."""

import time

import numpy as np
import pytest
from oct_io import SourceConfig, TreeError, open_source
from oct_io.bscans import BscanConfig, list_bscans
from oct_io.records.drawings import MaskFolder
from oct_io.volume import UNLABELLED
from PIL import Image

ROWS, COLUMNS = 60, 80
NAMES = r"(?P<participant>[0-9]+)_(?P<eye>O[DS])"
FLUID = {"fluid": "255"}


def retina(spot):
    """A tilted bright band on a dark ground, with a brighter spot whose place is (row, column)."""
    level = np.random.default_rng(spot[0]).integers(5, 25, (ROWS, COLUMNS))
    for column in range(COLUMNS):
        level[20 + column // 8 : 34 + column // 8, column] += 90
    level[spot[0] : spot[0] + 6, spot[1] : spot[1] + 12] = 250
    return level.astype(np.uint8)


def save(path, array, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    image.save(path, **more)


@pytest.fixture
def root(tmp_path):
    """Three eyes; the spots of the first two are masked."""
    for name, spot in (("1_OD", (26, 10)), ("1_OS", (26, 10)), ("2_OD", (35, 50))):
        save(tmp_path / "images" / f"{name}.png", retina(spot))
    for name in ("1_OD", "1_OS"):
        drawn = np.zeros((ROWS, COLUMNS), np.uint8)
        drawn[26:32, 10:22] = 255
        save(tmp_path / "masks" / f"{name}.png", drawn)
    return tmp_path / "images"


def config(root, masks="masks", classes=FLUID, table="", **settings):
    place = root.parent
    bscans = BscanConfig(
        pattern=NAMES, table=table, masks=str(place / masks), mask_classes=dict(classes)
    )
    said = {"window": f"{ROWS}x{COLUMNS}", "annotations": ["mask"], "jobs": 1} | settings
    return SourceConfig(root=str(root), cache=str(place / "cache"), bscans=bscans, **said)


def masks_of(source):
    """Mask of each image by participant and eye."""
    volumes = source.volumes
    people = volumes.entries.coded("participant").texts()
    eyes = volumes.entries.coded("laterality").texts()
    return {
        (hashed, eye): volumes.mask(number)[0]
        for number, (hashed, eye) in enumerate(zip(people.tolist(), eyes.tolist(), strict=True))
    }


def redraw(root, array, name="masks/1_OD.png"):
    save(root.parent / name, array)


def test_a_mask_belongs_to_the_image_of_its_name_and_the_others_are_unlabelled(root):
    source = open_source(config(root))
    volumes = source.volumes
    assert volumes.mask_classes == ("background", "fluid")
    assert volumes.entries.with_annotation("mask").tolist() == [0, 1]
    for number in (0, 1):
        mask, grey = volumes.mask(number)[0], volumes[number][0]
        assert np.array_equal(mask == 1, grey > 200)
        assert set(np.unique(mask)) == {0, 1}
    assert (volumes.mask(2) == UNLABELLED).all(), "nobody said that there is none"


@pytest.mark.parametrize("window", ["30x40", "30x40-padded", "96x256"])
def test_a_mask_goes_where_its_image_goes(root, window):
    cut = {"window": window, "mirror_left": True, "flatten": True}
    volumes = open_source(config(root, **cut)).volumes
    assert [volumes.entries[n].mirrored for n in range(3)] == [False, True, False]
    for number in (0, 1):
        mask, bright = volumes.mask(number)[0] == 1, volumes[number][0] > 180
        both, either = np.sum(mask & bright), np.sum(mask | bright)
        assert both / either > 0.75, "but for edges, which voxels blur"
        left = np.flatnonzero(mask.any(axis=0)).mean() < mask.shape[1] / 2
        assert left == (number == 0)


def test_a_changed_mask_or_another_name_of_a_class_makes_the_image_anew(root):
    before = open_source(config(root)).volumes
    other = before.mask(1)
    assert open_source(config(root)).volumes.index.inputs == before.index.inputs
    redraw(root, np.full((ROWS, COLUMNS), 255, np.uint8))
    after = open_source(config(root)).volumes
    assert (after.mask(0) == 1).all()
    assert np.array_equal(after.mask(1), other)
    named = open_source(config(root, classes={"cyst": "255"})).volumes
    assert named.mask_classes == ("background", "cyst")


def test_a_level_is_a_class_by_its_name_its_range_or_its_number(root):
    drawn = np.zeros((ROWS, COLUMNS), np.uint8)
    drawn[0, :4] = (1, 2, 3, 9)
    redraw(root, drawn)
    redraw(root, drawn, "masks/1_OS.png")
    named = {"SRF": "2", "IRF": "1", "other": "3-8", "unlabelled": "9"}
    said = open_source(config(root, classes=named)).volumes
    assert said.mask_classes == ("background", "IRF", "SRF", "other")
    assert said.mask(0)[0, 0, :5].tolist() == [1, 2, 3, UNLABELLED, 0]
    unsaid = open_source(config(root, classes={})).volumes
    assert unsaid.mask_classes == ("background", "class 1", "class 2", "class 3", "class 9")
    assert unsaid.mask(0)[0, 0, :5].tolist() == [1, 2, 3, 4, 0]


def test_black_and_white_is_one_class_without_a_name(root):
    drawn = np.zeros((ROWS, COLUMNS), bool)
    drawn[:3] = True
    redraw(root, drawn)  # one bit a pixel
    assert open_source(config(root, classes={})).volumes.mask_classes == (
        "background",
        "class 255",
    )


@pytest.mark.parametrize(
    ("colours", "found"),
    [([(0, 0, 0), (255, 255, 255)], 255), ([(0, 0, 0), (200, 0, 0)], 1)],
)
def test_a_palette_counts_as_it_looks_or_if_coloured_by_its_numbers(root, colours, found):
    image = Image.fromarray(np.eye(ROWS, COLUMNS, dtype=np.uint8), mode="P")
    image.putpalette([level for colour in colours for level in colour])
    image.save(root.parent / "masks" / "1_OD.png")
    (root.parent / "masks" / "1_OS.png").unlink()
    volumes = open_source(config(root, classes={"drawn": str(found)})).volumes
    assert np.array_equal(volumes.mask(0)[0], np.eye(ROWS, COLUMNS))


def test_masks_may_lie_beside_their_images_below_them_or_be_named_by_the_table(root, tmp_path):
    (tmp_path / "masks" / "1_OD.png").rename(root / "1_OD_mask.png")
    (tmp_path / "masks" / "1_OS.png").rename(root / "1_OS_mask.png")
    beside = masks_of(open_source(config(root, masks="images")))
    below = root / "drawn"
    below.mkdir()
    (root / "1_OD_mask.png").rename(below / "first.png")
    (root / "1_OS_mask.png").rename(below / "1_OS.png")
    table = tmp_path / "who.csv"
    table.write_text("filepath,mask\n1_OD.png,first.png\n1_OS.png,\n")
    stated = masks_of(open_source(config(root, masks="images/drawn", table=str(table))))
    assert len(beside) == len(stated) == 3
    for key, mask in beside.items():
        assert np.array_equal(stated[key], mask)
    assert sum((mask == 1).any() for mask in beside.values()) == 2


def test_pairing_takes_no_longer_where_all_files_have_one_name(tmp_path):
    seconds = []
    for kind, name in (("apart", "{n}/{n}.png"), ("alike", "{n}/1.png")):
        images = [name.format(n=n) for n in range(600)]
        for image in images:
            (tmp_path / kind / image).parent.mkdir(parents=True)
            (tmp_path / kind / image).touch()
        masks = MaskFolder(str(tmp_path / kind), str(tmp_path / "images"))
        before = time.process_time()
        found = masks.pair(images, {})
        seconds.append(time.process_time() - before)
        assert {
            image: path.removeprefix(f"{tmp_path}/{kind}/") for image, path in found.items()
        } == {image: image for image in images}
    assert seconds[1] < 10 * seconds[0]


def test_pages_of_a_mask_are_those_of_its_image(root, tmp_path):
    pages = [Image.fromarray(retina((26, column))) for column in (10, 40)]
    pages[0].save(root / "3_OD.tif", save_all=True, append_images=pages[1:])
    drawn = [Image.fromarray(((np.asarray(one) == 250) * 255).astype(np.uint8)) for one in pages]
    drawn[0].save(tmp_path / "masks" / "3_OD.tif", save_all=True, append_images=drawn[1:])
    volumes = open_source(config(root)).volumes
    assert len(volumes) == 5
    for number in volumes.entries.with_annotation("mask").tolist():
        assert np.array_equal(volumes.mask(number) == 1, volumes[number] == 250)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda root: redraw(root, np.zeros((8, 9), np.uint8)),
         r"masks\): 1 cannot be used; the first: its mask: it has 8 x 9 pix.*image 60 x 80; draw"),
        (lambda root: redraw(root, np.full((ROWS, COLUMNS), 128, np.uint8)),
         r"grey level 128, for which no class is named; data\.bscans\.mask_classes=\{NAME: 128\}"),
        (lambda root: redraw(root, np.eye(ROWS, COLUMNS * 3, dtype=np.uint8)
                             .reshape(ROWS, COLUMNS, 3)), "it is coloured; draw each class"),
        (lambda root: (root.parent / "masks/1_OD.png").write_text("text"),
         "it is not a readable image"),
        (lambda root: redraw(root, np.zeros((ROWS, COLUMNS), np.uint8), "masks/9_OD.png"),
         r"1 of 3 masks are of no image, by path number 3 first; below data\.root lie 3; a mask"),
        (lambda root: redraw(root, np.zeros((ROWS, COLUMNS), np.uint8), "masks/1_OD.bmp"),
         "mask 2 by path is the second of its image"),
        (lambda root: [save(root / f"{one}/1_OD.png", retina((30, 30))) for one in "ab"]
         and (root / "1_OD.png").unlink(),
         "the image of mask 1 by path: 2 of that name are there"),
    ],
)  # fmt: skip
def test_a_mask_that_cannot_be_used_ends_the_start_in_one_line(root, change, complaint):
    change(root)
    for _ in range(2):  # a cache that stands already says it again
        with pytest.raises(TreeError, match=complaint) as found:
            open_source(config(root))
    assert "\n" not in str(found.value)
    assert "1_OD" not in str(found.value), "names name patients"


def test_no_folder_no_mask_and_no_match_are_each_one_line(root, tmp_path):
    with pytest.raises(TreeError, match=r"nowhere \(data\.bscans\.masks\): no such folder"):
        list_bscans(root, BscanConfig(masks=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TreeError, match=r"empty .*no masks; looked for \.png"):
        list_bscans(root, BscanConfig(masks=str(tmp_path / "empty")))
    with pytest.raises(TreeError, match=r"no masks; .* whose names end in _mask"):
        list_bscans(root, BscanConfig(masks=str(root)))
    for number, name in enumerate(("1_OD", "1_OS")):
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"x{number}.png")
    with pytest.raises(TreeError, match="none of 2 masks is of an image"):
        list_bscans(root, BscanConfig(masks=str(tmp_path / "masks")))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"mask_classes": {"fluid": "white"}}, r"fluid: white\) must be a grey level"),
        ({"mask_classes": {"fluid": "0-9"}}, "0 is the background"),
        ({"mask_classes": {"fluid": "9-1"}}, "must lie from 1"),
        ({"mask_classes": {"a": "1-9", "b": "9"}}, "b and a have grey levels in common"),
        ({"mask_classes": {"background": "9"}}, "no background"),
        ({"mask_classes": FLUID, "masks": ""}, "which is ''"),
    ],
)
def test_classes_that_cannot_be_meant_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        BscanConfig(**({"masks": "x"} | settings))


def test_masks_that_nobody_would_read_are_refused():
    with pytest.raises(ValueError, match=r"data\.bscans\.masks is read with data\.annotations"):
        SourceConfig(window="96x256", bscans=BscanConfig(masks="x"))
