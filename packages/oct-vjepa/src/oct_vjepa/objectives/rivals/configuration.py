"""What the rivals of V-JEPA may be told: settings with the source of each value, a class each."""

from dataclasses import dataclass, field

from oct_vjepa.model.configuration import PredictorConfig
from oct_vjepa.objectives.configuration import ObjectiveConfig, TeacherConfig
from oct_vjepa.rules import (
    ABOVE_0_TO_1,
    AT_LEAST_1,
    FROM_0_BELOW_1,
    FROM_0_TO_1,
    NOT_NEGATIVE,
    POSITIVE,
    check_numbers,
)


def _mae_decoder() -> PredictorConfig:
    return PredictorConfig(width=512, depth=8, heads=16)


@dataclass(kw_only=True, slots=True)
class MaeConfig(ObjectiveConfig):
    """Masked autoencoding: the voxels of hidden patches (He et al. 2021, arXiv 2111.06377)."""

    decoder: PredictorConfig = field(default_factory=_mae_decoder)
    """Shape of the decoder: 512 wide, 8 deep, 16 heads for every size of the encoder
    (models_mae.py of facebookresearch/mae: mae_vit_*_dec512d8b)."""
    normalised: bool = True
    """Whether the voxels of a patch are less their own mean and over their own spread, as MAE
    recommends (PRETRAIN.md: --norm_pix_loss). If not, those of the encoder's input."""
    spectral_weight: float = 0.0
    """Weight of the difference of amplitude spectra of the patches. arXiv 2606.13315 gains by a
    spectral loss on brain MRI; its form here is ours, see `mae`."""

    def __post_init__(self) -> None:
        check_numbers(self, "mae", NOT_NEGATIVE, "spectral_weight")


@dataclass(kw_only=True, slots=True)
class SaltConfig(ObjectiveConfig):
    """Features of a teacher that was trained before and stays as it is (arXiv 2509.24317)."""

    teacher: str = ""
    """Folder or URL of a saved encoder, whatever trained it: SALT takes one that filled in voxels
    under the masks of V-JEPA (`MaeConfig`); `oct-vjepa convert` makes one of others' weights. It
    must cut a volume into the same grid of patches."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """Shape of the predictor."""


@dataclass(kw_only=True, slots=True)
class CropConfig:
    """How two views of one volume differ, for objectives that say they are alike."""

    crop_low: float = 0.3
    """Smallest share of the (Y, X) plane that a view shows, stretched to the whole; 0.3 for the
    large views of LeJEPA (README of rbalestr-lab/lejepa) and for V-JEPA 2's one view, 0.4 for those
    of DINO (main_dino.py: global_crops_scale)."""
    aspect: float = 1.35
    """Largest ratio of the stretches along Y and X (V-JEPA 2, pretrain-256px-16f.yaml)."""
    mirror_probability: float = 0.5
    """Of turning X round, as in all three; 0 where left and right mean something."""
    gain: float = 0.15
    """Largest relative change of brightness; ours, as an exposure differs from scan to scan."""
    noise_std: float = 0.05
    """Standard deviation of added noise, in standard deviations of the input; ours."""

    def __post_init__(self) -> None:
        check_numbers(self, "crops", ABOVE_0_TO_1, "crop_low")
        check_numbers(self, "crops", AT_LEAST_1, "aspect")
        check_numbers(self, "crops", FROM_0_TO_1, "mirror_probability")
        check_numbers(self, "crops", FROM_0_BELOW_1, "gain")
        check_numbers(self, "crops", NOT_NEGATIVE, "noise_std")


@dataclass(kw_only=True, slots=True)
class LeJepaConfig(ObjectiveConfig):
    """Views that agree, and embeddings that look like a Gaussian (arXiv 2511.08544)."""

    regulariser_weight: float = 0.05
    """Weight of the Gaussian term; the rest up to 1 is the agreement's. The one hyperparameter of
    LeJEPA: 0.05 in its runs on ImageNet (scripts/launch_views_ablation.md of
    rbalestr-lab/lejepa: bstat_lambda), 0.02 in the command of its MINIMAL.md."""
    directions: int = 1024
    """Random directions along which the embeddings are looked at, new at each step (README:
    num_slices; 1,000 in scripts/launch_views_ablation.md, 256 in MINIMAL.md)."""
    hidden: int = 2048
    """Width of the projector's two hidden layers (MINIMAL.md)."""
    embedding: int = 128
    """Numbers of an embedding (MINIMAL.md: proj_dim, 128, and 16 in its command)."""
    crops: CropConfig = field(default_factory=CropConfig)
    """How the two large views differ."""

    def __post_init__(self) -> None:
        check_numbers(self, "lejepa", FROM_0_TO_1, "regulariser_weight")
        check_numbers(self, "lejepa", AT_LEAST_1, "directions", "hidden", "embedding")

    @property
    def takes_pairs(self) -> bool:
        """A partner is the second view."""
        return True


@dataclass(kw_only=True, slots=True)
class DinoConfig(TeacherConfig):
    """Views of one volume that fall into the same classes (Caron et al. 2021, arXiv 2104.14294)."""

    ema_kind: str = "cosine"
    """0.996 to 1 by a cosine (section 3.1; main_dino.py: momentum_teacher, for a batch of 1,024;
    its help advises 0.9995 for one of 256)."""
    prototypes: int = 65536
    """Classes that the head tells apart (main_dino.py: out_dim)."""
    hidden: int = 2048
    """Width of the head's two hidden layers (vision_transformer.py: DINOHead)."""
    bottleneck: int = 256
    """Width before the classes, of length 1 (DINOHead)."""
    student_temperature: float = 0.1
    """Divides the student's scores (main_dino.py: DINOLoss)."""
    teacher_temperature: float = 0.04
    """Divides the teacher's, so that its answer is sharper (main_dino.py: teacher_temp); the
    published ViTs rose to 0.07 over 30 epochs (README), which is left out."""
    center_momentum: float = 0.9
    """How slowly the mean of the teacher's scores, which is taken off, moves (DINOLoss)."""
    crops: CropConfig = field(default_factory=CropConfig)
    """How the two large views differ."""

    def __post_init__(self) -> None:
        TeacherConfig.__post_init__(self)
        check_numbers(self, "dino", AT_LEAST_1, "prototypes", "hidden", "bottleneck")
        check_numbers(self, "dino", POSITIVE, "student_temperature", "teacher_temperature")
        check_numbers(self, "dino", FROM_0_BELOW_1, "center_momentum")

    @property
    def takes_pairs(self) -> bool:
        """A partner is the second view."""
        return True
