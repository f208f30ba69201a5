import csv
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from oct_io.errors import TreeError
from oct_io.phantom import Phantom, PhantomTree, draw_phantom, write_phantom_tree
from oct_io.phantom.tables import draw_people

SMALL = PhantomTree(participants=4, shape=(3, 24, 16), jobs=1)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def people(count=240, seed=0):
    return draw_people(count, seed=seed, prevalence=0.5, split_fractions=(0.6, 0.1, 0.3))


def files(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "tree"
    write_phantom_tree(out, SMALL)
    return out


def test_files_lie_where_ai_readi_puts_them(tree):
    found = sorted(tree.glob("retinal_oct/structural_oct/*/*/*.dcm"))
    assert len(found) == 8  # both eyes of four people
    for path in found:
        device, person = path.parts[-3:-1]
        uid = pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        assert path.name in {f"{person}_{device}_macula_oct_{eye}_{uid}.dcm" for eye in "rl"}


def test_the_manifest_has_ai_readis_columns_in_their_order(tree):
    header = (tree / "retinal_oct" / "manifest.tsv").read_text().splitlines()[0].split("\t")
    assert header == [
        "participant_id", "manufacturer", "manufacturers_model_name", "anatomic_region", "imaging",
        "laterality", "height", "width", "number_of_frames", "pixel_spacing", "slice_thickness",
        "sop_instance_uid", "filepath", "reference_instance_uid", "reference_filepath",
    ]  # fmt: skip


def test_the_manifest_agrees_with_the_files(tree):
    for row in rows(tree / "retinal_oct" / "manifest.tsv"):
        assert row["filepath"].startswith("/retinal_oct/structural_oct/")
        file = pydicom.dcmread(tree / row["filepath"].lstrip("/"))
        assert (file.PatientID, file.ImageLaterality) == (row["participant_id"], row["laterality"])
        assert file.SOPInstanceUID == row["sop_instance_uid"]
        shape = (row["number_of_frames"], row["height"], row["width"])
        assert file.pixel_array.shape == tuple(map(int, shape)) == (3, 24, 16)
        measures = file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert json.loads(row["pixel_spacing"]) == pytest.approx(list(measures.PixelSpacing))
        assert float(row["slice_thickness"]) == pytest.approx(measures.SliceThickness)
        assert row["manufacturers_model_name"] == file.ManufacturerModelName


def test_participants_carry_groups_splits_and_lesions(tree):
    found = rows(tree / "participants.tsv")
    assert list(found[0])[:6] == [
        "participant_id", "clinical_site", "study_group", "age", "study_visit_date",
        "recommended_split",
    ]  # fmt: skip
    assert list(found[0])[-7:] == ["fluid", "drusen", "thin", "sex", "severity", "years", "event"]
    assert {row[name] for row in found for name in ("fluid", "drusen", "thin")} == {"TRUE", "FALSE"}
    manifest = {row["participant_id"] for row in rows(tree / "retinal_oct" / "manifest.tsv")}
    assert {row["participant_id"] for row in found} == manifest
    assert all(len(key) == 4 and key[0] in "147" for key in manifest)


def test_the_third_version_names_the_id_person_id(tmp_path):
    write_phantom_tree(tmp_path / "t", replace(SMALL, participants=1, manifest_version=3))
    for table in ("participants.tsv", "retinal_oct/manifest.tsv"):
        assert (tmp_path / "t" / table).read_text().startswith("person_id\t")


def test_labels_in_the_table_are_those_that_were_drawn(tree):
    person = people(4)[2]
    spec = Phantom(
        device="phantom_c", shape=SMALL.shape, fluid=person.fluid, drusen=person.drusen,
        thin=person.thin, study_group=person.study_group,
    )  # fmt: skip
    (path,) = tree.glob(f"retinal_oct/structural_oct/phantom_c/{person.id}/*_r_*.dcm")
    drawn = draw_phantom(spec, person.seed).voxels
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, drawn)
    (row,) = [r for r in rows(tree / "participants.tsv") if r["participant_id"] == person.id]
    assert [row[k] == "TRUE" for k in ("fluid", "drusen", "thin")] == [
        person.fluid, person.drusen, person.thin,
    ]  # fmt: skip


