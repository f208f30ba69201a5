"""`oct-io cache ROOT OUT`: decode and resample once."""

import argparse
from dataclasses import replace

from oct_io.cache.build import build_cache
from oct_io.catalog.manifest import list_scans
from oct_io.commands import Commands, add_command, plain_console
from oct_io.progress import show_progress
from oct_io.records.opening import ANNOTATIONS
from oct_io.space.windows import WINDOWS, Window, find_window
from oct_io.volume import KINDS


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "cache", _run)
    command.add_argument("root", metavar="ROOT")
    command.add_argument("out", metavar="OUT", help="folder, or a URL in a bucket")
    command.add_argument(
        "--window",
        type=_window,
        default="macula6",
        metavar="WINDOW",
        help=f"{', '.join(WINDOWS)}; or voxels for all of each scan, such as 32x32x32",
    )
    command.add_argument(
        "--flatten",
        action="store_true",
        help="bring the retina's surface to one row, as data.flatten does",
    )
    command.add_argument(
        "--mirror-left", action="store_true", help="mirror left eyes, as data.mirror_left does"
    )
    command.add_argument(
        "--kind",
        choices=KINDS,
        default="oct",
        help="volume if the scans are no OCT, so that no rule of retinas refuses them",
    )
    command.add_argument("--jobs", type=int, default=0, help="processes; 0 for one a CPU")
    command.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="work on Ray Data: on the cluster at ADDRESS (host:port, auto), or on one of its own",
    )
    command.add_argument(
        "--parts",
        metavar="URL",
        help="folder or bucket for the parts of an unfinished cache, one that all workers share",
    )
    command.add_argument("--manifest", metavar="FILE", help="table of the scans to take")
    command.add_argument(
        "--annotations",
        nargs="+",
        choices=ANNOTATIONS,
        default=[],
        help="also keep layer boundaries and masks of the scans that have them",
    )
    command.add_argument("--max-bad-fraction", type=float, default=0.5)


def _window(name: str) -> Window:
    try:
        return find_window(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(options: argparse.Namespace) -> None:
    """Decode and resample every scan of a data set, once."""
    make_parts = None
    if options.ray:
        from oct_io.cache.ray_cache import on_ray

        make_parts = on_ray(options.ray, cpus=options.jobs)
    with show_progress("headers") as update_headers:
        listing = list_scans(
            options.root,
            manifest=options.manifest,
            cache=options.out,
            jobs=options.jobs,
            progress=lambda done, total: update_headers(done, total, 0),
            kind=options.kind,
        )
    with show_progress("scans") as update:
        index = build_cache(
            listing.records,
            options.root,
            replace(options.window, mirror_left=options.mirror_left, flattened=options.flatten),
            options.out,
            jobs=options.jobs,
            progress=update,
            max_bad_fraction=options.max_bad_fraction,
            make_parts=make_parts,
            parts=options.parts,
            tokens=listing.tokens,
            annotations=options.annotations,
        )
    plain_console().print(
        f"{len(index.entries)} volumes of {' x '.join(map(str, index.window.shape))}, "
        f"{index.refused} refused; mean {index.mean:.1f}, std {index.std:.1f}; "
        f"fingerprint {index.fingerprint[:12]}"
    )
    flags = index.entries.count_flags()
    if flags:
        listed = ", ".join(f"{number} {name}" for name, number in flags.items())
        plain_console().print(f"flags: {listed}; data.flags=[...] leaves such scans out")
    listed = ", ".join(f"{number} at {white}" for white, number in index.whites.items())
    mixed = ", ".join(index.entries.mixed_whites())
    note = f"; MIXED within {mixed}, so that grey levels may mean different things" if mixed else ""
    plain_console().print(f"white: {listed or 'unknown'}{note}")
    for kind in index.annotations:
        some, names = index.entries.with_annotation(kind), index.entries.annotation_names(kind)
        listed = ", ".join(sorted({name for one in names for name in one})) or "none"
        plain_console().print(f"{kind}: {len(some)} of {len(index.entries)} volumes ({listed})")
