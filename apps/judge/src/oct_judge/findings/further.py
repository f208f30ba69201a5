"""All findings of an evaluation, for one call: numbers, and arrays beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_launch import Stages
from oct_vjepa import Encoder
from oct_vjepa.finished.member import HEAD_POOL
from oct_vjepa.saving import naming
from oct_vjepa.scores.cards import as_plain
from oct_vjepa.trials.verdict import units_of

from oct_judge.asking import trained_folder
from oct_judge.candidates import PRETRAINED
from oct_judge.findings.cases import cases_of
from oct_judge.findings.flow import flow_of
from oct_judge.findings.likelihood import reliability_of
from oct_judge.findings.plane import plane_of
from oct_judge.findings.shortcuts import shortcuts_of
from oct_judge.recipe import ENCODER_LEARNS
from oct_judge.results import Found

EMBEDDING, CASES = "embedding.npz", "cases.npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Further:
    """What `look_further` found.

    Attributes:
        document: more entries of results.json.
        arrays: name of a file to the arrays in it.
    """

    document: dict[str, Any]
    arrays: Mapping[str, Mapping[str, NDArray[Any]]]

    def write(self, run_dir: Path) -> None:
        """Write the arrays; a file of an earlier run that has nothing now is removed."""
        for name, arrays in self.arrays.items():
            if arrays:
                with naming(run_dir / name):
                    np.savez_compressed(run_dir / name, **dict(arrays))  # type: ignore[arg-type]
            else:
                (run_dir / name).unlink(missing_ok=True)


def look_further(found: Found, command: str, run_dir: Path, stages: Stages) -> Further:
    """Everything that results.json says beside scores.

    Args:
        found: all answers.
        command: that repeats the run.
        run_dir: of the evaluation; what was trained lies there.
        stages: told of progress.
    """
    config, study, cast = found.config, found.study, found.cast
    answers = found.answers[PRETRAINED]
    # Of several encoders the first: features of two lie on no common axes.
    first = answers[0][0]
    readouts = cast.own(first.round, first.seed)
    readout = str(first.chosen.get("readout", next(iter(readouts))))
    features, before = readouts[readout], None
    if config.mode in ENCODER_LEARNS:  # what answers is no longer what was pretrained
        start = cast.family.of(first.round, first.seed)
        trained = trained_folder(run_dir, PRETRAINED, start, first.seed, 0) / "encoder"
        features, before = cast.embed.last(Encoder.from_pretrained(trained), cast.rows), features
        readout = f"last/{HEAD_POOL}"
    stages("looking further", 1, 3)
    plane, places = plane_of(study, features, readout)
    stages("looking further", 2, 3)
    shortcuts = shortcuts_of(config, study, features, before)
    stages("looking further", 3, 3)
    cases, pictures = cases_of(found, run_dir, stages)
    document = {
        "command": command,
        "allow_seen": config.allow_seen,
        "flow": flow_of(study),
        "reliability": reliability_of(units_of(answers, study.panel), study.target),
        "embedding": plane | {"encoder": "pretrained" if before is None else "fine-tuned"},
        "shortcuts": shortcuts,
        "maps": cases,
    }
    return Further(document=as_plain(document), arrays={EMBEDDING: places, CASES: pictures})
