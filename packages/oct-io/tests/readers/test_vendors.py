"""Files of scanners in their own formats, built here by the formats' declarations."""

import struct
import warnings
from io import BytesIO

import numpy as np
import pytest
from eyepy.io.he.xml_reader import HeXmlReader
from oct_converter.readers.binary_structs import fda_binary
from oct_io import ScanError, Spacing, open_volume, read_volume
from PIL import Image

SECRET = "Secret"


def refusal(path, **options):
    with pytest.raises(ScanError) as caught:
        read_volume(path, **options)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return caught.value


def lines_upwards(bscans, columns=40, pitch=0.011, step=0.12):
    """Start and end of B-scans as HEYEX lists them: the most inferior one first."""
    width = columns * pitch
    return [(1.0, 6.0 - i * step, 1.0 + width, 6.0 - i * step) for i in range(bscans)]


def write_vol(path, voxels, *, lines=None, pattern=3, layers=(), localizer=None, side="OS"):
    """A .vol file of raw reflectivity, whose display gives `voxels`, in HEYEX's order."""
    bscans, rows, columns = voxels.shape
    lines = lines or lines_upwards(bscans, columns)
    levels = voxels.astype(np.float64) / 255
    raw = np.clip(np.exp(levels * 8.285 - 8.3) - 2.44e-4, 0, 1).astype(np.float32)
    localizer = np.zeros((20, 30), np.uint8) if localizer is None else localizer
    head = struct.pack(
        "<12sIIIdddIIddId4sQiI16s16sI24s",
        *(b"HSF-OCT-103", columns, bscans, rows, 0.011, 0.12 if bscans > 1 else 0.0, 0.0039),
        *(localizer.shape[1], localizer.shape[0], 0.0114, 0.0114, 30, 0.0, side.encode(), 0),
        *(pattern, 256 + 4 * columns * len(layers), b"1", b"1", 7, f"{SECRET}7".encode()),
    )
    out = [head.ljust(2048, b"\0"), localizer.tobytes()]
    for i, line in enumerate(lines):
        size = 256 + 4 * columns * len(layers)
        note = struct.pack("<12sIddddIIfI", b"HSF-BS-103", size, *line, len(layers), 256, 30.0, 0)
        surfaces = [surface[i].astype("<f4").tobytes() for surface in layers]
        out += [note.ljust(256, b"\0"), *surfaces, raw[i].tobytes()]
    path.write_bytes(b"".join(out))
    return path


def test_a_vol_file_comes_sorted_with_its_layers_and_its_localizer(tmp_path, draw):
    voxels = draw().voxels
    ilm = np.arange(8, dtype=np.float32)[:, None] + np.linspace(3, 9, 40, dtype=np.float32)
    bm = np.full((8, 40), 3.4028235e38, np.float32)
    localizer = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    path = write_vol(tmp_path / "a.vol", voxels, layers=(ilm, bm), localizer=localizer)
    volume = read_volume(path)
    assert np.abs(volume.voxels.astype(int) - voxels[::-1]).max() <= 2
    assert volume.spacing == pytest.approx((0.12, 0.0039, 0.011), rel=1e-6)
    assert (volume.spacing_source, volume.spacing_confidence) == ("localizer", "high")
    assert (volume.laterality, volume.device) == ("L", "heidelberg_spectralis")
    assert list(volume.layers) == ["ILM"], "a surface without any value is left out"
    assert np.array_equal(volume.layers["ILM"], ilm[::-1])
    assert np.array_equal(volume.localizer, localizer)
    lines = np.array(lines_upwards(8))[::-1, [1, 0, 3, 2]] / 0.0114
    assert volume.localizer_lines == pytest.approx(lines, rel=1e-6), "pixels, sorted as B-scans are"
    assert open_volume(path).load((2, 4)).localizer_lines == pytest.approx(lines[[2, 4]], rel=1e-6)


@pytest.mark.parametrize(("pattern", "word"), [(1, "line"), (2, "circle")])
def test_single_bscans_in_vol_files_are_refused_by_name_or_admitted(tmp_path, draw, pattern, word):
    path = write_vol(tmp_path / "a.vol", draw(shape=(1, 48, 40)).voxels, pattern=pattern)
    error = refusal(path)
    assert (error.stage, word in error.reason) == ("geometry", True)
    volume = read_volume(path, patterns=(word,))
    assert (volume.pattern, volume.spacing_source) == (word, "none")


