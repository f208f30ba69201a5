"""What an objective may be told: settings with the reason for each value, a class each."""

from dataclasses import dataclass, field

from oct_vjepa.model.configuration import PredictorConfig
from oct_vjepa.objectives.schedules import MOMENTUM_KINDS
from oct_vjepa.rules import AT_LEAST_1, FROM_0_TO_1, NOT_NEGATIVE, check_choices, check_numbers


@dataclass(kw_only=True, slots=True)
class ObjectiveConfig:
    """What an objective may be told; the type says which one, see `methods`."""

    @property
    def takes_pairs(self) -> bool:
        """Whether the loss reads the partners of a `PairBatch`."""
        return False


@dataclass(kw_only=True, slots=True)
class TeacherConfig(ObjectiveConfig):
    """How fast the teacher follows the student."""

    ema_start: float = 0.996
    """Teacher momentum at the first step (I-JEPA). Runs of about 1,000 steps want 0.98; V-JEPA 2
    holds 0.99925 over 252,000."""
    ema_end: float = 1.0
    """Teacher momentum at the last step; it is kept just below 1."""
    ema_kind: str = "linear"
    """Way from the one to the other: "linear" (V-JEPA 2), "cosine" (BYOL), or "constant", which
    stays at the first."""

    def __post_init__(self) -> None:
        check_numbers(self, "jepa", FROM_0_TO_1, "ema_start", "ema_end")
        check_choices(self, "jepa", ema_kind=MOMENTUM_KINDS)


