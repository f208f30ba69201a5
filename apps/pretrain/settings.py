"""What may be set for a pretraining run; configs/ and the names of oct_vjepa give the values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import oct_io
import oct_vjepa
import oct_xla
from hydra.core.config_store import ConfigStore
from oct_io.space.transforms import AugmentConfig
from oct_judge.question import ProbeConfig
from oct_launch import RuntimeConfig, TrackingConfig, offer
from oct_vjepa.objectives.configuration import ObjectiveConfig
from oct_vjepa.objectives.methods import METHODS, method_of
from oct_vjepa.presets.choices import ENCODERS, MASKINGS, OBJECTIVES
from oct_vjepa.presets.runs import PRESETS, Preset
from oct_vjepa.presets.sources import values


@dataclass(kw_only=True, slots=True)
class ProposeConfig:
    """A plan for this data on this machine, in place of a run."""

    to: str = ""
    """File to write settings to, each with its reason, for `plan=FILE`; empty: train. `data` says
    where scans lie; window, encoder and all that follows are proposed."""

    hours: float = 0.0
    """That training may take; 0: one on a CPU, 24 on an accelerator."""

    timed_steps: int = 4
    """Steps of the proposed model that are timed on this machine, after one that is not."""

    def __post_init__(self) -> None:
        if self.hours < 0 or self.timed_steps < 1:
            raise ValueError(
                f"propose.hours ({self.hours}) must not be negative, and propose.timed_steps "
                f"({self.timed_steps}) must be 1 or more"
            )


@dataclass(kw_only=True, slots=True)
class MixtureConfig:
    """How much a run sees of each device, site or other group, whatever their numbers."""

    by: str = ""
    """Column that divides the volumes: @device, @site, @eye, @region, @protocol, one of
    data.labels, or @set where there are `more` sets; empty: each volume once an epoch, or @set
    where there are more. An epoch stays as long as there are volumes; of a small group each comes
    several times, with other masks, of a large one not all come."""

    weights: dict[str, float] = field(default_factory=dict)
    """Share of each value of `by`, after division by the sum; 1 where none is given, so that
    without any all have equal shares. Cells without a value are called unknown."""

    def __post_init__(self) -> None:
        for value, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"mixture.weights.{value} ({weight}) must be positive")

    def weight(self, value: str) -> float:
        """The share of a value before division."""
        return self.weights.get(value, 1.0)


@dataclass(kw_only=True, slots=True)
class PretrainConfig:
    """One pretraining run."""

    name: str = "${data.name}"
    """Name of the run."""

    run_dir: str = "runs/${name}"
    """Where the run is written; the same command again goes on from there. A folder, or the URL of
    one in a bucket (s3://, gs://): another machine goes on with it when the disk is gone."""

    seed: int = 0
    """Of the weights, the order, the masks and the probes."""

    resume: str = "auto"
    """auto goes on from the newest whole checkpoint; never refuses to touch an existing run."""

    measure_input: bool = True
    """Set encoder.input_mean and input_std from the training volumes."""

    initial: str = ""
    """Weights to start from, with the same `encoder` settings: a folder that a run or `oct-vjepa
    convert` left, or a file of V-JEPA 2 or 2.1 or a folder of transformers as published, of which
    the teacher and the predictor are taken, too. A path or URL; empty: random."""

    watched_volumes: int = 128
    """Volumes whose features are looked at for the effective rank, at each evaluation."""

    probed_volumes: int = 192
    """Labelled volumes, none of a test participant, that are probed for probe.columns at each
    evaluation; 0: none. 192 at every 100 steps of 16 volumes are some 3 % of the time; with 64 a
    label that takes many volumes to learn may seem to be lost while the encoder gains it."""

    pairs: str = "none"
    """Which two volumes belong together, for objectives that ask: two views of one thing for lejepa
    and dino, one said from the other with objective.partner_weight of V-JEPA. eyes: both of a
    participant; scans: two of one eye, on another day or device; devices: those of one eye by
    different devices; participant: any two. Who has no partner is its own."""

    smaller_window: str = ""
    """Window to go on with where memory runs out with one volume at a time, such as macula6_320 or
    64x320x320; the encoder then takes its shape, its cache is data.cache-WINDOW, and batch, steps
    and schedules stay. It is another experiment from there on, so nobody takes it unasked. Empty:
    the run ends."""

    tell_mfu: bool = False
    """Whether metrics.jsonl tells `mfu`: operations are counted and a matrix product is timed at
    the start, which takes some seconds."""

    bench: bool = False
    """Train some steps on random voxels and tell how fast, instead of a run; experiment=bench."""

    data: oct_io.SourceConfig = field(default_factory=oct_io.SourceConfig)
    more: dict[str, oct_io.SourceConfig] = field(default_factory=dict)
    """Further sets to learn from, in shares as `mixture` says: more.NAME=CONFIG takes one of the
    configs of `data`, and more.NAME.root=PLACE says where it lies, as do all settings of `data`.
    Windows must be of one shape. What is asked of the encoder is asked of `data` alone."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    encoder: oct_vjepa.EncoderConfig = field(default_factory=oct_vjepa.EncoderConfig)
    masking: oct_vjepa.MaskingConfig = field(default_factory=oct_vjepa.MaskingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)  # a subclass: METHODS
    schedule: oct_vjepa.ScheduleConfig = field(default_factory=oct_vjepa.ScheduleConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    feed: oct_xla.FeedConfig = field(default_factory=oct_xla.FeedConfig)
    loop: oct_xla.LoopConfig = field(default_factory=oct_xla.LoopConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    propose: ProposeConfig = field(default_factory=ProposeConfig)

    def __post_init__(self) -> None:
        if self.watched_volumes < 1:
            raise ValueError(f"watched_volumes ({self.watched_volumes}) must be 1 or more")
        if self.more and self.propose.to:
            raise ValueError(
                f"propose.to ({self.propose.to}) plans for data alone; leave out more."
                f"{next(iter(self.more))}, and give it beside plan="
            )
        if self.mixture.weights and not self.mixture.by and not self.more:
            raise ValueError(f"mixture.weights ({self.mixture.weights}) needs mixture.by")


TOLD = ("augment", "encoder", "masking", "objective", "schedule", "feed", "loop")
"""Settings that a tracker is told: the science, not where scans lie."""

PLACES = ("jobs", "root", "cache", "storage.*", "kept", "kept_gb")
"""Where scans of a set lie, and how fast they are read; the volumes are compared."""
MAY_CHANGE = (
    *("runtime.device", "runtime.parallel", "loop.save_in_background"),
    *("loop.profile", "loop.hang_after_s", "tracking.*", "propose.*", "resume"),
    *("feed.workers", "feed.prefetch"),
    *(f"data.{one}" for one in PLACES),
    *("loop.steps", "loop.accumulate", "loop.log_every", "loop.evaluate_every"),
    *("loop.checkpoint_every", "loop.keep_last", "loop.patience", "watched_volumes", "tell_mfu"),
    "smaller_window",
)
"""Settings that a resumed run may change; what changed is told, and the volumes must be the same
ones. All but `loop.steps`, which moves the schedules, leave what it computes alone, or are refused
when the checkpoint is read: `loop.accumulate` where an objective compares volumes."""


def may_change(config: PretrainConfig) -> list[str]:
    """`MAY_CHANGE`, and where further sets lie."""
    return [*MAY_CHANGE, *(f"more.{name}.{one}" for name in config.more for one in PLACES)]


def schema_of(config: ObjectiveConfig) -> str:
    """What a file that says another objective names first in its defaults: which one it is.

    Raises:
        ValueError: `config` describes no objective.
    """
    return f"{method_of(config).name}_schema"


def tell_masks(choices: Mapping[str, str]) -> str:
    """Names of objective and masks, and whether they belong together; "" where masks have no name.

    Args:
        choices: group to what was chosen in it.
    """
    objective, masking = choices.get("objective", ""), choices.get("masking", "")
    if not masking:
        return ""
    said = f"objective={objective} masking={masking}"
    if objective not in OBJECTIVES:
        return said
    meant = OBJECTIVES[objective].masking.name
    return f"{said}, " + ("made for it" if masking == meant else f"made for masking={meant}")


def numbers_of(preset: Preset) -> dict[str, object]:
    """What a preset sets: names of encoder, masks and objective, and numbers beside them."""
    training = values(preset.training)
    names = {
        "encoder": preset.encoder.name,
        "masking": preset.masking.name,
        "objective": preset.objective.name,
    }
    return {
        "defaults": [{f"override /{group}": name} for group, name in names.items()],
        **preset.changes(),
        "schedule": values(preset.schedule),
        "feed": {"batch_size": training.pop("batch_size")},
        "loop": training,
    }


for kind in METHODS:
    ConfigStore.instance().store(group="objective", name=schema_of(kind()), node=kind)
for group, named in (("encoder", ENCODERS), ("masking", MASKINGS), ("objective", OBJECTIVES)):
    for one in named.values():
        offer(group, one.name, one.config(), one.about)
for name, preset in PRESETS.items():
    about = preset.purpose[0].upper() + preset.purpose[1:]
    offer("preset", name, numbers_of(preset), about, package="_global_")
