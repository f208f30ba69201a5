"""Pretrain an encoder on OCT scans: from files to a run folder with weights, curves and a report.

uv run apps/pretrain                                     made-up retinas, no data needed
uv run apps/pretrain data=folder data.root=DIR           any folder of scans
uv run apps/pretrain --cfg job                           every setting and its value
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import hydra
import oct_io
import oct_vjepa
import oct_xla
import torch
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from objectives import GuardSink, build_objective, method_of, register_schemas, schema_of
from oct_io.storage.files import redact
from oct_report import EXIT_STOPPED, Stages, exit_codes, mistakes, print_table
from oct_vjepa.evaluation.comparison import COLUMNS, ProbeRow, as_cells, compare_features
from oct_vjepa.evaluation.encoders import ProbeConfig
from oct_vjepa.evaluation.features import Features
from oct_vjepa.model.initial import load_initial
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.objectives.objective import Objective, TeacherConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from report import write_report
from samples import PretrainSamples
from watching import Watch, make_probe


@dataclass(kw_only=True, slots=True)
class RuntimeConfig:
    """Where the run computes."""

    device: str = "auto"
    """auto, cpu, cuda or xla."""

    precision: str = "fp32"
    """fp32, or bf16 autocast; parameters stay fp32."""


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Who is told besides metrics.jsonl."""

    wandb: bool = False
    """Log to Weights & Biases; offline when WANDB_API_KEY is not set."""

    project: str = "oct-vjepa"
    """Weights & Biases project."""


