"""Where the B-scans of a volume lie: scan pattern, order, and the distance between them.

`place_frames` takes the first source that a file has: frame positions, lines on the localizer,
SpacingBetweenSlices, SliceThickness, a field of view, a known protocol. Where there is none the
scan is refused, unless the caller or a sidecar says the spacing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.scan.header import cure_of
from oct_io.scan.protocols import Protocol
from oct_io.volume import CONFIDENCE, Confidence, Kind, Pattern, SpacingSource

PARALLEL_COSINE = 0.999  # 2.6 degrees; radial scans of 24 lines differ by 7.5
STEP_TOLERANCE = 0.05  # steps of a raster agree to this share (DICOM PS3.3 C.8.17 gives no figure)
ROUNDING_MM = 0.0011  # positions are often written with three decimals
AGREEING = 0.25  # a SliceThickness this near to the protocol's pitch is that pitch, maybe rounded
PLAUSIBLE_MM = {"bscan": (0.0005, 2.5), "row": (0.0002, 0.1), "column": (0.0005, 1.0)}
ANY_MM = (1e-6, 100.0)  # of what is no OCT: electron microscopes to planes of a radiograph
USUAL = {"columns": "to the patient's left", "rows": "into the eye"}
"""Where the axes of a B-scan run, as in NIfTI files (`oct_io.readers.nifti`)."""
WAYS = (
    ("to the patient's right", "to the patient's left"),
    ("out of the eye", "into the eye"),
    ("to the feet", "to the head"),
)
"""Where the axes of the patient run, downwards and upwards (PS3.3 C.7.6.2.1.1)."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameGeometry:
    """What a file says about its frames, before anything is derived; None or NaN where silent.

    Attributes:
        frames: number of B-scans.
        columns: A-scans of one B-scan.
        column_mm: distance between A-scans.
        positions_mm: ImagePositionPatient, (frames, 3).
        orientations: ImageOrientationPatient, (frames, 6).
        lines: ReferenceCoordinates on the localizer, (frames, 4): row, column of start, of end.
        curved: OphthalmicImageOrientation is NONLINEAR, (frames,).
        localizer_mm: PixelSpacing of the localizer, (row, column), if someone knows it.
        spacing_between_slices: millimetres.
        slice_thickness: millimetres; in AI-READI's Topcon files this is the B-scan pitch.
        field_of_view_mm: width of the scan across its B-scans.
        protocol: known protocol of the file.
    """

    frames: int
    columns: int
    column_mm: float
    positions_mm: Floats | None = None
    orientations: Floats | None = None
    lines: Floats | None = None
    curved: NDArray[np.bool_] | None = None
    localizer_mm: tuple[float, float] | None = None
    spacing_between_slices: float | None = None
    slice_thickness: float | None = None
    field_of_view_mm: float | None = None
    protocol: Protocol | None = None


class Placement(NamedTuple):
    """The derived geometry; `bscan_mm` and `source` are None when nothing tells the distance."""

    pattern: Pattern
    order: tuple[int, ...]  # frame indices from superior to inferior
    bscan_mm: float | None
    source: SpacingSource | None
    note: str  # one line that says what was seen; of a raster, which axes run as in few others
    confidence: Confidence = "none"  # how far `bscan_mm` can be relied on


def join_frames(parts: Sequence[FrameGeometry]) -> FrameGeometry:
    """Geometry of a volume whose frames lie in several files; what one file lacks becomes NaN."""
    if len(parts) == 1:
        return parts[0]

    def stack(name: str, width: int) -> Floats | None:
        found = [getattr(part, name) for part in parts]
        if all(one is None for one in found):
            return None
        rows = zip(parts, found, strict=True)
        return np.concatenate(
            [np.full((part.frames, width), np.nan) if one is None else one for part, one in rows]
        )

    flags = [
        np.zeros(part.frames, np.bool_) if part.curved is None else part.curved for part in parts
    ]
    return replace(
        parts[0],
        frames=sum(part.frames for part in parts),
        positions_mm=stack("positions_mm", 3),
        orientations=stack("orientations", 6),
        lines=stack("lines", 4),
        curved=np.concatenate(flags),
    )


