"""Augmentation of training volumes: what another eye, another sitting or another day would change.

`augment(config)` gives a callable that changes a volume (bscan, row, column), as a numpy array or a
torch tensor. What it does is a pure function of seed, epoch and index, so that a resumed run sees
what an uninterrupted one would have. Depth is never flipped: light comes from one side.

Moving a volume needs the extra `oct-io[transforms]`: MONAI turns and resamples it. The rest is
arithmetic on grey levels, for which nobody should wait seconds for MONAI to load.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oct_io.errors import OctIoError
from oct_io.space.cropping import Crop, crop, draw_crop
from oct_io.volume import Laterality, Spacing

OPPOSITE: dict[Laterality, Laterality] = {"L": "R", "R": "L", "unknown": "unknown"}
COLUMN_AXIS = 2  # along a B-scan, from nasal to temporal; the one axis that is ever flipped


@dataclass(kw_only=True, slots=True)
class AugmentConfig:
    """How much each augmentation may change; 0 switches one off.

    What would leave no eye to be seen is refused: a limit is far beyond what scans differ by.
    """

    seed: int = 0
    """Another seed, other draws."""

    flip_probability: float = 0.5
    """Mirror the columns. A mirrored left eye looks like a right one, and is then called so."""

    affine_probability: float = 0.8
    """Share of volumes that are moved at all; moving is what costs time."""

    shift_lateral_mm: float = 0.5
    """Largest shift across, either way: fixation is seldom better."""

    shift_depth_mm: float = 0.15
    """Largest shift in depth: where the chin rest stood."""

    tilt_degrees: float = 3.0
    """Largest tilt of the retina against the beam: where the pupil was entered."""

    torsion_degrees: float = 8.0
    """Largest rotation about the beam: head and eye roll by about this much."""

    zoom: float = 0.08
    """Largest relative change of lateral scale: axial length changes it by several percent, and
    scanners assume one eye for all. Depth keeps its scale, which optics fix."""

    crop_smallest: float = 1.0
    """Smallest share of a B-scan's area that is shown, stretched to the whole, the same part in all
    of a volume; 1 shows all, V-JEPA 2 goes down to 0.3. Millimetres shrink with it."""

    crop_aspect: float = 1.35
    """Largest ratio of the stretches along depth and across (V-JEPA 2, pretrain-256px-16f.yaml)."""

    gamma: float = 1.3
    """Largest exponent of the grey levels; its inverse is the smallest. 1 switches it off."""

    contrast: float = 0.15
    """Largest relative change of all grey levels: gain differs between scanners."""

    offset: float = 0.0
    """Largest change of all grey levels, relative to their range: the black level differs, too."""

    roll_off: float = 0.0
    """Largest loss of signal at the bottom, relative to the range of grey levels, growing with
    depth: sensitivity falls with the distance from zero delay."""

    speckle: float = 0.1
    """Largest standard deviation of noise that grows with the signal, relative to it."""

    noise: float = 0.03
    """Largest standard deviation of noise that does not, relative to the range of grey levels."""

    dropped_bscans: float = 0.05
    """Largest share of B-scans that are dark, next to each other: a blink."""

    shadow_probability: float = 0.3
    """Share of volumes across which an opacity casts a shadow."""

    shadow_strength: float = 0.7
    """Largest share of light that a shadow takes, in its middle."""

    def __post_init__(self) -> None:
        for name in ("flip_probability", "affine_probability", "shadow_probability",
                     "shadow_strength", "roll_off", "speckle"):  # fmt: skip
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "0 to 1")
        for name in ("noise", "offset", "zoom", "dropped_bscans"):
            value = getattr(self, name)
            _require(0 <= value < 0.5, name, value, "0 to below 0.5: half would be gone")
        _require(self.seed >= 0, "seed", self.seed, "zero or more")
        for name, most in (("shift_lateral_mm", 3.0), ("shift_depth_mm", 1.0)):
            value = getattr(self, name)
            _require(0 <= value <= most, name, value, f"0 to {most:g}: half of a scan, or more")
        for name in ("tilt_degrees", "torsion_degrees"):
            value = getattr(self, name)
            _require(0 <= value < 45, name, value, "0 to 45: further is no augmentation")
        _require(0 <= self.contrast < 1, "contrast", self.contrast, "0 to below 1")
        _require(1 <= self.gamma <= 5, "gamma", self.gamma, "1 to 5")
        value = self.crop_smallest
        _require(0.05 <= value <= 1, "crop_smallest", value, "0.05 to 1: less shows no layer")
        _require(1 <= self.crop_aspect <= 4, "crop_aspect", self.crop_aspect, "1 to 4")


def _require(holds: bool, name: str, value: float, rule: str) -> None:
    if not holds:
        raise ValueError(f"augment.{name} ({value}) must be {rule}")


class Augmented(NamedTuple):
    """A changed volume, of the kind and type that came in."""

    voxels: Any  # numpy array or torch tensor, as the input
    laterality: Laterality  # of the eye that it now looks like
    flipped: bool
    spacing: Spacing  # millimetres between its voxels, finer than before where it was cropped


class Draw(NamedTuple):
    """What is done to one volume."""

    flipped: bool
    affine_mm: NDArray[np.float64] | None  # 4 x 4, millimetres about the middle; None: not moved
    gamma: float
    contrast: float
    offset: float
    roll_off: float
    speckle: float
    noise: float
    dark: tuple[float, float]  # first and last dark B-scan, as shares of their number
    shadow: tuple[float, float, float, float]  # strength, middle, width, slope; shares of columns
    noise_seed: int
    crop: Crop | None  # None: all is shown


def changes_nothing(config: AugmentConfig) -> bool:
    """Whether `config` leaves every volume as it is."""
    amounts = (
        *("flip_probability", "affine_probability", "contrast", "offset", "roll_off", "speckle"),
        *("noise", "dropped_bscans", "shadow_probability"),
    )
    whole = config.gamma == 1 and config.crop_smallest == 1
    return whole and not any(getattr(config, name) for name in amounts)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Changes volumes as `config` allows."""

    config: AugmentConfig

    def __call__(
        self,
        voxels: Any,
        spacing: Spacing,
        *,
        epoch: int,
        index: int,
        laterality: Laterality = "unknown",
    ) -> Augmented:
        """Change one volume.

        Args:
            voxels: (bscans, rows, columns), uint8 or floating, a numpy array or a torch tensor on
                the CPU; left as it is. Noise and contrast go by the range of its grey levels.
            spacing: millimetres between voxel centres.
            epoch: pass over the data.
            index: number of the volume in the data set.
            laterality: of the eye.

        Raises:
            ValueError: not three axes, or neither uint8 nor floating.
        """
        if len(voxels.shape) != 3:
            raise ValueError(f"augment takes (bscan, row, column), not {tuple(voxels.shape)}")
        draw = draw_changes(self.config, epoch=epoch, index=index)
        changed = apply_changes(voxels, draw, spacing)
        return Augmented(
            changed,
            OPPOSITE[laterality] if draw.flipped else laterality,
            draw.flipped,
            spacing if draw.crop is None else draw.crop.spacing(spacing),
        )


