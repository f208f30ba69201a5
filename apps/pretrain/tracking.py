"""What Weights & Biases is told of a run, if it is: its rows, and in the end what it leaves."""

from dataclasses import asdict
from pathlib import Path

import oct_xla
from oct_xla.folder.remote import CHECKPOINTS
from settings import TOLD, PretrainConfig


def make_sink(config: PretrainConfig, run: oct_xla.RunFolder) -> oct_xla.WandbSink:
    """The sink of this run; a second one goes on where the first was closed."""
    return oct_xla.WandbSink(
        run_id=run.run_id,
        project=config.tracking.project,
        name=config.name,
        folder=run.path,
        config={name: asdict(getattr(config, name)) for name in TOLD},
    )


def send_artifacts(config: PretrainConfig, run: oct_xla.RunFolder, encoder: Path) -> None:
    """Send the encoder and a checkpoint, if asked to: the best one, else the last."""
    if not config.tracking.artifacts:
        return
    keep = config.loop.keep_last
    mirror = run.remote.mirror(keep) if run.remote else None
    store = oct_xla.Checkpoints(run.path / CHECKPOINTS, keep, mirror)
    store.bring_newer()  # hosts that share a bucket alone leave them there
    best = store.best()
    step = best["step"] if best else store.newest()
    if step is not None:
        store.bring(step)
    sink = make_sink(config, run)
    sink.keep_folder(encoder, "encoder")
    if step is not None:
        sink.keep_folder(store.path(step), "checkpoint")
    sink.close()