def place_frames(frames: FrameGeometry) -> Placement:
    """Classify the scan pattern, order the frames and derive the distance between them.

    The distance comes from the first of these that the file has: frame positions projected on the
    slice normal; frame locations on the localizer; SpacingBetweenSlices; SliceThickness; the field
    of view that the file states, or that of a known protocol, over its number of frames. It is
    never made up. `oct_io.volume.CONFIDENCE` says how good each of these is; a SliceThickness that
    the protocol confirms counts for more.
    """
    in_order = tuple(range(frames.frames))
    not_raster = _not_raster(frames)
    if not_raster:
        return Placement(not_raster[0], in_order, None, None, not_raster[1])
    seen: tuple[tuple[Floats | None, SpacingSource], ...] = (
        (_by_position(frames), "frame_positions"),
        (_by_lines(frames), "localizer"),
    )
    for offsets, source in seen:
        if offsets is None:
            continue
        order, steps = np.argsort(offsets, kind="stable"), np.diff(np.sort(offsets))
        step = float(steps.mean())
        if np.abs(steps - step).max() > STEP_TOLERANCE * step + ROUNDING_MM:
            note = f"B-scans lie unevenly, {steps.min():.4f} to {steps.max():.4f} mm apart"
            return Placement("unknown", in_order, None, None, note)
        place = tuple(map(int, order))
        return Placement("raster", place, step, source, _unusual(frames), CONFIDENCE[source])
    stated, found = _by_header(frames)
    confidence = _confidence(frames, stated, found)
    return Placement("raster", in_order, stated, found, _unusual(frames), confidence)


def _not_raster(frames: FrameGeometry) -> tuple[Pattern, str] | None:
    """Name of the pattern and what was seen, if the frames do not lie side by side."""
    curved = 0 if frames.curved is None else int(frames.curved.sum())
    spread = max(_spread(_directions(frames)), _spread(_line_directions(frames)))
    if spread > 0:
        others = f" and {curved} circle" if curved else ""
        return "radial", f"{frames.frames - curved} radial{others} B-scans, not a volume"
    if curved:
        return "circle", f"{curved} of {frames.frames} B-scans are circles, not a volume"
    if frames.protocol and frames.protocol.pattern != "raster":
        name = frames.protocol
        return name.pattern, f"protocol {name.token} is a {name.pattern} scan, not a volume"
    if frames.frames == 1:
        return "line", "one B-scan, not a volume"
    lines = frames.lines
    if lines is not None and np.ptp(lines, axis=0).max() < 1e-3:
        return "line", f"{frames.frames} B-scans lie on one line, not a volume"
    return None


def _directions(frames: FrameGeometry) -> Floats | None:
    return None if frames.orientations is None else frames.orientations[:, :3]


def _line_directions(frames: FrameGeometry) -> Floats | None:
    return None if frames.lines is None else frames.lines[:, 2:] - frames.lines[:, :2]


def _spread(directions: Floats | None) -> int:
    """How many directions differ from the first, either way round; rows of NaN do not count."""
    if directions is None:
        return 0
    length = np.linalg.norm(directions, axis=1)
    usable = np.isfinite(length) & (length > 1e-6)
    if usable.sum() < 2:
        return 0
    unit = directions[usable] / length[usable, None]
    return int((np.abs(unit @ unit[0]) < PARALLEL_COSINE).sum())


def _unusual(frames: FrameGeometry) -> str:
    """Which axes of a B-scan run another way than `USUAL`, as ImageOrientationPatient has it.

    Nothing is turned for it: AI-READI's converters write both signs for images of one scan
    (fairhub-pipeline, en-face converters and height maps of Cirrus, Maestro2 and Triton), so that
    what is unusual may be the writer's words and not the scan.
    """
    if frames.orientations is None:
        return ""
    said = []
    for (name, usual), cosines in zip(
        USUAL.items(), np.hsplit(frames.orientations, 2), strict=True
    ):
        ways = {_way(one) for one in np.unique(cosines, axis=0)} - {"", usual}
        if ways:
            said.append(f"{name} run {' and '.join(sorted(ways))}")
    return "; ".join(said)