def augment(config: AugmentConfig | None = None) -> Augmentation:
    """Make the augmentation that `config` describes; it can be sent to worker processes."""
    return Augmentation(config or AugmentConfig())


def draw_changes(config: AugmentConfig, *, epoch: int, index: int) -> Draw:
    """Draw what is done to volume `index` in `epoch`: a function of these and the seed alone."""
    rng = np.random.default_rng([config.seed, epoch, index])
    chances = rng.random(3)
    signed, shares = rng.uniform(-1, 1, 9), rng.random(6)
    dark = shares[2] * config.dropped_bscans
    strength = shares[3] * config.shadow_strength * (chances[2] < config.shadow_probability)
    noise_seed = int(rng.integers(2**31))
    return Draw(
        flipped=bool(chances[0] < config.flip_probability),
        affine_mm=_affine(config, signed) if chances[1] < config.affine_probability else None,
        gamma=float(config.gamma ** signed[7]),
        contrast=float(config.contrast * signed[8]),
        offset=float(config.offset * rng.uniform(-1, 1)),
        roll_off=float(config.roll_off * rng.random()),
        speckle=float(shares[0] * config.speckle),
        noise=float(shares[1] * config.noise),
        dark=(float(shares[4] * (1 - dark)), float(shares[4] * (1 - dark) + dark)),
        shadow=(
            float(strength),
            float(shares[5]),
            0.02 + 0.05 * float(shares[3]),
            float(signed[6]),
        ),
        noise_seed=noise_seed,
        # Last, so that whoever crops nothing draws what was drawn before there were crops.
        crop=draw_crop(rng, config.crop_smallest, config.crop_aspect)
        if config.crop_smallest < 1
        else None,
    )


