"""Public data sets in their own layout, with one small file of the user's: made-up trees."""

import json
import zipfile

import numpy as np
import pytest
from oct_io import WINDOWS, ScanError, SourceConfig, audit, open_source, read_manifest, resample
from oct_io.records.opening import read_scan
from PIL import Image

TINY = WINDOWS["tiny"]


@pytest.fixture
def octa_500(tmp_path, draw):
    """Six participants with a folder of `1.bmp` to `20.bmp` each, beside what else lies there."""
    root = tmp_path / "OCTA_6mm"
    for number in range(10001, 10007):
        folder = root / f"OCT/{number}"
        folder.mkdir(parents=True)
        for frame, image in enumerate(draw(number, shape=(20, 64, 40)).voxels, start=1):
            Image.fromarray(image).save(folder / f"{frame}.bmp")
        projections = root / "Projection Maps/OCT(FULL)"
        projections.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(projections / f"{number}.bmp")
    (root / "Text labels.xlsx").write_bytes(b"a table of another program")
    return root


def test_octa_500_needs_one_small_file_and_a_table_of_labels(octa_500, tmp_path, draw, caplog):
    said = {"spacing_mm": [0.015, 0.003, 0.015], "region": "Macula", "participant_from": "file"}
    (octa_500 / "OCT/volume.json").write_text(json.dumps(said))
    labels = tmp_path / "labels.csv"
    rows = [f"{number},{'AMD' if number % 2 else 'NORMAL'}" for number in range(10001, 10007)]
    labels.write_text("participant_id,disease\n" + "\n".join(rows) + "\n")
    config = SourceConfig(
        root=str(octa_500), window="tiny", cache=str(tmp_path / "c"), labels=str(labels), jobs=1
    )
    source = open_source(config)
    assert "6 images of which no volume.json speaks, 1 .xlsx" in caplog.text
    assert len(source.volumes) == 6
    records = read_manifest(octa_500)
    assert [record.path for record in records] == [f"OCT/{n}" for n in range(10001, 10007)]
    volume = read_scan(octa_500, records[0])
    assert np.array_equal(volume.voxels, draw(10001, shape=(20, 64, 40)).voxels)
    assert np.array_equal(source.volumes[0], resample(volume, TINY).voxels)
    assert source.volumes.entries[0].source_spacing == (0.015, 0.003, 0.015)
    labelled = source.labelled("disease")
    assert [labelled.classes[one] for one in labelled.labels] == ["amd", "normal"] * 3


@pytest.fixture
def fairvision(tmp_path, draw):
    """Eight archives with a volume stored as (row, bscan, column), and labels as scalars."""
    root = tmp_path / "FairVision"
    for part, numbers in (("Training", range(1, 6)), ("Test", range(6, 9))):
        folder = root / "Glaucoma" / part
        folder.mkdir(parents=True)
        for number in numbers:
            voxels = draw(number).voxels
            np.savez(
                folder / f"data_{number:04}.npz",
                oct_bscans=voxels.transpose(1, 0, 2),
                slo_fundus=voxels[0],
                glaucoma=np.int64(number % 2),
                race=np.str_("white"),
                age=np.float64(61.5),
            )
    return root


SAID = {
    "member": "oct_bscans",
    "axes": ["row", "bscan", "column"],
    "spacing_mm": [0.25, 0.004, 0.05],
    "participant_from": "file",
}


def test_fairvision_needs_one_small_file_and_a_table_of_labels(fairvision, tmp_path, draw):
    (fairvision / "volume.json").write_text(json.dumps(SAID))
    lines = ["participant_id,glaucoma,recommended_split"]
    for path in sorted(fairvision.rglob("*.npz")):
        with np.load(path) as file:  # unpacks the scalar alone
            part = "test" if path.parent.name == "Test" else "train"
            lines.append(f"{path.stem},{'yes' if file['glaucoma'] else 'no'},{part}")
    (fairvision / "participants.csv").write_text("\n".join(lines) + "\n")
    config = SourceConfig(root=str(fairvision), window="tiny", cache=str(tmp_path / "c"), jobs=1)
    source = open_source(config)
    assert len(source.volumes) == 8
    assert len(source.outside(["test"])) == 5
    records = read_manifest(fairvision)
    assert np.array_equal(read_scan(fairvision, records[0]).voxels, draw(6).voxels)
    labelled = source.labelled("glaucoma")
    assert [labelled.classes[one] for one in labelled.labels] == ["false", "true"] * 4
    assert labelled.held_out.tolist() == [True] * 3 + [False] * 5
    report = audit(fairvision)
    assert (report.usable, report.participants, report.without_scans) == (8, 8, [])


def test_a_start_unpacks_the_head_of_an_archive_alone(tmp_path, draw):
    (tmp_path / "volume.json").write_text(json.dumps(SAID))
    path = tmp_path / "data_0001.npz"
    np.savez(path, oct_bscans=draw(shape=(30, 48, 40)).voxels)
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("oct_bscans.npy").header_offset + 40_000
    content = bytearray(path.read_bytes())
    content[place : place + 200] = bytes(200)  # which its checksum tells who unpacks it
    path.write_bytes(content)
    (record,) = read_manifest(tmp_path)
    assert (record.shape, record.refused) == ((48, 30, 40), None)
    with pytest.raises(ScanError, match="cut off or damaged"):
        read_scan(tmp_path, record)
