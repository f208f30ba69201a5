"""What makes two starts one run: facts that must be equal, and are named if they are not."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from oct_xla.errors import CheckpointError, OctXlaError
from oct_xla.feeding.feed import Feed

OBJECTIVE = "objective"
"""The fact that stands for names and shapes of the objective's tensors."""


class Change(NamedTuple):
    """A value that differs from the one the run began with."""

    before: Any
    now: Any


def describe_run(
    objective: nn.Module, feed: Feed, *, seed: int, precision: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what must stay equal for a step number to mean the same samples, draws and weights.

    Everything else (devices, micro-batches, number of steps, how often to log) may change; where
    the loss is no mean over samples, not what `passes_of` tells.

    Args:
        objective: its tensors' names and shapes count, not its values.
        feed: its seed, batch, length and subsets count.
        seed: of the run.
        precision: of the runtime.
        extra: the caller's own facts, such as a fingerprint of the data set.

    Raises:
        ValueError: if `extra` names a fact that is in the list already.
    """
    shapes = [(name, list(value.shape)) for name, value in objective.state_dict().items()]
    facts: dict[str, Any] = {
        "seed": seed,
        "feed.seed": feed.config.seed,
        "feed.batch_size": feed.config.batch_size,
        "feed.length": feed.length,
        "precision": precision,
        OBJECTIVE: hashlib.sha256(json.dumps(sorted(shapes)).encode()).hexdigest()[:12],
    }
    if feed.config.subsets > 1:
        facts["feed.subsets"] = feed.config.subsets
    if taken := sorted(facts.keys() & extra.keys()):
        raise ValueError(f"identity names {', '.join(taken)}, which fit adds itself")
    plain: dict[str, Any] = json.loads(json.dumps({**facts, **extra}))
    return plain


def check_resumed(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse a checkpoint of another run.

    Another objective passes: whoever puts its tensors back can name the one that differs.

    Raises:
        CheckpointError: names each fact that differs, with both values.
    """
    changed = {key: c for key, c in differences(before, now).items() if key != OBJECTIVE}
    if changed:
        facts = "; ".join(
            f"{key} = {shorten(c.before)}, now it is {shorten(c.now)}" for key, c in changed.items()
        )
        raise CheckpointError(f"{where}: made with {facts}; set it back or choose another run_dir")


def passes_of(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return in how many passes a batch goes through the objective, by what it comes from.

    On XLA a pass is that of all processes.

    Args:
        settings: those that a checkpoint keeps beside the identity.
    """
    processes = 1 if settings["runtime"] == "xla" else settings["processes"]
    return {"loop.accumulate x processes": settings["loop.accumulate"] * processes}


def check_processes(facts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse processes that do not train one run together.

    Raises:
        OctXlaError: names each fact that differs, and two processes with their values.
    """
    for rank, own in enumerate(facts):
        if changed := differences(facts[0], own):
            named = "; ".join(
                f"{key} is {shorten(c.before)} on process 0 and {shorten(c.now)} on process {rank}"
                for key, c in changed.items()
            )
            raise OctXlaError(f"{named}; all processes of a run must be given the same")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Change]:
    """Return the keys whose values differ; a key that is absent counts as "absent"."""
    keys = sorted(before.keys() | now.keys())
    changes = {key: Change(before.get(key, "absent"), now.get(key, "absent")) for key in keys}
    return {key: change for key, change in changes.items() if change.before != change.now}


def shorten(value: Any) -> str:
    """Return a value as it stands in a line for people."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
