import numpy as np
import pydicom
import pytest
from oct_io import ScanError, open_volume, read_header, read_volume
from oct_io.dicom.layout import FileStyle
from oct_io.dicom.writer import write_dicom
from oct_io.scan.flags import find_flags
from oct_io.scan.geometry import FrameGeometry, join_frames, place_frames
from oct_io.scan.protocols import (
    PROTOCOLS,
    device_name,
    find_protocol,
    laterality_in_name,
    protocol_token,
)


def raster(frames=8, **changes):
    return FrameGeometry(frames=frames, columns=100, column_mm=0.05, **changes)


def stacked(step, frames=8):
    """Positions of frames that go down the patient axis, as `ImagePositionPatient`."""
    return np.stack([np.zeros(frames), np.zeros(frames), -step * np.arange(frames)], axis=1)


AXIAL = np.tile([1.0, 0, 0, 0, 1, 0], (8, 1))


def lines(step_pixels, frames=8, length=500.0):
    rows = 10 + step_pixels * np.arange(frames, dtype=float)
    return np.stack([rows, np.full(frames, 4.0), rows, np.full(frames, 4.0 + length)], axis=1)


def test_the_distance_between_bscans_comes_from_the_first_source_in_the_documented_order():
    said = {
        "positions_mm": (stacked(0.2), 0.2, "frame_positions"),
        "lines": (lines(30.0), 0.3, "localizer"),
        "spacing_between_slices": (0.4, 0.4, "spacing_between_slices"),
        "slice_thickness": (0.5, 0.5, "slice_thickness"),
        "protocol": (find_protocol("1001_maestro2_3d_macula_oct_l_1.2.dcm"), 6 / 8, "protocol"),
    }
    while said:
        given = {name: value for name, (value, _, _) in said.items()}
        placed = place_frames(raster(orientations=AXIAL, **given))
        _, step, source = said.pop(next(iter(said)))
        assert placed.bscan_mm == pytest.approx(step)
        assert placed.source == source
    placed = place_frames(raster(orientations=AXIAL))
    assert (placed.bscan_mm, placed.source) == (None, None)


def test_each_source_has_its_confidence_and_a_confirmed_thickness_a_better_one():
    protocol = find_protocol("1001_maestro2_3d_macula_oct_l_1.2.dcm")
    wanted = [
        ({"positions_mm": stacked(0.2), "orientations": AXIAL}, "high"),
        ({"lines": lines(30.0)}, "high"),
        ({"spacing_between_slices": 0.4}, "medium"),
        ({"slice_thickness": 0.5}, "low"),
        ({"slice_thickness": 0.76, "protocol": protocol}, "medium"),
        ({"slice_thickness": 0.4, "protocol": protocol}, "low"),
        ({"field_of_view_mm": 4.0}, "medium"),
        ({"protocol": protocol}, "low"),
        ({}, "none"),
    ]
    for said, confidence in wanted:
        assert place_frames(raster(**said)).confidence == confidence, said
    placed = place_frames(raster(field_of_view_mm=4.0))
    assert (placed.bscan_mm, placed.source) == (0.5, "field_of_view")


def test_frames_of_several_files_are_placed_together():
    parts = [
        raster(3, positions_mm=stacked(0.2)[5:], orientations=AXIAL[:3]),
        raster(5, positions_mm=stacked(0.2)[:5], orientations=AXIAL[:5]),
    ]
    placed = place_frames(join_frames(parts))
    assert placed.order == (3, 4, 5, 6, 7, 0, 1, 2)
    assert placed.bscan_mm == pytest.approx(0.2)
    silent = join_frames([parts[0], raster(5, slice_thickness=0.3)])
    assert np.isnan(silent.positions_mm[3:]).all()


def test_a_known_pixel_size_of_the_localizer_is_used_as_it_is():
    placed = place_frames(raster(lines=lines(30.0), localizer_mm=(0.02, 0.01)))
    assert placed.bscan_mm == pytest.approx(0.6)


def test_positions_are_projected_on_the_slice_normal():
    tilted = np.array([[0.5, 0.0, -0.2]]) * np.arange(8)[:, None]  # shifted sideways as well
    placed = place_frames(raster(positions_mm=tilted, orientations=AXIAL))
    assert placed.bscan_mm == pytest.approx(0.2)