def test_a_star_of_bscans_in_a_vol_file_is_radial(tmp_path, draw):
    angles = np.linspace(0, np.pi, 8, endpoint=False)
    star = [(4 - np.cos(a), 4 - np.sin(a), 4 + np.cos(a), 4 + np.sin(a)) for a in angles]
    path = write_vol(tmp_path / "a.vol", draw().voxels, lines=star, pattern=5)
    assert "radial scan: 8 radial B-scans" in refusal(path).reason


def test_damaged_vol_files_end_in_a_scan_error(tmp_path, draw):
    path = write_vol(tmp_path / "a.vol", draw().voxels)
    content = path.read_bytes()
    for kept in (0, 100, 2048, 4000, len(content) - 1):
        path.write_bytes(content[:kept])
        assert refusal(path).stage in ("parse", "decode")
    path.write_bytes(content[:12] + struct.pack("<III", 9000, 9000, 9000) + content[24:])
    assert "claims" in refusal(path).reason
    path.write_bytes(b"something else" + content)
    assert "no HSF-OCT mark" in refusal(path).reason


def heyex(bscans, *, named=True, kind="Volume", layers=(), lines=None, extra=""):
    """The text of a HEYEX XML export of 8-bit images of 48 x 40."""
    parts = []
    for i, (x0, y0, x1, y1) in enumerate(lines or lines_upwards(bscans)):
        segments = "".join(
            f"<SegLine><Name>{name}</Name><Manual>false</Manual><Array>"
            f"{' '.join(map(str, surface[i]))}</Array></SegLine>"
            for name, surface in layers
        )
        url = f"<ExamURL>C:\\export\\b{i}.png</ExamURL>" if named else ""
        parts.append(
            "<Image><ImageType><Type>OCT</Type></ImageType><OphthalmicAcquisitionContext>"
            "<Width>40</Width><Height>48</Height><ScaleX>0.011</ScaleX><ScaleY>0.0039</ScaleY>"
            f"<ImageQuality>30</ImageQuality><Start><Coord><X>{x0}</X><Y>{y0}</Y></Coord></Start>"
            f"<End><Coord><X>{x1}</X><Y>{y1}</Y></Coord></End></OphthalmicAcquisitionContext>"
            f"<ImageData>{url}</ImageData><Segmentation><NumSegmentations>1</NumSegmentations>"
            f"{segments}</Segmentation></Image>"
        )
    localizer = (
        "<Image><ImageType><Type>LOCALIZER</Type></ImageType><OphthalmicAcquisitionContext>"
        "<Width>30</Width><Height>20</Height><ScaleX>0.0114</ScaleX><ScaleY>0.0114</ScaleY>"
        "<Angle>30</Angle><Focus>0.5</Focus></OphthalmicAcquisitionContext>"
        "<ImageData><ExamURL>C:\\export\\slo.png</ExamURL></ImageData></Image>"
    )
    date = "<Date><Year>2000</Year><Month>1</Month><Day>1</Day></Date>"
    return (
        f"{extra}<HEDX><BODY><SWVersion><Version>1.0</Version></SWVersion><Patient><ID>1</ID>"
        f"<PatientID>{SECRET}</PatientID><FirstNames>{SECRET}</FirstNames>"
        f"<LastName>{SECRET}</LastName><Birthdate>{date}</Birthdate><Study><StudyDate>{date}"
        f"</StudyDate><Series><ID>1</ID><ProgID>1</ProgID><Type>{kind}</Type><Laterality>L"
        f"</Laterality><ReferenceSeries><ID>1</ID><ExamDate>{date}</ExamDate></ReferenceSeries>"
        f"<ThicknessGrid><Type>0</Type></ThicknessGrid>{localizer}{''.join(parts)}"
        "</Series></Study></Patient></BODY></HEDX>"
    )


def write_xml(folder, voxels, **options):
    folder.mkdir()
    (folder / "scan.xml").write_text(heyex(len(voxels), **options))
    for i, frame in enumerate(voxels):
        Image.fromarray(frame).save(folder / f"b{i}.png")
    if options.get("named", True):
        Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)).save(
            folder / "slo.png"
        )
    return folder