def test_the_folder_says_that_it_is_made_up(tree):
    marker = json.loads((tree / "phantom.json").read_text())
    assert "Made up" in marker["phantom"]
    assert marker["tree"]["participants"] == 4


def test_processes_do_not_change_what_is_written(tmp_path, tree):
    write_phantom_tree(tmp_path / "t", replace(SMALL, jobs=2))
    assert files(tmp_path / "t") == files(tree)


def test_the_same_tree_again_is_left_alone(tree):
    before = {p: p.stat().st_mtime_ns for p in tree.rglob("*")}
    write_phantom_tree(tree, replace(SMALL, jobs=2))
    assert {p: p.stat().st_mtime_ns for p in tree.rglob("*")} == before


def test_another_tree_in_the_folder_is_refused(tree):
    with pytest.raises(TreeError, match="phantom tree of another specification; remove it"):
        write_phantom_tree(tree, replace(SMALL, seed=1))


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(TreeError, match="something other than a phantom tree"):
        write_phantom_tree(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "dear"


def test_an_empty_folder_is_filled(tmp_path):
    write_phantom_tree(tmp_path, replace(SMALL, participants=1))
    assert (tmp_path / "participants.tsv").is_file()


def test_progress_counts_every_scan(tmp_path):
    seen = []
    one = replace(SMALL, participants=1, devices_per_participant=3)
    write_phantom_tree(tmp_path / "t", one, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_a_failure_leaves_nothing(tmp_path):
    def fail(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom_tree(tmp_path / "t", SMALL, progress=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_no_tree_and_the_next_one_cleans_up(tmp_path):
    code = (
        "import sys; from pathlib import Path; from oct_io.phantom import *;"
        "write_phantom_tree(Path(sys.argv[1]), PhantomTree(participants=500, jobs=1))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "t")])
    deadline = time.monotonic() + 300
    while not list(tmp_path.rglob("*.dcm")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "t").exists()
    assert len(list(tmp_path.iterdir())) == 1  # what was drawn so far, hidden
    write_phantom_tree(tmp_path / "t", SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_lesions_are_independent_of_each_other_and_of_the_group():
    found = people(2400)
    table = np.array([[p.fluid, p.drusen, p.thin, p.study_group] for p in found], float)
    assert table[:, :3].mean(axis=0) == pytest.approx([0.5, 0.5, 0.5])
    correlations = np.corrcoef(table.T) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(2400)


def test_splits_have_their_shares_in_every_stratum():
    found = people()
    assert Counter(p.split for p in found) == {"train": 144, "val": 24, "test": 72}
    for lesion in ("fluid", "drusen", "thin"):
        shares = [
            np.mean([getattr(p, lesion) for p in found if p.split == s]) for s in ("train", "test")
        ]
        assert shares == pytest.approx([0.5, 0.5], abs=0.05)


def test_participant_ids_are_unique_up_to_the_limit():
    assert len({p.id for p in people(2997)}) == 2997


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"participants": 0}, r"phantom_tree\.participants \(0\) must be 1 to 2997"),
        ({"split_fractions": (0.5, 0.1, 0.1)}, r"phantom_tree\.split_fractions"),
        ({"devices": ()}, r"phantom_tree\.devices"),
        ({"devices": ("phantom_a", "x")}, r"device \('x'\) must be one of"),
        ({"devices_per_participant": 4}, r"phantom_tree\.devices_per_participant \(4\)"),
        ({"manifest_version": 4}, r"phantom_tree\.manifest_version \(4\) must be 1, 2 or 3"),
        ({"lesion_prevalence": 1.5}, r"phantom_tree\.lesion_prevalence"),
    ],
)
def test_a_bad_field_is_named_with_its_value_and_rule(changes, message):
    with pytest.raises(ValueError, match=message):
        PhantomTree(**changes)


def test_lists_from_yaml_become_tuples():
    tree = PhantomTree(devices=["phantom_a"], split_fractions=[0.5, 0, 0.5], shape=[3, 24, 16])
    assert (tree.devices, tree.split_fractions) == (("phantom_a",), (0.5, 0, 0.5))
    assert tree.shape == (3, 24, 16)
