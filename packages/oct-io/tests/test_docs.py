"""The pages on formats: their code runs, and they speak of every ending that is read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from oct_io import ScanError, Spacing, read_volume
from oct_io.readers.registry import READERS
from oct_io.readers.sidecar import FIELDS, parse_fields
from oct_io.volume import CONFIDENCE

DOCS = Path(__file__).parents[3] / "docs"


def page(name):
    path = DOCS / name
    if not path.exists():
        pytest.skip("the documentation lies in the whole repository only")
    return path.read_text(encoding="utf-8")


@pytest.fixture
def mhd():
    """The reader of the page, registered for one test."""
    code = re.search(r"```python\n(.*?)```", page("adding-a-reader.md"), re.DOTALL)[1]
    before = READERS[".mhd"]
    exec(code, {})
    assert READERS[".mhd"] is not before
    yield
    READERS[".mhd"] = before


def test_the_reader_of_the_page_reads_a_volume(mhd, tmp_path, draw):
    voxels = draw().voxels
    (tmp_path / "a.raw").write_bytes(voxels.tobytes())
    header = "ObjectType = Image\nDimSize = 40 48 8\nElementSpacing = 0.05 0.004 0.25\n"
    (tmp_path / "a.mhd").write_text(header + "ElementDataFile = a.raw\n")
    volume = read_volume(tmp_path / "a.mhd")
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == Spacing(0.25, 0.004, 0.05)
    assert volume.spacing_confidence == "medium"
    (tmp_path / "a.raw").write_bytes(b"short")
    with pytest.raises(ScanError, match="are not 8 x 48 x 40"):
        read_volume(tmp_path / "a.mhd")
    (tmp_path / "a.mhd").write_text(header)
    with pytest.raises(ScanError, match="lacks a size"):
        read_volume(tmp_path / "a.mhd")


def test_every_ending_and_every_source_of_spacing_has_its_row():
    text = page("formats/README.md")
    assert [suffix for suffix in READERS if suffix not in text] == []
    assert [name for name in CONFIDENCE if name != "drawn" and name not in text] == []
    for link in re.findall(r"\]\(([a-z-]+\.md)\)", text):
        assert page(f"formats/{link}").startswith("# ")


def test_every_field_of_the_sidecar_is_explained_and_the_example_is_valid():
    text = page("formats/arrays-and-images.md")
    assert [name for name in FIELDS if f"`{name}`" not in text] == []
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)[1]
    assert parse_fields(example, "")["laterality"] == json.loads(example)["laterality"]
