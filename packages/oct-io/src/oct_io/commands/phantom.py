"""`oct-io phantom OUT`: a made-up data set."""

import argparse
from pathlib import Path
from typing import Any

from oct_io.commands import Commands, add_command
from oct_io.progress import show_progress

SAME_NAME = (
    *("participants", "seed", "jobs", "effect", "null", "scale", "bits", "corrupt"),
    *(
        "annotations",
        "odd_manifest",
        "odd_files",
        "confounded",
        "site_gain_db",
        "gain_sd_db",
        "roll_off_sd_db_per_mm",
        "devices_per_participant",
        "visits",
    ),
)
"""Options that set the field of `PhantomTree` of their name."""

CONFOUNDERS = ("device", "site")
LAYOUTS = {"v1": 1, "v2": 2, "v3": 3}


def add(commands: Commands) -> None:
    """Describe the arguments."""
    command = add_command(commands, "phantom", _run)
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--participants", type=int, help="how many; both eyes of each")
    command.add_argument("--seed", type=int, help="another one, another population")
    command.add_argument("--jobs", type=int, help="processes; 0 for one a CPU")
    command.add_argument("--layout", choices=LAYOUTS, help="release of AI-READI to name columns as")
    command.add_argument("--devices", metavar="NAME,NAME", help="made-up devices or protocols")
    command.add_argument(
        "--vendors", action="store_true", help="every protocol of AI-READI for each participant"
    )
    command.add_argument("--devices-per-participant", type=int, help="scans of each eye")
    command.add_argument("--visits", type=int, help="of each eye; two show `progression`")
    command.add_argument("--scale", type=float, help="share of the true number of voxels per axis")
    command.add_argument("--bits", type=int, choices=(8, 16))
    command.add_argument("--codec", metavar="NAME,NAME", help="scans take turns; `all` for all")
    command.add_argument(
        "--annotations", action="store_true", help="also write true fluid and layers of each scan"
    )
    _add_trouble(command)


def _add_trouble(command: argparse.ArgumentParser) -> None:
    command.add_argument("--effect", type=float, help="size of all lesions; 0 draws none")
    command.add_argument(
        "--arrangements",
        metavar="NAME,NAME",
        help="add lesions that are only another order of parts; `all` for all",
    )
    command.add_argument("--null", action="store_true", help="labels say nothing of the voxels")
    command.add_argument(
        "--confounder",
        action="append",
        default=[],
        metavar="device=P|site=P",
        help="tie it to the label in a share P of participants; may be given twice",
    )
    command.add_argument("--confounded", metavar="LABEL", help="that label; fluid if not given")
    command.add_argument("--site-gain-db", type=float, help="difference in brightness of sites")
    command.add_argument("--gain-sd-db", type=float, help="in brightness from scan to scan")
    command.add_argument(
        "--roll-off-sd-db-per-mm", type=float, help="in loss of light with depth from scan to scan"
    )
    command.add_argument("--corrupt", action="store_true", help="spoil one scan in each way")
    command.add_argument("--odd-manifest", action="store_true", help="as real ones can be")
    command.add_argument("--odd-files", action="store_true", help="as other converters write them")


def _run(options: argparse.Namespace) -> None:
    """Draw a made-up data set in AI-READI's layout."""
    from oct_io.phantom import PhantomTree, write_phantom_tree

    tree = PhantomTree(**_fields(options))
    with show_progress("phantoms") as update:
        write_phantom_tree(options.out, tree, lambda done, total: update(done, total, 0))


def _fields(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of `PhantomTree` that the options set."""
    from oct_io.dicom.encoding import CODECS
    from oct_io.phantom.arrangements import ORDERS
    from oct_io.phantom.scanners import SCANNERS

    found = {name: getattr(options, name) for name in SAME_NAME if getattr(options, name)}
    found |= {name: 0 for name in ("seed", "effect") if getattr(options, name) == 0}
    if options.layout:
        found["manifest_version"] = LAYOUTS[options.layout]
    if options.devices and options.vendors:
        raise ValueError("--vendors takes all protocols, --devices some: give one of them")
    if options.devices:
        found["devices"] = tuple(options.devices.split(","))
    if options.vendors:
        found = {"devices_per_participant": len(SCANNERS)} | found | {"devices": tuple(SCANNERS)}
    if options.codec:
        names = [name for name in CODECS if name != "jpeg"]  # those that lose nothing
        found["codecs"] = tuple(names if options.codec == "all" else options.codec.split(","))
    if options.arrangements:
        asked = ORDERS if options.arrangements == "all" else options.arrangements.split(",")
        found["arrangements"] = tuple(asked)
    for text in options.confounder:
        name, _, share = text.partition("=")
        if name not in CONFOUNDERS or not _is_number(share):
            raise ValueError(f"--confounder ({text!r}) must be device=P or site=P, P from 0 to 1")
        found[f"{name}_confounding"] = float(share)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
