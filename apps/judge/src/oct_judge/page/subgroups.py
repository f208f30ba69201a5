"""Whether it works for everybody, and with how few labels."""

from collections.abc import Mapping
from typing import Any

from oct_report import Axis, Drawing, Line, Page, chart, strip
from oct_report.page import Cell
from oct_vjepa.scores.words import word

from oct_judge.candidates import PRETRAINED, RANDOM
from oct_judge.page.reading import NOTHING, text
from oct_judge.results import interval_of


def add_subgroups(page: Page, document: Mapping[str, Any]) -> None:
    """A table for each column, with its gaps."""
    tables = document["subgroups"]
    if not tables:
        return
    page.section(
        "For whom it works",
        "The encoder’s answers by what is known of participants and scans. A gap is the best value "
        "less the worst; luck alone makes one, and the more groups the larger. Groups with a note "
        "are left out of it.",
    )
    for table in tables:
        page.heading(table["column"])
        _add_table(page, table, NOTHING[document["headline"]])


def _add_table(page: Page, table: Mapping[str, Any], nothing: float) -> None:
    metrics = list(table["rows"][0]["metrics"])
    first = metrics[0]
    ends = [end for row in table["rows"] for end in row["metrics"][first] if end is not None]
    low, high = min([*ends, nothing]), max([*ends, nothing + 0.1])
    if first == "r2":
        low = max(low, -1.0)
    rows: list[list[Cell]] = [
        [
            row["value"],
            str(row["participants"]),
            strip(row["metrics"][first], low=low, high=high, mark=nothing, strong=not row["note"]),
            *(text(row["metrics"][metric]) for metric in metrics),
            row["note"],
        ]
        for row in table["rows"]
    ]
    if table["gaps"]:
        gaps = [text(table["gaps"][metric]) for metric in metrics]
        rows.append(["gap", "", "", *gaps, ""])
    page.table(
        ["", "participants", "", *(word(metric) for metric in metrics), ""], rows, tight=True
    )


def add_efficiency(page: Page, document: Mapping[str, Any], of: str) -> None:
    """The headline after fitting on shares of the participants with labels, or masks: `of`."""
    lines = document["efficiency"]
    if not lines:
        return
    metric = document["headline"]
    choosers = "All of validation, with its labels,"
    if document.get("few_validation"):  # older results do not say: there all of it chose
        choosers = "The same share of validation, two of each class at least,"
    page.section(
        f"With fewer {of}",
        f"Fitted on shares of the participants with {of}, all else alike; several draws of each, "
        f"whose luck is inside the intervals. {choosers} chose how.",
    )
    if len({one["fraction"] for one in lines}) > 1:
        page.drawings([_efficiency_curves(lines, metric, of)], large=True)
    counted = all("participants" in one for one in lines)  # not in older results
    rows = [
        [
            one["candidate"],
            share_text(one["fraction"]),
            *([_sizes_text(one["participants"])] if counted else []),
            text(one["headline"]),
            interval_of(one["gain"]["difference"]).text("+") if one["gain"] else "",
            f"{one['gain']['p_holm']:.3f}" if one["gain"] else "",
        ]
        for one in lines
    ]
    who = ["participants who fit + choose"] if counted else []
    page.table(
        ["candidate", f"share of the {of}", *who, word(metric), "encoder over it", "p (Holm)"],
        rows, tight=True,
    )  # fmt: skip


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return f"{sizes['fit']:,} + {sizes['validation']:,}"


def share_text(share: float) -> str:
    """A share as people say it: 2.5 %."""
    return f"{100 * share:.3g} %"


def _efficiency_curves(lines: list[Mapping[str, Any]], metric: str, of: str) -> Drawing:
    curves = [_efficiency_line(name, lines) for name in _drawn(lines)]
    shares = sorted({one["fraction"] for one in lines})
    nothing = NOTHING[metric]
    reference = Line("", [min(shares), max(shares)], [nothing, nothing], reference=True)
    svg = chart(
        "Label efficiency",
        [*curves, reference],
        Axis(
            f"share of the {of}",
            log=min(shares) < 0.1,
            ticks={one: share_text(one) for one in shares},
        ),
        Axis(word(metric)),
    )
    return Drawing(svg, "The higher a curve at the left, the fewer are enough.")


def _drawn(lines: list[Mapping[str, Any]]) -> list[str]:
    """Encoder and random init, and the two others that score best with all that there is."""
    names = list(dict.fromkeys(one["candidate"] for one in lines))
    most = max(one["fraction"] for one in lines)
    scores = {
        one["candidate"]: interval_of(one["headline"]).value
        for one in lines
        if one["fraction"] == most
    }
    own = [name for name in names if name in (PRETRAINED, RANDOM)]
    others = sorted((name for name in names if name not in own), key=lambda one: -scores[one])
    return [*own, *others[:2]]


def _efficiency_line(name: str, lines: list[Mapping[str, Any]]) -> Line:
    own = [one for one in lines if one["candidate"] == name and one["headline"][0] is not None]
    values = [interval_of(one["headline"]) for one in own]
    return Line(
        name,
        [one["fraction"] for one in own],
        [one.value for one in values],
        [one.low for one in values],
        [one.high for one in values],
        points=True,
    )