def test_an_xml_export_gives_what_eyepy_reads_of_it(tmp_path, draw):
    voxels = draw(shape=(12, 48, 40)).voxels
    ilm = np.linspace(1, 9, 12 * 40, dtype=np.float32).reshape(12, 40)
    ilm[3, 7] = 3.0e38
    folder = write_xml(tmp_path / "export", voxels, layers=[("ILM", ilm)])
    volume = read_volume(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle
        other = HeXmlReader(folder).volume
    assert np.array_equal(volume.voxels[::-1], other.data), "HEYEX lists the inferior one first"
    assert volume.spacing == pytest.approx(tuple(other.scale), rel=1e-6)
    assert np.array_equal(volume.layers["ILM"][::-1], other.layers["ILM"].data, equal_nan=True)
    assert np.array_equal(volume.localizer, other.localizer.data)
    lines = np.array(lines_upwards(12))[::-1, [1, 0, 3, 2]] / 0.0114
    assert volume.localizer_lines == pytest.approx(lines, rel=1e-6)
    assert (volume.laterality, other.laterality) == ("L", "OS")
    assert np.array_equal(read_volume(folder / "scan.xml").voxels, volume.voxels)


def test_an_xml_export_is_whole_without_a_localizer_that_is_coloured_or_damaged(tmp_path, draw):
    folder = write_xml(tmp_path / "export", draw(shape=(12, 48, 40)).voxels)
    wanted = read_volume(folder)
    coloured = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(coloured).save(folder / "slo.png")  # as MultiColor exports have it
    content = (folder / "slo.png").read_bytes()
    for one in (content, content[:200], b"nothing"):
        (folder / "slo.png").write_bytes(one)
        volume = read_volume(folder)
        assert np.array_equal(volume.voxels, wanted.voxels)
        assert volume.localizer is None


def test_an_anonymised_export_takes_the_images_in_natural_order(tmp_path, draw):
    voxels = draw(shape=(12, 48, 40)).voxels
    folder = write_xml(tmp_path / "export", voxels, named=False)
    assert np.array_equal(read_volume(folder).voxels, voxels[::-1])
    (folder / "b7.png").unlink()
    assert "12 B-scans; 11 images" in refusal(folder).reason


def test_xml_exports_that_cannot_be_used_say_why(tmp_path, draw):
    voxels = draw().voxels
    star = write_xml(tmp_path / "star", voxels, kind="Star")
    assert "radial" in refusal(star).reason
    circle = write_xml(tmp_path / "circle", voxels, kind="Circle")
    assert "circle" in refusal(circle).reason
    uneven = write_xml(
        tmp_path / "uneven", voxels, lines=[*lines_upwards(7), (1.0, 2.0, 1.44, 2.0)]
    )
    assert "unevenly" in refusal(uneven).reason
    (star / "scan.xml").write_text(heyex(8, extra="<!DOCTYPE x [<!ENTITY a 'b'>]>"))
    assert "entities" in refusal(star).reason
    (star / "scan.xml").write_text(heyex(8)[:900])
    assert "damaged or cut off" in refusal(star).reason
    (star / "scan.xml").write_text("<a><b/></a>")
    assert "no HEYEX export" in refusal(star).reason
    (star / "scan.xml").write_text(heyex(8).replace("0.0039", "wide"))
    assert "lacks its size" in refusal(star).reason
    gone = write_xml(tmp_path / "gone", voxels)
    (gone / "b3.png").unlink()
    assert "1 of 8 B-scan images" in refusal(gone).reason


def test_an_image_name_does_not_lead_out_of_the_folder(tmp_path, draw):
    folder = write_xml(tmp_path / "export", draw().voxels)
    outside = tmp_path / "b0.png"
    outside.write_bytes((folder / "b0.png").read_bytes())
    (folder / "b0.png").unlink()
    text = (folder / "scan.xml").read_text().replace("C:\\export\\b0.png", f"{outside}")
    (folder / "scan.xml").write_text(text)
    assert refusal(folder).stage == "decode"


def chunk(name, content):
    return bytes([len(name)]) + name + struct.pack("<I", len(content)) + content


def write_fda(path, voxels, *, mode=2, scan=True, raw=False, contour=None):
    """A .fda file with the chunks that are read; images in a lossless JPEG 2000."""
    bscans, rows, columns = voxels.shape
    out = b"FOCT" + b"FDA" + struct.pack("<II", 2, 1000)
    if raw:
        head = struct.pack("<BIIIIBI", mode, columns, rows, 16, bscans, 0, voxels.nbytes)
        out += chunk(b"@IMG_MOT_COMP_03", head + voxels.astype("<u2").tobytes())
    else:
        body = struct.pack("<BIIIIII", mode, 0, 0, columns, rows, bscans, 0)
        for frame in voxels:
            stream = BytesIO()
            Image.fromarray(frame).save(stream, "JPEG2000")
            body += struct.pack("<I", stream.tell()) + stream.getvalue()
        out += chunk(b"@IMG_JPEG", body)
    if scan:
        body = struct.pack("<IIIdddddBB", 0, 0, 0, 6.0, 8 * 0.25, 2.6, 0, 0, 0, 0)
        out += chunk(b"@PARAM_SCAN_04", body)
    out += chunk(b"@CAPTURE_INFO_02", struct.pack("<BBI100s6H", 1, mode, 0, b"", *[1] * 6))
    if contour is not None:
        head = struct.pack("<20sHIII", b"MULTILAYERS_1", 0, columns, bscans, 0)
        stored = (rows - contour)[::-1].astype("<u2")
        out += chunk(b"@CONTOUR_INFO", head + stored.tobytes())
    slo = BytesIO()
    Image.fromarray(voxels[0].astype(np.uint8)).save(slo, "JPEG2000")
    head = struct.pack("<IIIIBI", columns, rows, 8, 2, 0, slo.tell())
    out += chunk(b"@IMG_TRC_02", head + slo.getvalue())
    path.write_bytes(out + b"\0")
    return path


def test_a_fda_file_gives_its_volume_its_layers_and_its_localizer(tmp_path, draw):
    voxels = draw().voxels
    contour = np.arange(8)[:, None] + np.linspace(3, 9, 40).astype(int)
    volume = read_volume(write_fda(tmp_path / "a.fda", voxels, contour=contour))
    assert np.array_equal(volume.voxels, voxels)
    assert volume.spacing == pytest.approx((0.25, 0.0026, 6 / 40))
    assert (volume.spacing_source, volume.spacing_confidence) == ("field_of_view", "medium")
    assert volume.laterality == "L"
    assert np.array_equal(volume.layers["ILM"], contour)
    assert np.array_equal(volume.localizer, voxels[0])


def test_raw_voxels_of_a_fda_file_stay_sixteen_bits(tmp_path, draw):
    voxels = draw(dtype=np.uint16).voxels
    assert np.array_equal(
        read_volume(write_fda(tmp_path / "a.fda", voxels, raw=True)).voxels, voxels
    )


def test_the_chunks_are_as_oct_converter_declares_them():
    assert fda_binary.oct_header.sizeof() == 25
    assert fda_binary.oct_header_2.sizeof() == 22
    assert fda_binary.img_trc_02_header.sizeof() == 21
    assert fda_binary.contour_info_header.sizeof() == 34


def test_fda_files_that_cannot_be_used_say_why(tmp_path, draw):
    voxels = draw().voxels
    path = tmp_path / "a.fda"
    assert "radial" in refusal(write_fda(path, voxels, mode=3)).reason
    assert "scan mode 11" in refusal(write_fda(path, voxels, mode=11)).reason
    write_fda(path, voxels, scan=False)
    assert "no PARAM_SCAN chunk" in refusal(path).reason
    given = Spacing(0.1, 0.0026, 0.011)
    assert read_volume(path, spacing=given).spacing == pytest.approx(given)
    content = write_fda(path, voxels).read_bytes()
    for kept in (0, 3, 15, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert refusal(path).stage in ("parse", "decode")
    path.write_bytes(content[:16] + b"@IMG_JUNK"[:9] + content[25:])
    assert "no B-scans" in refusal(path).reason


def test_frames_larger_than_a_fda_file_declares_are_not_decoded(tmp_path, draw, monkeypatch):
    path = write_fda(tmp_path / "a.fda", np.zeros((60, 64, 80), np.uint8))
    stream = BytesIO()
    Image.new("L", (3000, 3000)).save(stream, "JPEG")
    small = BytesIO()
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(small, "JPEG2000")
    frame = struct.pack("<I", small.tell()) + small.getvalue()
    bomb = struct.pack("<I", stream.tell()) + stream.getvalue()
    content = path.read_bytes()
    before = content.index(frame)
    body = content[before - 25 : before] + bomb * 60
    start = before - 25 - 4 - len(b"@IMG_JPEG") - 1
    end = before + 60 * len(frame)
    path.write_bytes(content[:start] + chunk(b"@IMG_JPEG", body) + content[end:])
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: decoded.append(image.size))
    error = refusal(path)
    assert (error.stage, "3000 x 3000" in error.reason) == ("decode", True)
    assert decoded == []


def test_an_image_chunk_of_a_fda_file_is_a_jpeg_or_nothing(tmp_path, draw):
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 48\n%%EndComments\nshowpage\n%%EOF\n"
    voxels = draw().voxels
    content = write_fda(tmp_path / "a.fda", voxels).read_bytes()
    at = content.index(b"@IMG_JPEG") + 9 + 4 + 25
    size = int.from_bytes(content[at : at + 4], "little")
    spoiled = content[: at + 4] + eps + b" " * (size - len(eps)) + content[at + 4 + size :]
    (tmp_path / "a.fda").write_bytes(spoiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("started"))
        error = refusal(tmp_path / "a.fda")
    assert (error.stage, "UnidentifiedImageError" in error.reason) == ("decode", True)


def test_a_zeiss_cube_takes_its_size_from_its_name(tmp_path):
    rng = np.random.default_rng(0)
    stored = rng.integers(0, 255, (200, 1024, 200), dtype=np.uint8)
    path = tmp_path / f"{SECRET}_Optic Disc Cube 200x200_1-1-2000_1-1-1_OS_sn1_cube_z.img"
    path.write_bytes(stored.tobytes())
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, stored[:, ::-1])
    assert volume.spacing == pytest.approx((0.03, 2 / 1024, 0.03))
    assert (volume.spacing_source, volume.spacing_confidence) == ("protocol", "low")
    assert (volume.laterality, volume.device) == ("L", "zeiss_cirrus")
    path.write_bytes(stored.tobytes()[:-1])
    with pytest.raises(ScanError, match="are not 200 x 1024 x 200, as its name says"):
        read_volume(path)