def _way(cosines: Floats) -> str:
    """Where an axis with these direction cosines runs; "" if they say nothing."""
    axis = int(np.abs(cosines).argmax())
    return WAYS[axis][int(cosines[axis] > 0)] if abs(cosines[axis]) > 1e-6 else ""


def _by_position(frames: FrameGeometry) -> Floats | None:
    """Signed millimetres along the slice normal, growing from superior to inferior."""
    positions = frames.positions_mm
    if positions is None or not np.isfinite(positions).all():
        return None
    normal = None
    if frames.orientations is not None and np.isfinite(frames.orientations[0]).all():
        normal = np.cross(frames.orientations[0, :3], frames.orientations[0, 3:])
    if normal is None or np.linalg.norm(normal) < 1e-6:
        far = np.linalg.norm(positions - positions[0], axis=1).argmax()
        normal = positions[far] - positions[0]
    length = np.linalg.norm(normal)
    if length < 1e-9:
        return None
    normal = normal / length
    main = int(np.abs(normal).argmax())
    wanted = -1 if main == 2 else 1  # the third patient axis points to the head
    normal = normal * wanted * np.sign(normal[main])
    offsets: Floats = positions @ normal
    return offsets if np.ptp(offsets) > 1e-6 else None


def _by_lines(frames: FrameGeometry) -> Floats | None:
    """Signed millimetres on the localizer, growing downwards, which is from superior to inferior.

    Where nobody knows the localizer's PixelSpacing, the B-scan itself is the ruler: its line on the
    localizer is columns times column spacing long (true to 0.001 mm in a real Spectralis export).
    """
    lines = frames.lines
    if lines is None or not np.isfinite(lines).all():
        return None
    along = lines[0, 2:] - lines[0, :2]
    pixels = float(np.linalg.norm(along))
    if pixels < 1e-3:
        return None
    scale = np.full(2, frames.columns * frames.column_mm / pixels)
    if frames.localizer_mm is not None:
        scale = np.asarray(frames.localizer_mm, dtype=np.float64)
    along = along * scale
    normal = np.array([-along[1], along[0]]) / np.linalg.norm(along)
    if normal[np.abs(normal).argmax()] < 0:
        normal = -normal
    offsets: Floats = ((lines[:, :2] + lines[:, 2:]) / 2 * scale) @ normal
    return offsets if np.ptp(offsets) > 1e-6 else None


def _by_header(frames: FrameGeometry) -> tuple[float | None, SpacingSource | None]:
    if frames.spacing_between_slices:
        return abs(frames.spacing_between_slices), "spacing_between_slices"
    if frames.slice_thickness:
        return abs(frames.slice_thickness), "slice_thickness"
    if frames.field_of_view_mm:
        return abs(frames.field_of_view_mm) / frames.frames, "field_of_view"
    if frames.protocol and frames.protocol.extent_mm and frames.frames > 1:
        return frames.protocol.extent_mm[0] / frames.frames, "protocol"
    return None, None


def _confidence(
    frames: FrameGeometry, stated: float | None, source: SpacingSource | None
) -> Confidence:
    if stated is None or source is None:
        return "none"
    wide = frames.protocol.extent_mm if frames.protocol else None
    if source == "slice_thickness" and wide is not None:
        pitch = wide[0] / frames.frames
        if abs(stated - pitch) <= AGREEING * pitch:
            return "medium"
    return CONFIDENCE[source]


def implausible(bscan: float, row: float, column: float, kind: Kind | None = None) -> str:
    """What is wrong with these millimetres, in words; "" if a scanner of that kind has such."""
    cure = cure_of(kind)
    for name, value in (("bscan", bscan), ("row", row), ("column", column)):
        if name == "bscan" and np.isnan(value):
            continue  # not a raster
        low, high = ANY_MM if kind == "volume" else PLAUSIBLE_MM[name]
        if not low <= value <= high:
            return f"{name} spacing {value:g} mm is outside {low:g} to {high:g} mm{cure}"
    return ""
