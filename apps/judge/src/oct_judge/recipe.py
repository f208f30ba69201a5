"""How an encoder is trained on a question: every setting, with the reason for its value.

Nothing here needs torch. docs/finetune-keys.md says which of the predecessor's keys became which.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from oct_io.space.transforms import AugmentConfig
from oct_vjepa.evaluation.readouts import block_numbers, check_blocks
from oct_vjepa.heads.configuration import (
    AugmentationConfig,
    FinetuningConfig,
    HeadConfig,
    LoraConfig,
)
from oct_vjepa.measures.progress import SMALLER_IS_BETTER
from oct_vjepa.rules import (
    ABOVE_0_TO_1,
    COUNT,
    FROM_0_BELOW_1,
    FROM_0_TO_1,
    NOT_NEGATIVE,
    POSITIVE,
    check_choices,
    check_numbers,
)

TRAINING_MODES = ("frozen", "attentive", "partial", "gradual", "full", "lora")
ENCODER_LEARNS = TRAINING_MODES[2:]
SCHEDULES = ("cosine", "constant", "step")
TOKEN_HEADS = ("attentive", "cross_attention")
HEAD_STARTS = ("random", "probe")


class Plan(NamedTuple):
    """What a recipe comes to for so many rows."""

    batch_size: int
    per_epoch: int  # optimiser steps
    steps: int  # of the whole run, unless it ends early


@dataclass(kw_only=True, slots=True)
class DecoderConfig:
    """What makes masks of tokens."""

    levels: list[int] = field(default_factory=list)
    """Numbers of the blocks whose tokens are joined, from 0; empty for the encoder's output."""

    hidden: int = 0
    """Width of a hidden layer; 0 for a linear map of each token to its voxels."""

    def __post_init__(self) -> None:
        check_numbers(self, "decoder", NOT_NEGATIVE, "hidden")


@dataclass(kw_only=True, slots=True)
class PoolGridConfig:
    """What mode=attentive tries on kept tokens; all empty: the loop trains one pool, on volumes.

    Each list with every other; an empty one stands for what `training` says.
    """

    kinds: list[str] = field(default_factory=list)
    """attentive, or cross_attention, a tenth of its size; else that of `training.head.kind`."""

    depths: list[int] = field(default_factory=list)
    """Blocks of the attentive pool, 4 in V-JEPA 2; else `training.head.depth`."""

    learning_rates: list[float] = field(default_factory=list)
    """V-JEPA 2 searches 1e-4 to 5e-3; else `training.lr_head`."""

    weight_decays: list[float] = field(default_factory=list)
    """V-JEPA 2 searches 0.01 to 0.8; else `training.weight_decay`."""

    blocks: list[str] = field(default_factory=list)
    """last, late (the upper half side by side), all (side by side), or the number of a block from
    0, as `readout.blocks`; else the encoder's output. What is small and local may be gone from it.
    The tokens of every block that is named are kept."""

    def __post_init__(self) -> None:
        self.blocks = [str(one) for one in self.blocks]
        check_blocks(self.blocks, "training.grid.blocks")
        if unknown := [one for one in self.kinds if one not in TOKEN_HEADS]:
            known = ", ".join(TOKEN_HEADS)
            raise ValueError(f"training.grid.kinds ({unknown[0]}) must be among {known}")
        for name, floor in (("depths", 1), ("learning_rates", None), ("weight_decays", 0)):
            for value in getattr(self, name):
                if value <= 0 if floor is None else value < floor:
                    least = "positive" if floor is None else f"{floor} or more"
                    raise ValueError(f"training.grid.{name} ({value}) must be {least}")

    @property
    def asked(self) -> bool:
        """Whether anything is tried."""
        lists = (self.kinds, self.depths, self.learning_rates, self.weight_decays, self.blocks)
        return any(lists)

    def read(self, depth: int) -> list[tuple[int, ...]]:
        """Numbers of the blocks of each readout that is tried; none: the encoder's output.

        Args:
            depth: blocks of the encoder.

        Raises:
            ValueError: a block that the encoder lacks.
        """
        found = [tuple(block_numbers(one, depth, "training.grid.blocks")) for one in self.blocks]
        return list(dict.fromkeys(found))

    def kept(self, depth: int) -> list[int]:
        """Numbers, ascending, of all blocks whose tokens are kept; none: the encoder's output."""
        return sorted({one for blocks in self.read(depth) for one in blocks})