def test_zeiss_cubes_of_unknown_size_or_width_are_refused(tmp_path):
    path = tmp_path / "cube_z.img"
    path.write_bytes(bytes(4096))
    assert "its name says no size" in refusal(path).reason
    path = tmp_path / "Angio 40x16_OD_cube_z.img"
    stored = np.random.default_rng(0).integers(0, 255, (16, 1024, 40), dtype=np.uint8)
    path.write_bytes(stored.tobytes())
    error = refusal(path)
    assert (error.stage, "nothing tells the width" in error.reason) == ("geometry", True)
    given = Spacing(0.1, 0.002, 0.011)
    assert read_volume(path, spacing=given).spacing == pytest.approx(given)


def e2e_levels(voxels):
    """The 16-bit floats of an .e2e file (6 bits of exponent, 10 mirrored ones of mantissa)."""
    levels = voxels.astype(np.float64) / 255
    raw = np.clip(np.exp(levels * 8.285 - 8.3) - 2.44e-4, 2.0**-40, 0.9999)
    mantissa, exponent = np.frexp(raw)
    mirrored = np.array([int(f"{m:010b}"[::-1], 2) for m in range(1024)])
    steps = mirrored[((mantissa * 2 - 1) * 1024).astype(int)]
    return ((exponent - 1 + 63) << 10 | steps).astype("<u2")


