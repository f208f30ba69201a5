"""V-JEPA 2 for any 3-D volume: encoder, masks, predictor, teacher, loss, probes.

Tensors carry their shape in the name: B batch, C channels, Z Y X voxels or patches along the axes,
N patches of a volume, K context patches, M target patches, D features.

The folders are wings, each with its own docstring, from the ground up: model (the networks),
masking (what is hidden), objectives (what is trained), heads, convert (others' weights), presets
(settings by name), measures (what one number says), scores (numbers with intervals), probes (what
features are worth), trials (candidates in rounds), evaluation (an encoder meets a data set),
finished (a model in a folder), commands. A wing imports those before it, as `lint-imports` checks.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oct_vjepa.evaluation.features import embed_volumes
    from oct_vjepa.finished.model import load_model
    from oct_vjepa.masking.configuration import MaskingConfig, MaskSetConfig
    from oct_vjepa.masking.masks import Masks, sample_masks
    from oct_vjepa.model.configuration import POOLS, EncoderConfig, PredictorConfig, encoder_config
    from oct_vjepa.model.encoder import Encoder
    from oct_vjepa.model.pooling import pool_tokens
    from oct_vjepa.model.predictor import Predictor
    from oct_vjepa.model.weights import WeightsError
    from oct_vjepa.objectives.configuration import JepaConfig
    from oct_vjepa.objectives.jepa import Jepa
    from oct_vjepa.objectives.objective import JepaBatch
    from oct_vjepa.objectives.schedules import ScheduleConfig
    from oct_vjepa.objectives.teacher import Teacher
    from oct_vjepa.probes.baselines import axial_profile
    from oct_vjepa.trials.probing import ProbeResult, paired_difference, probe

_HOMES = {
    "probes.baselines": "axial_profile",
    "evaluation.features": "embed_volumes",
    "finished.model": "load_model",
    "trials.probing": "ProbeResult paired_difference probe",
    "masking.configuration": "MaskSetConfig MaskingConfig",
    "masking.masks": "Masks sample_masks",
    "model.configuration": "POOLS EncoderConfig PredictorConfig encoder_config",
    "model.encoder": "Encoder",
    "model.pooling": "pool_tokens",
    "model.predictor": "Predictor",
    "model.weights": "WeightsError",
    "objectives.configuration": "JepaConfig",
    "objectives.jepa": "Jepa",
    "objectives.objective": "JepaBatch",
    "objectives.schedules": "ScheduleConfig",
    "objectives.teacher": "Teacher",
}
"""Imported at first use: who only reads settings does not wait seconds for torch."""
_LATER = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'oct_vjepa' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"oct_vjepa.{_LATER[name]}"), name)


__all__ = [
    "POOLS",
    "Encoder",
    "EncoderConfig",
    "Jepa",
    "JepaBatch",
    "JepaConfig",
    "MaskSetConfig",
    "MaskingConfig",
    "Masks",
    "Predictor",
    "PredictorConfig",
    "ProbeResult",
    "ScheduleConfig",
    "Teacher",
    "WeightsError",
    "axial_profile",
    "embed_volumes",
    "encoder_config",
    "load_model",
    "paired_difference",
    "pool_tokens",
    "probe",
    "sample_masks",
]
