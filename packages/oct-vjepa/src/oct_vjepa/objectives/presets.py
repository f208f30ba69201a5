"""Named starting points: every number with the place it comes from.

`PRESETS["base_oct"].build()` gives an objective to train. The numbers of the loop (batch, steps,
learning rate) are in `training` and `schedule()`; `oct-vjepa presets` prints them all.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from oct_vjepa.masking.configuration import MaskingConfig, MaskSetConfig
from oct_vjepa.model.configuration import EncoderConfig, PredictorConfig, encoder_config
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.configuration import DenseJepaConfig, JepaConfig, ObjectiveConfig
from oct_vjepa.objectives.objective import Objective
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.objectives.schedules import ScheduleConfig
from oct_vjepa.objectives.twoview import (
    predecessor_asis,
    predecessor_fixed,
    predecessor_masking,
)

METHODS = ("vjepa2", "vjepa2.1", "predecessor_fixed", "predecessor_asis")


class Given(NamedTuple):
    """A value, and where it comes from."""

    value: Any
    source: str


Settings = Mapping[str, Given]


def _stated(config: Any, **sources: str) -> Settings:
    """What a configuration holds by itself, with the source of each; the number stands there."""
    return {name: Given(getattr(config, name), source) for name, source in sources.items()}


OURS = "ours"
VIT = "V-JEPA 2, src/models/vision_transformer.py"
PRETRAIN = "V-JEPA 2, configs/train/vitl16/pretrain-256px-16f.yaml"
COOLDOWN = "V-JEPA 2, configs/train/vitl16/cooldown-256px-64f.yaml"
DENSE = "V-JEPA 2.1 (arXiv 2603.14482), app/vjepa_2_1"
IJEPA = "I-JEPA (arXiv 2301.08243), momentum 0.996 to 1"
VOLUME = "predecessor, configs/pretrain_vjepa_single_domain.yaml: image_size and patch_size"
SEED_CONFIG = "predecessor, configs/pretrain_vjepa_single_domain.yaml"
SEED_MODEL = "predecessor, models/vjepa_3d.py"
SEED_LOOP = "predecessor, pretraining/train.py"
MASKS = f"{PRETRAIN}: mask; fixed sizes at which 96 % of the targets lie in the blocks"
LR_BASE = "yfeng0206/I-JEPA_3D_OCT, ViT-B: 2.5e-4 trains, 5e-4 diverges"

CLIP = Given(1.0, "ours, as most ViT recipes; V-JEPA 2 does not clip")
DECAY = Given(0.04, PRETRAIN)
BETAS = Given((0.9, 0.999), "V-JEPA 2, app/vjepa/utils.py: AdamW with PyTorch's own")
SLOW = {"ema_start": Given(0.99925, PRETRAIN), "ema_end": Given(0.99925, PRETRAIN)}
BLOCK_MASKS: tuple[Settings, ...] = tuple(
    _stated(one, blocks=PRETRAIN, scale=PRETRAIN, target_fraction=MASKS, context_fraction=MASKS)
    for one in MaskingConfig().sets
)
BOUND = Given(2048, "ours: at 9,216 tokens the whole predictor costs more than both encoders")


def _bounded(sets: tuple[Settings, ...]) -> tuple[Settings, ...]:
    return tuple({**one, "max_targets": BOUND} for one in sets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Settings by section, each with its source, and the objective they make."""

    purpose: str
    """One sentence: for whom."""
    method: str
    """One of `METHODS`."""
    size: Given
    """Key of `oct_vjepa.model.configuration.SIZES`."""
    encoder: Settings
    """Further fields of `EncoderConfig`."""
    training: Settings
    """Numbers of the loop: batch_size, steps, weight_decay, betas, clip_norm."""
    schedule: Settings
    """Fields of `ScheduleConfig` for the learning rate."""
    predictor: Settings = field(default_factory=dict)
    """Fields of `PredictorConfig`; the predecessor's predictor has none."""
    objective: Settings = field(default_factory=dict)
    """Fields of the objective's configuration besides the predictor."""
    masking: tuple[Settings, ...] = ()
    """Fields of each `MaskSetConfig`."""
    warning: str = ""
    """Said by `build`."""

    def sections(self) -> dict[str, Settings]:
        """All settings by section, for a table."""
        masks = {f"masking.{index}": one for index, one in enumerate(self.masking)}
        sections = {"encoder": {"size": self.size, **self.encoder}, "predictor": self.predictor}
        sections |= {"objective": self.objective, **masks}
        return sections | {"schedule": self.schedule, "training": self.training}

    def encoder_config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return encoder_config(self.size.value, **values(self.encoder))

    def masking_config(self) -> MaskingConfig:
        """The mask sets."""
        return MaskingConfig(sets=[MaskSetConfig(**values(one)) for one in self.masking])

    def objective_config(self) -> ObjectiveConfig:
        """The objective's configuration; its type says which objective."""
        given = values(self.objective)
        if self.method.startswith("predecessor"):
            made = predecessor_asis() if self.method.endswith("asis") else predecessor_fixed()
            return replace(made, **given)
        predictor = PredictorConfig(**values(self.predictor))
        kind = DenseJepaConfig if self.method == "vjepa2.1" else JepaConfig
        return kind(predictor=predictor, **given)

    def schedule_config(self) -> ScheduleConfig:
        """The learning rate over the run."""
        return ScheduleConfig(**values(self.schedule))

    def build(self, encoder: Encoder | None = None) -> Objective:
        """The objective, ready to train, with fresh weights from torch's default generator.

        Args:
            encoder: start from this one, for instance one that `oct_vjepa.convert` has read. It
                keeps its shape; it recomputes blocks if the preset says so.
        """
        if self.warning:
            warnings.warn(self.warning, UserWarning, stacklevel=2)
        if encoder is None:
            encoder = Encoder(self.encoder_config())
        elif "recompute" in self.encoder:
            encoder.config = replace(encoder.config, recompute=self.encoder["recompute"].value)
        return self.assemble(encoder)

    def assemble(self, encoder: Encoder) -> Objective:
        """The objective around an encoder, without the warning."""
        return build_objective(encoder, self.objective_config(), self.masking_config())


