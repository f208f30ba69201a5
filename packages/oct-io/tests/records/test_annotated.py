"""Masks and boundaries in a data set: found, listed, counted, looked at, and of nobody."""

import json
import re
import shutil

import numpy as np
import pytest
from oct_io import PhantomTree, audit, read_manifest, write_dicom, write_phantom_tree
from oct_io.catalog.audit_page import audit_page
from oct_io.catalog.listing import write_manifest
from oct_io.catalog.render import COLOURS, draw_overlay, encode_png
from oct_io.cli import main
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.segmentation_writer import write_segmentation
from oct_io.phantom import SURFACES, Phantom, draw_phantom_with_truth
from oct_io.phantom.scans import identify
from oct_io.phantom.tree import BOUNDARIES as DRAWN
from oct_io.phantom.tree import CLASSES, true_layers, true_mask
from oct_io.records.opening import read_scan
from oct_io.volume import UNLABELLED
from PIL import Image
from pydicom import dcmread

SPEC = PhantomTree(participants=4, shape=(6, 48, 40), jobs=1, annotations=True, odd_files=True)
MASK = "_mask.dcm"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated") / "tree"
    write_phantom_tree(root, SPEC)
    return root


@pytest.fixture
def tree(drawn, tmp_path):
    """A phantom tree with its truth, and no manifest."""
    root = tmp_path / "tree"
    shutil.copytree(drawn, root)
    (root / "retinal_oct" / "manifest.tsv").unlink()
    return root


def scan_of(mask):
    return mask.with_name(mask.name.replace(MASK, ".dcm"))


def test_the_truth_of_phantoms_comes_back_through_their_files(drawn):
    records = read_manifest(drawn)
    volumes = [read_scan(drawn, one, annotations=("mask", "layers")) for one in records]
    assert len(volumes) == 8
    assert any(one.mask.any() for one in volumes)
    assert not all(one.mask.any() for one in volumes), "some eyes are dry, and have a mask"
    for volume in volumes:
        assert volume.mask_names == CLASSES
        rows = np.stack(list(volume.layers.values()))
        assert np.isfinite(rows).all()
        assert (np.diff(rows, axis=0) > -1e-3).all(), "boundaries lie in order"
        tissue = np.arange(48)[None, :, None]
        ilm, csi = volume.layers["ILM"][:, None], volume.layers["CSI"][:, None]
        inside = (tissue > ilm) & (tissue < csi)
        assert volume.voxels[inside].mean() > volume.voxels[~inside].mean() + 30
        fluid = volume.mask == 1
        if fluid.sum() > 20:
            above, below = volume.layers["GCL/IPL"][:, None], volume.layers["OPL/ONL"][:, None]
            assert ((tissue > above - 1) & (tissue < below + 1))[fluid].mean() > 0.95


def test_a_tree_that_is_not_asked_for_its_truth_is_what_it_was():
    assert "annotations" not in identify(PhantomTree())["tree"]
    assert identify(SPEC)["tree"]["annotations"] is True
    assert set(SURFACES) - set(DRAWN) == {"os"}


def test_the_boundaries_of_a_phantom_are_edges_of_its_layers():
    volume, truth = draw_phantom_with_truth(Phantom(shape=(4, 320, 60)), 1)
    layers = true_layers(truth, volume.spacing)
    at = np.rint(layers["ILM"]).astype(int)
    steps = [
        np.take_along_axis(volume.voxels, (at + shift)[:, None], axis=1).mean()
        for shift in (-8, -4, 4, 8)
    ]
    assert max(steps[:2]) + 40 < min(steps[2:])
    assert true_mask(truth).dtype == np.uint8


def test_what_lies_beside_a_scan_by_name_is_no_scan(tree):
    records = read_manifest(tree)
    assert len(records) == 8
    assert all(one.refused is None for one in records)
    assert {one.mask for one in records} == {
        str(path.relative_to(tree)) for path in tree.rglob(f"*{MASK}")
    }
    assert all(one.layers.endswith("_layers.npz") for one in records)


def test_a_segmentation_of_any_name_is_the_mask_of_the_scan_that_it_names(tree, caplog):
    names = read_manifest(tree)
    (tree / "segmentations").mkdir()
    for number, path in enumerate(sorted(tree.rglob(f"*{MASK}"))):
        path.rename(tree / "segmentations" / f"{number}.dcm")
    records = read_manifest(tree)
    assert [one.path for one in records] == [one.path for one in names]
    assert [one.mask for one in records] == [f"segmentations/{n}.dcm" for n in range(8)]
    for path in (records[0].path, records[0].layers):
        (tree / path).unlink()
    left = read_manifest(tree)
    assert [one.mask for one in left] == [f"segmentations/{n}.dcm" for n in range(1, 8)]
    assert "no mask of a scan: 1 DICOM segmentations" in caplog.text


def test_a_series_of_single_frames_finds_its_segmentation_too(tmp_path, draw):
    folder = tmp_path / "tree" / "series"
    folder.mkdir(parents=True)
    volume = draw()
    for number in range(1, 9):
        style = FileStyle(part=(number, 8))
        write_dicom(volume, folder / f"{9 - number}.dcm", uid_seed="s", style=style)
    sources = [dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())]
    mask = (volume.voxels > 200).astype(np.uint8)
    write_segmentation(tmp_path / "tree" / "x.dcm", mask, ("background", "band"), sources)
    (record,) = read_manifest(tmp_path / "tree")
    assert (record.path, record.mask) == ("series", "x.dcm")
    read = read_scan(tmp_path / "tree", record, annotations=("mask",))
    assert np.array_equal(read.voxels, volume.voxels)
    assert np.array_equal(read.mask, mask)