def test_frames_are_ordered_from_superior_to_inferior():
    upwards = place_frames(raster(positions_mm=stacked(-0.2), orientations=AXIAL))
    assert upwards.order == tuple(range(8))[::-1]
    downwards = place_frames(raster(lines=lines(30.0)))
    assert downwards.order == tuple(range(8))


def test_equal_positions_and_missing_ones_say_nothing():
    placed = place_frames(
        raster(positions_mm=np.zeros((8, 3)), orientations=AXIAL, slice_thickness=0.25)
    )
    assert placed.source == "slice_thickness"
    holes = stacked(0.2)
    holes[3] = np.nan
    placed = place_frames(raster(positions_mm=holes, orientations=AXIAL, slice_thickness=0.25))
    assert placed.source == "slice_thickness"


@pytest.mark.parametrize(
    ("cosines", "said"),
    [
        ([1, 0, 0, 0, 1, 0], ""),
        ([0.993, 0, -0.122, 0, 1, 0], ""),  # 7 degrees, as posterior pole scans lie
        ([np.nan] * 6, ""),
        ([-1, 0, 0, 0, 1, 0], "columns run to the patient's right"),
        ([0, 0, -1, 0, 1, 0], "columns run to the feet"),
        ([1, 0, 0, 0, -1, 0], "rows run out of the eye"),
        ([-1, 0, 0, 0, 0, 1], "columns run to the patient's right; rows run to the head"),
    ],
)
def test_axes_that_run_another_way_are_told_and_turned_by_nobody(cosines, said):
    turned = np.tile(np.array(cosines, dtype=float), (8, 1))
    for placed in (
        place_frames(raster(orientations=turned, slice_thickness=0.2)),
        place_frames(raster(orientations=turned, lines=lines(30.0))),
    ):
        assert (placed.pattern, placed.note, placed.order) == ("raster", said, tuple(range(8)))


def test_a_file_whose_columns_run_to_the_right_is_read_as_it_lies_and_flagged(scan_file, draw):
    def turn(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]

    path, said = scan_file(edit=turn), "columns run to the patient's right"
    volume = read_volume(path)
    assert np.array_equal(volume.voxels, draw().voxels)
    assert (volume.direction, read_header(path).pattern_note) == (said, said)
    assert "direction" in find_flags(volume).names
    part = open_volume(path).load(frames=[0, 2, 4])
    assert (part.pattern, part.direction) == ("raster", said)
    straight = read_volume(scan_file("b.dcm"))
    assert (straight.direction, "direction" in find_flags(straight).names) == ("", False)


def test_uneven_steps_are_no_raster_but_rounded_ones_are():
    positions = stacked(0.0113, frames=8).round(3)
    placed = place_frames(raster(positions_mm=positions, orientations=AXIAL))
    assert placed.bscan_mm == pytest.approx(0.0113, rel=0.01)
    positions = stacked(0.2)
    positions[5:] -= 0.1
    placed = place_frames(raster(positions_mm=positions, orientations=AXIAL))
    assert placed.pattern == "unknown"
    assert "0.2000 to 0.3000" in placed.note


def test_patterns_are_told_apart():
    angles = np.linspace(0, np.pi, 24, endpoint=False)
    across = np.stack([-np.sin(angles), -np.cos(angles)], axis=1) * 250
    star = np.concatenate([across + 384, 384 - across], axis=1)
    ring = np.tile([384.0, 600, 384, 600], (3, 1))
    curved = np.array([False] * 24 + [True] * 3)
    disc = raster(27, lines=np.concatenate([star, ring]), curved=curved)
    assert place_frames(disc).pattern == "radial"
    assert "24 radial and 3 circle" in place_frames(disc).note
    assert place_frames(raster(3, lines=ring, curved=curved[-3:])).pattern == "circle"
    assert place_frames(raster(8, lines=np.tile(star[:1], (8, 1)))).pattern == "line"
    assert place_frames(raster(1, slice_thickness=0.1)).pattern == "line"
    turned = np.array([[np.cos(a), 0, np.sin(a), 0, 1, 0] for a in np.linspace(0, 3, 8)])
    assert place_frames(raster(8, orientations=turned)).pattern == "radial"