def values(settings: Settings) -> dict[str, Any]:
    """Settings without their sources."""
    return {name: given.value for name, given in settings.items()}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the known names are told.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} must be one of {sorted(PRESETS)}")
    return PRESETS[name]


_BIG = {"input_shape": Given((64, 384, 384), VOLUME), "patch_size": Given((4, 16, 16), VOLUME)}
_PREDICTOR = {
    "width": Given(384, PRETRAIN),
    "depth": Given(12, PRETRAIN),
    "heads": Given(12, PRETRAIN),
}
_WSD = {
    "kind": Given("wsd", "V-JEPA 2: warm-up, constant, then a cooldown run"),
    "peak": Given(2.5e-4, LR_BASE),
    "warmup_fraction": Given(0.05, "V-JEPA 2 (arXiv 2506.09985): 12,000 of 252,000 steps"),
    "cooldown_fraction": Given(0.2, "ours; V-JEPA 2: 12,000 steps of another run"),
    "end": Given(1e-6, COOLDOWN),
}
_TRAINING = {
    "batch_size": Given(32, "predecessor, configs/pretrain_vjepa_multi_domain.yaml"),
    "steps": Given(100_000, "ours; V-JEPA 2.1: 135,000 steps"),
    "weight_decay": DECAY,
    "betas": BETAS,
    "clip_norm": CLIP,
}
_SEED = Preset(
    purpose="the predecessor's dimensions and loss with its mistakes put right, to compare",
    method="predecessor_fixed",
    size=Given("base", f"{SEED_MODEL}: 768, 12, 12"),
    encoder={
        **_BIG,
        "positions": Given("learned", SEED_MODEL),
        "layer_norm_eps": Given(1e-5, f"{SEED_MODEL}: nn.LayerNorm without an argument"),
    },
    objective={
        "ema_start": Given(0.996, f"{SEED_CONFIG}: ema_base"),
        "ema_end": Given(1.0, f"{SEED_MODEL}: cosine_ema_schedule"),
    },
    masking=(
        _stated(
            predecessor_masking().sets[0],
            kind="predecessor, data_setup/transforms.py",
            target_fraction=f"{SEED_CONFIG}: mask_ratio",
            context_fraction=f"{SEED_CONFIG}: the rest",
        ),
    ),
    schedule={
        "kind": Given("cosine", SEED_LOOP),
        "peak": Given(1e-4, f"{SEED_CONFIG}: base_lr"),
        "end": Given(1e-5, f"{SEED_LOOP}: a tenth of base_lr"),
        "warmup_fraction": Given(0.03, f"{SEED_LOOP}; warmup_epochs is not read"),
    },
    training={
        "batch_size": Given(32, f"{SEED_CONFIG}: global_batch_size"),
        "steps": Given(2250, "601 volumes x 120 epochs / 32"),
        "weight_decay": Given(0.05, f"{SEED_LOOP}: on every parameter; here on maps only"),
        "betas": Given((0.9, 0.95), SEED_LOOP),
        "clip_norm": Given(0.01, SEED_LOOP),
    },
)

PHANTOMS = "ours: above random init for all four lesions of a phantom, docs/learning.md"

