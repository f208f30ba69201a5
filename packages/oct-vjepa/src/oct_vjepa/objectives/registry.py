"""Which objective a configuration describes: its short name, its class, its name for a reader."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from oct_vjepa.masking.masks import MaskingConfig
from oct_vjepa.model.encoder import Encoder
from oct_vjepa.objectives.dense import DenseJepa, DenseJepaConfig
from oct_vjepa.objectives.jepa import Jepa, JepaConfig
from oct_vjepa.objectives.objective import Objective, TeacherConfig
from oct_vjepa.objectives.twoview import TwoView, TwoViewConfig


class Method(NamedTuple):
    """One way to pretrain."""

    name: str  # short, for files
    title: str  # for a reader
    build: Callable[[Encoder, Any, MaskingConfig], Objective]


OBJECTIVES: Mapping[type[TeacherConfig], Method] = {
    JepaConfig: Method("vjepa2", "V-JEPA 2", Jepa),
    DenseJepaConfig: Method("vjepa21", "V-JEPA 2.1", DenseJepa),
    TwoViewConfig: Method("predecessor", "The predecessor's objective", TwoView),
}
"""Type of a configuration to what it configures."""


def method_of(config: TeacherConfig) -> Method:
    """What `config` configures.

    Raises:
        ValueError: its type is none of `OBJECTIVES`.
    """
    if type(config) not in OBJECTIVES:
        known = ", ".join(method.name for method in OBJECTIVES.values())
        raise ValueError(f"objective: {type(config).__name__} names none of {known}")
    return OBJECTIVES[type(config)]


def build_objective(encoder: Encoder, config: TeacherConfig, masking: MaskingConfig) -> Objective:
    """The objective that `config` describes, around `encoder`.

    Raises:
        ValueError: masks, levels and encoder do not fit, or `config` describes no objective.
    """
    return method_of(config).build(encoder, config, masking)
