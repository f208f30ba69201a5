"""Every format that `read_volume` reads, through every command: the same voxels and spacing."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree, ignore_patterns

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from oct_io import (
    WINDOWS,
    ScanError,
    SourceConfig,
    Spacing,
    audit,
    build_cache,
    open_cache,
    open_source,
    read_manifest,
    read_volume,
    resample,
)
from oct_io.cache.ray_cache import _make_row, describe_parts
from oct_io.catalog.audit_page import draw_examples
from oct_io.catalog.listing import write_manifest
from oct_io.cli import main
from oct_io.dicom.writer import write_dicom
from PIL import Image

TINY = WINDOWS["tiny"]
STEPS = (0.25, 0.004, 0.05)
SAID = {"spacing_mm": list(STEPS), "laterality": "OS"}
AFFINE = np.diag([-0.05, -0.004, -0.25, 1.0])


@dataclass
class Case:
    """A tree with one scan in it.

    Attributes:
        path: what a listing calls the scan, relative to the root.
        given: what `read_volume` is told that the tree says in its own way.
        columns: the same for a manifest, where the tree says nothing.
        told: the sidecar, if any, which is removed for the manifest.
    """

    path: str
    given: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    told: str = ""


def tell(root, place, **fields):
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(json.dumps(SAID | fields))
    return place


def images(folder, voxels):
    folder.mkdir(parents=True)
    for number, frame in enumerate(voxels, start=1):
        Image.fromarray(frame).save(folder / f"{number}.bmp")


def instances(folder, volume, names):
    """The DICOM files of one series with one frame each."""
    folder.mkdir(parents=True)
    write_dicom(volume, folder / "whole", uid_seed="series", shared_groups=False)
    for number, frame in enumerate(volume.voxels):
        one = pydicom.dcmread(folder / "whole")
        one.NumberOfFrames = 1
        one.InstanceNumber = number + 1
        one.SOPInstanceUID = f"2.25.{number + 1}"
        one.PerFrameFunctionalGroupsSequence = [one.PerFrameFunctionalGroupsSequence[number]]
        one.PixelData = frame.tobytes()
        one.save_as(folder / names.format(number), enforce_file_format=True)
    (folder / "whole").unlink()


def dicom(root, draw, vendors):
    (root / "p").mkdir()
    write_dicom(draw(), root / "p/a.dcm", uid_seed="1")
    return Case("p/a.dcm")


def bare_dicom(root, draw, vendors):
    (root / "p").mkdir()
    write_dicom(draw(), root / "p/IM0001", uid_seed="1")
    return Case("p/IM0001")


def series(root, draw, vendors):
    instances(root / "p/series", draw(), "{}.dcm")
    return Case("p/series")


def bare_series(root, draw, vendors):
    instances(root / "p/1.2.840.7", draw(), "1.2.840.7.{}")
    return Case("p/1.2.840.7")


def vol(root, draw, vendors):
    vendors.write_vol(root / "a.vol", draw().voxels)
    return Case("a.vol")


def heyex(root, draw, vendors):
    vendors.write_xml(root / "export", draw().voxels)
    return Case("export/scan.xml")


def e2e(root, draw, vendors):
    vendors.write_e2e(root / "a.e2e", draw().voxels, series=(5, 9))
    given = {"spacing": Spacing(0.12, 0.0039, 0.011), "member": "9"}
    columns = {"spacing_mm": "0.12 0.0039 0.011", "member": "9"}
    told = tell(root, "a.json", spacing_mm=[0.12, 0.0039, 0.011], member="9")
    return Case("a.e2e", given, columns, told)


def fda(root, draw, vendors):
    vendors.write_fda(root / "a.fda", draw().voxels)
    return Case("a.fda")


def img(root, draw, vendors):
    cube = np.random.default_rng(0).integers(0, 255, (16, 1024, 40), dtype=np.uint8)
    (root / "Angio 40x16_OD_cube_z.img").write_bytes(cube.tobytes())
    given = {"spacing": Spacing(0.1, 0.002, 0.011)}
    told = tell(root, "volume.json", spacing_mm=[0.1, 0.002, 0.011])
    return Case("Angio 40x16_OD_cube_z.img", given, {"spacing_mm": "[0.1, 0.002, 0.011]"}, told)


def nifti(root, draw, vendors):
    image = nibabel.Nifti1Image(draw().voxels.transpose(2, 1, 0), AFFINE)
    nibabel.save(image, root / "a.nii.gz")
    return Case("a.nii.gz")


def npy(root, draw, vendors):
    np.save(root / "a.npy", draw().voxels)
    told = tell(root, "a.json")
    return Case("a.npy", {"spacing": Spacing(*STEPS)}, {"spacing_mm": "0.25 0.004 0.05"}, told)


def npz(root, draw, vendors):
    (root / "site/deep").mkdir(parents=True)
    arrays = {"oct": draw().voxels, "other": draw(3).voxels, "glaucoma": np.int64(1)}
    np.savez_compressed(root / "site/deep/a.npz", **arrays)
    given = {"sidecar": SAID | {"member": "oct"}}
    columns = {"spacing_mm": "0.25, 0.004, 0.05", "member": "oct"}
    return Case("site/deep/a.npz", given, columns, tell(root, "volume.json", member="oct"))


def tiff(root, draw, vendors):
    (root / "stacks").mkdir()
    tifffile.imwrite(root / "stacks/a.tif", draw().voxels, photometric="minisblack")
    given, columns = {"spacing": Spacing(*STEPS)}, {"spacing_mm": "0.25 0.004 0.05"}
    return Case("stacks/a.tif", given, columns, tell(root, "stacks/volume.json"))


def folder(root, draw, vendors):
    images(root / "p/right", draw().voxels)
    given, columns = {"spacing": Spacing(*STEPS)}, {"spacing_mm": "0.25 0.004 0.05"}
    return Case("p/right", given, columns, tell(root, "p/right/volume.json"))


def folder_below_a_root(root, draw, vendors):
    images(root / "p/left.eye", draw().voxels)
    given, columns = {"sidecar": SAID}, {"spacing_mm": "0.25 0.004 0.05"}
    return Case("p/left.eye", given, columns, tell(root, "volume.json"))


FORMATS = {
    "DICOM": dicom,
    "DICOM without an ending": bare_dicom,
    "DICOM instances": series,
    "DICOM instances without an ending": bare_series,
    ".vol": vol,
    "HEYEX export": heyex,
    ".e2e, one of two series": e2e,
    ".fda": fda,
    ".img of unknown size": img,
    ".nii.gz": nifti,
    ".npy": npy,
    ".npz, one of two arrays": npz,
    ".tif with pages": tiff,
    "folder of images": folder,
    "folder of images below a told root": folder_below_a_root,
}


@pytest.fixture(scope="module")
def vendors(neighbour):
    return neighbour(Path(__file__).parent / "readers/conftest.py", "test_vendors.py")


@pytest.fixture(scope="module")
def trees(tmp_path_factory, vendors, draw):
    """`trees(kind)` is (root, case, volume), written once."""
    made = {}

    def of(kind):
        if kind not in made:
            root = tmp_path_factory.mktemp("data")
            case = FORMATS[kind](root, draw, vendors)
            made[kind] = root, case, read_volume(root / case.path, **case.given)
        return made[kind]

    return of


def by_manifest(root, case, volume, out, printed):
    (record,) = read_manifest(root)
    assert (record.path, record.refused, record.shape) == (case.path, None, volume.voxels.shape)
    assert record.laterality == volume.laterality
    assert main(["manifest", str(root), "--out", str(out / "list.tsv")]) == 0
    assert read_manifest(root, manifest=out / "list.tsv") == [record]


def by_audit(root, case, volume, out, printed):
    assert main(["audit", str(root), "--json"]) == 0
    found = json.loads(printed())
    assert (found["scans"], found["usable"], found["mismatches"]) == (1, 1, {})
    assert found["counts"]["shape"] == {" x ".join(map(str, volume.voxels.shape)): 1}
    assert found["counts"]["spacing_source"] == {volume.spacing_source: 1}
    (example,) = draw_examples(audit(root), root)
    assert example.bscans.startswith(b"\x89PNG")


def by_cache(root, case, volume, out, printed):
    assert main(["cache", str(root), str(out / "c"), "--window", "tiny", "--jobs", "1"]) == 0
    is_volume(open_cache(out / "c"), volume)


def by_open_source(root, case, volume, out, printed):
    config = SourceConfig(root=str(root), cache=str(out / "c"), window="tiny", jobs=1)
    is_volume(open_source(config).volumes, volume)


def by_inspect(root, case, volume, out, printed):
    assert main(["inspect", str(root / case.path), "--root", str(root)]) == 0
    said = " ".join(printed().split())
    assert " x ".join(map(str, volume.voxels.shape)) in said
    assert " x ".join(f"{step:.6g}" for step in volume.spacing) in said


COMMANDS = {
    "manifest": by_manifest,
    "audit": by_audit,
    "cache": by_cache,
    "open_source": by_open_source,
    "inspect": by_inspect,
}


def is_volume(cache, volume):
    """A cache of one scan holds what resampling the scan gives."""
    (entry,) = cache.entries
    assert entry.source_spacing == pytest.approx(tuple(volume.spacing))
    assert entry.source_shape == volume.voxels.shape
    assert np.array_equal(cache[0], resample(volume, TINY).voxels)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", FORMATS)
def test_what_read_volume_reads_every_command_takes(trees, kind, command, tmp_path, capsys):
    root, case, volume = trees(kind)
    COMMANDS[command](root, case, volume, tmp_path, lambda: capsys.readouterr().out)


@pytest.fixture(scope="module")
def listed(trees, tmp_path_factory):
    """One tree of all formats, no sidecar in it, and a manifest that says what they would say."""
    root = tmp_path_factory.mktemp("listed")
    lines, wanted = ["participant_id\tlaterality\tfilepath\tspacing_mm\tmember"], {}
    for number, kind in enumerate(FORMATS):
        source, case, volume = trees(kind)
        copytree(source, root / str(number), ignore=ignore_patterns("*.json"))
        path = f"{number}/{case.path}"
        cells = [case.columns.get(name, "") for name in ("spacing_mm", "member")]
        owner = volume.participant_id or f"A{number}"
        lines.append("\t".join([owner, volume.laterality, f"/{path}", *cells]))
        wanted[path] = volume
    (root / "list.tsv").write_text("\n".join(lines) + "\n")
    return root, wanted


def are_volumes(root, wanted, folder):
    cache = open_cache(folder)
    records = read_manifest(root, manifest=root / "list.tsv")
    assert [record.path for record in records] == sorted(wanted)
    assert len(cache) == len(wanted)
    for number, record in enumerate(records):
        volume = wanted[record.path]
        assert np.array_equal(cache[number], resample(volume, TINY).voxels), record.path
        assert cache.entries[number].source_spacing == pytest.approx(tuple(volume.spacing))
        assert cache.entries[number].laterality == volume.laterality
        assert cache.entries[number].participant == record.participant


def test_the_columns_of_a_manifest_say_what_sidecars_would(listed, tmp_path, capsys):
    root, wanted = listed
    table = str(root / "list.tsv")
    made = ["cache", str(root), str(tmp_path / "c"), "--window", "tiny", "--jobs", "1"]
    assert main([*made, "--manifest", table]) == 0
    are_volumes(root, wanted, tmp_path / "c")
    report = audit(root, manifest=table)
    assert (report.scans, report.usable) == (len(FORMATS), len(FORMATS))
    config = SourceConfig(
        root=str(root), manifest=table, cache=str(tmp_path / "d"), window="tiny", jobs=1
    )
    assert open_source(config).volumes.fingerprint == open_cache(tmp_path / "c").fingerprint
    records = read_manifest(root, manifest=table)
    write_manifest(tmp_path / "again.tsv", records)
    assert read_manifest(root, manifest=tmp_path / "again.tsv") == records


def test_workers_of_ray_are_told_spacing_and_member(listed, tmp_path):
    root, wanted = listed

    def make(plan, numbers, seen):
        for rows in describe_parts(plan, numbers):
            for row in rows:
                _make_row(row)

    records = read_manifest(root, manifest=root / "list.tsv")
    build_cache(records, root, TINY, tmp_path / "c", make_parts=make)
    are_volumes(root, wanted, tmp_path / "c")


REFUSED = {
    "a.e2e": ("geometry", "no confirmed pixel size"),
    "b.e2e": ("parse", "2 series fit; name one of 5, 9"),
    "c.npz": ("parse", "2 of its arrays have three axes"),
    "d.npy": ("geometry", "nothing tells its spacing; write d.json like"),
    "e.fda": ("geometry", "no PARAM_SCAN chunk"),
}


def test_what_read_volume_refuses_is_refused_alike_and_what_is_no_scan_is_counted(
    tmp_path, draw, vendors, caplog
):
    voxels, root = draw().voxels, tmp_path / "data"
    root.mkdir()
    vendors.write_e2e(root / "a.e2e", voxels)
    vendors.write_e2e(root / "b.e2e", voxels, series=(5, 9))
    np.savez(root / "c.npz", one=voxels, other=voxels)
    np.save(root / "d.npy", voxels)
    vendors.write_fda(root / "e.fda", voxels, scan=False)
    images(root / "pictures", voxels)
    (root / "README").write_text("nothing")
    (root / "notes.txt").write_text("nothing")
    records = read_manifest(root)
    assert [record.path for record in records] == list(REFUSED)
    for record in records:
        with pytest.raises(ScanError) as caught:
            read_volume(root / record.path)
        assert record.refused == (caught.value.stage, caught.value.reason)
        stage, word = REFUSED[record.path]
        assert (record.refused[0], word in record.refused[1]) == (stage, True)
    (line,) = caplog.messages
    assert line.startswith("passed over, no scans: 8 images of which no volume.json speaks, 1 ")
    assert ("1 without an ending" in line, "1 .txt" in line) == (True, True)
    assert audit(root).refused.total() == len(REFUSED)
    assert main(["cache", str(root), str(tmp_path / "c"), "--window", "tiny", "--jobs", "1"]) == 2
