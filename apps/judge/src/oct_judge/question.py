"""What may be set for an evaluation; the files in configs/ give the values."""

from dataclasses import dataclass, field, replace

import oct_io
from oct_io.labels.questions import LabelQuestion
from oct_launch import RuntimeConfig, TrackingConfig
from oct_vjepa.evaluation.readouts import ReadoutConfig
from oct_vjepa.finished.about import ATTENTION, PAIRS
from oct_vjepa.heads.configuration import AttentionConfig
from oct_vjepa.probes.configuration import GridConfig

from oct_judge.checkpoint import CheckpointConfig
from oct_judge.masks.settings import SegmentConfig
from oct_judge.recipe import TrainingConfig

FROZEN = ("linear", "knn", "mlp")
"""Modes that fit arrays of features, in seconds."""
ATTENTIVE = "attentive"
TRAINED = (ATTENTIVE, "partial", "gradual", "full", "lora")
"""Modes that train on volumes, through the loop."""
SEGMENT, PATCHES = "segment", "patches"
"""Modes that ask for classes of voxels instead of labels."""
MODES = (*FROZEN, *TRAINED, SEGMENT, PATCHES)
PROTOCOLS = ("given", "kfold", "repeated_kfold", "leave_one_out")
JOINED = {ATTENTION: "attention over volumes", PAIRS: "pairs"}
"""Ways of joining volumes that are fitted, and what stands behind the name of who is asked so."""
JOINS = ("mean", "max", *JOINED)
NETWORK, NAMED_ENCODER = "network ", "encoder "
"""How the names of candidates begin that are no baselines: trained from scratch, and others'."""
SPLIT = "@split"
ENSEMBLES = ("", "mean", "vote", "weighted")


@dataclass(kw_only=True, slots=True)
class ProtocolConfig:
    """Who is fitted on, who chooses, who is tested; always apart by participant."""

    name: str = "given"
    """given: the split of the table, such as recommended_split, or of data.split; kfold: everybody
    is tested once; repeated_kfold: in several shuffles; leave_one_out: each site or device is
    tested by a model that has not seen it."""

    by: str = "@device"
    """leave_one_out: what is left out, @device, @site, a column of the label table, or @split: each
    part of data.split, such as folds, by a model that has not seen it."""

    folds: int = 5
    """Of kfold, and of those from whom validation is taken where no part is for it."""

    repeats: int = 1
    """Of repeated_kfold."""

    calibration: float = 1 / 3
    """Share of the validation participants who choose nothing, and set temperature, thresholds and
    promise of what the others chose: who did both made sets fall up to 3 points short of theirs.
    A third, as choosing needs more of them than a threshold does. Where either side would have
    fewer than 20, and with 0, all do both. Labels only."""

    seed: int = 0
    """Of the folds, and of who calibrates."""

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(f"protocol.name ({self.name}) must be one of {', '.join(PROTOCOLS)}")
        if self.folds < 2 or self.repeats < 1:
            raise ValueError(
                f"protocol.folds ({self.folds}) must be 2 or more, protocol.repeats "
                f"({self.repeats}) 1 or more"
            )
        if not 0 <= self.calibration < 1:
            raise ValueError(f"protocol.calibration ({self.calibration}) must be 0 to below 1")


