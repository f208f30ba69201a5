"""MetaImage headers: what they say, and which are refused."""

import numpy as np
import pytest
from oct_io import ScanError, Spacing, read_volume
from oct_io.containers.metaimage import read_metaimage

HEADER = """ObjectType = Image
NDims = 3
DimSize = 40 48 8
ElementSpacing = 0.05 0.004 0.25
ElementType = {kind}
ElementDataFile = {pixels}
"""


def write(folder, kind="MET_UCHAR", pixels="oct.raw", voxels=None):
    (folder / "oct.mhd").write_text(HEADER.format(kind=kind, pixels=pixels))
    if voxels is not None:
        (folder / "oct.raw").write_bytes(voxels.tobytes())
    return folder / "oct.mhd"


@pytest.mark.parametrize(("kind", "dtype"), [("MET_UCHAR", "u1"), ("MET_USHORT", "<u2")])
def test_pixels_and_millimetres_come_from_header_and_file(tmp_path, kind, dtype):
    voxels = np.random.default_rng(0).integers(5, 200, (8, 48, 40)).astype(dtype)
    volume = read_volume(write(tmp_path, kind, voxels=voxels))
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == Spacing(0.25, 0.004, 0.05)
    assert volume.spacing_source == "spacing_between_slices"
    given = read_volume(tmp_path / "oct.mhd", spacing=Spacing(0.1, 0.003, 0.01))
    assert given.spacing_source == "given"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "lacks DimSize"),
        (HEADER.format(kind="MET_DOUBLE", pixels="oct.raw"), "another type"),
        (HEADER.format(kind="MET_UCHAR", pixels="../oct.raw"), "not in one file beside it"),
        (HEADER.format(kind="MET_UCHAR", pixels="LOCAL"), "not in one file beside it"),
        (HEADER.format(kind="MET_UCHAR", pixels="a") + "CompressedData = True\n", "compressed"),
        (HEADER.format(kind="MET_UCHAR", pixels="a").replace("40 48 8", "40 48"), "three axes"),
    ],
)
def test_headers_that_are_not_read_say_why(text, complaint):
    with pytest.raises(ScanError, match=complaint):
        read_metaimage(text, "oct.mhd")


def test_pixels_of_another_size_are_refused(tmp_path):
    path = write(tmp_path, voxels=np.zeros(7, "u1"))
    with pytest.raises(ScanError, match="7 bytes of pixels are not 8 x 48 x 40 of 1"):
        read_volume(path)
