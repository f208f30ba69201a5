"""A pretraining run from top to bottom: folder, source, objective, training, probe, report."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import oct_io
import oct_vjepa
import oct_xla
import torch
from benching import bench, work_of
from gathering import (
    DataSet,
    advice_of,
    all_people,
    check_sets,
    describe,
    fingerprints,
    gather,
    measure_intensity,
)
from mixing import mix, tell_shares
from oct_io.catalog.seen import BEFORE, PROVENANCE, TRAINED, read_origin, seen_before
from oct_io.quarantine import write_quarantine
from oct_io.storage.files import redact
from oct_judge.candidates import random_encoder
from oct_judge.closing import (
    Asked,
    ask_questions,
    open_questions,
    remarks_of_all,
    rows_of_all,
    sentence_of_all,
)
from oct_launch import (
    EXIT_STOPPED,
    Launch,
    Mistake,
    Stages,
    mistakes,
    print_table,
)
from oct_vjepa.convert.continuing import Start, hand_over, read_start
from oct_vjepa.model.weights import weights_fingerprint
from oct_vjepa.objectives.configuration import JepaConfig
from oct_vjepa.objectives.methods import method_of
from oct_vjepa.objectives.objective import Objective
from oct_vjepa.objectives.registry import build_objective
from oct_vjepa.saving import write_text
from oct_xla.devices.malloc import give_freed_memory_back
from oct_xla.errors import OutOfMemoryError
from oct_xla.feeding.mixture import Mixture
from pairing import check_pairs, find_partners
from report import write_report
from samples import PretrainSamples
from settings import PretrainConfig, may_change, schema_of, tell_masks
from smaller import next_start, shrink
from tracking import make_sink, send_artifacts
from watching import GuardSink, Watch, make_probe


def run(config: PretrainConfig, launch: Launch) -> int:
    """Run what `config` asks for; returns the exit code."""
    if config.bench:
        return bench(config)
    with mistakes(ValueError, oct_xla.RunFolderError):
        config, smaller = shrink(config)
        check_pairs(config.pairs, config.objective)
        check_sets(config)
        start = find_start(config, config.encoder) if config.initial else None
        runtime = config.runtime.pick()
        if smaller:  # memory was short: what building the smaller cache frees is needed
            give_freed_memory_back()
        claimed = launch.claim_run_folder(
            "the run",
            groups=(f"objective: {schema_of(config.objective)}",),
            resume=config.resume,
            may_change=may_change(config),
            rank=runtime.rank,
        )
    with claimed as folder:
        if runtime.rank == 0 and (said := tell_masks(launch.choices)):
            print(said)
        return pretrain(config, runtime, folder, start, smaller)


def pretrain(
    config: PretrainConfig,
    runtime: oct_xla.Runtime,
    folder: oct_xla.RunFolder,
    start: Start | None,
    smaller: Mapping[str, Any],
) -> int:
    """Train in a claimed folder and ask what that has led to; returns the exit code."""
    with Stages() as stages:
        sets, before = with_earlier(config, gather(config, stages))
        for one in sets:
            for remark in one.source.remarks:
                stages.say(remark)
    source = sets[0].source
    refuse_other_people(folder.path, all_people(sets))
    questions = open_questions(config.probe, source, seed=config.seed)
    with mistakes(ValueError):
        objective = make_objective(config, sets, start)
        probe = make_probe(
            source.volumes,
            {one.config.task.column: one.study.examples for one in questions},
            config.probed_volumes if config.loop.evaluate_every else 0,
            seed=config.seed,
        )
        every = [make_samples(config, one, objective.encoder.config) for one in sets]
        mixture = mix(
            config.mixture, sets, every, seed=config.feed.seed, subsets=config.feed.subsets
        )
    samples = every[0]
    if mixture is not None and runtime.rank == 0:
        print(tell_shares(mixture))
    if runtime.rank == 0:
        for advice in advice_of(sets):
            print(advice)
    watched = samples.watched(config.watched_volumes)
    parts = runtime.devices * config.loop.accumulate
    at_once = max(1, config.feed.batch_size // parts)
    alone = runtime.name != "xla" or runtime.world == 1
    watch = Watch(objective, watched, probe, at_once, alone=alone)
    volumes = fingerprints(sets)
    data = smaller.get("data", volumes["data"])
    try:
        identity = {**volumes, "data": data, **(mixture.facts if mixture else {})}
        feeding = mixture or samples
        begin = partial(record, config, folder.path, runtime, sets, before, start, smaller)
        result = train(config, objective, feeding, runtime, folder, watch, identity, begin)
    except OutOfMemoryError as error:
        if objective.coupled and at_once > 1:
            raise
        encoder = objective.encoder.config
        raise next_start(config, folder.path, encoder, data, error) from error
    runtime.close()
    if result.reason == "stopped":
        print(f"stopped at step {result.step}; the same command goes on from there")
        return EXIT_STOPPED
    if runtime.rank == 0:
        objective.result.save_pretrained(folder.path / "encoder")
        send_artifacts(config, folder, folder.path / "encoder")
        people = all_people(sets)
        page = conclude(config, runtime, folder.path, source, questions, samples, people)
        print(f"report: {folder.name_of(page)}")
    return 0


def record(
    config: PretrainConfig,
    run_dir: Path,
    runtime: oct_xla.Runtime,
    sets: Sequence[DataSet],
    before: Sequence[str],
    start: Start | None,
    smaller: Mapping[str, Any],
) -> None:
    """Write down where the run comes from, and which scans were refused."""
    extra = describe(sets)
    if smaller:
        extra["smaller"] = dict(smaller)
    extra[BEFORE] = before
    if start is not None:
        extra["initial"] = {
            "weights": redact(config.initial),
            "fingerprint": weights_fingerprint(start.student),
            "notes": list(start.notes),
        }
    oct_xla.write_provenance(run_dir, runtime, seed=config.seed, extra=extra)
    refused = [refusal for one in sets for refusal in one.source.volumes.quarantined]
    write_quarantine(run_dir / "quarantine.jsonl", refused)


def refuse_other_people(run_dir: Path, people: Sequence[str]) -> None:
    """Refuse to go on with others than a run has learned from so far, before they are written down.

    Its settings may be the same: a split is a table, and what stands in that can change.

    Raises:
        Mistake: how many are new, and how many are gone.
    """
    begun = (run_dir / "encoder").exists() or any((run_dir / "checkpoints").glob("step-*"))
    known = begun and (run_dir / PROVENANCE).exists()
    before = (read_origin(run_dir / "encoder") or {}).get(TRAINED) if known else None
    if not isinstance(before, list) or set(before) == set(people):
        return
    new, gone = len(set(people) - set(before)), len(set(before) - set(people))
    raise Mistake(
        f"{run_dir}: this run has learned from {len(before):,} participants; now {new:,} others "
        f"would be added and {gone:,} left out, since scans or their split have changed; set them "
        "back or choose another run_dir"
    )


def with_earlier(
    config: PretrainConfig, sets: Sequence[DataSet]
) -> tuple[list[DataSet], list[str]]:
    """The sets, with a remark where another set or run has whom one leaves out; whom runs saw.

    Such runs are those of the encoders whose weights or features this one takes over.
    """
    begun_from = (config.initial, getattr(config.objective, "teacher", ""))
    before = seen_before(filter(None, begun_from))
    people, remarked = all_people(sets), []
    for one in sets:
        left_out = one.source.excluded_participants(one.excluded_splits)
        remarks = list(one.source.remarks)
        if same := len(set(left_out).intersection(people)):
            remarks.append(
                f"{same:,} of {len(left_out):,} participants that are left out have the id of one "
                "whom the run sees in another set: if they are one person, what it is asked of "
                "them is no test"
            )
        if met := len(set(left_out).intersection(before)):
            remarks.append(
                f"{met:,} of {len(left_out):,} participants that are left out were seen by the run "
                "that this one begins from: what it is asked of them is no test"
            )
        remarked.append(replace(one, source=replace(one.source, remarks=tuple(remarks))))
    return remarked, before


def make_samples(
    config: PretrainConfig, one: DataSet, encoder: oct_vjepa.EncoderConfig
) -> PretrainSamples:
    """What the feed asks a set for.

    Raises:
        ValueError: `pairs` asks for partners, and no volume has one.
    """
    volumes = one.source.volumes
    return PretrainSamples(
        volumes,
        one.seen,
        config.masking,
        augment=config.augment,
        encoder=encoder,
        seed=config.seed,
        partners=find_partners(config.pairs, volumes.entries, one.seen, of=one.name),
    )


def conclude(
    config: PretrainConfig,
    runtime: oct_xla.Runtime,
    run_dir: Path,
    source: oct_io.Source,
    questions: list[Asked],
    samples: PretrainSamples,
    people: Sequence[str],
) -> Path:
    """Ask the encoder that the run left behind, write probes.json, and return the report.

    `people` are those whom it has learned from.
    """
    encoders = {"pretrained": oct_vjepa.Encoder.from_pretrained(run_dir / "encoder")}
    settings, initial = encoders["pretrained"].config, None
    if config.initial:
        initial = encoders["initial"] = find_start(config, settings).teacher
    encoders["random init"] = random_encoder(settings, config.seed)
    with Stages() as stages:
        probes = ask_questions(
            questions,
            encoders["pretrained"],
            initial,
            runtime,
            run_dir,
            stages,
            people,
        )
    for encoder in encoders.values():
        encoder.cpu()  # whoever embedded moved it to the device; pictures are drawn on the host
    text = json.dumps(probes, indent=1, ensure_ascii=False)
    write_text(run_dir / "probes.json", text + "\n")
    title = method_of(config.objective).title
    page = write_report(run_dir, source, samples, encoders, probes, method=title)
    if probes:
        print_table(*rows_of_all(probes))
        print(sentence_of_all(probes), *remarks_of_all(probes))
    return page


def find_start(config: PretrainConfig, encoder: oct_vjepa.EncoderConfig) -> Start:
    """Read the weights that the run starts from.

    Raises:
        WeightsError: they cannot be read, or do not fit.
    """
    heads = config.objective.predictor.heads if isinstance(config.objective, JepaConfig) else 0
    return read_start(
        config.initial, encoder, mask_sets=len(config.masking.sets), predictor_heads=heads or 12
    )


def make_objective(
    config: PretrainConfig, sets: Sequence[DataSet], start: Start | None
) -> Objective:
    """Build the objective for volumes of these sets, around the initial weights if there are any.

    Raises:
        ValueError: the masks and the grid do not fit.
        WeightsError: neither do the predictor of the weights and the one of the run.
    """
    settings = config.encoder
    if config.measure_input:
        settings = measure_intensity(sets, settings)
    torch.manual_seed(config.seed)
    encoder = oct_vjepa.Encoder(settings)
    if start is not None:
        encoder.load_state_dict(start.student.state_dict())
    objective = build_objective(encoder, config.objective, config.masking)
    if start is not None and (start.predictor is not None or start.teacher is not start.student):
        hand_over(start, objective)
    return objective


def train(
    config: PretrainConfig,
    objective: Objective,
    samples: PretrainSamples | Mixture,
    runtime: oct_xla.Runtime,
    run: oct_xla.RunFolder,
    watch: Watch,
    identity: Mapping[str, Any],
    begin: Callable[[], None],
) -> oct_xla.FitResult:
    """Train, or go on training, in the run folder; `identity` says which volumes, and how mixed.

    `begin` is called once it is known that the folder holds no other run.
    """
    feed = config.feed
    if feed.subsets <= len(samples) < feed.batch_size:
        size = len(samples) - len(samples) % feed.subsets
        print(f"{len(samples)} volumes are fewer than feed.batch_size; batches hold {size}")
        feed = replace(feed, batch_size=size)
    sinks: list[oct_xla.Sink] = []
    if runtime.rank == 0:
        sinks.append(GuardSink(run.path / "metrics.jsonl"))
    if config.tracking.wandb and runtime.rank == 0:
        sinks.append(make_sink(config, run))
    return oct_xla.fit(
        objective,
        oct_xla.Feed(samples, len(samples), feed),
        config.loop,
        runtime=runtime,
        run_dir=run,
        learning_rate=lambda step: config.schedule.at(step, config.loop.steps),
        seed=config.seed,
        sinks=sinks,
        evaluate=watch,
        progress=True,
        identity=identity,
        begin=begin,
        work=work_of(config, runtime) if config.tell_mfu else None,
    )