@dataclass(kw_only=True, slots=True)
class ComparisonConfig:
    """Who answers beside the encoder, and what else is looked at."""

    random_init: bool = True
    """The same network with random weights: what the architecture gives without training."""

    baselines: list[str] = field(
        default_factory=lambda: [
            *("grey histogram", "thumbnail", "mean and std", "axial profile", "surface profile"),
            *("patch PCA 2x8x16", "patch PCA 1x8x8", "random layer", "filter bank"),
        ]
    )
    """Features that nobody learned, or only a PCA; each alone, or several side by side, such as
    "random layer + grey histogram" or "random init + filter bank". They shame an encoder that they
    equal."""

    networks: list[str] = field(default_factory=list)
    """Networks trained from scratch by the recipe of `training`, whatever the mode. Of MONAI:
    monai_resnet10, monai_resnet18, monai_densenet121; with _2d at the end they take single B-scans
    and average what they say, which of one B-scan they do by themselves. Of timm, by its names:
    timm_resnet18 and so on, all on single B-scans."""

    encoders: list[str] = field(default_factory=list)
    """Further encoders whose frozen features are asked too: name=folder of one of ours, which may
    have {round} and {seed} in it as `encoder`, and take fewer B-scans than the volumes have;
    name=MODEL@file of weights for a 2-D model of timm, averaged over B-scans, such as
    RETFound=vit_large_patch16_224@weights.pth, with settings as in MODEL?img_size=512; or
    name=module:factory, which makes an object with embed and fingerprint."""

    together: bool = True
    """Each baseline beside the encoder's features as well: what the encoder does not know yet. With
    `mode=patches` the filter bank, beside random init too."""

    ranked: bool = True
    """The same after the grey levels of each volume were replaced by their ranks: a score that
    falls was read from exposure or from the scanner's curve."""

    fractions: list[float] = field(default_factory=list)
    """Shares of the labelled participants to fit on, such as [0.01, 0.05, 0.1, 0.25, 0.5], for a
    curve of label efficiency. Where a mode trains, each share and turn is a training of its own, of
    the encoder and of its random init."""

    turns: int = 3
    """Subsets drawn for each share; every one of `seeds` is asked in each."""

    few_validation: bool = True
    """Of validation, too, only the share has labels, but two of each class at least: who labels 17
    people has no hundred more by whom to choose readout and strength. False: all of it chooses. Who
    calibrates keeps all labels."""

    shortcuts: list[str] = field(default_factory=lambda: ["@device", "@site"])
    """What features should not tell: the same probe is asked for it."""

    subgroups: list[str] = field(default_factory=lambda: ["@device", "@site", "@eye", "sex", "age"])
    """Columns by whose values the scores are shown; those that a data set lacks are left out.
    Numbers of many values are cut into thirds."""

    ensemble: str = ""
    """mean, vote or weighted (by validation): what the seeds say together, as one more line; and
    with `encoders` what the encoder and they say together, seed by seed, as another."""

    prevalence: list[float] = field(default_factory=list)
    """Shares of the classes where the model will be used, in their order, such as [0.95, 0.05]:
    the encoder's probabilities are moved to them, and measured among so many of each, too."""

    perturbed: bool = False
    """Spoil the test volumes in eight ways at five strengths, and show how the scores fall: of the
    encoder, of random init, of `encoders`, `networks` and of the best baseline. 40 times the test
    volumes to embed, for each of them. Of masks in the six ways that move nothing: of all that were
    trained."""

    maps: int = 4
    """Cases, right and wrong ones, for which the report shows where the answer comes from; 0: none.
    Each covers its volume part by part, which takes as long as some 60 volumes."""

    def __post_init__(self) -> None:
        names = [one.partition("=")[0] for one in self.encoders]
        if twice := [one for one in names if names.count(one) > 1]:
            raise ValueError(f"compare.encoders has {twice[0]}= twice; give each a name of its own")
        if self.ensemble not in ENSEMBLES:
            raise ValueError(f"compare.ensemble ({self.ensemble}) must be mean, vote or weighted")
        if wrong := [one for one in self.fractions if not 0 < one <= 1]:
            raise ValueError(f"compare.fractions ({wrong[0]}) must be above 0 and at most 1")
        if self.turns < 1 or self.maps < 0:
            raise ValueError(
                f"compare.turns ({self.turns}) must be 1 or more, compare.maps ({self.maps}) "
                "0 or more"
            )

    def turns_of(self, fraction: float) -> int:
        """Subsets of a share; of all labels there is one."""
        return self.turns if fraction < 1 else 1


@dataclass(kw_only=True, slots=True)
class ProbeConfig:
    """What the frozen features are asked when training is over."""

    columns: list[str] = field(default_factory=list)
    """Label columns; none: no probe."""

    baselines: list[str] = field(
        default_factory=lambda: [
            *("grey histogram", "mean and std", "surface profile", "random layer", "filter bank"),
        ]
    )
    """Features that nobody learned; uv run apps/finetune asks more of them."""

    bootstrap: int = 1000
    """Resamplings of the test participants behind each interval."""

    features: str = "runs/data/features"
    """Local folder where features are kept; that of uv run apps/finetune finds them there."""

    def __post_init__(self) -> None:
        if self.bootstrap < 100:
            raise ValueError(f"probe.bootstrap ({self.bootstrap}) must be at least 100")


