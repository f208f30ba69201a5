"""Train one objective on a CPU, CUDA GPUs or TPUs: `fit(objective, feed, LoopConfig(...))`.

`loop` has `fit`, which builds a `trainer`; it takes the steps of a learner (`steps/`) on batches
(`feeding/`) where the run computes (`devices/`), saves through `checkpointer` into the run's
`folder/`, on a disk or in a bucket, and has it told (`telling/`). `settings` are what may be asked
for, `tree` what a batch is, `errors` what can go wrong. It knows no model and no scan.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oct_xla.devices.device import pick_runtime
    from oct_xla.devices.runtime import Runtime
    from oct_xla.errors import (
        CheckpointError,
        DeviceError,
        FeedError,
        NonFiniteError,
        OctXlaError,
        RunFolderError,
    )
    from oct_xla.feeding.feed import Feed
    from oct_xla.feeding.order import sample_seed
    from oct_xla.folder.checkpoint import read_checkpoint
    from oct_xla.folder.journal import Journal, Sink, read_rows
    from oct_xla.folder.runfolder import RunFolder, claim_run_folder, write_provenance
    from oct_xla.folder.store import Checkpoints
    from oct_xla.loop import fit
    from oct_xla.settings import FeedConfig, LoopConfig
    from oct_xla.steps.naming import objective_tensors
    from oct_xla.steps.objective import Objective
    from oct_xla.telling.sinks import WandbSink
    from oct_xla.trainer import FitResult

_HOMES = {
    "folder.checkpoint": "read_checkpoint",
    "devices.device": "pick_runtime",
    "errors": "CheckpointError DeviceError FeedError NonFiniteError OctXlaError RunFolderError",
    "feeding.feed": "Feed",
    "folder.journal": "Journal Sink read_rows",
    "steps.naming": "objective_tensors",
    "loop": "fit",
    "steps.objective": "Objective",
    "feeding.order": "sample_seed",
    "folder.runfolder": "RunFolder claim_run_folder write_provenance",
    "devices.runtime": "Runtime",
    "settings": "FeedConfig LoopConfig",
    "telling.sinks": "WandbSink",
    "folder.store": "Checkpoints",
    "trainer": "FitResult",
}
"""Imported at first use: who only reads settings does not wait seconds for torch."""
_LATER = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'oct_xla' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"oct_xla.{_LATER[name]}"), name)


__all__ = [
    "CheckpointError",
    "Checkpoints",
    "DeviceError",
    "Feed",
    "FeedConfig",
    "FeedError",
    "FitResult",
    "Journal",
    "LoopConfig",
    "NonFiniteError",
    "Objective",
    "OctXlaError",
    "RunFolder",
    "RunFolderError",
    "Runtime",
    "Sink",
    "WandbSink",
    "claim_run_folder",
    "fit",
    "objective_tensors",
    "pick_runtime",
    "read_checkpoint",
    "read_rows",
    "sample_seed",
    "write_provenance",
]
