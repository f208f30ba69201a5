"""Reads what XLA has compiled: which numbers of a graph travel between devices."""

import math
import re

BYTES = {"f32": 4, "bf16": 2, "f16": 2, "s64": 8, "s32": 4, "u32": 4, "u8": 1, "pred": 1}
_CALL = re.compile(
    r"= (?P<shapes>[^=]*?) (?P<name>all-reduce|all-gather|reduce-scatter|all-to-all"
    r"|collective-permute)(?:-start)?\("
)


def collectives(folder):
    """Of each graph that was compiled, in that order: bytes by name of the collective.

    `folder` is what `XLA_FLAGS=--xla_dump_to=` was given.
    """
    graphs = sorted(folder.glob("*after_optimizations.txt"))
    return [_bytes_of(path.read_text()) for path in graphs]


def _bytes_of(text):
    found = {}
    for call in _CALL.finditer(text):
        sizes = [
            BYTES[kind] * math.prod(int(edge) for edge in edges.split(",") if edge)
            for kind, edges in re.findall(r"(\w+)\[([\d,]*)\]", call["shapes"])
        ]
        found[call["name"]] = found.get(call["name"], 0) + sum(sizes)
    return found
