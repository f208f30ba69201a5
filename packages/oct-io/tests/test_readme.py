import re
from pathlib import Path

import oct_io
import pytest
from oct_io import load_labels, read_manifest, read_participants
from oct_io.catalog.participants import recommended_split
from oct_io.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    space = {}
    exec(example, space)
    assert len(space["volumes"]) == 12
    assert space["volumes"][0].shape == (8, 64, 64)
    assert main(["audit", "data"]) == 0


def test_every_public_name_is_in_the_readme():
    names = [name for name in oct_io.__all__ if f"`{name}" not in README]
    assert names == []


def test_everything_that_is_promised_can_be_imported():
    assert [name for name in oct_io.__all__ if getattr(oct_io, name, None) is None] == []


@pytest.mark.parametrize("version", [2, 3])
def test_a_phantom_tree_is_a_data_set_like_any_other(tmp_path, version):
    tree = oct_io.PhantomTree(participants=8, jobs=1, manifest_version=version)
    oct_io.write_phantom_tree(tmp_path / "data", tree)
    records, table = read_manifest(tmp_path / "data"), read_participants(tmp_path / "data")
    assert {record.participant_id for record in records} == set(table)
    assert {record.laterality for record in records} == {"L", "R"}
    assert all(record.device.startswith("phantom_") for record in records)
    volume = oct_io.read_volume(tmp_path / "data" / records[0].path)
    assert volume.voxels.shape == records[0].shape
    assert (volume.device, volume.protocol) == (records[0].device, records[0].protocol)
    assert volume.participant_id == records[0].participant_id
    for column in ("fluid", "drusen", "thin"):
        assert set(load_labels(table, column)) == set(table)
    assert set(load_labels(table, "study_group").values()) <= {0, 1, 2, 3}
    assert set(recommended_split(table).values()) <= {"train", "val", "test"}
