"""What fine-tuning may be told: what learns, the head, the loss, adapters, augmentation.

Nothing here needs torch, so that settings can be read and refused before it is imported.
"""

from dataclasses import dataclass, field

from oct_vjepa.rules import (
    ABOVE_0_TO_1,
    COUNT,
    FROM_0_BELOW_1,
    FROM_0_TO_1,
    POSITIVE,
    check_choices,
    check_numbers,
)

MODES = ("linear", "partial", "gradual", "full", "lora")
KINDS = ("nominal", "ordinal", "multilabel", "regression", "survival")
"""What can be asked: the kinds of `oct_vjepa.measures.target`, which this wing does not know."""
DISTANCES = ("smooth_l1", "squared")
HALF_OF_THE_GREYS = 128.0
HEAD_KINDS = ("linear", "mlp", "attentive", "cross_attention")
ACTIVATIONS = ("gelu", "relu", "silu", "tanh")
PARTS = {
    "qkv": "attention.qkv",
    "proj": "attention.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
"""Linear maps of a block by the name that `LoraConfig.parts` takes."""


@dataclass(kw_only=True, slots=True)
class FinetuningConfig:
    """What learns, and how fast beside the head."""

    mode: str = "linear"
    """linear: the head alone; partial: the head and the last `blocks` blocks; gradual: the head,
    then block after block from the top; full: everything; lora: the head and the adapters of
    `add_lora`."""

    blocks: int = 2
    """Blocks at the top that learn, the last norm with them; mode "partial" only. More than there
    are: all blocks, while patches and positions stay."""

    layer_decay: float = 0.65
    """Each layer learns this much slower than the one above it; 1 turns it off. 0.65 is the value
    of BEiT (base) and of RETFound's command; MAE takes 0.65 to 0.75, others went down to 0.5."""

    encoder_lr_scale: float = 1.0
    """Learning rate of the encoder's last layer over that of the head."""

    unfreeze_every: int = 100
    """Applied optimiser steps until the next blocks join; mode "gradual" only. Each time is one
    more compilation on XLA."""

    unfreeze_blocks: int = 1
    """Layers that join each time; mode "gradual" only. More than there are: the whole encoder joins
    at once, after `unfreeze_every` steps."""

    def __post_init__(self) -> None:
        check_choices(self, "finetuning", mode=MODES)
        check_numbers(self, "finetuning", ABOVE_0_TO_1, "layer_decay")
        check_numbers(self, "finetuning", POSITIVE, "encoder_lr_scale")
        check_numbers(self, "finetuning", COUNT, "blocks", "unfreeze_every", "unfreeze_blocks")


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Shape of the adapters (LoRA, Hu et al. 2021)."""

    rank: int = 8
    """Width of the bottleneck; the paper finds 4 to 8 enough for attention."""

    alpha: float = 16.0
    """The change is scaled by alpha / rank; twice the rank is common practice."""

    dropout: float = 0.0
    """Share of the adapter's inputs that training sets to 0."""

    parts: list[str] = field(default_factory=lambda: ["qkv", "proj", "fc1", "fc2"])
    """Which maps of each block get an adapter."""

    def __post_init__(self) -> None:
        check_numbers(self, "lora", COUNT, "rank")
        check_numbers(self, "lora", POSITIVE, "alpha")
        check_numbers(self, "lora", FROM_0_BELOW_1, "dropout")
        unknown = sorted(set(self.parts) - PARTS.keys())
        if unknown or not self.parts:
            raise ValueError(f"lora.parts ({self.parts}) must be among {', '.join(PARTS)}")


@dataclass(kw_only=True, slots=True)
class HeadConfig:
    """What stands on the encoder."""

    kind: str = "linear"
    """linear, or mlp: on pooled tokens; attentive: V-JEPA 2's probe on all tokens;
    cross_attention: a light learned pool, for few labels."""

    pool: str = "mean_std"
    """How tokens become the features of linear and mlp; one of `oct_vjepa.model.pooling`."""

    hidden: int = 256
    """Width of the hidden layer; mlp only."""

    activation: str = "gelu"
    """Of the hidden layer: gelu, relu, silu or tanh; mlp only."""

    dropout: float = 0.0
    """Share of the features before the last layer that training sets to 0."""

    heads: int = 4
    """Attention heads; attentive and cross_attention. Divides the encoder's width, or `inner`."""

    depth: int = 1
    """Blocks of the attentive head, the one with the query included; V-JEPA 2 has 4."""

    inner: int = 128
    """Width of keys and values; cross_attention only."""

    def __post_init__(self) -> None:
        check_choices(self, "head", kind=HEAD_KINDS, activation=ACTIVATIONS)
        check_numbers(self, "head", COUNT, "hidden", "heads", "depth", "inner")
        check_numbers(self, "head", FROM_0_BELOW_1, "dropout")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """What the head is punished for."""

    kind: str = "nominal"
    """What is asked. nominal: all mistakes are alike; ordinal: classes have an order, and a mistake
    costs more the further it goes; multilabel: each label by itself; regression: a quantity;
    survival: who has the event sooner."""

    label_smoothing: float = 0.0
    """Share of a label that is spread over all classes; 0.1 is common where labels are doubtful.
    nominal, ordinal and multilabel."""

    class_weights: list[float] | None = None
    """Weight of each class in the loss, such as those of `balanced_weights`; of multilabel, weight
    of the rows that have the label, such as those of `positive_weights`. None: all alike."""

    label_weights: list[float] | None = None
    """How much each label counts; multilabel only. None: all alike."""

    distance: str = "smooth_l1"
    """smooth_l1: squared up to one standard deviation, then linear, so that outliers do not rule;
    or squared. regression only."""

    def __post_init__(self) -> None:
        check_choices(self, "loss", kind=KINDS, distance=DISTANCES)
        check_numbers(self, "loss", FROM_0_BELOW_1, "label_smoothing")
        for name in ("class_weights", "label_weights"):
            weights = getattr(self, name)
            if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
                raise ValueError(f"loss.{name} ({weights}) must not be negative, nor all be 0")
        if self.class_weights and self.kind in ("regression", "survival"):
            raise ValueError(f"loss.class_weights: a {self.kind} target has no classes")
        if self.label_weights and self.kind != "multilabel":
            raise ValueError(f"loss.label_weights: a {self.kind} target has one label")
        if self.label_smoothing and self.kind in ("regression", "survival"):
            raise ValueError(f"loss.label_smoothing: a {self.kind} target has no classes")


@dataclass(kw_only=True, slots=True)
class AugmentationConfig:
    """How a volume is changed each time it is seen; the zeros here change nothing."""

    flip: float = 0.0
    """Chance that the order along Z is reversed. No other axis: Y has an up and a down, and X
    reversed makes a right eye a left one."""

    gain: float = 0.0
    """Intensities are multiplied by a factor between 1 - gain and 1 + gain."""

    offset: float = 0.0
    """Then a number between -offset and offset is added; 0 to below 128, half of the grey levels:
    with more, half of all volumes would be white or black."""

    shift: tuple[int, int, int] = (0, 0, 0)
    """Voxels along (Z, Y, X) that the volume is moved at most, less than half of it; its border is
    repeated."""

    def __post_init__(self) -> None:
        z, y, x = (int(size) for size in self.shift)
        self.shift = (z, y, x)
        check_numbers(self, "augmentation", FROM_0_TO_1, "flip")
        check_numbers(self, "augmentation", FROM_0_BELOW_1, "gain")
        if not 0 <= self.offset < HALF_OF_THE_GREYS:
            raise ValueError(f"augmentation.offset ({self.offset}) must be from 0 to below 128")
        if min(self.shift) < 0:
            raise ValueError(f"augmentation.shift ({self.shift}) must not be negative")

    def check_window(self, shape: tuple[int, int, int]) -> None:
        """Refuse what leaves nothing of a volume in its place, or cannot change it.

        Args:
            shape: of the volumes, (Z, Y, X).

        Raises:
            ValueError: names the setting.
        """
        if any(2 * shift >= side for shift, side in zip(self.shift, shape, strict=True) if shift):
            raise ValueError(
                f"augmentation.shift ({self.shift}) must be below half of the volume {shape}"
            )
        if self.flip and shape[0] == 1:
            raise ValueError(
                f"augmentation.flip ({self.flip}) reverses the B-scans, and there is one alone"
            )

    @property
    def changes(self) -> bool:
        """Whether anything is changed."""
        return bool(self.flip or self.gain or self.offset or max(self.shift))


@dataclass(kw_only=True, slots=True)
class AttentionConfig:
    """Shape and training of the pool over volumes."""

    inner: int = 32
    """Width of keys and values of both pools."""

    heads: int = 4
    """Attention heads; they divide `inner`."""

    view_dropout: float = 0.3
    """Chance that training leaves a volume out, so that none becomes indispensable; one stays."""

    lr: float = 3e-3
    """Of AdamW; few participants make few steps."""

    weight_decay: list[float] = field(default_factory=lambda: [0.01, 1.0])
    """Strengths that are tried; validation chooses."""

    epochs: int = 100
    """Most passes over the participants."""

    patience: int = 20
    """Passes without a better validation after which a strength is done."""

    batch_size: int = 16
    """Participants of a step."""

    def __post_init__(self) -> None:
        check_numbers(
            self, "attention", COUNT, "inner", "heads", "epochs", "patience", "batch_size"
        )
        check_numbers(self, "attention", FROM_0_BELOW_1, "view_dropout")
        check_numbers(self, "attention", POSITIVE, "lr")
        if self.inner % self.heads:
            raise ValueError(
                f"attention.inner ({self.inner}) must be a multiple of heads ({self.heads})"
            )
        if not self.weight_decay or min(self.weight_decay) < 0:
            raise ValueError(f"attention.weight_decay ({self.weight_decay}) must not be negative")