@dataclass(kw_only=True, slots=True)
class FinetuneConfig:
    """One evaluation of one encoder on one task, or the use of a model that one left behind."""

    name: str = "${data.name}-finetune"
    """Name of the run."""

    run_dir: str = "runs/${name}"
    """Where the results are written; the same command again replaces them with equal ones. A folder
    or the URL of one in a bucket, which has everything when the evaluation has ended."""

    weights: str = "runs/${data.name}/encoder"
    """The encoder: a folder or URL with config.json and model.safetensors, or a checkpoint of
    V-JEPA 2, transformers or the predecessor; `encoder=` on the command line means this. {round}
    and {seed} in it stand for one encoder a round and seed, that has not seen who is tested."""

    mode: str = "linear"
    """Frozen features: linear (logistic, ridge or Cox regression), knn, mlp. Trained: attentive (a
    learned pool on a frozen encoder), partial (the last blocks too), gradual (block after block),
    full, lora. segment: masks instead of labels. patches: which patches hold what masks show, from
    frozen tokens."""

    seeds: int = 1
    """How often everything is repeated with other seeds; what they differ by is in the
    intervals."""

    join: str = "mean"
    """How the scores of several volumes become those of an eye, and of eyes those of a participant:
    mean, or max for what one volume of several may show. attention: the mean, and beside it as one
    more candidate a learned pool over all volumes of a participant. pairs: the mean, and beside it
    everybody's features once more as their mean and spread over the volumes of a participant, for
    what only two eyes or two visits together show. Both in frozen modes only."""

    balanced: bool = True
    """Classes weigh alike in the fit; probabilities are set right for their true shares after."""

    test_split: str = "test"
    """Value of recommended_split that the result is measured on; all others are for training.
    protocol.name=given only."""

    allow_seen: bool = False
    """Test on participants who took part in pretraining too; the result is then no test."""

    seed: int = 0
    """Of the fits, of the bootstrap, and of the random encoder that stands beside."""

    bootstrap: int = 2000
    """Resamplings of the test participants behind each interval. No p is below 2 in so many, and
    Holm multiplies it by how many were compared, 21 if nothing is set."""

    batch_size: int = 32
    """Volumes embedded at once."""

    features: str = "runs/data/features"
    """Local folder where features are kept, so that an encoder meets a data set only once."""

    predict: str = ""
    """Folder or URL of new scans to score with `model`, instead of an evaluation."""

    model: str = ""
    """Folder of a model that an evaluation of labels or masks left behind, RUN/model; predict
    only."""

    out: str = ""
    """Folder of the predictions; empty: RUN/predictions-NAME, beside the model and named after the
    folder of scans. predict only."""

    predict_paths: bool = False
    """Write down the relative path of each scan, too. Paths may name patients, so that scans and
    participants are hashes without it."""

    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compare: ComparisonConfig = field(default_factory=ComparisonConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    data: oct_io.SourceConfig = field(default_factory=oct_io.SourceConfig)
    task: LabelQuestion = field(default_factory=LabelQuestion)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.data.excluded_splits != oct_io.SourceConfig().excluded_splits:
            raise ValueError(
                f"data.excluded_splits ({self.data.excluded_splits}) does nothing here: only "
                "pretraining leaves parts out; test_split= says which part is the test"
            )
        if self.mode not in MODES:
            raise ValueError(f"mode ({self.mode}) must be one of {', '.join(MODES)}")
        if self.join not in JOINS:
            raise ValueError(f"join ({self.join}) must be one of {', '.join(JOINS)}")
        if self.join in JOINED and self.mode not in FROZEN:
            raise ValueError(f"join={self.join} takes frozen features; mode is {self.mode}")
        for name in ("seeds", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} ({value}) must be 1 or more")
        if self.compare.ensemble and self.seeds == 1 and not self.compare.encoders:
            raise ValueError(
                f"compare.ensemble ({self.compare.ensemble}) joins what seeds or encoders say: "
                "give seeds=2 or more, or compare.encoders"
            )
        if self.bootstrap < 100:
            raise ValueError(f"bootstrap ({self.bootstrap}) must be at least 100")
        if bool(self.predict) != bool(self.model):
            raise ValueError("predict=FOLDER and model=DIR go together: scans, and who scores them")
        if (self.out or self.predict_paths) and not self.predict:
            raise ValueError("out and predict_paths need predict=FOLDER and model=DIR")
        if self.mode in TRAINED:
            self.training = replace(self.training, mode=self.mode)  # its head follows the mode
        if self.mode == SEGMENT and self.training.starts_at_probe:
            raise ValueError("training.head_start=probe is of labels; mode is segment")
        if self.training.grid.asked:
            if self.mode != ATTENTIVE:
                raise ValueError(f"training.grid is tried by mode=attentive; mode is {self.mode}")
            self.training.check_grid()
