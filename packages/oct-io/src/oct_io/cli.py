"""The command `oct-io`: draw phantoms, look at scans, audit a data set, build a cache."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from oct_io.audit import AuditReport, audit
from oct_io.cache import build_cache
from oct_io.errors import OctIoError, TreeError
from oct_io.manifest import read_manifest
from oct_io.quarantine import QUARANTINE, count_stages, read_quarantine
from oct_io.readers import read_header, read_volume
from oct_io.render import draw_montage, write_png
from oct_io.resample import WINDOWS

OK, USER_ERROR = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when done, 2 with one line on stderr when the input is at fault."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except OctIoError as error:
        print(f"oct-io: {error}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, OSError) as error:  # a bad option, or a place that cannot be written
        print(f"oct-io: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="oct-io", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        about = (run.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
        return command

    phantom = add("phantom", _phantom)
    phantom.add_argument("out", type=Path, metavar="OUT")
    phantom.add_argument("--participants", type=int, default=None)
    phantom.add_argument("--seed", type=int, default=None)
    phantom.add_argument("--jobs", type=int, default=None, help="processes; 0 for one a CPU")
    inspect = add("inspect", _inspect)
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--png", type=Path, metavar="OUT", help="also decode, and draw B-scans")
    add("audit", _audit).add_argument("root", metavar="ROOT")
    add("manifest", _manifest).add_argument("root", metavar="ROOT")
    cache = add("cache", _cache)
    cache.add_argument("root", metavar="ROOT")
    cache.add_argument("out", type=Path, metavar="OUT")
    cache.add_argument("--window", choices=sorted(WINDOWS), default="macula6")
    cache.add_argument("--jobs", type=int, default=0, help="processes; 0 for one a CPU")
    cache.add_argument("--max-bad-fraction", type=float, default=0.5)
    add("quarantine", _quarantine).add_argument("cache", type=Path, metavar="CACHE")
    return parser


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, int], None]]:
    bad = TextColumn("{task.fields[bad]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), bad)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, bad="")

        def update(done: int, total: int, bad: int = 0) -> None:
            seen = f"{bad} refused" if bad else ""
            progress.update(task, completed=done, total=total, bad=seen)

        yield update


def _phantom(options: argparse.Namespace) -> None:
    """Draw a made-up data set in AI-READI's layout."""
    from oct_io.phantom import PhantomTree, write_phantom_tree

    names = ("participants", "seed", "jobs")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    with _bar("phantoms") as update:
        tree = PhantomTree(**given)
        write_phantom_tree(options.out, tree, lambda done, total: update(done, total, 0))


def _inspect(options: argparse.Namespace) -> None:
    """Say what a scan is, without saying whose."""
    header = read_header(options.file)
    spacing = "unknown" if header.spacing is None else _numbers(header.spacing, " x ")
    table = Table("property", "value", title="scan")
    rows = {
        "bscans x rows x columns": " x ".join(map(str, header.shape)),
        "bits": str(header.bits),
        "spacing, mm": f"{spacing} (from {header.spacing_source})",
        "pattern": f"{header.pattern} {header.pattern_note}".strip(),
        "laterality": header.laterality,
        "device": header.device,
        "protocol": header.protocol,
        "region": header.region,
        "transfer syntax": header.transfer_syntax,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
    if options.png:
        write_png(draw_montage(read_volume(options.file)), options.png)


def _numbers(values: Sequence[float], between: str) -> str:
    return between.join(f"{value:.6g}" for value in values)


def _audit(options: argparse.Namespace) -> None:
    """Count what a data set holds, from tables and headers."""
    with _bar("headers") as update:
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


def _manifest(options: argparse.Namespace) -> None:
    """List the scans of a data set as tab-separated text, participants hashed."""
    names = ("participant", "key", "device", "laterality", "region", "protocol")
    print("\t".join((*names, "shape", "refused")))
    for record in read_manifest(options.root):
        shape = "x".join(map(str, record.shape or ()))
        refused = ": ".join(record.refused or ())
        print("\t".join((*(str(getattr(record, name)) for name in names), shape, refused)))


def _cache(options: argparse.Namespace) -> None:
    """Decode and resample every scan of a data set, once."""
    records = read_manifest(options.root)
    with _bar("scans") as update:
        index = build_cache(
            records,
            options.root,
            WINDOWS[options.window],
            options.out,
            jobs=options.jobs,
            progress=update,
            max_bad_fraction=options.max_bad_fraction,
        )
    Console().print(
        f"{len(index.entries)} volumes of {' x '.join(map(str, index.window.shape))}, "
        f"{index.refused} refused; mean {index.mean:.1f}, std {index.std:.1f}; "
        f"fingerprint {index.fingerprint[:12]}"
    )


def _quarantine(options: argparse.Namespace) -> None:
    """Count and list what a cache left out, without naming participants."""
    path = options.cache / QUARANTINE
    if not path.exists():
        raise TreeError(f"{path}: no quarantine here; give the folder of a cache")
    refusals = read_quarantine(path)
    for refusal in refusals:
        print(f"{refusal.key}\t{refusal.suffix}\t{refusal.stage}\t{refusal.reason}")
    print(f"{len(refusals)} refused" + (f" ({count_stages(refusals)})" if refusals else ""))
