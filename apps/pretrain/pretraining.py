"""A pretraining run from top to bottom: folder, source, objective, training, probe, report."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import oct_io
import oct_vjepa
import oct_xla
import torch
from benching import bench, work_of
from oct_io.storage.files import redact
from oct_launch import (
    EXIT_STOPPED,
    Launch,
    Stages,
    check_positions,
    check_window,
    mistakes,
    print_table,
)
from oct_vjepa.evaluation.encoders import probe_encoders
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.objectives.methods import method_of
from oct_vjepa.objectives.objective import Objective
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.trials.comparison import COLUMNS, as_cells
from report import write_report
from samples import PretrainSamples
from settings import MAY_CHANGE, TOLD, PretrainConfig, schema_of
from watching import GuardSink, Watch, make_probe


def run(config: PretrainConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    if config.bench:
        return bench(config)
    with mistakes(ValueError):
        given = f"encoder.input_shape is {config.encoder.input_shape}; make them equal"
        check_window(config.data.window, config.encoder.input_shape, otherwise=given)
        initial = None
        if config.initial:
            initial = oct_vjepa.Encoder.from_pretrained(config.initial, config.encoder)
        runtime = config.runtime.pick()
        folder = launch.claim_run_folder(
            "the run",
            groups=(f"objective: {schema_of(config.objective)}",),
            resume=config.resume,
            may_change=MAY_CHANGE,
            rank=runtime.rank,
        )
    with Stages() as stages:
        source = oct_io.open_source(config.data, stages)
        for remark in source.remarks:
            stages.say(remark)
    with mistakes(ValueError):
        spacings = source.volumes.spacings
        check_positions(config.encoder.position_unit, source.volumes.shape, spacings)
    seen = source.outside(config.data.excluded_splits)
    # A column that cannot be probed is told now, not after training.
    questions = {column: source.labelled(column) for column in config.probe.columns}
    with mistakes(ValueError):
        objective = make_objective(config, source, seen, initial)
        probe = make_probe(
            source.volumes,
            questions,
            config.probed_volumes if config.loop.evaluate_every else 0,
            batch_size=config.feed.batch_size,
            seed=config.seed,
        )
    samples = PretrainSamples(
        source.volumes,
        seen,
        config.masking,
        augment=config.augment,
        encoder=objective.encoder.config,
        seed=config.seed,
    )
    if runtime.rank == 0:
        record(config, folder.path, runtime, source, seen, initial)
    watched = samples.watched(config.watched_volumes)
    watch = Watch(objective, watched, probe, runtime.device)
    data = source.volumes.fingerprint
    result = train(config, objective, samples, runtime, folder, watch, data)
    runtime.close()
    if result.reason == "stopped":
        print(f"stopped at step {result.step}; the same command goes on from there")
        return EXIT_STOPPED
    if runtime.rank == 0:
        objective.result.save_pretrained(folder.path / "encoder")
        conclude(config, folder.path, source, questions, samples)
    folder.release()
    return 0


def record(
    config: PretrainConfig,
    run_dir: Path,
    runtime: oct_xla.Runtime,
    source: oct_io.Source,
    seen: Sequence[int],
    initial: oct_vjepa.Encoder | None,
) -> None:
    """Write down where the run comes from, and which scans were refused."""
    extra = source.describe(seen, config.data.excluded_splits)
    if initial is not None:
        start = {"weights": redact(config.initial), "fingerprint": weights_fingerprint(initial)}
        extra["initial"] = start
    oct_xla.write_provenance(run_dir, runtime, seed=config.seed, extra=extra)
    source.write_quarantine(run_dir / "quarantine.jsonl")


def conclude(
    config: PretrainConfig,
    run_dir: Path,
    source: oct_io.Source,
    questions: Mapping[str, oct_io.LabelledVolumes],
    samples: PretrainSamples,
) -> None:
    """Probe the encoder that the run left behind, and write the report."""
    pretrained = oct_vjepa.Encoder.from_pretrained(run_dir / "encoder")
    encoders = {"pretrained": pretrained}
    if config.initial:
        encoders["initial"] = oct_vjepa.Encoder.from_pretrained(config.initial, pretrained.config)
    encoders["random init"] = random_encoder(pretrained.config, config.seed)
    with mistakes(ValueError):
        rows = probe_encoders(
            config.probe,
            encoders,
            questions,
            lambda encoder, asked: oct_vjepa.embed_volumes(
                encoder, asked.volumes, spacing=asked.volumes.spacings
            ),
            seed=config.seed,
        )
    title = method_of(config.objective).title
    page = write_report(run_dir, source, samples, encoders, rows, method=title)
    if rows:
        print_table(COLUMNS, as_cells(rows))
    print(f"report: {page}")


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
    data: str,
) -> oct_xla.FitResult:
    """Train, or go on training, in the run folder; `data` is the fingerprint of the volumes."""
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
        identity={"data": data},
        work=work_of(config, runtime) if config.tell_mfu else None,
    )