UNREAD_BY_GRID = (
    *("clip_norm", "accumulate", "schedule", "metric", "min_delta", "evaluate_every", "distance"),
    *("label_smoothing", "augmentation", "scan_augmentation"),
)
"""Settings that do nothing where pools are fitted on kept tokens."""


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """What learns, how fast, how long, and what it sees."""

    mode: str = "partial"
    """frozen: the head alone; attentive: the same with a learned pool (`head.kind` if that is
    cross_attention, else attentive); partial: the last `blocks` too; gradual: block after block
    from the top; full: everything; lora: low-rank adapters."""

    blocks: int = 2
    """Blocks that learn; partial only."""

    lr_head: float = 1e-3
    """Peak learning rate of the head; AdamW on a fresh layer takes 1e-3 well."""

    lr_encoder: float = 1e-4
    """Peak learning rate of the encoder's last layer, or of its adapters: a tenth of the head's, as
    it knows something already. LoRA often takes as much as the head."""

    layer_decay: float = 0.65
    """Each layer learns this much slower than the one above it; 1 turns it off."""

    weight_decay: float = 0.05
    """Of AdamW, for maps only; BEiT's and MAE's fine-tuning."""

    clip_norm: float | None = 1.0
    """Largest norm of the gradient; null for none."""

    epochs: int = 30
    """Passes over the training rows, unless the run ends early."""

    batch_size: int = 16
    """Volumes of one step over all devices; fewer rows make one batch."""

    accumulate: int = 1
    """Parts in which a step is taken, for less memory; the result is the same. Not for survival,
    whose rows are compared with each other, nor quite for masks, whose Dice is that of a part."""

    schedule: str = "cosine"
    """Of both learning rates after the warm-up: cosine, constant or step."""

    warmup_epochs: float = 2.0
    """Epochs of linear rise; fractions are allowed."""

    final_fraction: float = 0.01
    """Share of the peak at the last step; cosine only."""

    step_epochs: int = 10
    """Epochs between two falls; step only."""

    step_factor: float = 0.1
    """What a fall multiplies by; step only."""

    metric: str = "auto"
    """What the best epoch is chosen by, on the validation rows: a number that is logged. auto:
    auroc, r2, concordance or dice, by what is asked."""

    patience: int = 10
    """Evaluations without progress before the run ends; 0 takes all epochs."""

    min_delta: float = 0.0
    """How much better counts as progress."""

    evaluate_every: int = 1
    """Epochs between two evaluations; each saves a checkpoint."""

    class_weights: Any = "auto"
    """none: every volume counts alike; auto: every class does, counted on the training rows; or a
    list, a number a class. Masks take none: their Dice loss weighs classes alike."""

    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes."""

    distance: str = "smooth_l1"
    """smooth_l1 or squared; regression only."""

    unfreeze_every: int = 3
    """Epochs until the next layers join; gradual only."""

    unfreeze_blocks: int = 1
    """Layers that join each time; many open the whole encoder at once. gradual only."""

    drop_path: float = 0.0
    """Chance that training skips a branch of the last block, less in those below; 0.1 to 0.2 is
    common for large encoders."""

    workers: int = 0
    """Processes that prepare volumes; 0 prepares them in the training process."""

    prefetch: int = 2
    """Batches that each of them prepares ahead."""

    log_every: int = 0
    """Steps between two rows of metrics; 0 for four rows an epoch."""

    head_start: str = "random"
    """random: the head begins with drawn weights. probe: as what mode=linear fits on the encoder
    before it is trained, at the readout that `readout` and `grid` choose; training then begins
    where the probe stands, which counts as epoch 0, and may turn out the best. A fresh head bends
    the encoder's features before it knows what they mean (Kumar et al. 2022, LP-FT). Linear heads
    of labels only; the readout then says what `head.pool` does else."""

    head: HeadConfig = field(default_factory=HeadConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    grid: PoolGridConfig = field(default_factory=PoolGridConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    scan_augmentation: AugmentConfig | None = None
    """oct_io's augmentation by physics (needs `oct-io[transforms]`), before the other; labels of
    volumes only. Null for none."""

    def __post_init__(self) -> None:
        check_choices(
            self, "training", mode=TRAINING_MODES, schedule=SCHEDULES, head_start=HEAD_STARTS
        )
        check_numbers(self, "training", POSITIVE, "lr_head", "lr_encoder")
        counts = ("blocks", "epochs", "batch_size", "accumulate", "step_epochs", "evaluate_every")
        check_numbers(
            self, "training", COUNT, *counts, "unfreeze_every", "unfreeze_blocks", "prefetch"
        )
        floors = ("weight_decay", "warmup_epochs", "patience", "min_delta", "workers", "log_every")
        check_numbers(self, "training", NOT_NEGATIVE, *floors)
        check_numbers(self, "training", ABOVE_0_TO_1, "layer_decay", "step_factor")
        check_numbers(self, "training", FROM_0_TO_1, "final_fraction")
        check_numbers(self, "training", FROM_0_BELOW_1, "label_smoothing", "drop_path")
        if isinstance(self.class_weights, str) or self.class_weights is None:
            self.class_weights = self.class_weights or "none"
            if self.class_weights not in ("none", "auto"):
                raise ValueError(
                    f"training.class_weights ({self.class_weights!r}) must be none, auto or a list"
                )
        if self.mode == "attentive" and self.head.kind not in TOKEN_HEADS:
            self.head = replace(self.head, kind="attentive")
        if self.starts_at_probe:
            self._check_start()

    @property
    def starts_at_probe(self) -> bool:
        """Whether the head begins as a fitted probe."""
        return self.head_start == "probe"

    def _check_start(self) -> None:
        """Refuse heads that no linear probe can be."""
        if self.head.kind != "linear":
            raise ValueError(
                f"training.head_start=probe starts a linear head; training.head.kind is "
                f"{self.head.kind}{' in mode=attentive' if self.mode == 'attentive' else ''}"
            )
        if self.head.pool != HeadConfig().pool:
            raise ValueError(
                f"training.head.pool ({self.head.pool}) does nothing beside "
                "training.head_start=probe: the head reads what readout.pools and validation choose"
            )
        if isinstance(self.class_weights, list):
            raise ValueError(
                f"training.class_weights ({self.class_weights}) must be none or auto beside "
                "training.head_start=probe: a probe knows no others"
            )

    @property
    def smaller_is_better(self) -> bool:
        """Whether `metric` falls while a run gets better."""
        return self.metric in SMALLER_IS_BETTER

    def check_metric(self, watched: Iterable[str]) -> None:
        """Refuse a metric that no evaluation would have, before anything is trained.

        Raises:
            ValueError: names those there are.
        """
        if self.metric not in ("auto", *watched):
            known = ", ".join(("auto", *watched))
            raise ValueError(f"training.metric ({self.metric}) must be one of {known}")

    def check_grid(self) -> None:
        """Refuse what the grid of pools would pass over.

        Raises:
            ValueError: names the setting.
        """
        usual = TrainingConfig()
        unread = [one for one in UNREAD_BY_GRID if getattr(self, one) != getattr(usual, one)]
        unread += ["class_weights"] if isinstance(self.class_weights, list) else []
        unread += ["head.dropout"] if self.head.dropout else []
        if unread:
            raise ValueError(
                f"training.{unread[0]} ({getattr(self, unread[0], self.head.dropout)}) does nothing"
                " beside training.grid, which fits pools on kept tokens"
            )

    def plan(self, rows: int, devices: int) -> Plan:
        """What this comes to for `rows` training rows on `devices`.

        Raises:
            ValueError: fewer rows than a step needs.
        """
        parts = devices * self.accumulate
        batch_size = min(self.batch_size, rows) // parts * parts
        if not batch_size:
            raise ValueError(
                f"training.batch_size ({self.batch_size}) and {rows} training rows must be at least"
                f" devices x training.accumulate ({devices} x {self.accumulate})"
            )
        per_epoch = rows // batch_size
        return Plan(batch_size, per_epoch, self.epochs * per_epoch)

    def finetuning(self, per_epoch: int) -> FinetuningConfig:
        """What learns, with epochs counted in steps."""
        return FinetuningConfig(
            mode="linear" if self.mode in ("frozen", "attentive") else self.mode,
            blocks=self.blocks,
            layer_decay=self.layer_decay,
            encoder_lr_scale=self.lr_encoder / self.lr_head,
            unfreeze_every=self.unfreeze_every * per_epoch,
            unfreeze_blocks=self.unfreeze_blocks,
        )

    def rate(self, step: int, plan: Plan) -> float:
        """Learning rate of the head at `step`, counted from 0; the encoder's is in proportion."""
        warmup = round(self.warmup_epochs * plan.per_epoch)
        if step < warmup:
            return self.lr_head * (step + 1) / warmup
        if self.schedule == "constant":
            return self.lr_head
        if self.schedule == "step":
            falls = step // plan.per_epoch // self.step_epochs
            return self.lr_head * self.step_factor**falls
        done = min((step + 1 - warmup) / max(plan.steps - warmup, 1), 1.0)
        left = 0.5 * (1.0 + math.cos(math.pi * done))
        return self.lr_head * (self.final_fraction + (1.0 - self.final_fraction) * left)
