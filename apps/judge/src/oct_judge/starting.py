"""Where training may begin: at the linear probe of the frozen encoder, as a head that learns on.

Kumar et al. 2022 (arXiv 2202.10054): a fresh head sends the encoder gradients that say little yet,
and fine-tuning can end below the probe of what it began with. From the probe it does not begin
below it, and the epoch that validation chooses may be the probe itself.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_vjepa import EncoderConfig
from oct_vjepa.evaluation.readouts import ReadoutConfig
from oct_vjepa.heads.linear import LinearHead
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round
from oct_vjepa.trials.judging import Readouts

from oct_judge.recipe import TrainingConfig
from oct_judge.training import Start, meaning_of, rows_to_fit


def start_at_probe(
    config: TrainingConfig,
    encoder: EncoderConfig,
    readouts: Readouts,
    target: Target,
    people: NDArray[np.int64],
    round: Round,
    *,
    readout: ReadoutConfig,
    grid: GridConfig,
    seed: int,
) -> Start:
    """Fit a linear probe on the rows to fit, choose as `mode=linear` does, and make it a head.

    Args:
        config: the recipe; classes weigh in the fit as in its loss.
        encoder: whose features they are.
        readouts: of all rows, by name.
        target: the question.
        people: participant of each row.
        round: which rows are for what.
        readout: what the names of the readouts mean.
        grid: what is tried.
        seed: of the folds.

    Raises:
        ValueError: as `fit_grid`, or a probe that is no linear head; see `check_start`.
    """
    balanced = config.class_weights == "auto"
    probe = fit_grid("linear", readouts, target, people, round, grid, balanced=balanced, seed=seed)
    blocks, pool = readout.names(encoder.depth)[probe.readout]
    fit = target.take(rows_to_fit(config, target, round))
    head = LinearHead.from_probe(
        probe.arrays,
        target.names,
        meaning_of(fit),
        pool=pool,
        dropout=config.head.dropout,
        levels=blocks,
        grid=encoder.grid,
    )
    told: dict[str, Any] = {"readout": probe.readout, "strength": probe.chosen["strength"]}
    return Start(head, told)


def check_start(readout: ReadoutConfig, target: Target) -> None:
    """Refuse what a trained head cannot begin with.

    Raises:
        ValueError: names the setting.
    """
    if numbers := [one for one in readout.blocks if one.isdecimal()]:
        raise ValueError(
            f"readout.blocks ({numbers[0]}) must be last, late or all beside "
            "training.head_start=probe: blocks above what is read would learn nothing"
        )
    if target.kind == "ordinal" and len(target.names) > 2:
        raise ValueError(
            "training.head_start=probe: of an ordinal question of more than two classes a probe is"
            " one model a step, which no linear head is; ask with task.kind=nominal"
        )
