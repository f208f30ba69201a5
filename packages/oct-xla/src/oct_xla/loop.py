"""The training loop: from a feed and an objective to a run folder."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from oct_xla.checkpointer import Checkpointer, RunState
from oct_xla.devices.device import pick_runtime
from oct_xla.devices.runtime import Runtime
from oct_xla.errors import CheckpointError, FeedError, RunFolderError
from oct_xla.feeding.feed import Feed
from oct_xla.folder.bucket import is_url
from oct_xla.folder.files import check_local, lock_folder
from oct_xla.folder.identity import describe_run
from oct_xla.folder.journal import Journal, Sink, say
from oct_xla.folder.remote import CHECKPOINTS, RemoteFolder
from oct_xla.folder.runfolder import RunFolder
from oct_xla.folder.store import Checkpoints
from oct_xla.settings import LoopConfig
from oct_xla.steps.cutting import Cutting
from oct_xla.steps.failures import others_told
from oct_xla.steps.learner import Learner
from oct_xla.steps.maintenance import Notice
from oct_xla.steps.preemption import StopRequest
from oct_xla.telling.metrics import Metrics
from oct_xla.telling.sinks import ProgressSink
from oct_xla.telling.watchers import HangWatch, Profiler, stacks_on_signal
from oct_xla.telling.work import Work
from oct_xla.trainer import Evaluate, FitResult, Trainer

METRICS, PROFILE, LOCK = "metrics.jsonl", "profile", ".fit-lock"


def fit(
    objective: nn.Module,
    feed: Feed,
    config: LoopConfig,
    *,
    runtime: Runtime | None = None,
    run_dir: Path | str | RunFolder | None = None,
    learning_rate: Callable[[int], float] = lambda step: 1e-3,
    seed: int = 0,
    sinks: Sequence[Sink] = (),
    evaluate: Evaluate | None = None,
    progress: bool = False,
    identity: Mapping[str, Any] | None = None,
    work: Work | None = None,
    begin: Callable[[], None] | None = None,
) -> FitResult:
    """Train `objective` on `feed`; go on from the newest whole checkpoint in `run_dir`.

    PyTorch's global generator is seeded anew at each step from (`seed`, step), and the generator
    given to `loss` likewise, so that a resumed run repeats the uninterrupted one bit for bit.

    Args:
        objective: an `oct_xla.Objective`; moved to the device.
        feed: makes the batches.
        config: see there.
        runtime: from `pick_runtime`, which the caller closes; None picks "auto".
        run_dir: for checkpoints and metrics: a folder that all processes see, the URL of one in a
            bucket, or what `claim_run_folder` has claimed. None saves nothing.
        learning_rate: of the step, counted from 0. Begin above 0: on XLA an exact 0 costs a graph.
        seed: names all draws but the feed's.
        sinks: take the rows, on the first process; one that raises is dropped.
        evaluate: called on every process with the number of finished steps, after a save.
        progress: show a bar on a terminal, lines elsewhere.
        identity: what else must be equal for a resume, such as a fingerprint of the data set; plain
            values by name. Seed, batch, length of the feed, precision and the objective's shapes
            are compared anyway, with the checkpoint and between processes.
        work: what a volume costs and the devices can do; rows then tell `mfu`.
        begin: called on the first process before the first step, once the folder is known to hold
            no other run: for what is put on record of this start.

    Raises:
        CheckpointError: if no checkpoint is whole although there are some, if the newest whole one
            belongs to another run, or if the last one, or what follows it, cannot be saved. A run
            that is asked to stop while its bucket does not answer tells so instead, and ends; not
            where hosts have that bucket alone, and no machine a whole checkpoint.
        RunFolderError: if the folder cannot be written, its bucket does not answer, or another
            process is writing it.
        FeedError: if the batch does not divide by the devices, or a sample fails.
        NonFiniteError: after `config.max_skipped` skipped steps in a row; on an accelerator at the
            next row, save or evaluation, until when no other step is applied.
        OutOfMemoryError: if memory runs out with one sample at a time or in `evaluate`, with any
            number where the objective is `coupled`, or where only a new start helps: in the middle
            of a pass that is cut over processes, and on XLA; also if the start before has died with
            so few at a time, and memory may be why.
        RuntimeError: if another process has ended.
        OctXlaError: if processes were given different runs.
    """
    runtime = runtime or pick_runtime()
    _check_batch(feed, config, runtime)
    facts = describe_run(
        objective, feed, seed=seed, precision=runtime.precision, extra=identity or {}
    )
    settings = {f"loop.{name}": value for name, value in asdict(config).items()}
    settings |= {"runtime": runtime.name, "processes": runtime.world, "parallel": runtime.parallel}
    remote, path = _place(run_dir)
    mirror = remote.mirror(config.keep_last) if remote else None
    store = Checkpoints(path / CHECKPOINTS, config.keep_last, mirror) if path else None
    checkpointer = Checkpointer(store, runtime, facts, settings)
    own = None if isinstance(run_dir, RunFolder) else remote
    with others_told(runtime), _writing_alone(path, own, runtime) as busy:
        found = checkpointer.find(busy)
        learner = Learner(objective, runtime, config, seed)
        run = checkpointer.restore(found, learner)
        del found  # it holds the files open
        if begin is not None and runtime.rank == 0:
            begin()
        samples = feed.config.batch_size // runtime.devices
        cutting = Cutting(
            samples, config.accumulate, runtime, path, run.at_once, coupled=learner.coupled
        )
        place = remote.url if remote else str(path)
        told = _sinks(run, config, path, place, progress, sinks) if runtime.rank == 0 else []
        metrics = Metrics(told, seconds_before=run.seconds, runtime=runtime, work=work)
        profiler = Profiler(
            config.profiled,
            path / PROFILE if path else None,
            rank=runtime.rank,
            cuda=runtime.device.type == "cuda",
            devices=runtime.trace,
        )
        watch = HangWatch(config.hang_after_s, rank=runtime.rank)
        trainer = Trainer(learner, feed, checkpointer, metrics, run, profiler, watch, cutting)
        try:
            alone = others_told(runtime, checkpointer.left_alone)
            with alone, stacks_on_signal(), StopRequest() as stop, Notice(stop), watch:
                result = trainer.train(learning_rate, evaluate, stop)
                if remote is not None and result.reason == "stopped":
                    remote.stop(copied=checkpointer.copied)
                learner.hand_back()
                return result
        finally:
            cutting.close()
            profiler.close()
            checkpointer.close()
            metrics.close()


def _check_batch(feed: Feed, config: LoopConfig, runtime: Runtime) -> None:
    if feed.config.batch_size % (runtime.devices * config.accumulate):
        raise FeedError(
            f"feed.batch_size ({feed.config.batch_size}) must be a multiple of devices x"
            f" loop.accumulate ({runtime.devices} x {config.accumulate})"
        )
    feed.keys(0, world=runtime.world)  # draws none, but refuses subsets that do not divide


def _place(run_dir: Path | str | RunFolder | None) -> tuple[RemoteFolder | None, Path | None]:
    """The bucket, if the run lies in one, and the folder on this machine."""
    if isinstance(run_dir, RunFolder):
        return run_dir.remote, run_dir.path
    if run_dir is None or not is_url(run_dir):
        return None, None if run_dir is None else check_local(Path(run_dir))
    remote = RemoteFolder(str(run_dir))
    return remote, remote.path


@contextmanager
def _writing_alone(
    path: Path | None, remote: RemoteFolder | None, runtime: Runtime
) -> Iterator[str]:
    """Lock the run folder on the first process, and take it up; gives why that cannot be."""
    if path is None or runtime.rank != 0:
        yield ""
        return
    try:
        lock = lock_folder(path, LOCK)
    except RunFolderError as error:
        yield str(error)
        return
    try:
        busy = _take_up(remote)
        try:
            yield busy
        except BaseException:
            if remote is not None and not busy:
                remote.let_go(failed=True)
            raise
        if remote is not None:
            remote.let_go()
    finally:
        os.close(lock)


def _take_up(remote: RemoteFolder | None) -> str:
    try:
        if remote is not None:
            remote.take_up()
    except (CheckpointError, RunFolderError) as error:
        return str(error)
    return ""


def _sinks(
    run: RunState,
    config: LoopConfig,
    run_dir: Path | None,
    place: str,
    progress: bool,
    more: Sequence[Sink],
) -> list[Sink]:
    sinks: list[Sink] = []
    if run_dir is not None:
        # The row of a step whose evaluation is not over comes again, with its scores.
        journal = Journal(run_dir / METRICS, run.step - run.pending)
        if journal.dropped:  # a kill does that, and so does a checkpoint that somebody took away
            start = (
                f"goes on from step {run.step}" if run.step else "no checkpoint, begins at step 0"
            )
            say(f"{place}: {start}; {journal.dropped} rows of metrics after it come again")
        sinks.append(journal)
    return [*sinks, *([ProgressSink(config.steps, run.step)] if progress else []), *more]
