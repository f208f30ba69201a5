"""Whole runs by name: an encoder, masks, an objective, a schedule and the numbers of the loop.

`PRESETS["base_oct"].build()` gives an objective to train; the app trains it by `preset=base_oct`.
The numbers of the loop are in `training` and `schedule`; `oct-vjepa presets` prints them all.
"""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oct_vjepa.objectives.schedules import ScheduleConfig
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES
from oct_vjepa.presets.named import NamedEncoder, NamedMasking, NamedObjective
from oct_vjepa.presets.sources import (
    COOLDOWN,
    DENSE,
    IJEPA,
    OURS,
    PRETRAIN,
    SEED_CONFIG,
    SEED_LOOP,
    SEED_MODEL,
    VOLUME,
    Given,
    Settings,
    given_by,
    values,
)

if TYPE_CHECKING:
    from oct_vjepa.model.encoder import Encoder
    from oct_vjepa.objectives.objective import Objective

LR_BASE = "yfeng0206/I-JEPA_3D_OCT, ViT-B: 2.5e-4 trains, 5e-4 diverges"
CLIP = Given(1.0, "ours, as most ViT recipes; V-JEPA 2 does not clip")
DECAY = Given(0.04, PRETRAIN)
BETAS = Given((0.9, 0.999), "V-JEPA 2, app/vjepa/utils.py: AdamW with PyTorch's own")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A run by its parts, each number with its source."""

    purpose: str
    """One sentence: for whom."""
    encoder: NamedEncoder
    masking: NamedMasking
    objective: NamedObjective
    schedule: Settings
    """Fields of `ScheduleConfig` for the learning rate."""
    training: Settings
    """Numbers of the loop: batch_size, steps, weight_decay, betas, clip_norm."""
    warning: str = ""
    """Said by `build`."""

    def sections(self) -> dict[str, Settings]:
        """All settings by section, for a table."""
        masks = {f"masking.{index}": one for index, one in enumerate(self.masking.sets)}
        return {
            "encoder": {"size": self.encoder.size, **self.encoder.settings},
            "predictor": self.objective.predictor,
            "objective": self.objective.settings,
            **masks,
            "schedule": self.schedule,
            "training": self.training,
        }

    def changes(self) -> dict[str, dict[str, Any]]:
        """What `encoder` and `objective` have other than what bears their names in `choices`."""
        encoder, objective = ENCODERS[self.encoder.name], OBJECTIVES[self.objective.name]
        changed = _changed(self.objective.settings, objective.settings)
        if predictor := _changed(self.objective.predictor, objective.predictor):
            changed["predictor"] = predictor
        return {
            "encoder": _changed(self.encoder.settings, encoder.settings),
            "objective": changed,
        }

    def schedule_config(self) -> ScheduleConfig:
        """The learning rate over the run."""
        return ScheduleConfig(**values(self.schedule))

    def build(self, encoder: "Encoder | None" = None) -> "Objective":
        """The objective, ready to train, with fresh weights from torch's default generator.

        Args:
            encoder: start from this one, for instance one that `oct_vjepa.convert` has read. It
                keeps its shape; it recomputes blocks if the preset says so.
        """
        from oct_vjepa.model.encoder import Encoder

        if self.warning:
            warnings.warn(self.warning, UserWarning, stacklevel=2)
        if encoder is None:
            encoder = Encoder(self.encoder.config())
        elif "recompute" in self.encoder.settings:
            recompute = self.encoder.settings["recompute"].value
            encoder.config = replace(encoder.config, recompute=recompute)
        return self.assemble(encoder)

    def assemble(self, encoder: "Encoder") -> "Objective":
        """The objective around an encoder, without the warning."""
        from oct_vjepa.objectives.registry import build_objective  # brings torch, as `Encoder` does

        return build_objective(encoder, self.objective.config(), self.masking.config())


def _changed(settings: Settings, named: Settings) -> dict[str, Any]:
    return values({name: one for name, one in settings.items() if named.get(name) != one})


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the known names are told.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} must be one of {sorted(PRESETS)}")
    return PRESETS[name]


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
    encoder=ENCODERS["base"].but(
        positions=Given("learned", SEED_MODEL),
        layer_norm_eps=Given(1e-5, f"{SEED_MODEL}: nn.LayerNorm without an argument"),
    ),
    masking=MASKINGS["predecessor"],
    objective=OBJECTIVES["predecessor_fixed"].but(
        ema_start=Given(0.996, f"{SEED_CONFIG}: ema_base"),
        ema_end=Given(1.0, f"{SEED_MODEL}: cosine_ema_schedule"),
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

PRESETS: dict[str, Preset] = {
    "cpu_smoke": Preset(
        purpose="does everything work: minutes on two CPU cores",
        encoder=ENCODERS["cpu_smoke"],
        masking=MASKINGS["mae"],
        objective=OBJECTIVES["vjepa2_voxels_smoke"],
        schedule={
            "kind": Given("cosine", OURS),
            "peak": Given(1.5e-3, "ours: best of the phantom pilots"),
            "end": Given(1e-6, COOLDOWN),
            "warmup_fraction": Given(0.05, _WSD["warmup_fraction"].source),
        },
        training={
            "batch_size": Given(16, OURS),
            "steps": Given(360, "ours: level with 450, a fifth quicker, docs/learning.md"),
            "weight_decay": DECAY,
            "betas": BETAS,
            "clip_norm": CLIP,
        },
    ),
    "small_oct": Preset(
        purpose="one GPU, days: a small encoder on volumes of 64 x 256 x 256, 4,096 patches",
        encoder=ENCODERS["small"].but(
            input_shape=Given((64, 256, 256), "V-JEPA 2, vjepa2-vitl-fpc64-256"),
            patch_size=Given((4, 16, 16), VOLUME),
        ),
        masking=MASKINGS["multiblock"],
        objective=OBJECTIVES["vjepa2"]
        .but(**given_by(IJEPA, ema_start=0.996, ema_end=1.0))
        .with_predictor(
            {
                "width": Given(192, "ours: half of the encoder"),
                "depth": Given(6, "V-JEPA 2, src/models/predictor.py: default depth"),
                "heads": Given(6, "ours: 32 features a head, as 384 / 12 in V-JEPA 2"),
            }
        ),
        schedule=_WSD,
        training={**_TRAINING, "steps": Given(50_000, "ours: half of base_oct")},
    ),
    "base_oct": Preset(
        purpose="the recipe of V-JEPA 2 at ViT-B on whole scans; several GPUs or a TPU",
        encoder=ENCODERS["base"],
        masking=MASKINGS["multiblock_bounded"],
        objective=OBJECTIVES["vjepa2"],
        schedule=_WSD,
        training=_TRAINING,
    ),
    "dense_oct": Preset(
        purpose="V-JEPA 2.1 at ViT-B: for segmentation and other features of one place",
        encoder=ENCODERS["base"].but(
            rotary=Given("interleaved", f"{DENSE}/models/utils/modules.py")
        ),
        masking=MASKINGS["multiblock_bounded"],
        objective=OBJECTIVES["vjepa21"],
        schedule=_WSD,
        training={**_TRAINING, "steps": Given(135_000, DENSE)},
    ),
    "continue_vjepa2_large": Preset(
        purpose="go on from V-JEPA 2's published ViT-L: convert it first, with --channels 1 "
        "--patch-size 4 16 16",
        encoder=ENCODERS["large"].but(
            recompute=Given(True, f"{PRETRAIN}: use_activation_checkpointing")
        ),
        masking=MASKINGS["multiblock_bounded"],
        objective=OBJECTIVES["vjepa2"],
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
        objective=OBJECTIVES["predecessor_asis"].but(
            ema_start=_SEED.objective.settings["ema_start"],
            ema_end=_SEED.objective.settings["ema_end"],
        ),
        warning="predecessor_asis does not train a JEPA: its teacher stays random and its student "
        "sees every patch; use predecessor_fixed or base_oct to train",
    ),
}
