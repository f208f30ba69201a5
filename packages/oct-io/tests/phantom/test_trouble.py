"""Phantom trees with faults, odd manifests, confounders and shuffled labels."""

import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from oct_io import WINDOWS, audit, build_cache, open_cache, read_manifest
from oct_io.cli import main
from oct_io.phantom import Phantom, PhantomTree, draw_phantom, write_phantom_tree
from oct_io.phantom.arrangements import ORDERS
from oct_io.phantom.faults import FAULTS, ODD_CELLS, ODD_PATHS
from oct_io.phantom.scans import FORMAT, identify
from oct_io.quarantine import QUARANTINE, read_quarantine

SMALL = PhantomTree(participants=12, shape=(6, 80, 48), jobs=1)
VENDORS = PhantomTree(
    participants=6,
    scale=0.05,
    devices=(
        "cirrus_mac_oct",
        "maestro2_3d_wide_oct",
        "spectralis_onh_rc_hr_oct",
        "triton_macula_6x6_octa_oct",
    ),
    devices_per_participant=4,
    codecs=("jpeg2000", "jpegls", "ljpeg", "rle"),
    odd_files=True,
    corrupt=True,
    jobs=1,
)


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize(
    "tree",
    [replace(SMALL, corrupt=True, odd_manifest=True), VENDORS],
    ids=["odd manifest", "vendors"],
)
def test_what_is_wrong_is_found_at_the_stage_that_the_tree_expects(tmp_path, tree):
    root = tmp_path / "OCTdata"
    write_phantom_tree(root, tree)
    expected = rows(root / "expected.tsv")
    wrong = {line["wrong"] for line in expected}
    assert wrong >= (set(FAULTS) if tree.corrupt else set())
    assert not tree.odd_manifest or wrong >= {*ODD_CELLS, *ODD_PATHS}
    build_cache(read_manifest(root), root, WINDOWS["tiny"], tmp_path / "cache")
    found = {one.path: one.stage for one in read_quarantine(tmp_path / "cache" / QUARANTINE)}
    stated = {line["path"]: line["stage"] for line in expected if line["stage"]}
    assert found == stated
    keys = {record.path: record.key for record in read_manifest(root)}
    flags = {entry.key: entry.flags for entry in open_cache(tmp_path / "cache").entries}
    for line in expected:
        assert not line["flag"] or line["flag"] in flags[keys[line["path"]]]
    assert not tree.corrupt or {line["stage"] or line["flag"] for line in expected} >= {
        "decode",
        "parse",
        "content",
    }
    report = audit(root)
    for line in expected:
        if line["audit"] in ("laterality", "participant"):
            assert report.mismatches[line["audit"]] == 1
    assert report.duplicates == 1


def test_a_sound_tree_lists_no_expectations_and_nothing_is_refused(tmp_path):
    tree = replace(VENDORS, corrupt=False, devices=VENDORS.devices[:2], devices_per_participant=2)
    write_phantom_tree(tmp_path / "t", tree)
    assert not (tmp_path / "t" / "expected.tsv").exists()
    index = build_cache(
        read_manifest(tmp_path / "t"), tmp_path / "t", WINDOWS["tiny"], tmp_path / "c"
    )
    assert (index.refused, len(index.entries)) == (0, 24)


def test_vendor_files_lie_in_the_folder_of_their_device_under_their_protocol(tmp_path):
    write_phantom_tree(tmp_path / "t", replace(VENDORS, corrupt=False, participants=1))
    lines = rows(tmp_path / "t" / "retinal_oct" / "manifest.tsv")
    onh = [line for line in lines if "onh" in line["filepath"]]
    assert {line["pixel_spacing"] for line in onh} == {"Varies by frame"}
    assert {line["slice_thickness"] for line in onh} == {"Not reported"}
    assert {line["manufacturer"] for line in lines} == {"Heidelberg", "Topcon", "Zeiss"}
    assert Counter(line["anatomic_region"] for line in lines) == {
        "Macula": 2, "Wide Field": 2, "Optic Disc": 2, "Macula, 6 x 6": 2,
    }  # fmt: skip
    for line in lines:
        person, name = line["filepath"].split("/")[-2:]
        assert name.startswith(f"{person}_")
        assert "/zeiss_cirrus/" in line["filepath"] or "cirrus" not in name


def test_a_tree_of_before_keeps_its_identity():
    assert identify(PhantomTree()) == {
        "format": FORMAT,
        "tree": {
            "participants": 240, "seed": 0, "shape": None, "extent_mm": None,
            "split_fractions": (0.6, 0.1, 0.3), "lesion_prevalence": 0.5, "effect": 1.0,
            "devices": ("phantom_a", "phantom_b", "phantom_c"), "devices_per_participant": 1,
            "manifest_version": 2,
        },
    }  # fmt: skip
    assert identify(PhantomTree(null=True))["tree"]["null"] is True