def write_e2e(path, voxels, *, side=b"R", pattern=3, series=(5,), layer=None):
    """An .e2e file with one chunk: of each series the B-scans, their places and a localizer."""
    bscans, rows, columns = voxels.shape
    items = []
    for number in series:
        items.append((number, -1, 11, bytes(14) + side + bytes(12)))
        items.append((number, -1, 9007, struct.pack("<I", 0) + bytes(600)))
        slo = struct.pack("<IIIII", 0, 33620481, rows * columns, rows, columns)
        items.append((number, -1, 1073741824, slo + voxels[0].tobytes()))
        for i in range(bscans):
            line = (-3.0, 4.0 - 0.4 * i, -3.0 + 0.0366666 * columns, 4.0 - 0.4 * i)
            note = struct.pack(
                "<III4fIfffI2fIIIII",
                0,
                rows,
                columns,
                *line,
                0,
                0,
                0.0039,
                0,
                0,
                *(0.0, 0.0),
                0,
                columns,
                bscans,
                i,
                pattern,
            )
            items.append((number, 2 * i, 10004, note.ljust(428, b"\0")))
            image = struct.pack("<IIIII", 0, 35652097, rows * columns, rows, columns)
            items.append((number, 2 * i, 1073741824, image + e2e_levels(voxels[i]).tobytes()))
            if layer is not None:
                head = struct.pack("<IIIII", 0, 0, 0, columns, 0)
                body = head + layer[i].astype("<f4").tobytes()
                items.append((number, 2 * i, 10019, body))
    header = struct.pack("<12sI20sIIII", b"MDbMDir", 100, b"", len(items), 88, 0, 0)
    version = struct.pack("<12sI20s", b"CMDb", 100, b"")
    at = len(version) + 2 * len(header) + 44 * len(items)
    folders, contents = [], []
    for number, piece, kind, body in items:
        ids = struct.pack("<iiiiHHII", 1, 2, number, piece, 1, 0, kind, 0)
        folders.append(struct.pack("<IIII", 0, at, len(body), 0) + ids)
        contents.append(struct.pack("<12sIIIII", b"MDbData", 0, 0, at, len(body), 0) + ids + body)
        at += len(contents[-1])
    path.write_bytes(b"".join([version, header, header, *folders, *contents]))
    return path


