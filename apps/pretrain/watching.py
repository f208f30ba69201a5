"""What a run is asked between its steps: signs of collapse, and a probe of the encoder."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import oct_xla
from oct_io import CachedVolumes, LabelledVolumes
from oct_io.labelled import choose_labelled
from oct_vjepa import JepaBatch
from oct_vjepa.evaluation.online import OnlineProbe
from oct_vjepa.objectives.collapse import CollapseGuard
from oct_vjepa.objectives.objective import Objective
from oct_xla.folder.journal import Row
from oct_xla.steps.memory import Shrinking


class Watch:
    """Called at each evaluation with the same volumes; changes nothing and draws nothing.

    Args:
        objective: what the run trains.
        watched: volumes whose features are looked at for signs of collapse.
        probe: labelled volumes that the encoder of the teacher is probed with; None for no probe.
        at_once: volumes in one pass, at the most; fewer where memory runs out.
        alone: whether this process may take fewer by itself. One of several hosts of an XLA run may
            not: what it computes is a program of all of them.
    """

    def __init__(
        self,
        objective: Objective,
        watched: JepaBatch,
        probe: OnlineProbe | None,
        at_once: int,
        *,
        alone: bool = True,
    ) -> None:
        self.objective, self.watched, self.probe = objective, watched, probe
        self.fitting, self.alone = Shrinking(at_once, "volumes of an evaluation"), alone

    def __call__(self, step: int) -> dict[str, float]:
        """Numbers for metrics.jsonl, after `step` steps."""
        numbers = self._fitted(self._look)
        return numbers if self.probe is None else numbers | self._fitted(self._probe)

    def _fitted(self, ask: Callable[[int], dict[str, float]]) -> dict[str, float]:
        return self.fitting.again(ask) if self.alone else ask(self.fitting.size)

    def _look(self, at_once: int) -> dict[str, float]:
        volumes, spacing = self.watched.volume_BCZYX, self.watched.spacing_B3
        return self.objective.diagnostics(volumes, spacing_B3=spacing, at_once=at_once)

    def _probe(self, at_once: int) -> dict[str, float]:
        assert self.probe is not None
        self.probe.batch_size = at_once
        return self.probe(self.objective.result)


def make_probe(
    volumes: CachedVolumes,
    questions: Mapping[str, LabelledVolumes],
    count: int,
    *,
    seed: int,
) -> OnlineProbe | None:
    """A probe of `count` labelled volumes, none of a participant that any column tests with.

    Args:
        volumes: to choose from.
        questions: column to those of `volumes` that have a label in it; none: no probe.
        count: volumes at the most; 0: no probe.
        seed: of the choice and of the folds.

    Raises:
        ValueError: fewer than two classes or participants in a column.
    """
    if not questions or not count:
        return None
    chosen = choose_labelled(volumes, questions, count, seed=seed)
    return OnlineProbe(
        chosen.volumes,
        chosen.labels,
        chosen.participants,
        seed=seed,
        spacing=chosen.volumes.spacings,
    )


class GuardSink:
    """Reads what a run tells and says on stderr when the run looks collapsed.

    Args:
        journal: metrics.jsonl of the run; the guard of a resumed run reads what stands there first,
            so that it says what it would have said without the interruption.
    """

    def __init__(self, journal: Path) -> None:
        self._guard, self._journal = CollapseGuard(), journal
        self._caught_up = False

    def write(self, row: Row) -> None:
        """Look at one row."""
        if not self._caught_up:
            self._caught_up = True
            for earlier in oct_xla.read_rows(self._journal):
                if earlier["step"] < row["step"]:
                    self._guard.update(int(earlier["step"]), earlier)
        for alarm in self._guard.update(int(row["step"]), row):
            print(f"this run looks collapsed: {alarm}", file=sys.stderr)

    def close(self) -> None:
        """Nothing to finish."""
