"""A value and where it comes from, and the places that many values come from."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Given(NamedTuple):
    """A value, and where it comes from."""

    value: Any
    source: str


Settings = Mapping[str, Given]
"""Fields of one configuration."""

OURS = "ours"
VIT = "V-JEPA 2, src/models/vision_transformer.py"
PRETRAIN = "V-JEPA 2, configs/train/vitl16/pretrain-256px-16f.yaml"
COOLDOWN = "V-JEPA 2, configs/train/vitl16/cooldown-256px-64f.yaml"
DENSE = "V-JEPA 2.1 (arXiv 2603.14482), app/vjepa_2_1"
IJEPA = "I-JEPA (arXiv 2301.08243), momentum 0.996 to 1"
PATCHES = "ours: with masks of single patches, confirmed on a fresh phantom, docs/learning.md"
PHANTOMS = "ours: above random init for all four lesions of a phantom, docs/learning.md"
SEED_CONFIG = "predecessor, configs/pretrain_vjepa_single_domain.yaml"
SEED_MODEL = "predecessor, models/vjepa_3d.py"
SEED_LOOP = "predecessor, pretraining/train.py"
SEED_DATA = "predecessor, data_setup/transforms.py"
VOLUME = f"{SEED_CONFIG}: image_size and patch_size"


def values(settings: Settings) -> dict[str, Any]:
    """Settings without their sources."""
    return {name: given.value for name, given in settings.items()}


def given_by(source: str, **settings: Any) -> Settings:
    """Settings that come from one place."""
    return {name: Given(value, source) for name, value in settings.items()}


def stated(config: Any, **sources: str) -> Settings:
    """What a configuration holds by itself, with the source of each; the number stands there."""
    return {name: Given(getattr(config, name), source) for name, source in sources.items()}
