"""`oct-io quarantine CACHE`: what a cache left out, and trying it again."""

import argparse
from pathlib import Path

from oct_io.cache.mending import list_refused, release, retry
from oct_io.catalog.manifest import list_scans
from oct_io.commands import Commands, add_command, plain_console
from oct_io.errors import TreeError
from oct_io.progress import show_progress
from oct_io.quarantine import count_stages
from oct_io.volume import KINDS


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "quarantine", _run)
    command.add_argument("cache", type=Path, metavar="CACHE")
    command.add_argument("action", nargs="?", choices=("list", "retry", "release"), default="list")
    command.add_argument("keys", nargs="*", metavar="KEY", help="of refused scans, as listed")
    command.add_argument("--root", help="retry: the folder or URL that the cache was built from")
    command.add_argument("--manifest", metavar="FILE", help="retry: its table of scans, if given")
    command.add_argument(
        "--kind", choices=KINDS, default="oct", help="retry: as the cache was built with"
    )
    command.add_argument("--jobs", type=int, default=1, help="retry: processes; 0 for one a CPU")


def _run(options: argparse.Namespace) -> None:
    """List what a cache left out, naming nobody; `retry` reads it again, `release` forgets it."""
    if options.action == "retry":
        _retry(options)
    elif options.action == "release":
        if not options.keys:
            raise TreeError("release needs the keys of the scans to forget, as the list has them")
        left = release(options.cache, options.keys)
        print(f"{len(options.keys)} released for the next build; {left} still refused")
    else:
        refusals = list_refused(options.cache)
        for refusal in refusals:
            print(f"{refusal.key}\t{refusal.suffix}\t{refusal.stage}\t{refusal.reason}")
        print(f"{len(refusals)} refused" + (f" ({count_stages(refusals)})" if refusals else ""))


def _retry(options: argparse.Namespace) -> None:
    if not options.root:
        raise TreeError("retry needs --root: a cache does not know where its scans lie")
    before = len(list_refused(options.cache))
    listing = list_scans(
        options.root, manifest=options.manifest, cache=options.cache, kind=options.kind
    )
    with show_progress("scans") as update:
        index = retry(
            options.cache,
            listing.records,
            options.root,
            keys=options.keys,
            jobs=options.jobs,
            progress=update,
        )
    plain_console().print(
        f"{before - index.refused} of {before} refused scans now work; "
        f"{len(index.entries)} volumes, {index.refused} refused"
    )