@dataclass(kw_only=True, slots=True)
class JepaConfig(TeacherConfig):
    """What is predicted from what, and how fast the teacher follows."""

    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """Shape of the predictor."""
    levels: int = 1
    """Blocks whose features go into the predictor and are predicted, the last among them, spread
    evenly: 4 are 2, 5, 8 and 11 of 12 (V-JEPA 2.1)."""
    layers: list[int] = field(default_factory=list)
    """Numbers of those blocks, from 0 and ascending; empty spreads `levels` evenly."""
    context_weight: float = 0.0
    """Weight of the loss on context tokens when it is fully on; V-JEPA 2 has none, 2.1 has 0.5."""
    context_start: float = 0.0
    """Share of the steps before it sets in."""
    context_full: float = 0.05
    """Share of the steps after which it is fully on; early, because small runs gain by it
    (docs/learning.md)."""
    distance_weighted: bool = True
    """Whether a context token counts less, by the root of its distance to the nearest target."""
    voxel_weight: float = 0.0
    """Weight of the voxel loss: the predictor also says the voxels of targets and context. Neither
    V-JEPA has it; meant for what is small and local, which features may leave out."""
    unit_weight: float = 0.0
    """Weight of the unit loss: the predictor also says what fixed random ReLU units see of targets
    and context, each with its neighbours. Ours, after BEST-RQ (arXiv 2202.01855)."""
    units: int = 256
    """How many such units; as many numbers as the voxels of a patch or more."""
    filter_weight: float = 0.0
    """Weight of the filter loss: the predictor also says what a bank of classical filters sees of
    targets and context. Ours, after MaskFeat (arXiv 2112.09133)."""
    volume_weight: float = 0.0
    """Weight of the volume loss: the predictor also says the teacher's mean token of the whole
    volume. Ours, for questions about volumes; no published JEPA has it."""
    partner_weight: float = 0.0
    """Weight of the partner loss: the predictor also says the teacher's mean token of another scan
    of the same eye or participant, which the feed chooses (`pairs` of apps/pretrain). Ours, for
    what stays when device or day change."""
    variance_weight: float = 0.0
    """Weight of the variance term on the context tokens (VICReg, equation 1); V-JEPA 2 has none. A
    spur against collapse where the momentum cannot be slow."""

    def __post_init__(self) -> None:
        TeacherConfig.__post_init__(self)
        check_numbers(self, "jepa", AT_LEAST_1, "levels", "units")
        check_numbers(
            self, "jepa", NOT_NEGATIVE, "context_weight", "voxel_weight", "unit_weight",
            "filter_weight", "volume_weight", "partner_weight", "variance_weight",
        )  # fmt: skip
        if not 0 <= self.context_start <= self.context_full <= 1:
            raise ValueError(
                f"jepa.context_start ({self.context_start}) and context_full "
                f"({self.context_full}) must be from 0 to 1, the first not above the second"
            )

    @property
    def takes_pairs(self) -> bool:
        """Only where the mean token of a partner has a weight."""
        return self.partner_weight > 0

    def blocks_of(self, depth: int) -> list[int]:
        """Numbers of the blocks for an encoder of `depth` blocks.

        Raises:
            ValueError: the encoder has fewer blocks than there are levels, or not those asked for.
        """
        if not self.layers:
            if self.levels > depth:
                raise ValueError(
                    f"jepa.levels ({self.levels}) must be at most encoder.depth ({depth})"
                )
            return [(level + 1) * depth // self.levels - 1 for level in range(self.levels)]
        if self.layers != sorted(set(self.layers)) or not 0 <= self.layers[0] < depth:
            raise ValueError(f"jepa.layers ({self.layers}) must be ascending and from 0")
        if self.layers[-1] >= depth:
            raise ValueError(f"jepa.layers ({self.layers}) must be below encoder.depth ({depth})")
        return list(self.layers)


@dataclass(kw_only=True, slots=True)
class DenseJepaConfig(JepaConfig):
    """V-JEPA 2.1: `JepaConfig` with the numbers of its paper (app/vjepa_2_1)."""

    levels: int = 4
    """Blocks 2, 5, 8 and 11 of 12 (app/vjepa_2_1/models/vision_transformer.py)."""
    context_weight: float = 0.5
    """2.1: 0.5 for video, 0.7 for images."""
    context_start: float = 0.11
    """2.1: step 15,000 of 135,000."""
    context_full: float = 0.22
    """2.1: step 30,000 of 135,000."""


@dataclass(kw_only=True, slots=True)
class ViewConfig:
    """What may happen to a view; the numbers are the predecessor's (data_setup/transforms.py)."""

    aligned: bool = True
    """Whether a patch stays in its place: no flips, turns, shifts or scaling."""
    flip_probability: float = 0.5
    """Of turning all three axes round at once, as its MONAI transform did."""
    affine_probability: float = 0.5
    """Of a small turn, shift and scaling together."""
    rotation: float = 0.1
    """Largest angle about each axis, in radians."""
    shift: float = 5.0
    """Largest shift along each axis, in voxels."""
    scale: float = 0.05
    """Largest relative change of size along each axis."""
    noise_probability: float = 0.3
    """Of added noise."""
    noise_std: float = 0.05
    """Standard deviation of that noise, in standard deviations of the input."""

    def __post_init__(self) -> None:
        chances = ("flip_probability", "affine_probability", "noise_probability")
        check_numbers(self, "views", FROM_0_TO_1, *chances)
        check_numbers(self, "views", NOT_NEGATIVE, "rotation", "shift", "scale", "noise_std")


@dataclass(kw_only=True, slots=True)
class TwoViewConfig(TeacherConfig):
    """What of the predecessor is kept, and what is put right."""

    ema_kind: str = "cosine"
    """Its schedule, 0.996 to 1, which it never used (models/vjepa_3d.py, cosine_ema_schedule)."""
    context_masked: bool = True
    """Whether the student is shown the context patches only; the predecessor showed it all."""
    teacher_frozen: bool = False
    """Whether the teacher stays at the student's random start, as the predecessor's did."""
    positions: bool = True
    """Whether the predictor learns a vector for each place; the predecessor's knew no places."""
    views: ViewConfig = field(default_factory=ViewConfig)
    """What may happen to the two views."""

    def __post_init__(self) -> None:
        TeacherConfig.__post_init__(self)
        if self.context_masked and not self.positions:
            raise ValueError(
                "twoview.positions (False) must be True with context_masked: nothing else tells "
                "the predictor which patch it is asked for"
            )
