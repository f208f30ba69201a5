"""What is suspicious about a decoded scan: named flags, which refuse nothing.

A scan is refused for what its bytes prove and flagged for what they suggest. Flags are found on
voxels, so that a scan has the same ones in every lossless codec; only `lost_bytes` may also rest on
the bytes themselves, and `direction` rests on the header, which `OctVolume` carries along.

All measures but those of single voxels are taken on small pictures: each B-scan in about
`PICTURE_ROWS` rows and `PICTURE_COLUMNS` columns. Where a number says "real", it was measured on
the 145 B-scans of the public Spectralis volume, whole and thinned to every 4th and 12th; "made-up"
are phantoms of every device and protocol. tests/scan/test_flags.py holds both to it.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.scan.content import has_gap
from oct_io.space.grey import white_level
from oct_io.volume import OctVolume, Voxels

FLAGS: dict[str, str] = {
    "motion": "a B-scan is displaced in depth against its neighbours",
    "lost_bytes": "zeros or a B-scan like no other where bytes of the file may be missing",
    "saturation": "many voxels are white",
    "low_signal": "tissue hardly stands out from noise",
    "clipped_retina": "bright tissue touches the upper or lower edge",
    "blink": "B-scans are dark",
    "mirrored_depth": "the retina seems to lie upside down: a mirror image",
    "direction": "rows or columns run another way than in other scans, says the file",
}
"""Every flag, in the order in which they are listed, with what it means."""

PICTURE_ROWS, PICTURE_COLUMNS = 192, 16
SAMPLED_BSCANS, SAMPLED_COLUMNS = 32, 128  # settle shares and percentiles of a volume

LEAST_COMPARED = 8  # B-scans; of fewer, nobody can say what is usual
MOTION_MM = 0.04  # beyond the usual step; real 0.008 at most, made-up 0.022 at rows of 0.022
MOTION_ROWS = 2.5  # of a picture, whose rows are the finest step that is seen
FARTHER_THAN_USUAL = 6.0  # times the volume's median, for motion and for likeness
MOTION_REACH = 1 / 3  # of the depth: as far as a displaced B-scan is looked for

THUMB_ROWS = 24  # of the pictures that are compared for likeness
FAR = 0.25  # one less the correlation with the better neighbour: real 0.02 at most
FAR_ALIGNED = 0.1  # the same at the neighbour's depth: 0.002 if it was displaced, torn 0.2 and more

FAINT = 0.5  # of the usual contrast; real 0.86 at least, made-up 0.74
SATURATED_SHARE = 0.01  # of all voxels; real 0.0003, made-up 0.003 at most, real times 1.5: 0.05
LOW_SIGNAL_DB = 10.0  # real 31, made-up 12 at least (one look); real at a seventh with noise: 7
CLIPPED_SHARE = 0.1  # of A-scans; real 0.00, made-up 0.07 at most, real cut at its ILM: 0.95
CLIPPED_DEPTH = 1 / 64  # of the depth: what counts as the edge
MIRRORED_SKEW = -0.35  # of tissue over depth; real 0.5, mirrored -0.5; sound made-up -0.3 to 0.4
MIRRORED_SHARE = 0.8  # of A-scans that lean that way: real 0.00, its mirror image 1.00
TISSUE_MM = 0.5  # about the retina; what lies farther away says nothing of its sides


class Flags(NamedTuple):
    """What was found."""

    names: tuple[str, ...]  # of `FLAGS`, in its order
    signal_db: float  # see `measure_signal`


def find_flags(volume: OctVolume) -> Flags:
    """Look for everything in `FLAGS`; of what is no OCT nothing is suspicious.

    36 million voxels take 0.07 s: 2 % of decoding them from JPEG 2000, 12 % from JPEG-LS, and more
    than copying them from an uncompressed file (benchmarks/flags.py).
    """
    if volume.kind == "volume":
        return Flags((), 0.0)
    pictures, step = _draw_small(volume.voxels)
    row_mm = volume.spacing.row * step
    lit = _find_lit(pictures)
    moved, broken = _compare_neighbours(pictures[lit], row_mm)
    signal_db = measure_signal(volume.voxels)
    found = {
        "motion": moved,
        "lost_bytes": bool(volume.lost_bytes) or broken or has_gap(volume.voxels),
        "saturation": _is_saturated(volume),
        "low_signal": signal_db < LOW_SIGNAL_DB,
        "clipped_retina": _is_clipped(pictures[lit]),
        "blink": not lit.all(),
        "mirrored_depth": _is_mirrored(pictures[lit], row_mm),
        "direction": bool(volume.direction),
    }
    return Flags(tuple(name for name in FLAGS if found[name]), signal_db)


def check_flag_names(names: Iterable[str], called: str) -> None:
    """Refuse names that no flag has.

    Args:
        names: as a user gave them.
        called: the setting they come from.

    Raises:
        ValueError: with the flags there are.
    """
    for name in names:
        if name not in FLAGS:
            raise ValueError(f"{called} ({name}) must be some of {', '.join(FLAGS)}")


def count_flags(flagged: Iterable[Collection[str]]) -> dict[str, int]:
    """How many scans have each flag; those that none has are left out."""
    listed = [name for names in flagged for name in names]
    return {name: listed.count(name) for name in FLAGS if name in listed}


def measure_signal(voxels: Voxels) -> float:
    """How far tissue stands out from noise, in decibels: 20 log10 of contrast over noise.

    Contrast is the grey level of the brightest percent less the mean of the noise; noise are the
    darkest tenth of the rows, and its spread counts as one grey level at least. Scanners store
    levels that are logarithms already, each on its own scale: compare scans of one device. 0 where
    nothing stands out.
    """
    bscans, _, columns = voxels.shape
    part = voxels[:: -(-bscans // SAMPLED_BSCANS), :, :: -(-columns // SAMPLED_COLUMNS)]
    profile = part.mean(axis=(0, 2), dtype=np.float32)
    lit = np.flatnonzero(profile > 0)  # blank margins hold no noise
    if not len(lit):
        return 0.0
    darkest = lit[np.argsort(profile[lit])[: max(1, len(lit) // 10)]]
    noise = part[:, darkest].astype(np.float32)
    bright = np.partition(part.reshape(-1), int(part.size * 0.99))[int(part.size * 0.99)]
    ratio = (float(bright) - float(noise.mean())) / max(float(noise.std()), 1.0)
    return float(20 * np.log10(max(ratio, 1.0)))


def _draw_small(voxels: Voxels) -> tuple[NDArray[np.float32], int]:
    """Small pictures, (bscans, rows, columns), and how many rows of the scan one of theirs is."""
    bscans, rows, columns = voxels.shape
    down, along = max(1, rows // PICTURE_ROWS), max(1, columns // PICTURE_COLUMNS)
    thin = max(1, along // 16)
    high, wide = rows // down, columns // along
    pictures = np.empty((bscans, high, wide), np.float32)
    for picture, frame in zip(pictures, voxels, strict=True):
        blocks = frame[: high * down, : wide * along].reshape(high, down, wide, along)
        blocks[..., ::thin].mean(axis=(1, 3), dtype=np.float32, out=picture)
    return pictures, down


def _find_lit(pictures: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which B-scans have at least `FAINT` of the usual contrast."""
    contrast = pictures.std(axis=(1, 2))
    lit: NDArray[np.bool_] = contrast >= FAINT * np.median(contrast)
    return lit


