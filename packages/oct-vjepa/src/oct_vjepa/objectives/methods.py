"""Which objectives there are: the type of a configuration to what a reader calls it."""

from collections.abc import Mapping
from typing import NamedTuple

from oct_vjepa.objectives.configuration import (
    DenseJepaConfig,
    JepaConfig,
    ObjectiveConfig,
    TwoViewConfig,
)
from oct_vjepa.objectives.rivals.configuration import (
    DinoConfig,
    LeJepaConfig,
    MaeConfig,
    SaltConfig,
)


class Method(NamedTuple):
    """What a reader calls one way to pretrain."""

    name: str  # short, for files
    title: str


METHODS: Mapping[type[ObjectiveConfig], Method] = {
    JepaConfig: Method("vjepa2", "V-JEPA 2"),
    DenseJepaConfig: Method("vjepa21", "V-JEPA 2.1"),
    MaeConfig: Method("mae", "MAE"),
    SaltConfig: Method("salt", "SALT"),
    LeJepaConfig: Method("lejepa", "LeJEPA"),
    DinoConfig: Method("dino", "DINO"),
    TwoViewConfig: Method("predecessor", "The predecessor's objective"),
}
"""Type of a configuration to what it configures; `registry` builds it."""


def method_of(config: ObjectiveConfig) -> Method:
    """What `config` configures.

    Raises:
        ValueError: its type is none of `METHODS`.
    """
    if type(config) not in METHODS:
        known = ", ".join(method.name for method in METHODS.values())
        raise ValueError(f"objective: {type(config).__name__} names none of {known}")
    return METHODS[type(config)]
