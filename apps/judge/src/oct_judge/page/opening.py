"""What is read first: one sentence for anybody, what must not be missed, and a few numbers."""

import math
from collections.abc import Mapping
from typing import Any

from oct_report import Page
from oct_vjepa.measures.units import Interval
from oct_vjepa.scores.words import word

from oct_judge.candidates import RANDOM
from oct_judge.page.reading import YES_OR_NO, Results, text
from oct_judge.results import best_baseline, interval_of

TIMES = 100
FEW = 50


def lead_of(results: Results) -> str:
    """Who was asked what, and how it was tested."""
    document, card = results.document, results.card
    question = document["question"]
    rounds = len(document["protocol"]["rounds"])
    tested = f"{card['participants']} test participants"
    often = f"{rounds} rounds" if rounds > 1 else "one round"
    seeds = f", {document['seeds']} seeds" if document["seeds"] > 1 else ""
    return (
        f"Question: {question['name']} ({question['kind']}: {', '.join(question['names'])}). "
        f"Mode {document['mode']}; protocol {document['protocol']['name']}, {often}{seeds}; "
        f"{tested}. Every interval holds 95 % and counts participants."
    )


def add_opening(page: Page, results: Results) -> None:
    """The headline, the warnings and the tiles."""
    document = results.document
    page.headline(plain_sentence(results))
    page.text(document["sentence"])
    for warning in warnings_of(results):
        page.note(warning)
    page.tiles(tiles_of(results))


def plain_sentence(results: Results) -> str:
    """The headline for a reader who knows no metric."""
    question = results.document["question"]
    name, names = question["name"], question["names"]
    found = interval_of(results.card["metrics"][results.headline])
    if not math.isfinite(found.value):
        return f"How well the encoder answers “{name}” could not be measured on this test."
    of = ", ".join(names)
    times = f"{_times(found.value)} of {TIMES}"
    between = f"(95 % interval {_times(found.low)} to {_times(found.high)}; a coin gets 50)"
    if results.kind == "survival":
        return (
            f"Of two participants, the encoder tells from the scan who has the event sooner in "
            f"{times} pairs {between}."
        )
    if results.kind == "regression":
        return _quantity_sentence(results, name, found)
    if results.kind == "multilabel":
        what = f"a participant with the finding and one without (mean of {of})"
    elif tuple(names) in YES_OR_NO:
        what = f"a participant with “{name}” and one without"
    elif len(names) == 2:
        what = f"a participant who is {names[1]} and one who is {names[0]}"
    else:
        what = f"a participant of one class of “{name}” and one of the others (mean of {of})"
    return f"Shown {what}, the encoder ranks them rightly in {times} pairs {between}."


def _quantity_sentence(results: Results, name: str, found: Interval) -> str:
    unit = f" {results.document['question']['unit']}".rstrip()
    error = interval_of(results.card["metrics"]["mae"])
    off = f"{error.value:.3g}{unit} off (95 % interval {error.low:.3g} to {error.high:.3g})"
    if found.value <= 0:
        return (
            f"The encoder tells {name} no better than the mean of everybody would: on average it "
            f"is {off}."
        )
    return (
        f"From the scan the encoder tells {name}, on average {off}; it accounts for "
        f"{found.value:.0%} of the differences between participants (95 % interval "
        f"{found.low:.0%} to {found.high:.0%})."
    )


def _times(value: float) -> str:
    return f"{TIMES * value:.0f}"


def warnings_of(results: Results) -> list[str]:
    """What must not be missed, a sentence each."""
    document = results.document
    found = cautions_of(document)
    found += [
        along_sentence(results, one)
        for one in document.get("shortcuts", [])
        if one.get("goes_along")
    ]
    return [*found, *few_tested(results.card["participants"])]


def cautions_of(document: Mapping[str, Any]) -> list[str]:
    """What to know of any test: who was seen before, what was not, how often it was looked at."""
    found = []
    if document.get("allow_seen"):
        found.append(
            "allow_seen=true: test participants may have taken part in pretraining, so that this "
            "is no test of what the encoder does on new people."
        )
    if (at_once := document.get("bscans_at_once", 1)) < (bscans := document.get("bscans", 1)):
        found.append(
            f"The encoder takes {at_once} of {bscans} B-scans at a time, and its features are "
            "averaged over a volume: what lies across them it cannot see."
        )
    if (touches := document["test_touches"]) > 1:
        found.append(
            f"These test participants have been scored with {touches} different settings. Whoever "
            "picks the best of them reports luck; choose on validation, and test once."
        )
    return found


def few_tested(participants: int) -> list[str]:
    """That they are few, if they are."""
    if participants >= FEW:
        return []
    return [
        f"{participants} test participants are few: differences of less than the width of the "
        "intervals mean nothing."
    ]


def along_sentence(results: Results, line: Mapping[str, Any]) -> str:
    """That a column alone gives a score, and what follows."""
    worth = text(line["answer_from_column"])
    tells = text(line["column_from_features"])
    return (
        f"Shortcut: {line['column']} alone, without any image, answers with "
        f"{word(line['headline'])} {worth}, and the features tell {line['column']} with AUROC "
        f"{tells}. Part of the result may be the scanner or the site rather than the eye; see the "
        "subgroups, and ask again with "
        f"protocol.name=leave_one_out protocol.by={line['column']}."
    )


def tiles_of(results: Results) -> dict[str, str]:
    """The few figures to read first."""
    document, metrics, metric = results.document, results.card["metrics"], results.headline
    tiles = {f"{word(metric)} of the encoder": _short(interval_of(metrics[metric]))}
    untrained = results.candidate(RANDOM)
    if untrained and untrained["gain"]:
        gain = interval_of(untrained["gain"]["difference"])
        tiles["difference to no training"] = _short(gain, "+")
    if best := results.candidate(best_baseline(document)):
        tiles[f"best baseline: {best['name']}"] = _short(
            interval_of(best["card"]["metrics"][metric])
        )
    for name in ("balanced_accuracy", "ece", "mae"):
        if name in metrics:
            of = f", {document['question']['unit']}" if name == "mae" else ""
            tiles[word(name) + of.removesuffix(", ")] = _short(interval_of(metrics[name]))
    tiles["test participants"] = str(results.card["participants"])
    return tiles


def _short(one: Interval, sign: str = "") -> str:
    return f"{one.value:{sign}z.2f}" if math.isfinite(one.value) else "-"
