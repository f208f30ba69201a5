"""The command `oct-vjepa presets`: what each preset costs, and where its numbers come from."""

import argparse
from typing import Any

from oct_vjepa.presets.costs import Cost, cost_of
from oct_vjepa.presets.runs import PRESETS, Preset, preset

GIB = 2**30
COLUMNS = ("preset", "tokens", "encoder M", "predictor M", "TFLOP/volume", "states GiB")
MORE_COLUMNS = ("activations GiB/volume", "batch", "PFLOP/step")


def table(costs: list[Cost]) -> str:
    """One row a preset, aligned."""
    rows = [(*COLUMNS, *MORE_COLUMNS)]
    for one in costs:
        row = (
            one.name,
            f"{one.tokens:,}",
            f"{one.encoder / 1e6:.1f}",
            f"{one.predictor / 1e6:.1f}",
            f"{one.flops / 1e12:.3g}",
            f"{one.state_bytes / GIB:.2f}",
            f"{one.activation_bytes / GIB:.2f}",
            str(one.batch),
            f"{one.flops * one.batch / 1e15:.3g}",
        )
        rows.append(row)
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def add(commands: Any) -> None:
    """Add the command `presets` to the subparsers of the program."""
    parser = commands.add_parser("presets", help="parameters, FLOPs, memory; settings and sources")
    parser.add_argument("names", nargs="*", help="presets whose settings to list with sources")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, then the settings of the presets that were named.

    Raises:
        ValueError: an unknown preset.
    """
    chosen = {name: preset(name) for name in arguments.names} or PRESETS
    print(table([cost_of(name, one) for name, one in chosen.items()]))
    print(
        "\nFLOPs: matrix products of teacher, student, predictor and backward, counted on the meta"
        "\ndevice. States: float32 parameters, gradients, AdamW's moments and the teacher."
        "\nActivations: bfloat16, fused attention, what the backward pass keeps (costs.py)."
    )
    for name in arguments.names:
        print(f"\n{describe(name, chosen[name])}")
    return 0


def describe(name: str, chosen: Preset) -> str:
    """Every setting of a preset with its source, one a line."""
    lines = [f"{name}: {chosen.purpose}"]
    if chosen.warning:
        lines.append(f"warning: {chosen.warning}")
    for section, settings in chosen.sections().items():
        for field, given in settings.items():
            lines.append(f"  {section}.{field:<18} {given.value!s:<16} {given.source}")
    return "\n".join(lines)