def _affine(config: AugmentConfig, signed: NDArray[np.float64]) -> NDArray[np.float64]:
    """From where in the old volume each point of the new one comes, in millimetres."""
    tilt, torsion = np.deg2rad(config.tilt_degrees), np.deg2rad(config.torsion_degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = (
        _rotation(0, 1, signed[0] * tilt)
        @ _rotation(1, 2, signed[1] * tilt)
        @ _rotation(0, 2, signed[2] * torsion)
        @ np.diag([1 + signed[3] * config.zoom, 1.0, 1 + signed[3] * config.zoom])
    )
    lateral = config.shift_lateral_mm
    matrix[:3, 3] = signed[4:7] * (lateral, config.shift_depth_mm, lateral)
    return matrix


def _rotation(one: int, other: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(3)
    matrix[one, one] = matrix[other, other] = np.cos(angle)
    matrix[one, other], matrix[other, one] = -np.sin(angle), np.sin(angle)
    return matrix


def apply_changes(voxels: Any, draw: Draw, spacing: Spacing) -> Any:
    """Do to `voxels` what was drawn; returns the kind and type that came in.

    Raises:
        OctIoError: the volume is moved, and MONAI is not installed.
        ValueError: voxels neither uint8 nor floating.
    """
    whole = str(voxels.dtype).removeprefix("torch.") == "uint8"
    if not whole and "float" not in str(voxels.dtype):
        raise ValueError(f"augment takes uint8 or floating voxels, not {voxels.dtype}")
    array = np.asarray(voxels).astype(np.float32)
    low, high = float(array.min()), float(array.max())
    if draw.flipped:
        array = np.flip(array, COLUMN_AXIS)
    if draw.affine_mm is not None:
        array = _move(array, draw.affine_mm, spacing)
    if draw.crop is not None:
        array = crop(array, draw.crop)
    array = _spoil(_regrade(array, draw, low, high - low), draw, low, high - low)
    array = np.ascontiguousarray(array)
    if whole:
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    if isinstance(voxels, np.ndarray):
        return array.astype(voxels.dtype, copy=False)
    return voxels.new_tensor(array)


def _regrade(
    voxels: NDArray[np.float32], draw: Draw, low: float, span: float
) -> NDArray[np.float32]:
    """Gamma, gain, black level and roll-off; a copy, or what came in where nothing is done."""
    if span <= 0:
        return voxels
    signal = (voxels - np.float32(low)) / np.float32(span)
    if draw.gamma != 1:
        signal = np.clip(signal, 0, 1) ** np.float32(draw.gamma)
    if draw.roll_off:
        signal -= np.linspace(0, draw.roll_off, voxels.shape[1], dtype=np.float32)[:, None]
    signal += np.float32(draw.offset)
    return (signal * np.float32(span) + np.float32(low)) * np.float32(1 + draw.contrast)


def _move(
    voxels: NDArray[np.float32], affine_mm: NDArray[np.float64], spacing: Spacing
) -> NDArray[np.float32]:
    """Move by MONAI's affine, which counts in voxels about the middle; from outside comes 0."""
    try:
        from monai.transforms.spatial.array import Affine
    except ImportError as error:
        raise OctIoError("augmentation needs MONAI; install oct-io[transforms]") from error
    steps = np.diag([*spacing, 1.0])
    in_voxels = np.linalg.inv(steps) @ affine_mm @ steps
    move: Any = Affine(affine=in_voxels, mode="bilinear", padding_mode="zeros", image_only=True)
    moved = move(np.ascontiguousarray(voxels)[None])  # MONAI takes a channel first
    return np.asarray(moved, dtype=np.float32)[0]


def _spoil(voxels: NDArray[np.float32], draw: Draw, low: float, span: float) -> NDArray[np.float32]:
    """Speckle, noise, a shadow and dark B-scans: nothing of MONAI's is made for these."""
    bscans, _, columns = voxels.shape
    if span > 0 and (draw.speckle or draw.noise):
        rng = np.random.default_rng(draw.noise_seed)
        signal = voxels - np.float32(low)
        grain = rng.standard_normal(voxels.shape, dtype=np.float32)
        voxels = voxels + grain * np.hypot(draw.speckle * signal, draw.noise * span)
    strength, middle, width, slope = draw.shadow
    if strength:
        across = np.linspace(-0.5, 0.5, bscans)[:, None] * slope
        off = (np.linspace(0, 1, columns)[None, :] - middle - across) / width
        light = (1 - strength * np.exp(-(off**2) / 2)).astype(np.float32)
        voxels = np.float32(low) + (voxels - np.float32(low)) * light[:, None, :]
    first, last = (round(share * bscans) for share in draw.dark)
    if last > first:
        voxels = voxels.copy()
        voxels[first:last] = low
    return voxels