def test_an_e2e_file_gives_its_raster_once_the_pixel_size_is_known(tmp_path, draw):
    voxels = draw().voxels
    ilm = np.arange(8, dtype=np.float32)[:, None] + np.linspace(3, 9, 40, dtype=np.float32)
    path = write_e2e(tmp_path / "a.e2e", voxels, layer=ilm)
    assert "spacing=Spacing" in refusal(path).reason
    given = Spacing(0.12, 0.0039, 0.011)
    volume = read_volume(path, spacing=given)
    assert np.abs(volume.voxels.astype(int) - voxels[::-1]).max() <= 2
    assert (volume.spacing, volume.spacing_source) == (given, "given")
    assert (volume.laterality, volume.device) == ("R", "heidelberg_spectralis")
    assert np.array_equal(volume.layers["ILM"], ilm[::-1])
    assert np.array_equal(volume.localizer, voxels[0])


def test_one_of_several_series_of_an_e2e_file_must_be_named(tmp_path, draw):
    path = write_e2e(tmp_path / "a.e2e", draw().voxels, series=(5, 9))
    given = Spacing(0.12, 0.0039, 0.011)
    assert "2 series fit; name one of 5, 9" in refusal(path, spacing=given).reason
    assert read_volume(path, spacing=given, member="9").voxels.shape == (8, 48, 40)


def test_circles_in_e2e_files_are_refused(tmp_path, draw):
    path = write_e2e(tmp_path / "a.e2e", draw(shape=(1, 48, 40)).voxels, pattern=2)
    assert "circle" in refusal(path, spacing=Spacing(0.12, 0.0039, 0.011)).reason


def test_an_e2e_file_whose_chunks_lead_in_a_circle_ends_at_once(tmp_path, draw):
    path = write_e2e(tmp_path / "a.e2e", draw().voxels)
    content = bytearray(path.read_bytes())
    folders = int.from_bytes(content[88 + 36 : 88 + 40], "little")
    last = 88 + 52 + 44 * (folders - 1)
    content[last + 4 : last + 12] = struct.pack("<II", 28, 0)
    path.write_bytes(content)
    assert "circle" in refusal(path, spacing=Spacing(0.12, 0.0039, 0.011)).reason


def test_what_is_no_e2e_file_ends_in_a_scan_error(tmp_path):
    path = tmp_path / "a.e2e"
    rng = np.random.default_rng(0)
    for content in (b"", b"CMDb", bytes(5000), rng.bytes(5000), b"CMDb" + rng.bytes(5000)):
        path.write_bytes(content)
        assert refusal(path).stage in ("parse", "decode")
