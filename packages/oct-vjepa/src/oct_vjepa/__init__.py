"""V-JEPA 2 for any 3-D volume: encoder, masks, predictor, teacher, loss, probes.

Tensors carry their shape in the name: B batch, C channels, Z Y X voxels or patches along the axes,
N patches of a volume, K context patches, M target patches, D features.

The folders are wings, each with its own docstring, from the ground up: model (the networks),
masking (what is hidden), objectives (what is trained), heads, convert (others' weights), evaluation
(what features are worth), commands. A wing imports those before it, as `lint-imports` checks.
"""

from oct_vjepa.evaluation.baselines import axial_profile
from oct_vjepa.evaluation.features import embed_volumes
from oct_vjepa.evaluation.probes import ProbeResult, paired_difference, probe
from oct_vjepa.masking.masks import MaskingConfig, Masks, MaskSetConfig, sample_masks
from oct_vjepa.model.encoder import Encoder, EncoderConfig, encoder_config
from oct_vjepa.model.pooling import POOLS, pool_tokens
from oct_vjepa.model.predictor import Predictor, PredictorConfig
from oct_vjepa.model.weights import WeightsError
from oct_vjepa.objectives.jepa import Jepa, JepaBatch, JepaConfig
from oct_vjepa.objectives.schedules import ScheduleConfig
from oct_vjepa.objectives.teacher import Teacher

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
    "paired_difference",
    "pool_tokens",
    "probe",
    "sample_masks",
]
