"""How the score falls when test volumes are spoilt, in up to eight ways at five strengths."""

from collections.abc import Mapping
from typing import Any

from oct_report import Page, plot_degradation

CHANCE = {"auroc": 0.5, "concordance": 0.5}
WORDS = {
    "speckle": "speckle",
    "roll_off": "roll-off",
    "shadow": "a shadow",
    "motion": "motion",
    "defocus": "defocus",
    "crop": "a smaller field",
    "gain": "gain",
    "missing_bscans": "missing B-scans",
}
WORST = 3  # ways that are named in words


def add_perturbed(page: Page, document: Mapping[str, Any]) -> None:
    """A panel for each way of spoiling, a line for each candidate."""
    found = document.get("perturbations")
    if not found:
        return
    metric, candidates = found["metric"], drawn(found["candidates"])
    ways = [WORDS[kind] for kind in next(iter(candidates.values()))]
    page.section(
        "What spoils it",
        "The same test volumes are asked about again after they were spoilt: "
        f"{', '.join(ways[:-1])} and {ways[-1]}, each a little more from 1 to 5. Nothing was "
        "fitted anew.",
    )
    if worst := worst_of(next(iter(candidates.values()))):
        page.text(f"The encoder loses most to {', '.join(worst)}.")
    page.figure(
        plot_degradation(
            {
                name: {WORDS[kind]: steps for kind, steps in kinds.items()}
                for name, kinds in candidates.items()
            },
            strengths=found["strengths"],
            label=metric,
            chance=CHANCE.get(metric),
        ),
        f"{metric} of the test participants by the strength of each fault, with 95 % intervals; "
        "strength 0 is as scanned.",
    )
    page.heading("Side by side")
    page.text(f"{metric} as scanned, and its mean over the five strengths of each fault.")
    page.table(["", *candidates], side_by_side(candidates))


def side_by_side(candidates: dict[str, Any]) -> list[list[str]]:
    """A row for the volumes as scanned and for each way of spoiling, a cell for each candidate."""
    kinds = next(iter(candidates.values()))
    rows = [["as scanned", *(next(iter(one.values()))[0][0] for one in candidates.values())]]
    for kind in kinds:
        rows.append([WORDS[kind], *(mean_of(one[kind]) for one in candidates.values())])
    return [[name, *("-" if one != one else f"{one:.3f}" for one in row)] for name, *row in rows]


def mean_of(steps: list[list[float]]) -> float:
    """Mean over the strengths above 0."""
    return sum(step[0] for step in steps[1:]) / len(steps[1:])


def drawn(candidates: dict[str, Any]) -> dict[str, Any]:
    """Values as numbers; what is not defined is not drawn."""
    return {
        name: {
            kind: [[float("nan") if one is None else one for one in triple] for triple in steps]
            for kind, steps in kinds.items()
        }
        for name, kinds in candidates.items()
    }


def worst_of(kinds: dict[str, Any]) -> list[str]:
    """The ways that cost most at the greatest strength, if a hundredth, with what they cost."""
    losses = {kind: steps[0][0] - steps[-1][0] for kind, steps in kinds.items()}
    ranked = sorted(losses, key=lambda kind: -losses[kind])[:WORST]
    return [f"{WORDS[kind]} (-{losses[kind]:.2f})" for kind in ranked if losses[kind] >= 0.005]
