"""Ask a frozen encoder a question: a linear probe for one label, beside random init and a baseline.

uv run apps/finetune                                     probes runs/phantom/encoder for `thin`
uv run apps/finetune task=fluid pool=max                 another label, another pooling
uv run apps/finetune encoder=DIR data=aireadi data.root=PLACE task=diabetes4
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import oct_io
import oct_vjepa
import oct_xla
import torch
from oct_io.catalog.releases import refuse_seen
from oct_launch import Launch, RuntimeConfig, Stages, app, check_window, mistakes, print_table
from oct_vjepa.evaluation.comparison import COLUMNS, as_cells
from oct_vjepa.evaluation.encoders import Examples, ProbeConfig, probe_encoders
from oct_vjepa.evaluation.features import Features, load_or_embed
from oct_vjepa.model.weights import weights_fingerprint
from results import write_results

MODES = ("linear",)


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """The question."""

    column: str = "study_group"
    """Column of the label table."""


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
    task: TaskConfig = field(default_factory=TaskConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode ({self.mode}) must be {' or '.join(MODES)}")
        self.probe()

    def probe(self) -> ProbeConfig:
        """The question, as `probe_encoders` takes it.

        Raises:
            ValueError: there is no such pool, or too few resamplings.
        """
        return ProbeConfig(columns=[self.task.column], pools=[self.pool], bootstrap=self.bootstrap)


@app("finetune", FinetuneConfig)
def finetune(config: FinetuneConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    encoder = oct_vjepa.Encoder.from_pretrained(config.weights)
    taken, column = encoder.config.input_shape, config.task.column
    with mistakes(ValueError):
        trained = f"the encoder in {config.weights} was trained on {taken}; choose its window"
        check_window(config.data.window, taken, otherwise=trained)
        runtime = config.runtime.pick()
    run = launch.claim_run_folder("it", may_change=("*",))
    with Stages() as stages:
        source = oct_io.open_source(config.data, stages)
        examples = source.labelled(column, test_split=config.test_split)
        stages.say(f"{column}: {examples.describe()}")
    if not config.allow_seen:
        check_test_set(config, source, examples)
    torch.manual_seed(config.seed)
    encoders = {"pretrained": encoder, "random init": oct_vjepa.Encoder(encoder.config)}
    with mistakes(ValueError):  # such as a class that no test participant has
        find = partial(embed, config, runtime)
        rows = probe_encoders(config.probe(), encoders, {column: examples}, find, seed=config.seed)
    extra = {
        "encoder": weights_fingerprint(encoder),
        "dataset_fingerprint": source.volumes.fingerprint,
        "made_up_data": source.made_up,
        "scans_by_flag": dict(source.flags),
        "scans_left_out_for_flags": source.flagged_out,
        "split": examples.split_rule,
    }
    oct_xla.write_provenance(run.path, runtime, seed=config.seed, extra=extra)
    write_results(run.path, rows, examples, made_up=source.made_up)
    print_table(COLUMNS, as_cells(rows))
    print(f"report: {run.path / 'report.html'}")
    run.release()
    return 0


def check_test_set(
    config: FinetuneConfig, source: oct_io.Source, examples: oct_io.LabelledVolumes
) -> None:
    """Refuse test participants whom the encoder's run, if it lies there, has trained on."""
    provenance = Path(config.weights).parent / "provenance.json"
    if provenance.exists():
        refuse_seen(
            json.loads(provenance.read_text(encoding="utf-8")),
            set(examples.participants[examples.held_out].tolist()),
            fingerprint=source.volumes.fingerprint,
            version=source.version,
        )


def embed(
    config: FinetuneConfig,
    runtime: oct_xla.Runtime,
    encoder: oct_vjepa.Encoder,
    examples: Examples,
) -> Features:
    """Features of all examples, from disk if they are there."""
    return load_or_embed(
        encoder,
        examples.volumes,
        volumes_fingerprint=examples.fingerprint,
        folder=Path(config.features),
        batch_size=config.batch_size,
        device=runtime.device,
        spacing=examples.volumes.spacings,
    )


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Turn `encoder=` into `weights=`: Hydra takes `encoder` for pretraining's group of configs."""
    return [f"weights={one[8:]}" if one.startswith("encoder=") else one for one in arguments]


if __name__ == "__main__":
    sys.argv[1:] = spell_out(sys.argv[1:])
    finetune()