PRESETS: dict[str, Preset] = {
    "cpu_smoke": Preset(
        purpose="does everything work: minutes on two CPU cores",
        method="vjepa2.1",
        size=Given("cpu_smoke", OURS),
        encoder={
            "input_shape": Given((8, 64, 64), OURS),
            "patch_size": Given((2, 8, 16), "ours; 2 slices a patch as in V-JEPA 2"),
        },
        predictor={
            "width": Given(48, "ours: half of the encoder, near the 384 of 1024 of V-JEPA 2"),
            "depth": Given(3, OURS),
            "heads": Given(3, OURS),
        },
        objective={
            "ema_start": Given(0.98, "ours: quick enough for some hundred steps"),
            "ema_end": Given(1.0, IJEPA),
            "levels": Given(4, f"{DENSE}/models/vision_transformer.py: blocks 2, 5, 8, 11"),
            "context_weight": Given(1.0, PHANTOMS),
            "context_start": Given(0.0, PHANTOMS),
            "context_full": Given(0.05, PHANTOMS),
            "voxel_weight": Given(1.0, PHANTOMS),
        },
        masking=BLOCK_MASKS,
        schedule={
            "kind": Given("cosine", OURS),
            "peak": Given(1.5e-3, "ours: best of the phantom pilots"),
            "end": Given(1e-6, COOLDOWN),
            "warmup_fraction": Given(0.05, _WSD["warmup_fraction"].source),
        },
        training={
            "batch_size": Given(16, OURS),
            "steps": Given(600, PHANTOMS),
            "weight_decay": DECAY,
            "betas": BETAS,
            "clip_norm": CLIP,
        },
    ),
    "small_oct": Preset(
        purpose="one GPU, days: a small encoder on volumes of 4,096 patches",
        method="vjepa2",
        size=Given("small", VIT),
        encoder={
            "input_shape": Given((64, 256, 256), "V-JEPA 2, vjepa2-vitl-fpc64-256"),
            "patch_size": Given((4, 16, 16), VOLUME),
        },
        predictor={
            "width": Given(192, "ours: half of the encoder"),
            "depth": Given(6, "V-JEPA 2, src/models/predictor.py: default depth"),
            "heads": Given(6, "ours: 32 features a head, as 384 / 12 in V-JEPA 2"),
        },
        objective={"ema_start": Given(0.996, IJEPA), "ema_end": Given(1.0, IJEPA)},
        masking=BLOCK_MASKS,
        schedule=_WSD,
        training={**_TRAINING, "steps": Given(50_000, "ours: half of base_oct")},
    ),
    "base_oct": Preset(
        purpose="the recipe of V-JEPA 2 at ViT-B on whole scans; several GPUs or a TPU",
        method="vjepa2",
        size=Given("base", VIT),
        encoder=_BIG,
        predictor=_PREDICTOR,
        objective=SLOW,
        masking=_bounded(BLOCK_MASKS),
        schedule=_WSD,
        training=_TRAINING,
    ),
    "dense_oct": Preset(
        purpose="V-JEPA 2.1 at ViT-B: for segmentation and other features of one place",
        method="vjepa2.1",
        size=Given("base", VIT),
        encoder={**_BIG, "rotary": Given("interleaved", f"{DENSE}/models/utils/modules.py")},
        predictor=_PREDICTOR,
        objective={
            **SLOW,
            **_stated(
                DenseJepaConfig(),
                levels=f"{DENSE}/models/vision_transformer.py: blocks 2, 5, 8, 11",
                context_weight=f"{DENSE}: lambda_value_vid",
                context_start=f"{DENSE}: step 15,000 of 135,000",
                context_full=f"{DENSE}: step 30,000 of 135,000",
            ),
        },
        masking=_bounded(BLOCK_MASKS),
        schedule=_WSD,
        training={**_TRAINING, "steps": Given(135_000, DENSE)},
    ),
    "continue_vjepa2_large": Preset(
        purpose="go on from V-JEPA 2's published ViT-L: convert it first, with --channels 1 "
        "--patch-size 4 16 16",
        method="vjepa2",
        size=Given("large", VIT),
        encoder={**_BIG, "recompute": Given(True, f"{PRETRAIN}: use_activation_checkpointing")},
        predictor=_PREDICTOR,
        objective=SLOW,
        masking=_bounded(BLOCK_MASKS),
        schedule={
            "kind": Given("wsd", f"{COOLDOWN}: a line from the first step to the last"),
            "peak": Given(2.2e-5, "V-JEPA 2: 5.25e-4 at batch 3,072, in proportion (EchoJEPA)"),
            "warmup_fraction": Given(0.0, COOLDOWN),
            "cooldown_fraction": Given(1.0, COOLDOWN),
            "end": Given(1e-6, COOLDOWN),
        },
        training={
            **_TRAINING,
            "batch_size": Given(128, "ours: as many as a small pod holds"),
            "steps": Given(12_000, f"{COOLDOWN}: 40 x 300"),
        },
    ),
    "predecessor_fixed": _SEED,
    "predecessor_asis": replace(
        _SEED,
        purpose="the predecessor as it ran, only to load and to compare",
        method="predecessor_asis",
        warning="predecessor_asis does not train a JEPA: its teacher stays random and its student "
        "sees every patch; use predecessor_fixed or base_oct to train",
    ),
}
