"""What the pages of all runs have alike: the first words and the last section."""

from pathlib import Path

from oct_report.page import Page


def begin_page(title: str, lead: str, *, made_up: bool) -> Page:
    """A page that says phantom where scans and labels are made up."""
    page = Page(title, lead)
    if made_up:
        page.note("Phantom: every scan, participant and label of this run is made up by oct-io.")
    return page


def end_page(page: Page, run_dir: Path, what: str) -> Path:
    """Close with the configuration, which repeats `what`; write report.html and return its path."""
    page.section("Configuration", f"config.yaml; feeding it back repeats {what}.", folded=True)
    page.code((run_dir / "config.yaml").read_text())
    page.write(run_dir / "report.html")
    return run_dir / "report.html"
