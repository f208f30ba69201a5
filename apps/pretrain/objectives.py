"""Which objective a run trains, by its configuration; the guard that watches it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import oct_vjepa
import oct_xla
from hydra.core.config_store import ConfigStore
from oct_vjepa.objectives.collapse import CollapseGuard
from oct_vjepa.objectives.dense import DenseJepa, DenseJepaConfig
from oct_vjepa.objectives.objective import Objective, TeacherConfig
from oct_vjepa.objectives.twoview import TwoView, TwoViewConfig
from oct_xla.journal import Row

SCHEMAS: dict[str, type[TeacherConfig]] = {
    "vjepa2_schema": oct_vjepa.JepaConfig,
    "vjepa21_schema": DenseJepaConfig,
    "predecessor_schema": TwoViewConfig,
}
"""What files in configs/objective/ name first in their defaults; it says which objective it is."""


def register_schemas() -> None:
    """Make the schemas known to Hydra."""
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(group="objective", name=name, node=schema)


def schema_of(config: TeacherConfig) -> str:
    """Name of the schema that `config` has."""
    return next(name for name, schema in SCHEMAS.items() if type(config) is schema)


def method_of(config: TeacherConfig) -> str:
    """Name of the objective for a reader."""
    if isinstance(config, TwoViewConfig):
        return "The predecessor's objective"
    return "V-JEPA 2.1" if isinstance(config, DenseJepaConfig) else "V-JEPA 2"


def build_objective(
    encoder: oct_vjepa.Encoder, config: TeacherConfig, masking: oct_vjepa.MaskingConfig
) -> Objective:
    """The objective that `config` describes, around `encoder`.

    Raises:
        ValueError: masks, levels and encoder do not fit, or the configuration names no objective.
    """
    if isinstance(config, TwoViewConfig):
        return TwoView(encoder, config, masking)
    if isinstance(config, DenseJepaConfig):
        return DenseJepa(encoder, config, masking)
    if isinstance(config, oct_vjepa.JepaConfig):
        return oct_vjepa.Jepa(encoder, config, masking)
    raise ValueError(f"objective: {type(config).__name__} names none of {', '.join(SCHEMAS)}")


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


def collapse_alarms(rows: Sequence[Row]) -> list[str]:
    """What the guard says of a whole run, a sentence for each sign."""
    guard = CollapseGuard()
    return [alarm for row in rows for alarm in guard.update(int(row["step"]), row)]
