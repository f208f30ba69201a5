"""From a configuration to the objective that it describes."""

from collections.abc import Callable, Mapping
from typing import Any

from oct_vjepa.masking.configuration import MaskingConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.configuration import (
    DenseJepaConfig,
    JepaConfig,
    ObjectiveConfig,
    TwoViewConfig,
)
from oct_vjepa.objectives.jepa import Jepa
from oct_vjepa.objectives.methods import method_of
from oct_vjepa.objectives.objective import Objective
from oct_vjepa.objectives.rivals.configuration import (
    DinoConfig,
    LeJepaConfig,
    MaeConfig,
    SaltConfig,
)
from oct_vjepa.objectives.rivals.dino import Dino
from oct_vjepa.objectives.rivals.lejepa import LeJepa
from oct_vjepa.objectives.rivals.mae import Mae
from oct_vjepa.objectives.rivals.salt import Salt
from oct_vjepa.objectives.twoview import TwoView

BUILDERS: Mapping[str, Callable[[Encoder, Any, MaskingConfig], Objective]] = {
    method_of(JepaConfig()).name: Jepa,
    method_of(DenseJepaConfig()).name: Jepa,
    method_of(MaeConfig()).name: Mae,
    method_of(SaltConfig()).name: Salt,
    method_of(LeJepaConfig()).name: LeJepa,
    method_of(DinoConfig()).name: Dino,
    method_of(TwoViewConfig()).name: TwoView,
}
"""Name of a method to its objective."""


def build_objective(encoder: Encoder, config: ObjectiveConfig, masking: MaskingConfig) -> Objective:
    """The objective that `config` describes, around `encoder`.

    Raises:
        ValueError: masks, levels, teacher and encoder do not fit, or `config` describes no
            objective.
        WeightsError: a teacher that is named cannot be read.
    """
    return BUILDERS[method_of(config).name](encoder, config, masking)
