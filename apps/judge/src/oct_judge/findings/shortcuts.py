"""Do the same features tell what should not matter, and does the answer go along with it?"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_vjepa.measures.measure import HEADLINE
from oct_vjepa.measures.target import UNKNOWN, Target
from oct_vjepa.probes.protocol import Round, make_rounds
from oct_vjepa.trials.judging import Candidate, answer_frozen
from oct_vjepa.trials.verdict import Panel, card_of

from oct_judge.question import FinetuneConfig
from oct_judge.study import Study

FEWEST = 6
"""Participants below whom a value is not asked for."""
ALONG = {"auroc": 0.6, "concordance": 0.6, "r2": 0.1}
"""Headline from which the answer goes along with a column."""


def shortcuts_of(
    config: FinetuneConfig,
    study: Study,
    features: NDArray[Any],
    before: NDArray[Any] | None = None,
) -> list[dict[str, Any]]:
    """A line for each column of compare.shortcuts that has two values or more.

    Args:
        config: of the evaluation.
        study: the question.
        features: of the encoder that answers.
        before: of what it was before it was fine-tuned, if it was.
    """
    found = []
    for column in config.compare.shortcuts:
        if column in study.examples.columns:
            line = ask_column(config, study, features, column, before)
            found += [line] if line else []
    return found


def ask_column(
    config: FinetuneConfig,
    study: Study,
    features: NDArray[Any],
    column: str,
    before: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """How well features tell the column, and how well the column alone tells the answer.

    Empty for a column of one value, and for that which is asked.
    """
    people = study.panel.people
    values = study.examples.columns[column]
    counts = {one: len(np.unique(people[values == one])) for one in np.unique(values[values != ""])}
    names = tuple(str(one) for one, count in counts.items() if count >= FEWEST)
    if len(names) < 2 or column == config.task.column:
        return {}
    codes = np.full(len(values), UNKNOWN, dtype=np.int64)
    for code, name in enumerate(names):
        codes[values == name] = code
    line: dict[str, Any] = {"column": column, "values": list(names), "chance": 0.5}
    target = Target(kind="nominal", values=codes, names=names)
    hot = np.eye(len(names) + 1)[codes][:, : len(names)]
    try:
        line["column_from_features"] = _ask(config, study, features, target)
        if before is not None:
            line["column_before_training"] = _ask(config, study, before, target)
        line["answer_from_column"] = _ask(config, study, hot, study.target)
    except ValueError as error:  # such as a value that no participant of a part has
        return line | {"why_not": str(error)}
    headline = HEADLINE[study.target.kind]
    worth, least, _ = line["answer_from_column"]
    chance = 0.0 if headline == "r2" else 0.5
    goes_along = bool(np.isfinite(worth) and worth > ALONG[headline] and least > chance)
    return line | {"headline": headline, "goes_along": goes_along}


def _ask(
    config: FinetuneConfig, study: Study, features: NDArray[Any], target: Target
) -> list[float]:
    panel = replace(study.panel, target=target)
    candidate = Candidate(name="", readouts=lambda one, seed: {"": features})
    rounds = _rounds(config, study, panel)
    answers = list(
        answer_frozen(
            candidate, "linear", target, panel.people, rounds, config.grid, seed=config.seed
        )
    )
    card = card_of([answers], panel, seed=config.seed, bootstrap=config.bootstrap)
    return list(card.headline)


def _rounds(config: FinetuneConfig, study: Study, panel: Panel) -> list[Round]:
    """Tested are those whom the study tests; validation is drawn so that it has each value.

    A device that is left out cannot be told by who has not seen it, so that folds take the place of
    leave_one_out, as of folds that were drawn by another answer.
    """
    settings: dict[str, Any] = {"folds": config.protocol.folds, "seed": config.seed}
    if config.protocol.name == "given":
        one = study.rounds[0]
        other = one.fit | one.validation | one.calibrating
        parts = np.where(one.test, "test", np.where(other, "train", ""))
        return make_rounds("given", panel.target, panel.people, parts=parts, **settings)
    return make_rounds("kfold", panel.target, panel.people, **settings)
