"""What may be set for an evaluation; the files in configs/ give the values."""

from dataclasses import dataclass, field

import oct_io
from oct_io.catalog.questions import LabelQuestion
from oct_launch import RuntimeConfig
from oct_vjepa.evaluation.encoders import ProbeConfig

MODES = ("linear",)


@dataclass(kw_only=True, slots=True)
class FinetuneConfig:
    """One evaluation of one encoder on one task."""

    name: str = "${data.name}-finetune"
    """Name of the run."""

    run_dir: str = "runs/${name}"
    """Where the results are written; the same command again replaces them with equal ones."""

    weights: str = "runs/${data.name}/encoder"
    """Folder of the encoder, with config.json and model.safetensors; `encoder=` on the command
    line means this."""

    mode: str = "linear"
    """linear: logistic regression on frozen features."""

    pool: str = "mean_std"
    """How the tokens of a volume become its features: mean, mean_std or max."""

    test_split: str = "test"
    """Value of recommended_split that the result is measured on; all others are for training."""

    allow_seen: bool = False
    """Test on participants who took part in pretraining too; the result is then no test."""

    seed: int = 0
    """Of the folds, of the bootstrap, and of the random encoder that stands beside."""

    bootstrap: int = 1000
    """Resamplings of the test participants behind each interval."""

    batch_size: int = 32
    """Volumes embedded at once."""

    features: str = "runs/data/features"
    """Local folder where features are kept, so that an encoder meets a data set only once."""

    data: oct_io.SourceConfig = field(default_factory=oct_io.SourceConfig)
    task: LabelQuestion = field(default_factory=LabelQuestion)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if self.data.excluded_splits != oct_io.SourceConfig().excluded_splits:
            raise ValueError(
                f"data.excluded_splits ({self.data.excluded_splits}) does nothing here: only "
                "pretraining leaves parts out; test_split= says which part is the test"
            )
        if self.mode not in MODES:
            raise ValueError(f"mode ({self.mode}) must be {' or '.join(MODES)}")
        self.probe()

    def probe(self) -> ProbeConfig:
        """The question, as `probe_encoders` takes it.

        Raises:
            ValueError: there is no such pool, or too few resamplings.
        """
        return ProbeConfig(columns=[self.task.column], pools=[self.pool], bootstrap=self.bootstrap)