def test_a_null_tree_shows_the_lesions_of_others(tmp_path):
    tree = replace(SMALL, participants=16, null=True, shape=(3, 24, 16))
    write_phantom_tree(tmp_path / "t", tree)
    same = 0
    people = rows(tmp_path / "t" / "participants.tsv")
    for person in people:
        (path,) = (tmp_path / "t").rglob(f"{person['participant_id']}_*_r_*.dcm")
        shown = _lesions(path, person["participant_id"], tree)
        same += shown == tuple(person[name] == "TRUE" for name in ("fluid", "drusen", "thin"))
    assert same < len(people) / 2  # one in eight by chance


def _lesions(path, person, tree):
    """Which lesions explain the voxels of a file, by drawing all eight."""
    import pydicom
    from oct_io.phantom.tables import draw_people

    voxels = pydicom.dcmread(path).pixel_array
    people = draw_people(
        tree.participants, seed=tree.seed, prevalence=0.5, split_fractions=tree.split_fractions
    )
    seed = next(one.seed for one in people if one.id == person)
    device = path.name.split("_")[1] + "_" + path.name.split("_")[2]
    for bits in range(8):
        chosen = tuple(bool(bits >> i & 1) for i in range(3))
        for group in range(4):
            spec = Phantom(
                device=device, shape=tree.shape, study_group=group,
                fluid=chosen[0], drusen=chosen[1], thin=chosen[2],
            )  # fmt: skip
            if np.array_equal(draw_phantom(spec, seed).voxels, voxels):
                return chosen
    raise AssertionError("no lesions give these voxels")


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_device_and_site_follow_the_label_as_strongly_as_asked(tmp_path, strength):
    tree = PhantomTree(
        participants=60, shape=(2, 24, 16), jobs=1, devices=("phantom_a", "phantom_b"),
        device_confounding=strength, site_confounding=strength, confounded="thin",
    )  # fmt: skip
    write_phantom_tree(tmp_path / "t", tree)
    people = rows(tmp_path / "t" / "participants.tsv")
    thin = np.array([person["thin"] == "TRUE" for person in people])
    site = np.array([person["participant_id"][0] == "4" for person in people])
    folders = (tmp_path / "t").glob("retinal_oct/structural_oct/*/*")
    device = {path.name: path.parent.name == "phantom_b" for path in folders}
    by_device = np.array([device[person["participant_id"]] for person in people])
    for other in (site, by_device):
        agreement = float((other == thin).mean())
        usual = 0.5 if other is by_device else (thin * (1 / 3) + ~thin * (2 / 3)).mean()
        assert agreement == pytest.approx(strength + (1 - strength) * usual, abs=0.17)


def test_sites_differ_in_brightness_only_when_asked():
    plain = draw_phantom(Phantom(shape=(2, 80, 48)), 1).voxels
    bright = draw_phantom(Phantom(shape=(2, 80, 48), gain_db=3), 1).voxels
    assert bright.mean() > plain.mean() + 10


def test_the_command_takes_all_of_it(tmp_path, capsys):
    out = tmp_path / "t"
    options = (
        "--participants 8 --scale 0.04 --devices cirrus_mac_oct,triton_3d_radial_oct --layout v3 "
        "--codec jpegls,rle --corrupt --odd-manifest --effect 1.5 --confounder device=0.3 "
        "--confounder site=1 --site-gain-db 2 --jobs 1 --arrangements all --gain-sd-db 1.5 "
        "--roll-off-sd-db-per-mm 1"
    )
    assert main(["phantom", str(out), *options.split()]) == 0
    spec = json.loads((out / "phantom.json").read_text())["tree"]
    assert tuple(spec["arrangements"]) == ORDERS
    assert {"inverted", "misplaced", "texture", "asymmetry", "folded"} <= set(ORDERS)
    assert (spec["gain_sd_db"], spec["roll_off_sd_db_per_mm"]) == (1.5, 1.0)
    assert (spec["device_confounding"], spec["site_confounding"]) == (0.3, 1.0)
    assert spec["manifest_version"] == 3
    assert (out / "t" / "participants.tsv").read_text().startswith("person_id\t")
    for wrong in ("--confounder colour=1", "--confounder site=much", "--codec gif"):
        assert main(["phantom", str(tmp_path / "u"), *wrong.split()]) == 2
    assert "must be device=P or site=P" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": ("gif",)}, r"codec \('gif'\)"),
        ({"codecs": ("jpeg",), "bits": 16}, "stores 8 bits"),
        ({"codecs": ()}, r"phantom_tree\.codecs"),
        ({"confounded": "age"}, r"phantom_tree\.confounded \(age\)"),
        ({"device_confounding": 2}, r"phantom_tree\.device_confounding \(2\)"),
        ({"participants": 1500, "site_confounding": 0.1}, "at most 999"),
        ({"scale": 3}, r"phantom\.scale \(3\)"),
    ],
)
def test_a_bad_field_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        PhantomTree(**changes)


def test_too_few_scans_to_spoil_is_said(tmp_path):
    with pytest.raises(ValueError, match="take more participants"):
        write_phantom_tree(tmp_path / "t", replace(SMALL, participants=2, corrupt=True))
    assert not (tmp_path / "t").exists()
