"""What else the features know: all volumes on two axes, and what should not be told from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from oct_report import Axis, Cloud, Drawing, Page, scatter
from oct_vjepa.scores.words import word

from oct_judge.page.opening import along_sentence
from oct_judge.page.reading import Results, text

MOST = 10
"""Colours that an eye can tell apart; further values are one."""
PARTS = 4


def add_features(page: Page, results: Results) -> None:
    """The embedding coloured by answer, device and site, and how well features tell those."""
    facts = results.document.get("embedding")
    if not facts:
        return
    page.section("What else the features know")
    if "why_not" in facts:
        page.text(f"No picture of the features: {facts['why_not']}.")
    else:
        first, second = facts["shares"]
        page.text(
            f"{facts['rows']} volumes by the first two principal components of their features "
            f"({facts['readout']}), which hold {first:.0%} and {second:.0%} of the variance. "
            "Volumes of one colour that lie together are alike to the encoder. Two axes of many: "
            f"what is mixed here may be apart in others.{_tuned_sentence(facts)}"
        )
        page.drawings(_pictures(results))
    _add_shortcuts(page, results)


def _tuned_sentence(facts: Mapping[str, Any]) -> str:
    """That the features are no longer those of pretraining; "" if they are."""
    if facts.get("encoder", "pretrained") == "pretrained":
        return ""
    return (
        " They are of the encoder as it was fine-tuned: of volumes that it was fitted on it knows "
        "the answer, so that only those of the test say what it sees in new ones."
    )


def _pictures(results: Results) -> list[Drawing]:
    arrays = results.embedding
    question = results.document["question"]["name"]
    colours = {f"answer: {question}": _grouped(arrays["answer"])}
    for name in results.document["embedding"]["columns"]:
        colours[name] = _grouped(arrays[f"column {name}"])
    colours["part"] = _grouped(arrays["part"])
    return [
        Drawing(_picture(name, arrays["places"], values), f"Coloured by {name}.")
        for name, values in colours.items()
        if len(set(values)) > 1
    ]


def _picture(name: str, places: NDArray[Any], values: Sequence[str]) -> str:
    told = np.asarray(values)
    clouds = [
        Cloud(one, places[told == one, 0].tolist(), places[told == one, 1].tolist())
        for one in dict.fromkeys(_in_order(values))
    ]
    return scatter(name, clouds, Axis("component 1"), Axis("component 2"))


def _grouped(values: NDArray[Any]) -> list[str]:
    """At most `MOST` texts: quantities in quarters, rare values as one."""
    if values.dtype.kind == "f":
        known = values[np.isfinite(values)]
        cuts = np.zeros(0)
        if len(known):
            cuts = np.unique(np.quantile(known, np.linspace(0, 1, PARTS + 1)))
        return [_between(float(one), cuts) for one in values]
    words = ["unknown" if one == "" else str(one) for one in values]
    names, counts = np.unique(words, return_counts=True)
    kept = set(names[np.argsort(-counts, kind="stable")][:MOST].tolist())
    return [one if one in kept else "others" for one in words]


def _between(value: float, cuts: Any) -> str:
    if not np.isfinite(value) or len(cuts) < 2:
        return "unknown"
    place = int(np.clip(np.searchsorted(cuts, value, "right") - 1, 0, len(cuts) - 2))
    return f"{cuts[place]:.3g} to {cuts[place + 1]:.3g}"


def _in_order(values: Sequence[str]) -> list[str]:
    """Ranges by their number, others by their name."""
    try:
        return sorted(values, key=lambda one: float(one.partition(" to ")[0]))
    except ValueError:
        return sorted(values)


def _add_shortcuts(page: Page, results: Results) -> None:
    lines = results.document.get("shortcuts", [])
    if not lines:
        return
    page.heading("What should not be told from them")
    page.text(
        "The same probe is asked for the column: 0.5 is chance, 1 tells it without error. That "
        "features tell a scanner is common and does no harm by itself; it does where the answer "
        "goes along with the scanner."
    )
    tuned = any("column_before_training" in line for line in lines)
    head = ["AUROC of the features for it", *(["before fine-tuning"] if tuned else [])]
    rows = []
    for line in lines:
        named = [line["column"], ", ".join(line["values"])]
        chance = f"{line['chance']}"
        if "why_not" in line:
            why = f"not asked: {line['why_not']}"
            rows.append([*named, *("-" for _ in head), chance, "-", why])
            continue
        asked = ["column_from_features", *(["column_before_training"] if tuned else [])]
        verdict = "goes along with it" if line["goes_along"] else "does not go along with it"
        from_it = f"{word(line['headline'])} {text(line['answer_from_column'])}"
        told = [text(line[name]) for name in asked]
        rows.append([*named, *told, chance, from_it, f"the answer {verdict}"])
    page.table(["column", "values", *head, "chance", "answer from it alone", ""], rows)
    for line in lines:
        if line.get("goes_along"):
            page.note(along_sentence(results, line))
