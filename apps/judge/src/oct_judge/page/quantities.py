"""Quantities and times: predicted against true, how far they differ, and who has the event when."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_report import Axis, Cloud, Drawing, Line, Page, chart, scatter
from oct_vjepa.scores.agreement import agreement
from oct_vjepa.scores.survivors import parts_by_rank, survivors
from oct_vjepa.scores.words import word

from oct_judge.page.reading import Results, number, text
from oct_judge.results import interval_of

THIRDS = ("highest third of the risk", "middle third", "lowest third")


def add_quantities(page: Page, results: Results) -> None:
    """Figures of a regression or survival question; nothing for others."""
    if results.kind == "regression":
        _add_regression(page, results)
    elif results.kind == "survival":
        _add_survival(page, results)


def _add_regression(page: Page, results: Results) -> None:
    question = results.document["question"]
    name = f"{question['name']}, {question['unit']}" if question["unit"] else question["name"]
    true, predicted = (
        results.predictions[one].astype(np.float64) for one in ("answer", "predicted")
    )
    page.section("Predicted and true", "A point is a participant of the test, in a round and seed.")
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    room = 0.04 * (high - low) or 1.0
    axis = Axis(f"true {name}", low - room, high + room)
    drawings = [
        Drawing(
            scatter(
                "Predicted against true",
                [Cloud("", true.tolist(), predicted.tolist())],
                axis,
                axis._replace(label=f"predicted {name}"),
                diagonal=True,
            ),
            "On the dashed line the prediction is exact.",
        )
    ]
    if len(true) > 1:
        drawings.append(_bland_altman(true, predicted, question["unit"]))
    page.drawings(drawings, large=True)
    rows = [[word(metric), text(found)] for metric, found in results.card["metrics"].items()]
    page.table(["metric", "with its 95 % interval"], rows)


def _bland_altman(true: NDArray[np.float64], predicted: NDArray[np.float64], unit: str) -> Drawing:
    found = agreement(predicted, true)
    of = f", {unit}" if unit else ""
    across = [
        (found.bias, f"mean {found.bias:+.3g}"),
        (found.low, f"{found.low:+.3g}"),
        (found.high, f"{found.high:+.3g}"),
    ]
    return Drawing(
        scatter(
            "Bland-Altman",
            [Cloud("", found.mean_N.tolist(), found.difference_N.tolist())],
            Axis(f"mean of both{of}"),
            Axis(f"predicted less true{of}"),
            across=across,
        ),
        f"Predictions are {found.bias:+.3g}{f' {unit}'.rstrip()} off on average; 95 % of normal "
        f"differences would lie between {found.low:+.3g} and {found.high:+.3g}. A slope means that "
        "the extremes are pulled to the middle.",
    )


def _add_survival(page: Page, results: Results) -> None:
    question = results.document["question"]
    concordance = interval_of(results.card["metrics"]["concordance"])
    page.section(
        "Who has the event when",
        "Kaplan and Meier’s share without an event, for the test participants in thirds of their "
        f"predicted risk. Concordance {concordance.text()}; 0.5 is a coin.",
    )
    answers, risk = once_each(results.predictions)
    times, events = answers[:, 0], answers[:, 1] == 1
    part = len(THIRDS) - 1 - parts_by_rank(risk, len(THIRDS))
    lines, rows = [], []
    for which, name in enumerate(THIRDS):
        own = part == which
        if not own.any():
            continue
        found = survivors(times[own], events[own])
        lines.append(
            Line(
                name,
                [*found.time_P.tolist(), found.end],
                [*found.share_P.tolist(), float(found.share_P[-1])],
                [*found.low_P.tolist(), float(found.low_P[-1])],
                [*found.high_P.tolist(), float(found.high_P[-1])],
                steps=True,
            )
        )
        end = interval_of([found.share_P[-1], found.low_P[-1], found.high_P[-1]])
        rows.append(
            [name, str(int(own.sum())), str(int(events[own].sum())), end.text(), number(found.end)]
        )
    unit = f"time, {question['unit']}" if question["unit"] else "time"
    svg = chart("Without an event", lines, Axis(unit, 0), Axis("share", 0, 1.02), square=True)
    page.drawings(
        [Drawing(svg, "The further apart the lines, the more the risk is worth.")], large=True
    )
    page.table(["", "participants", "events", "share without at the end", "observed until"], rows)


def once_each(predictions: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Time and event of each participant, (P, 2), and the mean rank of their risk, (P,).

    Risks of two models, of other rounds or seeds, have no common scale; ranks have.
    """
    answers = np.asarray(predictions["answer"].tolist(), dtype=np.float64)
    risk = predictions["risk"].astype(np.float64)
    pairs = zip(predictions["round"].tolist(), predictions["seed"].tolist(), strict=True)
    models = np.array([f"{one} {seed}" for one, seed in pairs])
    ranks = np.empty(len(risk))
    for one in np.unique(models):
        own = np.flatnonzero(models == one)
        ranks[own[np.argsort(risk[own], kind="stable")]] = np.arange(len(own)) / len(own)
    _, first, person = np.unique(predictions["participant"], return_index=True, return_inverse=True)
    person = person.reshape(-1)
    return answers[first], np.bincount(person, ranks) / np.bincount(person)
