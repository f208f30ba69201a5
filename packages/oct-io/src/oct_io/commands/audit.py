"""`oct-io audit ROOT`: what a data set holds."""

import argparse

from rich.console import Console
from rich.table import Table

from oct_io.audit import AuditReport, audit
from oct_io.commands import Commands, add_command
from oct_io.progress import show_progress


def add(commands: Commands) -> None:
    """Describe the arguments."""
    add_command(commands, "audit", _run).add_argument("root", metavar="ROOT")


def _run(options: argparse.Namespace) -> None:
    """Count what a data set holds, from tables and headers."""
    with show_progress("headers") as update:
        report = audit(options.root, progress=lambda done, total: update(done, total, 0))
    _print_report(report, Console())


def _print_report(report: AuditReport, console: Console) -> None:
    table = Table("property", "value", "scans")
    for name, counts in report.counts.items():
        for value, number in counts.most_common():
            table.add_row(name, value, str(number))
    for stage, number in report.refused.most_common():
        table.add_row("refused", f"{stage}: {report.reasons[stage]}", str(number))
    for name, number in report.mismatches.most_common():
        table.add_row("manifest and header differ", name, str(number))
    console.print(table)
    console.print(
        f"{report.scans} scans, {report.usable} usable, of {report.participants} participants; "
        f"{report.duplicates} duplicate SOP Instance UIDs"
    )
    if report.without_scans is not None and report.not_in_table is not None:
        console.print(
            f"{len(report.without_scans)} participants of the table have no scan; "
            f"{len(report.not_in_table)} participants with scans are not in the table"
        )