def spoil(*, thickness=None, positions=False, lines=False):
    """Take geometry out of a file that the writer made."""

    def edit(dataset):
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        del measures.SliceThickness
        if thickness is not None:
            measures.SliceThickness = thickness
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            if not positions:
                frame.PlanePositionSequence[0].ImagePositionPatient = None
            if not lines:
                del frame.OphthalmicFrameLocationSequence

    return edit


def test_a_scan_without_any_geometry_is_refused_instead_of_made_up(scan_file, draw):
    volume = draw(protocol="unknown", device="unknown")
    path = scan_file(volume=volume, edit=spoil())
    with pytest.raises(ScanError, match="distance between B-scans") as caught:
        read_volume(path)
    assert caught.value.stage == "geometry"
    assert read_header(path).spacing is None


def test_geometry_is_found_in_files_step_by_step(scan_file, draw):
    plain = draw(protocol="unknown", device="unknown")
    found = read_volume(scan_file(volume=plain, edit=spoil(lines=True)))
    assert (found.spacing_source, found.spacing.bscan) == ("localizer", pytest.approx(0.25, 0.02))
    found = read_volume(scan_file(volume=plain, edit=spoil(thickness=0.3)))
    assert (found.spacing_source, found.spacing.bscan) == ("slice_thickness", 0.3)
    found = read_volume(scan_file(volume=draw(), edit=spoil()))
    assert (found.spacing_source, found.spacing.bscan) == ("protocol", 6 / 8)
    name = "1001_cirrus_mac_oct_r_1.2.dcm"
    found = read_volume(scan_file(name, volume=plain, edit=spoil()))
    assert (found.spacing_source, found.protocol) == ("protocol", "cirrus_mac_oct")


def test_measures_that_stand_per_frame_are_found(scan_file, draw):
    path = scan_file(shared_groups=False)
    shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0]
    assert "PixelMeasuresSequence" not in shared
    volume = read_volume(path)
    assert volume.spacing == pytest.approx(draw().spacing, abs=1e-6)


def test_bscans_of_several_scales_are_no_volume(scan_file, draw, tmp_path):
    def spoil(columns_mm):
        def edit(dataset):
            for frame in dataset.PerFrameFunctionalGroupsSequence[4:]:
                frame.PixelMeasuresSequence[0].PixelSpacing = [0.004, columns_mm]

        return scan_file(edit=edit, shared_groups=False)

    with pytest.raises(
        ScanError, match=r"between 0.004 x 0.025 and 0.004 x 0.05 mm; spacing=S"
    ) as it:
        read_volume(spoil(0.025))
    assert it.value.stage == "geometry"
    assert read_volume(spoil(0.025), spacing=draw().spacing).spacing == draw().spacing
    assert read_volume(spoil(0.0501)).spacing.column == pytest.approx(0.05)  # rounding
    parts = [tmp_path / f"{number}.dcm" for number in (1, 2)]
    for number, path in enumerate(parts, start=1):
        write_dicom(draw(), path, uid_seed="s", style=FileStyle(part=(number, 2)))
    assert read_volume(parts).spacing == pytest.approx(draw().spacing, abs=1e-6)
    dataset = pydicom.dcmread(parts[1])
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [0.002, 0.05]
    dataset.save_as(parts[1])
    with pytest.raises(ScanError, match=r"between 0.002 x 0.05 and 0.004 x 0.05 mm"):
        read_volume(parts)


def test_measures_at_top_level_are_found(scan_file, draw):
    def move(dataset):
        shared = dataset.SharedFunctionalGroupsSequence[0]
        dataset.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence

    assert read_volume(scan_file(edit=move)).spacing == pytest.approx(draw().spacing, abs=1e-6)


