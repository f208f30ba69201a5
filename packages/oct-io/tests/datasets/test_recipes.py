"""Recipes on made-up copies of their sets: scans, labels, split, what is missing, and a cache."""

import hashlib
import shutil
from typing import NamedTuple

import numpy as np
import pytest
from oct_io import SourceConfig, TreeError, open_source
from oct_io.cli import main
from oct_io.datasets.checksums import compare, read_list
from oct_io.datasets.contents import open_dataset
from oct_io.datasets.registry import RECIPES
from oct_io.records.opening import read_scan


class Promise(NamedTuple):
    """What a made-up copy must come to."""

    scans: int
    participants: int
    label: str = ""
    classes: tuple[str, ...] = ()
    test: int = 0  # participants of the official split
    spacing: tuple[float, ...] = ()  # of the scans; () if nobody knows it
    window: str = "16x32"


PROMISED = {
    "mexico_dme": Promise(16, 8, "dme", ("0", "1")),
    "duke_dme": Promise(4, 4, window="4x16x16"),
    "duke_amd": Promise(8, 8, "amd", ("0", "1"), window="4x16x16"),
    "kermany": Promise(22, 11, "ill", ("0", "1"), test=4),
    "octdl": Promise(16, 8, "disease", ("AMD", "NO")),
    "oct5k": Promise(16, 8, "disease", ("AMD", "Normal")),
    "octa500": Promise(
        *(6, 6, "disease", ("AMD", "NORMAL")),
        test=3,
        spacing=(3 / 304, 2 / 640, 3 / 304),
        window="4x16x16",
    ),
    "olives": Promise(17, 9, "drt_me", ("0", "1")),
    "fairvision": Promise(8, 8, "glaucoma", ("no", "yes"), test=3, window="4x16x16"),
    "retouch": Promise(6, 6, test=3, spacing=(0.5, 0.04, 0.2), window="4x16x16"),
    "maetschke": Promise(
        16, 8, "glaucoma", ("0", "1"), spacing=(6 / 64, 2 / 128, 6 / 64), window="4x16x16"
    ),
}


@pytest.fixture(scope="module")
def layouts(neighbour):
    return neighbour(__file__, "layouts.py").LAYOUTS


