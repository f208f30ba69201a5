"""What a run is asked between its steps: signs of collapse, and a probe of the encoder."""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
import oct_io
import torch
from oct_vjepa import JepaBatch
from oct_vjepa.evaluation.comparison import UNLABELLED
from oct_vjepa.evaluation.online import OnlineProbe
from oct_vjepa.objectives.objective import Objective


class Watch:
    """Called at each evaluation with the same volumes; changes nothing and draws nothing.

    Args:
        objective: what the run trains.
        watched: volumes whose features are looked at for signs of collapse.
        probe: labelled volumes that the encoder of the teacher is probed with; None for no probe.
        device: of the run.
    """

    def __init__(
        self,
        objective: Objective,
        watched: JepaBatch,
        probe: OnlineProbe | None,
        device: torch.device,
    ) -> None:
        self.objective, self.watched, self.probe = objective, watched, probe
        self.device = device

    def __call__(self, step: int) -> dict[str, float]:
        """Numbers for metrics.jsonl, after `step` steps."""
        spacing = self.watched.spacing_B3
        numbers = self.objective.diagnostics(
            self.watched.volume_BCZYX.to(self.device),
            spacing_B3=None if spacing is None else spacing.to(self.device),
        )
        if self.probe is not None:
            numbers |= self.probe(self.objective.result)
        return numbers


def make_probe(
    source: oct_io.Source, columns: Sequence[str], count: int, *, batch_size: int, seed: int
) -> OnlineProbe | None:
    """A probe of `count` labelled volumes, none of a participant that any column tests with.

    The classes of all columns take turns in choosing them, so that rare ones are there, too.

    Args:
        source: the volumes and labels.
        columns: what is asked; none: no probe.
        count: volumes at the most; 0: no probe.
        batch_size: volumes in one pass.
        seed: of the choice and of the folds.

    Raises:
        ValueError: fewer than two classes or participants in a column.
        TreeError: a column that the source does not have.
    """
    if not columns or not count:
        return None
    classes: dict[str, dict[str, int]] = {}
    tested: set[str] = set()
    for column in columns:
        found = source.labelled(column)
        keys = (entry.key for entry in found.volumes.entries)
        classes[column] = dict(zip(keys, found.labels.tolist(), strict=True))
        tested |= set(found.participants[found.held_out].tolist())
    entries = source.volumes.entries
    allowed = [n for n, entry in enumerate(entries) if entry.participant not in tested]
    drawn = np.random.default_rng(seed).permutation(allowed).tolist()
    queues: dict[tuple[str, int], deque[int]] = {}
    for number in drawn:
        for column, known in classes.items():
            if entries[number].key in known:
                queues.setdefault((column, known[entries[number].key]), deque()).append(number)
    chosen = source.volumes.select(take_turns(queues, count))
    return OnlineProbe(
        chosen,
        {
            column: np.array([known.get(one.key, UNLABELLED) for one in chosen.entries], np.int64)
            for column, known in classes.items()
        },
        np.array([one.participant for one in chosen.entries], dtype=np.str_),
        batch_size=batch_size,
        seed=seed,
        spacing=chosen.spacings,
    )


def take_turns(queues: Mapping[tuple[str, int], deque[int]], count: int) -> list[int]:
    """At most `count` numbers, ascending, of which each queue gave one after the other."""
    chosen: set[int] = set()
    while len(chosen) < count and any(queues.values()):
        for _, queue in sorted(queues.items()):
            while queue and queue[0] in chosen:
                queue.popleft()
            if queue and len(chosen) < count:
                chosen.add(queue.popleft())
    return sorted(chosen)