def test_radial_and_circle_scans_are_refused_by_name(scan_file):
    def star(dataset):
        for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            angle = number * np.pi / 8
            end = [384 + 200 * np.sin(angle), 384 + 200 * np.cos(angle)]
            place = frame.OphthalmicFrameLocationSequence[0]
            place.ReferenceCoordinates = [768 - end[0], 768 - end[1], *end]

    def rings(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.OphthalmicFrameLocationSequence[0].OphthalmicImageOrientation = "NONLINEAR"

    for edit, word in ((star, "radial scan"), (rings, "circle scan")):
        path = scan_file(edit=edit)
        with pytest.raises(ScanError, match=word) as caught:
            read_volume(path)
        assert caught.value.stage == "geometry"
        assert read_header(path).pattern == word.split()[0]


def test_the_disc_protocol_of_spectralis_is_radial_whatever_the_file_lacks(scan_file):
    for spelling in ("spectralis_onh_rc_hr_oct_l", "spectralis_onh_rc_hr_oct_oct_l"):
        path = scan_file(f"1001_{spelling}_1.2.3.dcm", edit=spoil(thickness=0.1))
        with pytest.raises(ScanError, match="radial"):
            read_volume(path)


def test_implausible_millimetres_are_refused(scan_file):
    def stretch(dataset):
        dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1, 1]

    with pytest.raises(ScanError, match="row spacing 1 mm is outside"):
        read_volume(scan_file(edit=stretch))


def test_protocols_are_found_by_their_longest_known_token():
    assert len(PROTOCOLS) == 13
    for protocol in PROTOCOLS:
        for behind in ("_l_1.2.dcm", "_oct_r_1.2.dcm", "_small_l_1.2.dcm"):
            assert find_protocol(f"/a/b/1001_{protocol.token}{behind}") == protocol
    assert protocol_token("scan.dcm", "spectralis ppol mac hr oct") == "spectralis_ppol_mac_hr_oct"
    assert protocol_token("scan.dcm", "Phantom-A macula") == "phantom_a_macula"
    assert protocol_token("1001_phantom_a_macula_oct_r_1.2.826.dcm") == "phantom_a_macula_oct"
    assert protocol_token("scan.dcm", "Some Name") == "unknown"


@pytest.mark.parametrize(
    "protocol", ["maestro2_macula_6x6", "triton_macula_6x6", "triton_macula_12x12"]
)
def test_released_names_of_topcon_angiography_are_those_protocols(scan_file, draw, protocol):
    name = f"4007_{protocol}_oct_l_2.16.840.1.dcm"
    assert protocol_token(name) == f"{protocol}_octa_oct"
    assert laterality_in_name(name) == "L"
    assert protocol_token(f"4007_{protocol}_octa_flow_cube_l_2.16.dcm") == "unknown"
    header = read_header(scan_file(name, volume=draw(laterality="unknown", protocol="unknown")))
    assert (header.protocol, header.laterality) == (f"{protocol}_octa_oct", "L")


def test_devices_have_one_name_each():
    assert device_name("Heidelberg Engineering", "Spectralis") == "heidelberg_spectralis"
    assert device_name("Topcon", "3DOCT-1Maestro2") == "topcon_maestro2"
    assert device_name("TOPCON", "DRI OCT Triton plus") == "topcon_triton"
    assert device_name("Carl Zeiss Meditec", "CIRRUS HD-OCT 5000") == "zeiss_cirrus"
    assert device_name("oct-io", "phantom_b") == "phantom_b"
    assert device_name("Someone", "Else") == "unknown"


def test_the_eye_in_a_file_name_counts_where_the_file_is_silent(scan_file, draw):
    assert laterality_in_name("/a/1001_spectralis_onh_rc_hr_oct_oct_l_1.2.dcm") == "L"
    assert laterality_in_name("1001_cirrus_mac_oct_r_1.2.dcm") == "R"
    assert laterality_in_name("1001_cirrus_mac_oct_1.2.dcm") == "unknown"
    assert laterality_in_name("scan_l_1.2.dcm") == "unknown"
    silent = draw(laterality="unknown")
    name = "1001_cirrus_mac_oct_r_1.2.dcm"
    assert read_header(scan_file(name, volume=silent)).laterality == "R"
    assert read_header(scan_file(name, volume=draw(laterality="L"))).laterality == "L"
