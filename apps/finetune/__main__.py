"""Ask a frozen encoder a question: a linear probe for one label, beside random init and a baseline.

uv run apps/finetune                                     probes runs/phantom/encoder for `thin`
uv run apps/finetune task=fluid pool=max                 another label, another pooling
uv run apps/finetune encoder=DIR data=aireadi data.root=PLACE task=diabetes4
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import hydra
import oct_io
import oct_vjepa
import oct_xla
import torch
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from oct_io.catalog.releases import refuse_seen
from oct_report import Stages, exit_codes, mistakes, print_table
from oct_vjepa.evaluation.comparison import COLUMNS, as_cells, compare_features
from oct_vjepa.evaluation.encoders import ProbeConfig
from oct_vjepa.evaluation.features import Features, load_or_embed
from oct_vjepa.model.weights import weights_fingerprint
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from results import write_results

MODES = ("linear",)


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """The question."""

    column: str = "study_group"
    """Column of the label table."""


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where the features are computed."""

    device: str = "auto"
    """auto, cpu, cuda or xla."""

    precision: str = "fp32"
    """fp32, or bf16 autocast."""


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
        ProbeConfig(pools=[self.pool], bootstrap=self.bootstrap)


HEAD = """\
# Repeats it: uv run apps/finetune --config-dir THIS_FOLDER --config-name config run_dir=OTHER
defaults:
- finetune_schema
- _self_
- override hydra/job_logging: none
- override hydra/hydra_logging: none
hydra: {run: {dir: .}, output_subdir: null}
"""
"""Put before the settings in config.yaml: their types, and Hydra without files of its own."""


def finetune(config: FinetuneConfig, resolved: DictConfig) -> None:
    """Run what `config` asks for."""
    encoder = oct_vjepa.Encoder.from_pretrained(config.weights)
    with mistakes(ValueError):
        check_window(config, encoder)
        runtime = oct_xla.pick_runtime(config.runtime.device, precision=config.runtime.precision)
    tree = cast(dict[str, object], OmegaConf.to_container(resolved))
    run = oct_xla.claim_run_folder(
        Path(config.run_dir), HEAD + OmegaConf.to_yaml(resolved), tree, may_change=("*",)
    )
    with Stages() as stages:
        source = oct_io.open_source(config.data, stages)
        examples = source.labelled(config.task.column, test_split=config.test_split)
        stages.say(f"{config.task.column}: {examples.describe()}")
    if not config.allow_seen:
        check_test_set(config, source, examples)
    torch.manual_seed(config.seed)
    encoders = {"pretrained": encoder, "random init": oct_vjepa.Encoder(encoder.config)}
    features = {
        name: {config.pool: embed(config, one, examples, runtime)[config.pool]}
        for name, one in encoders.items()
    }
    features["axial profile"] = {"": oct_vjepa.axial_profile(examples.volumes)}
    with mistakes(ValueError):  # such as a class that no test participant has
        rows = compare_features(
            features,
            {config.task.column: examples.labels},
            examples.participants,
            examples.held_out,
            reference="random init",
            seed=config.seed,
            bootstrap=config.bootstrap,
        )
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


def check_window(config: FinetuneConfig, encoder: oct_vjepa.Encoder) -> None:
    """Refuse a window whose shape the encoder was not trained on."""
    shape = oct_io.WINDOWS[config.data.window].shape
    if shape != encoder.config.input_shape:
        raise ValueError(
            f"data.window={config.data.window} gives volumes of {shape}, but the encoder in "
            f"{config.weights} was trained on {encoder.config.input_shape}; choose its window"
        )


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
    encoder: oct_vjepa.Encoder,
    examples: oct_io.LabelledVolumes,
    runtime: oct_xla.Runtime,
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


EXPECTED = (
    HydraException,
    OmegaConfBaseException,
    oct_io.OctIoError,
    oct_vjepa.WeightsError,
    oct_xla.OctXlaError,
)
"""Errors whose text tells the user what to put right."""

ConfigStore.instance().store("finetune_schema", FinetuneConfig)


@hydra.main(version_base="1.3", config_path="../../configs", config_name="finetune")
def main(tree: DictConfig) -> None:
    """Check the configuration, then run it."""
    with exit_codes(*EXPECTED):  # here as well: Hydra adds a line to what passes through it
        with mistakes(ValueError, AttributeError):  # AttributeError: a key that was added with +
            config = cast(FinetuneConfig, OmegaConf.to_object(tree))
        OmegaConf.resolve(tree)
        finetune(config, tree)


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra else prints several lines and exits 1
    with exit_codes(*EXPECTED):
        sys.argv[1:] = spell_out(sys.argv[1:])
        main()
