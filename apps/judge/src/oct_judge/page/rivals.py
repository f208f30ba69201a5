"""The encoder beside everybody who answers the same question: a table that is a forest plot."""

from collections.abc import Mapping, Sequence
from typing import Any

from oct_report import Page, strip
from oct_report.page import Cell
from oct_vjepa.scores.words import word

from oct_judge.candidates import PRETRAINED
from oct_judge.page.reading import NOTHING, Results, number, text
from oct_judge.recipe import ENCODER_LEARNS

BESIDE = {"nominal": "balanced_accuracy", "ordinal": "balanced_accuracy", "regression": "mae"}


def add_rivals(page: Page, results: Results) -> None:
    """Headline, strip, gain and p of each candidate; every other metric is folded away."""
    metric = results.headline
    lines = results.document["candidates"]
    page.section(
        "The encoder beside its rivals",
        f"By {word(metric)}, with 95 % intervals. Dashed: what knows nothing, as who says "
        "the same of everybody. Baselines are features that nobody learned; “pretrained + …” has "
        "the encoder’s features too; "
        "“grey ranks” sees no exposure, and there the encoder on grey ranks is what stands over "
        "each. “Encoder over it” is paired by participant; p is corrected for all comparisons of "
        "that encoder (Holm).",
    )
    if results.document["mode"] in ENCODER_LEARNS:
        page.text(
            "The encoder’s row is of what was fine-tuned, as are those of random init and of "
            "networks. “pretrained + …” are linear probes beside features of the encoder as it "
            "was before."
        )
    low, high = scale_of(lines, metric)
    second = BESIDE.get(results.kind, "auprc" if results.is_counted else "")
    head = ["features", "", word(metric), *([word(second)] if second else [])]
    rows = [_row(one, metric, second, low, high, NOTHING[metric]) for one in lines]
    own = [at for at, one in enumerate(lines) if one["name"] == PRETRAINED]
    page.table([*head, "encoder over it", "p"], rows, best=own, tight=True)
    if said := majority_sentence(results):
        page.text(said)
    if any((one["gain"] or {}).get("p_delong") is not None for one in lines):
        seeds = max((one["gain"] or {}).get("delong_seeds", 1) for one in lines)
        of = f" It is of the mean scores of {seeds} seeds, an ensemble each." if seeds > 1 else ""
        page.text(f"DeLong’s p of each stands in the full table below, as it is and corrected.{of}")
    elif results.is_counted and (
        lacks := next((one["gain"].get("no_delong") for one in lines if one["gain"]), "")
    ):
        page.text(f"DeLong’s test is left out: {lacks}. Seeds and rounds are in the intervals.")
    _add_all_metrics(page, results)


def majority_sentence(results: Results) -> str:
    """What comes of saying the most frequent class of the fit of everyone; "" without classes."""
    flow = results.document.get("flow")
    if not flow or results.kind not in ("nominal", "ordinal"):
        return ""
    rounds: dict[str, dict[str, Mapping[str, int]]] = {}
    for one in flow["parts"]:
        rounds.setdefault(one["round"], {})[one["part"]] = one["by_class"]
    said, right, tested = set(), 0, 0
    for parts in rounds.values():
        fit, test = parts.get("fit", {}), parts.get("test", {})
        if not fit or not test:
            return ""
        most = max(fit, key=lambda name: fit[name])
        said.add(most)
        right, tested = right + test.get(most, 0), tested + sum(test.values())
    chance = 1 / len(results.document["question"]["names"])
    return (
        f"Majority class: who says “{' or '.join(sorted(said))}” of everyone, which no other class "
        f"of the fit outnumbers, is right about {right} of {tested} participants "
        f"({right / tested:.1%}); balanced accuracy {chance:.3f}, AUROC 0.500."
    )


def scale_of(lines: Sequence[Mapping[str, Any]], metric: str) -> tuple[float, float]:
    """Ends of the strips: all intervals, and what knows nothing; an R2 far below 0 is cut."""
    ends = [end for one in lines for end in one["card"]["metrics"][metric] if end is not None]
    low = min([*ends, NOTHING[metric]])
    return (max(low, -1.0) if metric == "r2" else low), max([*ends, NOTHING[metric] + 0.1])


def _row(
    line: Mapping[str, Any], metric: str, second: str, low: float, high: float, mark: float
) -> list[Cell]:
    metrics, gain = line["card"]["metrics"], line["gain"]
    own = line["name"] == PRETRAINED
    return [
        line["name"],
        strip(metrics[metric], low=low, high=high, mark=mark, strong=own),
        text(metrics[metric]),
        *([text(metrics[second])] if second else []),
        text(gain["difference"], "+") if gain else "",
        f"{gain['p_holm']:.3f}" if gain else "",
    ]


def _add_all_metrics(page: Page, results: Results) -> None:
    lines = results.document["candidates"]
    names = list(results.card["metrics"])
    page.section("Every metric of everybody", folded=True)
    specificity = results.card["specificity"]
    if results.is_counted:
        page.text(
            f"Sensitivity is read at a specificity of {specificity:.0%}; the threshold comes from "
            f"{results.card['threshold_from']}. Decisions are taken where classes weigh alike, "
            "probabilities are those at the temperature that the calibration participants ask for."
        )
    rows = [[one["name"], *(text(one["card"]["metrics"][name]) for name in names)] for one in lines]
    page.table(["features", *(word(name) for name in names)], rows, tight=True)
    page.heading("How each was chosen")
    page.text("On validation participants, in each seed and round; never on the test.")
    chosen = [
        [
            one["name"],
            _chosen(one["chosen"]),
            number(one["temperature"]),
            ", ".join(number(value) for value in one["card"]["by_seed"]),
            number((one["gain"] or {}).get("p")),
            number((one["gain"] or {}).get("p_delong")),
            number((one["gain"] or {}).get("p_delong_holm")),
        ]
        for one in lines
    ]
    head = ["features", "chosen", "temperature", f"{word(results.headline)} by seed", "p"]
    page.table([*head, "DeLong", "DeLong (Holm)"], chosen)


def _chosen(rounds: Sequence[Mapping[str, Any]]) -> str:
    told = dict.fromkeys(
        ", ".join(f"{key} {number(value)}" for key, value in one.items() if value != "")
        for one in rounds
    )
    return "; ".join(told)
