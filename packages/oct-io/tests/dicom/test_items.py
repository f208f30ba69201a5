from io import BytesIO

import pytest
from oct_io.dicom.items import Item, Pixels
from pydicom.dataset import Dataset

ELEMENTS = {
    "ImageType": ["ORIGINAL", "PRIMARY"],
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.4",
    "StudyDate": "20000101",
    "PatientName": "",
    "ProtocolName": "Mácula",
    "IntraOcularPressure": None,
    "DepthSpatialResolution": 7.0,
    "ReferenceCoordinates": [1.0, 1.0, 2.5, 3.25],
    "AcquisitionDuration": 1.0,
    "NumberOfFrames": 61,
    "PixelSpacing": ["0.0039", "0.0117647"],
    "Rows": 496,
    "DimensionIndexValues": [1, 2],
    "DimensionIndexPointer": 0x00209056,
    "AcquisitionContextSequence": [],
    "ExtendedOffsetTable": b"12345678",
}


def pydicom_bytes(dataset):
    dataset.SpecificCharacterSet = "ISO_IR 192"
    file = BytesIO()
    dataset.save_as(file, implicit_vr=False, little_endian=True)
    return file.getvalue()


@pytest.mark.parametrize("keyword", ELEMENTS)
def test_each_kind_of_element_has_the_bytes_that_pydicom_gives_it(keyword):
    dataset = Dataset()
    setattr(dataset, keyword, ELEMENTS[keyword])
    item = Item(SpecificCharacterSet="ISO_IR 192", **{keyword: ELEMENTS[keyword]})
    assert item.encode() == pydicom_bytes(dataset)


def test_sequences_nest_and_elements_are_sorted_whatever_their_order_was():
    inner = {"CodingSchemeDesignator": "SCT", "CodeValue": "5665001"}
    item, nested = Item(Rows=2, SpecificCharacterSet="ISO_IR 192"), Item(Columns=3)
    nested.AnatomicRegionSequence = [Item(**inner), Item()]
    item.SharedFunctionalGroupsSequence = [nested]
    dataset, same = Dataset(), Dataset()
    code, empty = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = inner["CodeValue"], "SCT"
    same.Columns, same.AnatomicRegionSequence = 3, [code, empty]
    dataset.SharedFunctionalGroupsSequence, dataset.Rows = [same], 2
    assert item.encode() == pydicom_bytes(dataset)


@pytest.mark.parametrize(("vr", "size"), [("OB", 5), ("OW", 6)])
def test_native_voxels_are_padded_to_an_even_length(vr, size):
    dataset = Dataset()
    dataset.add_new("PixelData", vr, bytes(size))
    item = Item(SpecificCharacterSet="ISO_IR 192", PixelData=Pixels(bytes(size), vr, False))
    assert item.encode() == pydicom_bytes(dataset)


def test_a_name_that_is_no_keyword_is_refused():
    with pytest.raises(ValueError, match="PatientNom is no DICOM keyword"):
        Item(PatientNom="x").encode()
