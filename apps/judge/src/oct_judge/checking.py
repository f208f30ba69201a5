"""What would fail hours later is refused before a volume is read, or before anybody is asked."""

import importlib.util

import oct_xla
from oct_io.space.windows import find_window
from oct_launch import Mistake, mistakes
from oct_vjepa import EncoderConfig
from oct_vjepa.measures.progress import WATCHED
from oct_vjepa.model.configuration import POOLS
from oct_vjepa.model.pooling import FURTHER_POOLS

from oct_judge.question import PATCHES, SEGMENT, TRAINED, FinetuneConfig
from oct_judge.recipe import TOKEN_HEADS
from oct_judge.rivals.networks import strides_of
from oct_judge.starting import check_start
from oct_judge.study import Study
from oct_judge.training import loss_of, rows_to_fit

CLASS_POOL, LORA = "cls", "lora"


def check_settings(config: FinetuneConfig, encoder: EncoderConfig) -> None:
    """Refuse what the encoder does not bear, and packages that are not there.

    Raises:
        Mistake: names the setting.
    """
    shape = find_window(config.data.window).shape
    networks = config.compare.networks
    needed = [
        (package, "give compare.networks=[]", any(one.startswith(package) for one in networks))
        for package in ("monai", "timm")
    ]
    if config.mode in TRAINED:
        check_head(config, encoder)
        with mistakes(ValueError):
            config.training.grid.read(encoder.depth)
    if config.mode in (SEGMENT, *TRAINED) or networks:
        with mistakes(ValueError, where="training."):
            config.training.augmentation.check_window(shape)
    check_levels(config, encoder.depth)
    if config.mode == SEGMENT:
        needed.append(("monai", "give segment.unet=false", config.segment.unet))
        if config.segment.unet:
            strides_of(shape)
    if config.training.mode == LORA and config.mode in (SEGMENT, *TRAINED):
        needed.append(("peft", "take another mode", True))
        if config.training.lora.rank > encoder.width:
            raise Mistake(
                f"training.lora.rank ({config.training.lora.rank}) must be at most the encoder's "
                f"width ({encoder.width}): no map of it has a greater one"
            )
    for package, otherwise, wanted in needed:
        if wanted and importlib.util.find_spec(package) is None:
            raise Mistake(f"{package} is not installed: uv pip install {package}, or {otherwise}")


def check_levels(config: FinetuneConfig, depth: int) -> None:
    """Refuse blocks that questions of masks read and an encoder of this depth lacks.

    Raises:
        Mistake: names the setting.
    """
    if config.mode == PATCHES:
        check_blocks("segment.blocks", sorted(config.segment.blocks), depth)
    if config.mode == SEGMENT:
        check_blocks("training.decoder.levels", config.training.decoder.levels, depth)


def check_head(config: FinetuneConfig, encoder: EncoderConfig) -> None:
    """Refuse a head that does not stand on the encoder.

    Raises:
        Mistake: names the setting.
    """
    head = config.training.head
    kinds = config.training.grid.kinds or [head.kind]
    if "attentive" in kinds and encoder.width % head.heads:
        raise Mistake(
            f"training.head.heads ({head.heads}) must divide the encoder's width ({encoder.width})"
        )
    if "cross_attention" in kinds and head.inner % head.heads:
        raise Mistake(
            f"training.head.heads ({head.heads}) must divide training.head.inner ({head.inner})"
        )
    if head.kind in TOKEN_HEADS:
        return
    known = (*POOLS, *FURTHER_POOLS)
    has_class = bool(getattr(encoder, "class_tokens", 0))
    pools = [one for one in known if one != CLASS_POOL or has_class]
    if head.pool not in pools:
        raise Mistake(f"training.head.pool ({head.pool}) must be one of {', '.join(pools)}")


def check_blocks(name: str, blocks: list[int], depth: int) -> None:
    """Refuse blocks that the encoder lacks, or that do not stand in their order.

    Raises:
        Mistake: names the setting.
    """
    if list(blocks) != [one for one in range(depth) if one in blocks]:
        raise Mistake(f"{name} ({list(blocks)}) must be ascending blocks from 0 to {depth - 1}")


def check_training(config: FinetuneConfig, study: Study, runtime: oct_xla.Runtime) -> None:
    """Refuse a recipe that the question, or one of its rounds, does not bear.

    Raises:
        Mistake: names the setting.
    """
    if config.mode not in TRAINED and not config.compare.networks:
        return
    training, target = config.training, study.target
    with mistakes(ValueError):
        training.check_metric(WATCHED[target.kind])
        if training.starts_at_probe and config.mode in TRAINED:
            check_start(config.readout, target)
        if training.label_smoothing and not target.is_counted:
            raise ValueError(
                f"training.label_smoothing ({training.label_smoothing}) must be 0: a {target.kind} "
                "question has no classes"
            )
        if training.grid.asked and target.kind == "survival":
            raise ValueError("training.grid fits no times to an event; without it the loop does")
        for one in study.rounds:
            fit = rows_to_fit(training, target, one)
            training.plan(len(fit), runtime.devices)
            loss_of(training, target.take(fit))
