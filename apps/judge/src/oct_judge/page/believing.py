"""How far a single answer can be believed: what was promised and kept, and who is unlike others."""

from collections.abc import Mapping
from typing import Any

from oct_report import Page
from oct_vjepa.scores.words import word

from oct_judge.page.reading import Results, number, text

BROKEN = 0.025
"""Chance below which a promise counts as broken."""


def add_believing(page: Page, results: Results) -> None:
    """Prediction sets or ranges, rows unlike what was fitted on, and other shares of classes."""
    _add_promise(page, results)
    _add_elsewhere(page, results)


def _add_elsewhere(page: Page, results: Results) -> None:
    """What probabilities are worth where classes have other shares, if that was asked."""
    found = results.document.get("elsewhere")
    if not found:
        return
    page.section(
        "Where classes have other shares",
        f"Of {', '.join(f'{name} {share:.1%}' for name, share in found['shares'].items())}. "
        "Calibrated probabilities are moved there by Bayes’ rule and the test participants weighed "
        "alike; that a class looks the same there is taken on trust. AUROC, sensitivity and "
        "specificity do not change.",
    )
    here = results.card["metrics"]
    rows = [[word(name), text(here[name]), text(one)] for name, one in found["metrics"].items()]
    page.table(["", "in the test", "at these shares"], rows)


def _add_promise(page: Page, results: Results) -> None:
    promise, novelty = results.document["promise"], results.document["novelty"]
    if not promise and not novelty:
        return
    page.section("How far to believe one answer")
    if promise:
        unit = results.document["question"]["unit"]
        a_set = "a range" if results.kind == "regression" else "a set of classes"
        if results.kind == "multilabel":
            a_set = "and each label a set of two answers, it is there or it is not,"
        page.text(
            f"Conformal prediction gives each participant {a_set} that holds the truth with a "
            f"promised share of {promise['promised']:.0%}. On the test it held it in "
            f"{promise['covered']:.0%}. {_who(promise)}{_broken(promise)}"
        )
        rows = [["promised", number(promise["promised"])], ["kept", number(promise["covered"])]]
        if results.kind == "regression":
            width = f"{number(promise['size'])} {unit}".strip()
            if promise["size"] is None:
                width = "without bounds: too few participants set it for the promise"
            rows.append(["width of a range", width])
        else:
            a_class = "answer" if results.kind == "multilabel" else "class"
            many = "answers" if results.kind == "multilabel" else "classes"
            alone = f"share with one {a_class}: need no second look"
            rows.append([f"mean {many} in a set", number(promise["size"])])
            rows.append([alone, number(promise["single"])])
            rows.append([f"share with no {a_class}: like nothing known", number(promise["empty"])])
        for name, covered in (promise.get("by_label") or {}).items():
            rows.append([f"kept of {name}", number(covered)])
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
        f"{who} who had also chosen the model, which makes a promise too good, the more so the "
        "better the model fits them; of enough validation participants some are set apart for it "
        "(protocol.calibration)."
    )


def _broken(promise: Mapping[str, Any]) -> str:
    """That it was not kept, where luck with those who set and test it does not explain that."""
    luck = promise.get("luck")
    if luck is None or luck >= BROKEN:
        return ""
    chance = "less than one" if luck < 0.001 else f"{1000 * luck:.0f}"
    return (
        f" So few are held by luck in {chance} of 1,000 draws of such participants: "
        "do not rely on this promise."
    )
