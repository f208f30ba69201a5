"""How far a single answer can be believed: what was promised and kept, and who is unlike others."""

from collections.abc import Mapping
from typing import Any

from oct_report import Page

from oct_judge.page.reading import Results, number


def add_believing(page: Page, results: Results) -> None:
    """Prediction sets or ranges, and rows that are unlike what was fitted on."""
    promise, novelty = results.document["promise"], results.document["novelty"]
    if not promise and not novelty:
        return
    page.section("How far to believe one answer")
    if promise:
        unit = results.document["question"]["unit"]
        a_set = "a range" if results.kind == "regression" else "a set of classes"
        page.text(
            f"Conformal prediction gives each participant {a_set} that holds the truth with a "
            f"promised share of {promise['promised']:.0%}. On the test it held it in "
            f"{promise['covered']:.0%}. {_who(promise)}"
        )
        rows = [["promised", number(promise["promised"])], ["kept", number(promise["covered"])]]
        if results.kind == "regression":
            width = f"{number(promise['size'])} {unit}".strip()
            if promise["size"] is None:
                width = "without bounds: too few participants set it for the promise"
            rows.append(["width of a range", width])
        else:
            rows.append(["mean classes in a set", number(promise["size"])])
            rows.append(["share with one class: need no second look", number(promise["single"])])
            rows.append(["share with no class: like nothing known", number(promise["empty"])])
        page.table(["prediction sets", ""], rows)
    if novelty:
        page.text(
            f"{novelty['strange']:.1%} of the test volumes lie further from the fitted ones than "
            f"19 of 20 validation volumes do (5 % would be usual); the median distance is "
            f"{number(novelty['median'])} of that limit."
        )


def _who(promise: Mapping[str, Any]) -> str:
    """Who set the thresholds, and whether they had chosen the model before."""
    who = f"Thresholds and temperature were set by {promise['calibrated']} participants or more"
    if promise["apart"]:
        return f"{who} who had no part in choosing the model."
    return (
        f"{who} who had also chosen the model, which makes a promise a few points too good; of "
        "enough validation participants some are set apart for it (protocol.calibration)."
    )
