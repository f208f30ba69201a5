"""What the pages of all runs have alike: the first words, the probes, the last section."""

from collections.abc import Sequence
from pathlib import Path

from oct_vjepa.trials.comparison import COLUMNS, ProbeRow, as_cells

from oct_report.figures import Score, plot_scores
from oct_report.page import Page

REFERENCE = "The reference of the last column is random init with the same pool."
"""What a reader of `add_probe_table` must know."""


def begin_page(title: str, lead: str, *, made_up: bool) -> Page:
    """A page that says phantom where scans and labels are made up."""
    page = Page(title, lead)
    if made_up:
        page.note("Phantom: every scan, participant and label of this run is made up by oct-io.")
    return page


def add_probe_scores(page: Page, rows: Sequence[ProbeRow], caption: str) -> None:
    """Add a figure of each row's AUROC with its interval."""
    scores = [Score(*row.point) for row in rows]
    page.figure(plot_scores(scores, label="AUROC", chance=0.5), caption, plot=True)


def add_probe_table(page: Page, rows: Sequence[ProbeRow], *, best: Sequence[int]) -> None:
    """Add a line for each row; those whose number is in `best` stand out."""
    page.table(COLUMNS, as_cells(rows), best=best)


def best_rows(rows: Sequence[ProbeRow]) -> dict[str, list[int]]:
    """Label column to the numbers of its rows with the highest AUROC: several where they tie."""
    best: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        found = best.setdefault(row.column, [])
        highest = rows[found[0]].result.auroc if found else row.result.auroc
        if row.result.auroc > highest:
            found.clear()
        if row.result.auroc >= highest:
            found.append(number)
    return best


def end_page(page: Page, run_dir: Path, what: str) -> Path:
    """Close with the configuration, which repeats `what`; write report.html and return its path."""
    page.section("Configuration", f"config.yaml; feeding it back repeats {what}.", folded=True)
    page.code((run_dir / "config.yaml").read_text())
    page.write(run_dir / "report.html")
    return run_dir / "report.html"