def _compare_neighbours(pictures: NDArray[np.float32], row_mm: float) -> tuple[bool, bool]:
    """Whether a B-scan is displaced, and whether one is like neither neighbour at any depth.

    The second is what a decoder leaves that lost its place in the bytes. Such B-scans say nothing
    of motion and are left out for it.
    """
    if len(pictures) < LEAST_COMPARED:
        return False, False
    away = _unlikeness(_shrink(pictures))
    usual = FARTHER_THAN_USUAL * float(np.median(away))
    odd = [int(n) for n in np.flatnonzero(away > max(FAR, usual))]
    broken = [n for n in odd if _best_aligned(pictures, n) > max(FAR_ALIGNED, usual)]
    whole = np.delete(pictures, broken, axis=0)
    return len(odd) > len(broken) or _is_displaced(whole, row_mm), bool(broken)


def _unlikeness(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """One less the correlation with the better of two neighbours, of each of (n, voxels)."""
    small = small - small.mean(axis=1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1), 1e-6)[:, None]
    likeness = (small[1:] * small[:-1]).sum(axis=1)
    away: NDArray[np.float32] = 1 - np.maximum(np.append(likeness, -1), np.append(-1, likeness))
    return away


def _shrink(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures of about `THUMB_ROWS` rows, flat: (n, voxels)."""
    count, rows, columns = pictures.shape
    step = max(1, rows // THUMB_ROWS)
    cut = pictures[:, : rows // step * step]
    small: NDArray[np.float32] = cut.reshape(count, rows // step, step, columns).mean(axis=2)
    return small.reshape(count, -1)


def _best_aligned(pictures: NDArray[np.float32], number: int) -> float:
    """How unlike its better neighbour a B-scan is once it is moved to that one's depth."""
    least = np.inf
    for other in (number - 1, number + 1):
        if 0 <= other < len(pictures):
            pair = pictures[[other, number]]
            moved = np.roll(pair[1], -int(_shifts(pair)[0]), axis=0)
            away = _unlikeness(_shrink(np.stack([pair[0], moved])))
            least = min(least, float(away[0]))
    return least


def _shifts(pictures: NDArray[np.float32]) -> NDArray[np.int64]:
    """Rows by which each picture lies deeper than the one before, by cross-correlation."""
    rows = pictures.shape[1]
    centred = pictures - pictures.mean(axis=1, keepdims=True)
    waves = np.fft.rfft(centred, 2 * rows, axis=1)
    match = np.fft.irfft((waves[1:] * waves[:-1].conj()).sum(axis=2), axis=1)
    reach = max(1, int(rows * MOTION_REACH))
    tried = np.arange(-reach, reach + 1)
    return tried[match[:, tried].argmax(axis=1)]


def _is_displaced(pictures: NDArray[np.float32], row_mm: float) -> bool:
    """Whether a step in depth differs from the steps about it: the eye moved, not the retina bent.

    The median of five steps is what the curve of the eye makes between B-scans far apart.
    """
    if len(pictures) < LEAST_COMPARED:
        return False
    steps = _shifts(pictures) * row_mm
    around = np.lib.stride_tricks.sliding_window_view(np.pad(steps, 2, mode="reflect"), 5)
    beyond = np.abs(steps - np.median(around, axis=1))
    usual = FARTHER_THAN_USUAL * float(np.median(beyond))
    return bool(beyond.max() > max(MOTION_MM, MOTION_ROWS * row_mm, usual))


def _is_saturated(volume: OctVolume) -> bool:
    bscans, _, columns = volume.voxels.shape
    part = volume.voxels[:: -(-bscans // SAMPLED_BSCANS), :, :: -(-columns // SAMPLED_COLUMNS)]
    return bool(np.count_nonzero(part >= white_level(volume)) > SATURATED_SHARE * part.size)


def _is_clipped(pictures: NDArray[np.float32]) -> bool:
    """Whether A-scans are bright at an edge: above the middle between dark and bright."""
    if not len(pictures):
        return False
    dark, bright = np.percentile(pictures, (20, 98))
    depth = max(1, int(pictures.shape[1] * CLIPPED_DEPTH))
    edges = (pictures[:, :depth].mean(axis=1), pictures[:, -depth:].mean(axis=1))
    return any(float((edge > (dark + bright) / 2).mean()) > CLIPPED_SHARE for edge in edges)


def _is_mirrored(pictures: NDArray[np.float32], row_mm: float) -> bool:
    """Whether tissue leans the wrong way: its sharp edge is the inner one, its long tail choroid.

    Skewness of brightness over depth, A-scan by A-scan: positive where the tail lies deeper. Of
    noisy scans of few voxels it is near 0 either way, and nothing is said. A retina that is folded
    at the edge in part touches that edge, and is found as clipped.
    """
    pictures = pictures[:: max(1, len(pictures) // SAMPLED_BSCANS)]
    bright = np.clip(pictures - np.median(pictures, axis=1, keepdims=True), 0, None)
    depth = (np.arange(pictures.shape[1], dtype=np.float32) * row_mm)[None, :, None]
    near = np.abs(depth - _mean_of(depth, bright)) < TISSUE_MM
    bright = bright * near
    off = depth - _mean_of(depth, bright)
    spread = np.maximum(_mean_of(off**2, bright), 1e-9)
    skew = _mean_of(off**3, bright) / spread**1.5
    return bool(
        len(pictures)
        and np.median(skew) < MIRRORED_SKEW
        and float((skew < 0).mean()) > MIRRORED_SHARE
    )


def _mean_of(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-6)
    mean: NDArray[np.float32] = (values * weights).sum(axis=1, keepdims=True) / total
    return mean
