"""`oct-io audit ROOT`: what a data set holds."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from oct_io.cache.index import INDEX, read_index
from oct_io.catalog.audit import AuditReport, audit
from oct_io.commands import Commands, add_command, plain_console
from oct_io.progress import show_progress
from oct_io.scan.flags import FLAGS


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "audit", _run)
    command.add_argument("root", metavar="ROOT")
    command.add_argument("--manifest", metavar="FILE", help="table of scans, if not at its place")
    command.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a page, with B-scans"
    )
    command.add_argument(
        "--cache",
        type=Path,
        metavar="CACHE",
        help="keep headers beside this cache, and count flags of its scans",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(options: argparse.Namespace) -> None:
    """Count what a data set holds, from tables and headers."""
    with show_progress("headers") as update:
        report = audit(
            options.root,
            manifest=options.manifest,
            cache=options.cache,
            jobs=0,
            progress=lambda done, total: update(done, total, 0),
        )
    if options.cache and (options.cache / INDEX).exists():
        report.flags = read_index(options.cache).entries.count_flags()
    if options.html:
        _write_page(report, options.root, options.html)
    if options.json:
        print(json.dumps(report.to_tree(), indent=1))
    else:
        _print_report(report, plain_console())


def _write_page(report: AuditReport, root: str, path: Path) -> None:
    from oct_io.catalog.audit_page import audit_page, draw_examples

    with show_progress("examples") as update:
        examples = draw_examples(report, root, lambda done, total: update(done, total, 0))
    path.write_text(audit_page(report, examples), encoding="utf-8")


def _print_report(report: AuditReport, console: Console) -> None:
    table = Table("property", "value", "scans")
    for name, counts in report.counts.items():
        for value, number in counts.most_common():
            table.add_row(name, value, str(number))
    for stage, number in report.refused.most_common():
        table.add_row("refused", f"{stage}: {report.reasons[stage]}", str(number))
    for name, number in report.mismatches.most_common():
        table.add_row("contradicts the header", name, str(number))
    for name, number in report.flags.items():
        table.add_row("flag", f"{name}: {FLAGS[name]}", str(number))
    found = report.annotations
    for name, number in found.layers.items():
        about = f"{name}, in {found.coverage[name]:.0%} of their A-scans"
        table.add_row("layer boundary", about, str(number))
    for name, number in found.classes.items():
        table.add_row("class of a mask", name, str(number))
    console.print(table)
    if found.with_layers or found.with_mask:
        console.print(
            f"layer boundaries in {found.with_layers} of the usable scans, a mask in "
            f"{found.with_mask}"
        )
    if found.unusable:
        console.print(f"{found.unusable} masks or layers cannot be read; {found.reason}")
    console.print(
        f"{report.scans} scans, {report.usable} usable, of {report.participants} participants; "
        f"{report.duplicates} duplicate SOP Instance UIDs, {report.copies} of them equally long"
    )
    if report.without_scans is not None and report.not_in_table is not None:
        console.print(
            f"{len(report.without_scans)} participants of the table have no scan; "
            f"{len(report.not_in_table)} participants with scans are not in the table"
        )
    if report.release:
        console.print(report.release, markup=False)
