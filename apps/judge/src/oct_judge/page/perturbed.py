"""How the score falls when test volumes are spoilt, in eight ways at five strengths."""

from typing import Any

from oct_report import Page, plot_degradation

from oct_judge.page.reading import Results

CHANCE = {"auroc": 0.5, "concordance": 0.5}
WORST = 3  # ways that are named in words


def add_perturbed(page: Page, results: Results) -> None:
    """A panel for each way of spoiling, a line for each candidate."""
    found = results.document.get("perturbations")
    if not found:
        return
    metric, candidates = found["metric"], drawn(found["candidates"])
    page.section(
        "What spoils it",
        "The finished model scores the same test volumes after they were spoilt: speckle, "
        "roll-off, a shadow, motion, defocus, a smaller field, gain and missing B-scans, each a "
        "little more from 1 to 5. Nothing was fitted anew.",
    )
    page.text(f"The encoder loses most to {', '.join(worst_of(next(iter(candidates.values()))))}.")
    page.figure(
        plot_degradation(
            candidates, strengths=found["strengths"], label=metric, chance=CHANCE.get(metric)
        ),
        f"{metric} of the test participants by the strength of each fault, with 95 % intervals; "
        "strength 0 is as scanned.",
    )


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
    """The ways that cost most at the greatest strength, with what they cost."""
    losses = {kind: steps[0][0] - steps[-1][0] for kind, steps in kinds.items()}
    ranked = sorted(losses, key=lambda kind: -losses[kind])[:WORST]
    return [f"{kind.replace('_', ' ')} (-{losses[kind]:.2f})" for kind in ranked]