def test_a_manifest_names_masks_and_layers_and_is_read_back(tree, tmp_path):
    records = read_manifest(tree)
    write_manifest(tmp_path / "m.tsv", records)
    assert read_manifest(tree, manifest=tmp_path / "m.tsv") == records
    table = (tmp_path / "m.tsv").read_text()
    (tmp_path / "m.tsv").write_text(table.replace(records[3].mask, "../elsewhere.dcm"))
    outside = read_manifest(tree, manifest=tmp_path / "m.tsv")[3]
    assert outside.refused == ("fetch", "the path of its mask or its layers leaves the root")
    for record in records:
        assert record.mask not in repr(record)


def test_an_audit_counts_scans_boundaries_and_classes(tree, capsys):
    masks = sorted(tree.rglob(f"*{MASK}"))
    masks[0].unlink()
    masks[1].write_bytes(b"no mask at all")
    first = scan_of(masks[2])
    layers = first.with_name(first.name.replace(".dcm", "_layers.npz"))
    with np.load(layers) as file:
        kept = {"ILM": file["ILM"], "BM": file["BM"]}
    kept["BM"][:, :10] = np.nan
    np.savez(layers, **kept)
    found = audit(tree).annotations
    assert (found.with_layers, found.with_mask, found.unusable) == (8, 6, 1)
    assert found.layers["ILM"] == 8
    assert found.layers["RPE"] == 7
    assert found.coverage["BM"] == pytest.approx(1 - 0.25 / 8)
    assert found.classes == {"IRF": 6}
    page = audit_page(audit(tree), [])
    assert "Layer boundaries, in 8 scans" in page
    assert "BM (97% of A-scans)" in page
    assert "Classes of masks, in 6 scans" in page
    assert "Masks and layers that cannot be read" in page
    assert main(["audit", str(tree)]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "layer boundaries in 8 of the usable scans, a mask in 6" in printed
    assert "1 masks or layers cannot be read; parse: not a DICOM file" in printed
    assert main(["audit", str(tree), "--json"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said)["annotations"]["coverage"]["ILM"] == 1
    for person in {path.parent.name for path in masks}:
        assert person not in printed + said + page


def test_an_audit_of_plain_scans_says_nothing_of_masks(phantom_tree, capsys):
    assert main(["audit", str(phantom_tree)]) == 0
    assert "mask" not in capsys.readouterr().out
    assert "Classes of masks" not in audit_page(audit(phantom_tree), [])


def test_inspect_says_thickness_and_volume_and_draws_them(tree, tmp_path, capsys):
    scans = {one.path: read_scan(tree, one, annotations=("mask",)) for one in read_manifest(tree)}
    path, volume = next((path, one) for path, one in scans.items() if one.mask[3].any())
    fluid, fluid_mm3 = tree / path, volume.mask.sum() * np.prod(volume.spacing)
    picture = tmp_path / "o.png"
    assert main(["inspect", str(fluid), "--overlay", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"ILM .* 100\.0% .* [0-9.]+ um .* yellow", printed)
    assert f"{fluid_mm3:.4g} mm^3" in printed
    drawn = np.asarray(Image.open(picture))
    assert drawn.shape == (48 * 13, 40 * 13, 3)
    for name in ("yellow", "cyan", "magenta", "white"):
        assert (drawn == COLOURS[name]).all(axis=-1).sum() > 300, name
    plain = tmp_path / "plain.dcm"
    shutil.copy(fluid, plain)
    assert main(["inspect", str(plain)]) == 0
    assert "IRF" not in capsys.readouterr().out
    mask = fluid.with_name(fluid.name.replace(".dcm", MASK))
    assert main(["inspect", str(plain), "--mask", str(mask)]) == 0
    assert "IRF" in capsys.readouterr().out


def test_inspect_shows_the_boundaries_of_real_line_and_circle_scans(samples, tmp_path, capsys):
    path = samples / "heyex_vol" / "octolyzer_Peripapillary_1.vol"
    assert main(["inspect", str(path), "--overlay", str(tmp_path / "o.png")]) == 0
    printed = capsys.readouterr().out
    assert "circle" in printed
    assert re.search(r"ILM .* 100\.0% .* 110\.9 um", printed)
    assert np.asarray(Image.open(tmp_path / "o.png")).shape == (496, 768, 3)


def test_lines_lie_where_boundaries_lie_and_end_where_these_do(draw):
    rows = np.full((8, 40), 20.0, np.float32)
    rows[:, 20:] = 30
    rows[:, 30:] = np.nan
    mask = np.zeros((8, 48, 40), np.uint8)
    mask[4, 40:, :10] = 1
    mask[4, 40:, 30:] = UNLABELLED
    volume = draw(layers={"BM": rows}, mask=mask, mask_names=("background", "IRF"))
    picture = draw_overlay(volume)
    each = picture.shape[1] // 40
    line = (picture == COLOURS["yellow"]).all(axis=-1)
    assert np.flatnonzero(line[:, 0]).tolist() == [int(20.5 * each)]
    assert np.flatnonzero(line[:, 25 * each]).tolist() == [int(30.5 * each)]
    assert line[:, 20 * each].sum() == 10 * each + 1, "a step is closed"
    assert not line[:, 31 * each :].any()
    tinted = picture[..., 0].astype(int) != picture[..., 2]
    assert tinted[40 * each :, : 10 * each].mean() > 0.9
    assert not tinted[40 * each :, 10 * each :].any(), "neither background nor unlabelled"


def test_a_colour_png_holds_the_pixels_that_were_given(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (7, 5, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(image))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), image)