@pytest.fixture(scope="module")
def copies(layouts, tmp_path_factory):
    """`copies(name)` is a made-up copy of a set, made once."""
    made = {}

    def copy(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("sets") / name
            layouts[name](made[name])
        return made[name]

    return copy


def test_every_recipe_has_a_made_up_copy_and_a_promise(layouts):
    assert layouts.keys() == PROMISED.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", PROMISED)
def test_scans_labels_and_split_are_those_of_the_set(copies, name):
    promise, contents = PROMISED[name], open_dataset(name, copies(name))
    assert len(contents.listing.records) == promise.scans
    assert contents.participants == promise.participants
    assert all(one.refused is None for one in contents.listing.records)
    assert all(one.bscan == RECIPES[name].bscans for one in contents.listing.records)
    if promise.label:
        cells = {row[promise.label] for row in contents.labels.finer.rows.values()} - {""}
        assert cells == set(promise.classes)
    tested = contents.split.parts["test"] if contents.split else ()
    assert len(tested) == promise.test
    unknown = [one for one in contents.findings if "does not know" in one]
    assert unknown == [], "every file of the copy is one that the recipe knows"


@pytest.mark.parametrize("name", PROMISED)
def test_a_copy_becomes_a_cache_with_labelled_volumes(copies, name, tmp_path):
    promise = PROMISED[name]
    source = open_source(
        SourceConfig(
            root=str(copies(name)),
            recipe=name,
            window=promise.window,
            cache=str(tmp_path / "cache"),
            jobs=1,
        )
    )
    assert not source.volumes.quarantined
    assert len(source.volumes) == promise.scans
    assert source.volumes[0].std() > 0
    if promise.spacing:
        first = open_dataset(name, copies(name)).listing.records[0]
        assert read_scan(copies(name), first).spacing == pytest.approx(promise.spacing)
        assert np.isfinite(source.volumes.spacings).all()
        assert not source.remarks
    else:
        assert np.isnan(source.volumes.spacings[:, 1:]).all()
        assert source.remarks[-1].startswith("positions count patches")
    seen = source.outside(["test"])
    assert len(source.participants(seen)) == promise.participants - promise.test
    if promise.label:
        asked = source.labelled(promise.label)
        said = {{"no": "false", "yes": "true"}.get(one, one.lower()) for one in promise.classes}
        assert {one.lower() for one in asked.classes} == said
        assert asked.held_out.any()


def test_images_of_test_participants_do_not_stay_in_the_training_part(copies):
    contents = open_dataset("kermany", copies("kermany"))
    assert contents.parts == {"train": 14, "test": 8}
    assert contents.remarks == (
        "2 scans are left out, because their 1 participants are in a later part of the official "
        "split as well, of train, val and test",
    )


def test_a_root_may_be_the_folder_above_or_below(copies):
    root = copies("fairvision")
    for place in (root.parent, root / "FairVision", root / "FairVision" / "Glaucoma"):
        assert len(open_dataset("fairvision", place).listing.records) == 8


def test_a_table_of_ones_own_meets_the_participants_of_a_set(copies, tmp_path):
    rows = [f"{person},{person % 2}" for person in range(8)]  # the names of files say 000 to 007
    (tmp_path / "own.csv").write_text("\n".join(["participant_id,mine", *rows]) + "\n")
    source = open_source(
        SourceConfig(
            root=str(copies("maetschke")),
            recipe="maetschke",
            labels=str(tmp_path / "own.csv"),
            window="4x16x16",
            cache=str(tmp_path / "cache"),
            jobs=1,
        )
    )
    assert len(source.labelled("mine").volumes) == 16


def test_what_is_missing_is_said_with_the_way_to_get_it(copies, tmp_path):
    root = tmp_path / "octa"
    shutil.copytree(copies("octa500"), root)
    (root / "OCTA_3mm" / "Text labels.xlsx").unlink()
    (root / "OCTA_6mm" / "Text labels.xlsx").unlink()
    (root / "strange.pdf").touch()
    lines = open_dataset("octa500", root).findings
    assert lines[0] == "B-scans of 6 volumes, which have fewer than 400 or 304"
    assert lines[1].startswith("Text labels.xlsx")
    assert lines[2] == (
        "494 of 500 scans are missing; get them from ieee-dataport.org/open-access/octa-500"
    )
    assert lines[-1] == "files that the recipe does not know, and passes over: 1 .pdf"


def test_a_folder_of_something_else_names_what_was_expected(copies):
    with pytest.raises(TreeError, match=r"no scan of OCTDL; expected OCTDL/AMD/amd_.*get it from"):
        open_dataset("octdl", copies("maetschke"))


def test_both_eyes_of_a_subject_of_olives_are_of_one_participant(copies):
    records = open_dataset("olives", copies("olives")).listing.records
    owners = {one.participant_id for one in records if "/020G" in one.path}
    assert len(owners) == 2, "the right eye is in the table, the left one in no row"
    assert {one.laterality for one in records if "/OS/" in one.path} == {"L"}


def test_fluid_of_retouch_is_a_mask_with_named_classes(copies, tmp_path):
    source = open_source(
        SourceConfig(
            root=str(copies("retouch")),
            recipe="retouch",
            window="9x40x30",
            cache=str(tmp_path / "cache"),
            annotations=["mask"],
            jobs=1,
        )
    )
    volumes = source.volumes
    named = {"background", "intraretinal_fluid", "subretinal_fluid", "ped"}
    assert set(volumes.mask_classes) == named
    marked = [n for n in range(6) if volumes.entries[n].mask]
    found = {volumes.mask_classes[volumes.mask(n)[4, 16, 12]] for n in marked}
    assert found == named - {"background"}


def test_millimetres_may_be_given_where_a_set_has_none(copies, tmp_path):
    source = open_source(
        SourceConfig(
            root=str(copies("duke_amd")),
            recipe="duke_amd",
            spacing_mm=[0.067, 0.01, 0.1],
            window="4x16x16",
            cache=str(tmp_path / "cache"),
            jobs=1,
        )
    )
    extent = np.array([9 * 0.067, 40 * 0.01, 30 * 0.1])
    assert source.volumes.spacings[0] == pytest.approx(extent / (4, 16, 16))
    assert not source.remarks


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"recipe": "octld"}, "did you mean octdl"),
        ({"recipe": "octdl", "window": "4x16x16"}, "octdl has one at a time"),
        ({"recipe": "octdl", "manifest": "a.tsv"}, "says itself which scans there are"),
        ({"spacing_mm": [0.1, 0.1, 0.1]}, "goes with data.recipe"),
        ({"recipe": "duke_amd", "spacing_mm": [0.1, 0.1]}, "three numbers"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        SourceConfig(**settings)


def test_a_list_of_hashes_tells_whether_a_copy_is_the_same(copies, tmp_path, capsys):
    root, sums = tmp_path / "sets" / "octdl", tmp_path / "sums.txt"
    shutil.copytree(copies("octdl"), root)
    asked = ["datasets", "octdl", str(root), "--checksums", str(sums)]
    assert main(asked) == 0
    assert "17 files" in capsys.readouterr().out  # 16 images and the table
    lines = sums.read_text().splitlines()
    first = hashlib.sha256((root / lines[0].split("  ")[1]).read_bytes()).hexdigest()
    assert lines[0].startswith(first)
    assert main(asked) == 0
    assert f"checksums: as in {sums}" in capsys.readouterr().out
    elsewhere = ["datasets", "octdl", str(root.parent), "--checksums", str(sums)]
    assert main(elsewhere) == 0, "a list that begins further down"
    spoilt, gone = (root / lines[number].split("  ")[1] for number in (0, 1))
    content = spoilt.read_bytes()
    spoilt.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    gone.unlink()
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert f"1 files differ from the list: {lines[0].split('  ')[1]}" in said
    assert f"1 files of the list are not there: {lines[1].split('  ')[1]}" in said


def test_a_publishers_md5_is_understood_and_what_is_no_list_refused(copies, tmp_path):
    root = copies("maetschke")
    (path, *_) = open_dataset("maetschke", root).files
    content = (root / path).read_bytes()
    sums = tmp_path / "md5.txt"
    sums.write_text(f"{hashlib.md5(content).hexdigest()} *./{path}\n")
    assert compare(root, [path], read_list(sums)) == []
    assert compare(root, [path], {path: hashlib.md5(b"").hexdigest()}) == [
        f"1 files differ from the list: {path}"
    ]
    for text in ("hello\n", "", f"{'0' * 32}  a\n{'0' * 64}  b\n"):
        sums.write_text(text)
        with pytest.raises(TreeError):
            read_list(sums)


@pytest.mark.parametrize("name", RECIPES)
def test_terms_say_how_far_they_are_known(name):
    recipe = RECIPES[name]
    assert recipe.terms
    licence = "CC" in recipe.terms
    own_page = "Harvard-Ophthalmology-AI-Lab" in recipe.source  # read in its repository
    assert not licence or own_page or "read the publisher's page" in recipe.terms


def test_the_command_lists_describes_and_checks(copies, tmp_path, capsys):
    assert main(["datasets"]) == 0
    assert "kermany" in capsys.readouterr().out
    assert main(["datasets", "octdl"]) == 0
    assert "not verified on the real files" in capsys.readouterr().out
    table = tmp_path / "labels.csv"
    assert main(["datasets", "kermany", str(copies("kermany")), "--labels", str(table)]) == 0
    said = capsys.readouterr().out
    assert "22 scans of 11 participants" in said
    assert "official split, scans: " in said
    assert "nothing is missing that can be told: its published counts are not known" in said
    assert "all is as published" not in said
    head = table.read_text().splitlines()[0]
    assert head == "filepath,participant_id,recommended_split,disease,ill"
    assert main(["datasets", "kermani"]) == 2
    assert "did you mean kermany" in capsys.readouterr().err
