"""Train one objective on a CPU, CUDA GPUs or TPUs: `fit(objective, feed, LoopConfig(...))`.

A few flat modules, no wings. `loop` has `fit`, which builds a `trainer`; it takes the steps of a
`learner` (an `objective` with its optimiser) on batches of the `feed`, taken over `ahead` of them
from its `workers` and sent on by `placing`, saves through `checkpointer` and tells `metrics` and
`sinks`. `runfolder`, `journal`, `store` and `checkpoint` are what is left on disk, `remote`,
`mirror` and `lease` what becomes of it in a `bucket`, `identity` what makes two starts one run,
`memory` what is done where it runs out, `compiling` what is said where a graph is compiled late.
`device` picks a `runtime`: `processes` for CPUs and CUDA, `xla` for TPUs. It knows no model and no
scan.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oct_xla.checkpoint import read_checkpoint
    from oct_xla.device import pick_runtime
    from oct_xla.errors import (
        CheckpointError,
        DeviceError,
        FeedError,
        NonFiniteError,
        OctXlaError,
        RunFolderError,
    )
    from oct_xla.feed import Feed
    from oct_xla.journal import Journal, Sink, read_rows
    from oct_xla.learner import objective_tensors
    from oct_xla.loop import fit
    from oct_xla.objective import Objective
    from oct_xla.order import sample_seed
    from oct_xla.runfolder import RunFolder, claim_run_folder, write_provenance
    from oct_xla.runtime import Runtime
    from oct_xla.settings import FeedConfig, LoopConfig
    from oct_xla.sinks import WandbSink
    from oct_xla.store import Checkpoints
    from oct_xla.trainer import FitResult

_HOMES = {
    "checkpoint": "read_checkpoint",
    "device": "pick_runtime",
    "errors": "CheckpointError DeviceError FeedError NonFiniteError OctXlaError RunFolderError",
    "feed": "Feed",
    "journal": "Journal Sink read_rows",
    "learner": "objective_tensors",
    "loop": "fit",
    "objective": "Objective",
    "order": "sample_seed",
    "runfolder": "RunFolder claim_run_folder write_provenance",
    "runtime": "Runtime",
    "settings": "FeedConfig LoopConfig",
    "sinks": "WandbSink",
    "store": "Checkpoints",
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