@dataclass(kw_only=True, slots=True)
class PretrainConfig:
    """One pretraining run."""

    name: str = "${data.name}"
    """Name of the run."""

    run_dir: str = "runs/${name}"
    """Where the run is written; the same command again goes on from there."""

    seed: int = 0
    """Of the weights, the order, the masks and the probes."""

    resume: str = "auto"
    """auto goes on from the newest whole checkpoint; never refuses to touch an existing run."""

    measure_input: bool = True
    """Set encoder.input_mean and input_std from the training volumes."""

    initial: str = ""
    """Encoder to start from, a folder or URL with the same `encoder` settings; empty: random."""

    watched_volumes: int = 128
    """Volumes whose features are looked at for the effective rank, at each evaluation."""

    probed_volumes: int = 64
    """Labelled volumes, none of a test participant, that are probed for probe.columns at each
    evaluation; 0: none. 64 at every 50 steps of 16 volumes are some 2 % of the time."""

    data: oct_io.SourceConfig = field(default_factory=oct_io.SourceConfig)
    encoder: oct_vjepa.EncoderConfig = field(default_factory=oct_vjepa.EncoderConfig)
    masking: oct_vjepa.MaskingConfig = field(default_factory=oct_vjepa.MaskingConfig)
    objective: TeacherConfig = field(default_factory=TeacherConfig)  # a subclass: objectives.py
    schedule: oct_vjepa.ScheduleConfig = field(default_factory=oct_vjepa.ScheduleConfig)
    feed: oct_xla.FeedConfig = field(default_factory=oct_xla.FeedConfig)
    loop: oct_xla.LoopConfig = field(default_factory=oct_xla.LoopConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


TOLD = ("encoder", "masking", "objective", "schedule", "feed", "loop")
"""Settings that a tracker is told: the science, not where scans lie."""

MAY_CHANGE = ("runtime.*", "tracking.*", "resume", "feed.workers", "feed.prefetch", "data.jobs")
"""Settings that a resumed run may change, because they do not change what it computes."""


HEAD = """\
# Repeats the run: uv run apps/pretrain --config-dir THIS_FOLDER --config-name config run_dir=OTHER
defaults:
- pretrain_schema
- objective: {objective}
- _self_
- override hydra/job_logging: none
- override hydra/hydra_logging: none
hydra: {{run: {{dir: .}}, output_subdir: null}}
"""
"""Put before the settings in config.yaml: their types, and Hydra without files of its own."""


def pretrain(config: PretrainConfig, resolved: DictConfig) -> int:
    """Run what `config` asks for; returns the exit code."""
    with mistakes(ValueError):
        check_window(config)
        initial = load_initial(config.initial, config.encoder) if config.initial else None
        runtime = oct_xla.pick_runtime(config.runtime.device, precision=config.runtime.precision)
        run = oct_xla.claim_run_folder(
            Path(config.run_dir),
            HEAD.format(objective=schema_of(config.objective)) + OmegaConf.to_yaml(resolved),
            cast(dict[str, object], OmegaConf.to_container(resolved)),
            resume=config.resume,
            may_change=MAY_CHANGE,
            rank=runtime.rank,
        )
    with Stages() as stages:
        source = oct_io.open_source(config.data, stages)
    seen = source.outside(config.data.excluded_splits)
    for column in config.probe.columns:
        source.labelled(column)  # a column that cannot be probed is told now, not after training
    with mistakes(ValueError):
        objective = make_objective(config, source, seen, initial)
        probe = make_probe(
            source,
            config.probe.columns,
            config.probed_volumes if config.loop.evaluate_every else 0,
            batch_size=config.feed.batch_size,
            seed=config.seed,
        )
    samples = PretrainSamples(
        source.volumes, seen, config.masking, encoder=objective.encoder.config, seed=config.seed
    )
    if runtime.rank == 0:
        extra = describe(config, source, seen)
        if initial is not None:
            extra["initial"] = {
                "weights": redact(config.initial),
                "fingerprint": weights_fingerprint(initial),
            }
        oct_xla.write_provenance(run.path, runtime, seed=config.seed, extra=extra)
        source.write_quarantine(run.path / "quarantine.jsonl")
    watched = samples.watched(config.watched_volumes)
    watch = Watch(objective, watched, probe, runtime.device)
    result = train(config, objective, samples, runtime, run, watch)
    runtime.close()
    if result.reason == "stopped":
        print(f"stopped at step {result.step}; the same command goes on from there")
        return EXIT_STOPPED
    if runtime.rank == 0:
        objective.result.save_pretrained(run.path / "encoder")
        conclude(config, run.path, source, samples)
    run.release()
    return 0


def conclude(
    config: PretrainConfig, run_dir: Path, source: oct_io.Source, samples: PretrainSamples
) -> None:
    """Probe the encoder that the run left behind, and write the report."""
    pretrained = oct_vjepa.Encoder.from_pretrained(run_dir / "encoder")
    encoders = {"pretrained": pretrained}
    if config.initial:
        encoders["initial"] = load_initial(config.initial, pretrained.config)
    encoders["random init"] = random_encoder(pretrained.config, config.seed)
    with mistakes(ValueError):
        rows = probe_encoders(config.probe, encoders, source, seed=config.seed)
    method = method_of(config.objective)
    page = write_report(run_dir, source, samples, encoders, rows, method=method)
    if rows:
        print_table(COLUMNS, as_cells(rows))
    print(f"report: {page}")


def check_window(config: PretrainConfig) -> None:
    """Refuse a window whose shape is not the encoder's, before any scan is read."""
    shape = oct_io.WINDOWS[config.data.window].shape
    if shape != config.encoder.input_shape:
        raise ValueError(
            f"data.window={config.data.window} gives volumes of {shape}, but encoder.input_shape "
            f"is {config.encoder.input_shape}; make them equal"
        )


def make_objective(
    config: PretrainConfig,
    source: oct_io.Source,
    seen: Sequence[int],
    initial: oct_vjepa.Encoder | None,
) -> Objective:
    """Build the objective for volumes of this source, around the initial weights if there are any.

    Raises:
        ValueError: the masks and the grid do not fit.
    """
    settings = config.encoder
    if config.measure_input:
        mean, std = source.measure_intensity(seen)
        settings = replace(settings, input_mean=mean, input_std=std)
    torch.manual_seed(config.seed)
    encoder = oct_vjepa.Encoder(settings)
    if initial is not None:
        encoder.load_state_dict(initial.state_dict())
    return build_objective(encoder, config.objective, config.masking)


def random_encoder(config: oct_vjepa.EncoderConfig, seed: int) -> oct_vjepa.Encoder:
    """Draw the weights that training began with, unless it was given others."""
    torch.manual_seed(seed)
    return oct_vjepa.Encoder(config).eval()


def train(
    config: PretrainConfig,
    objective: Objective,
    samples: PretrainSamples,
    runtime: oct_xla.Runtime,
    run: oct_xla.RunFolder,
    watch: Watch,
) -> oct_xla.FitResult:
    """Train, or go on training, in the run folder."""
    feed = config.feed
    if len(samples) < feed.batch_size:
        print(f"{len(samples)} volumes are fewer than feed.batch_size; batches hold them all")
        feed = replace(feed, batch_size=len(samples))
    sinks: list[oct_xla.Sink] = []
    if runtime.rank == 0:
        sinks.append(GuardSink(run.path / "metrics.jsonl"))
    if config.tracking.wandb and runtime.rank == 0:
        told = {name: asdict(getattr(config, name)) for name in TOLD}
        sinks.append(
            oct_xla.WandbSink(
                run_id=run.run_id,
                project=config.tracking.project,
                name=config.name,
                folder=run.path,
                config=told,
            )
        )
    return oct_xla.fit(
        objective,
        oct_xla.Feed(samples, len(samples), feed),
        config.loop,
        runtime=runtime,
        run_dir=run.path,
        learning_rate=lambda step: config.schedule.at(step, config.loop.steps),
        seed=config.seed,
        sinks=sinks,
        evaluate=watch,
        progress=True,
    )


def probe_encoders(
    config: ProbeConfig,
    encoders: Mapping[str, oct_vjepa.Encoder],
    source: oct_io.Source,
    *,
    seed: int,
) -> list[ProbeRow]:
    """Probe the encoders and the axial profile for every label column of `config`."""
    rows = []
    embedded: dict[tuple[str, str], Features] = {}
    for column in config.columns:
        examples = source.labelled(column)
        for name, encoder in encoders.items():
            key = name, examples.fingerprint  # columns mostly label the same volumes
            if key not in embedded:
                embedded[key] = oct_vjepa.embed_volumes(
                    encoder, examples.volumes, spacing=examples.volumes.spacings
                )
        features = {
            name: {
                pool: values
                for pool, values in embedded[name, examples.fingerprint].items()
                if pool in config.pools
            }
            for name in encoders
        }
        features["axial profile"] = {"": oct_vjepa.axial_profile(examples.volumes)}
        rows += compare_features(
            features,
            {column: examples.labels},
            examples.participants,
            examples.held_out,
            reference="random init",
            seed=seed,
            bootstrap=config.bootstrap,
        )
    return rows


def describe(
    config: PretrainConfig, source: oct_io.Source, seen: Sequence[int]
) -> dict[str, object]:
    """What provenance.json records besides versions and device."""
    splits = config.data.excluded_splits
    return {
        "seed": config.seed,
        "dataset_fingerprint": source.volumes.fingerprint,
        "made_up_data": source.made_up,
        "volumes": len(source.volumes),
        "volumes_in_training": len(seen),
        "scans_refused": len(source.volumes.quarantined),
        "scans_by_flag": dict(source.flags),
        "scans_left_out_for_flags": source.flagged_out,
        "excluded_splits": splits,
        "excluded_participants": source.excluded_participants(splits),
        "participants_in_training": source.participants(seen),
        "dataset_version": source.version,
    }


EXPECTED = (
    HydraException,
    OmegaConfBaseException,
    oct_io.OctIoError,
    oct_vjepa.WeightsError,
    oct_xla.OctXlaError,
)
"""Errors whose text tells the user what to put right."""

ConfigStore.instance().store("pretrain_schema", PretrainConfig)
register_schemas()


@hydra.main(version_base="1.3", config_path="../../configs", config_name="pretrain")
def main(tree: DictConfig) -> None:
    """Check the configuration, then run it."""
    with exit_codes(*EXPECTED):  # here as well: Hydra adds a line to what passes through it
        with mistakes(ValueError, AttributeError):  # AttributeError: a key that was added with +
            config = cast(PretrainConfig, OmegaConf.to_object(tree))
        OmegaConf.resolve(tree)
        if code := pretrain(config, tree):
            sys.exit(code)


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra else prints several lines and exits 1
    with exit_codes(*EXPECTED):
        main()
