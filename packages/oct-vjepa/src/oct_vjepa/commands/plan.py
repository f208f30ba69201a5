"""The command `oct-vjepa plan`: settings for data and a machine that are described in words."""

import argparse
from typing import Any

from oct_vjepa.commands.presets import describe
from oct_vjepa.plans.facts import DEVICES, Facts, Measured
from oct_vjepa.plans.proposal import fit_to_hours, hours_of, propose

MEASURE = (
    "what a step takes was not measured: --step-s SECONDS, or, for scans that lie here,\n"
    "  uv run apps/pretrain data=folder data.root=DIR propose.to=plan.yaml\n"
    "which reads all of this from them, times real steps and writes a file to train with"
)


def add(commands: Any) -> None:
    """Add the command to the subparsers of the program."""
    parser = commands.add_parser("plan", help="settings for your data and machine, with reasons")
    parser.add_argument("--volumes", type=int, required=True, help="for training")
    parser.add_argument("--participants", type=int, help="whose they are; as many as volumes")
    parser.add_argument(
        "--shape", type=int, nargs=3, required=True, metavar=("Z", "Y", "X"),
        help="voxels of a volume; Z is 1 for single B-scans",
    )  # fmt: skip
    parser.add_argument("--device", choices=DEVICES, default="cpu")
    parser.add_argument("--memory-gb", type=float, required=True, help="of the device")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--hours", type=float, help="that training may take; 1 on a CPU, else 24")
    parser.add_argument("--step-s", type=float, help="seconds of a step, if they are known")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print each setting with its reason, and the hours if a step's seconds are known.

    Raises:
        ValueError: facts that cannot be, or volumes that no patch divides.
    """
    given = arguments
    deep, high, wide = given.shape
    facts = Facts(
        volumes=given.volumes,
        participants=given.participants or given.volumes,
        input_shape=(deep, high, wide),
        device=given.device,
        memory_gb=given.memory_gb,
        cores=given.cores,
        hours=given.hours or (1.0 if given.device == "cpu" else 24.0),
    )
    plan, cost = propose(facts), MEASURE
    if given.step_s is not None:
        if given.step_s <= 0:
            raise ValueError(f"--step-s ({given.step_s:g}) must be above 0 seconds")
        measured = Measured(step_s=given.step_s, steps=1)
        plan = fit_to_hours(plan, facts, measured)
        cost = f"training: {hours_of(plan, measured):.1f} h at {given.step_s:g} s a step"
    names = f"objective={plan.objective.name} masking={plan.masking.name}"
    print(f"{describe('plan', plan)}\nas {names}, of these sizes\n{cost}")
    return 0
