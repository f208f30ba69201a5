"""Classes and labels: ROC, precision, calibration, decisions, and who is taken for whom."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from oct_report import Axis, Drawing, Line, Page, chart, matrix
from oct_vjepa.scores.words import word

from oct_judge.candidates import PRETRAINED, RANDOM
from oct_judge.page.reading import YES_OR_NO, Results, text

SHOWN = (PRETRAINED, RANDOM)


def add_curves(page: Page, results: Results) -> None:
    """Curves of each class, and the confusion matrix; nothing for quantities and times."""
    if not results.is_counted:
        return
    page.section(
        "How well it tells",
        "Bands are 95 % intervals, point by point. Above the dashed line is better, except for "
        "calibration, where on it is best.",
    )
    curves: Mapping[str, Any] = results.document["curves"]
    asked = results.document["question"]
    confusion = [_confusion(results)] if results.card["confusion"] else []
    if len(curves) > 1:
        page.drawings(confusion)
    for name, found in curves.items():
        if len(curves) > 1:
            page.heading(name)
        told = asked["name"] if tuple(asked["names"]) in YES_OR_NO else name
        drawings = [*_drawings(told, found), _calibration(results, name, told, found)]
        page.drawings(drawings if len(curves) > 1 else [*drawings, *confusion])
    _add_classes(page, results)


def _drawings(name: str, found: Mapping[str, Any]) -> list[Drawing]:
    unit = Axis("", 0, 1.02)
    roc = [_line(who, found[who]["roc"]) for who in SHOWN if who in found]
    precision = [_line(who, found[who]["precision"]) for who in SHOWN if who in found]
    chance = Line("", [0, 1], [0, 1], reference=True)
    return [
        Drawing(
            chart(
                f"ROC, {name}",
                [*roc, chance],
                unit._replace(label="1 - specificity"),
                unit._replace(label="sensitivity"),
            ),
            "ROC: of those who have it, how many are found for how many false alarms.",
        ),
        Drawing(
            chart(
                f"Precision and recall, {name}",
                precision,
                unit._replace(label="sensitivity (recall)"),
                unit._replace(label="precision"),
            ),
            "Precision and recall: how many alarms are true, for how many that are found.",
        ),
        _benefit(name, found),
    ]


def _benefit(name: str, found: Mapping[str, Any]) -> Drawing:
    lines = [_line(who, found[who]["benefit"]) for who in SHOWN if who in found]
    everybody = _line("treat everybody", found[PRETRAINED]["benefit_all"])._replace(low=(), high=())
    nobody = Line("treat nobody", [0, 1], [0, 0], reference=True)
    highest = max([0.05, *(y for one in lines for y in one.y if np.isfinite(y))])
    return Drawing(
        chart(
            f"Decision curve, {name}",
            [*lines, everybody, nobody],
            Axis("threshold probability", 0, 1),
            Axis("net benefit", -0.3 * highest, 1.15 * highest),
        ),
        "Decision curve: what acting on the answer is worth, for those who act from a probability "
        "on; useful where it lies above treating everybody and nobody.",
    )


def _calibration(results: Results, name: str, told: str, found: Mapping[str, Any]) -> Drawing:
    lines = [_line(who, found[who]["calibration"], points=True) for who in SHOWN[:1]]
    bins = results.document.get("reliability", {}).get(name, [])
    counts = ", ".join(str(one["participants"]) for one in bins)
    words = "Calibration: of those with a predicted probability, how many have it."
    return Drawing(
        chart(
            f"Calibration, {told}",
            [*lines, Line("", [0, 1], [0, 1], reference=True)],
            Axis("predicted probability", 0, 1.02),
            Axis("observed share", -0.02, 1.02),
        ),
        f"{words} Participants in the bins that are not empty: {counts}." if counts else words,
    )


def _line(name: str, curve: Mapping[str, Any], *, points: bool = False) -> Line:
    x, y, low, high = (_floats(curve[side]) for side in ("x", "y", "low", "high"))
    known = np.isfinite(x) & np.isfinite(y)
    return Line(
        name,
        x[known].tolist(),
        y[known].tolist(),
        low[known].tolist(),
        high[known].tolist(),
        points=points,
    )


def _floats(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([np.nan if one is None else one for one in values], dtype=np.float64)


def _confusion(results: Results) -> Drawing:
    counts = np.asarray(results.card["confusion"], dtype=np.float64)
    names = results.document["question"]["names"]
    return Drawing(
        matrix(counts, names, down="true", along="called"),
        "Who is taken for whom: participants, and their share of the row; summed over rounds, mean "
        "over seeds.",
    )


def _add_classes(page: Page, results: Results) -> None:
    by_class, support = results.card["by_class"], results.card["support"]
    if not by_class:
        return
    metrics = list(next(iter(by_class.values())))
    rows = [
        [name, str(support[name]), *(text(found[metric]) for metric in metrics)]
        for name, found in by_class.items()
    ]
    page.heading("Each by itself")
    page.table(["", "participants", *(word(metric) for metric in metrics)], rows, tight=True)
    reliability = results.document.get("reliability", {})
    bins = [
        [name, f"{one['chance']:.3f}", f"{one['came_true']:.3f}", str(one["participants"])]
        for name, found in reliability.items()
        for one in found
    ]
    if bins:
        page.section("Calibration in numbers", folded=True)
        page.table(["", "mean probability", "observed share", "participants"], bins)
