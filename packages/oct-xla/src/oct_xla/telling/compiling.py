"""Which shape has made the compiler work once more, where graphs are compiled (XLA)."""

from typing import Any

from oct_xla.devices.runtime import Runtime
from oct_xla.folder.journal import say
from oct_xla.tree import named_tensors

WARM_UP = 3
"""Steps of a start that may compile: what the first one makes is an input of the next ones."""


class CompileWatch:
    """Says when graphs are compiled after the warm-up, and which tensor of a batch was another.

    Each costs from seconds to minutes, at which all devices wait. The first evaluation of a start
    compiles what it computes, which is not said.

    Args:
        runtime: counts graphs; the first process says.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._wanted = runtime.name == "xla" and runtime.rank == 0
        self._shapes: dict[str, list[str]] = {}
        self._fresh: list[str] = []
        self._count = 0

    def see(self, batch: Any) -> None:
        """Take note of the shapes of a micro-batch."""
        if not self._wanted:
            return
        for name, tensor in named_tensors(batch):
            shape = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            known = self._shapes.setdefault(name, [])
            if shape not in known:
                known.append(shape)
                self._fresh += [name] if len(known) > 1 else []

    def look(self, doing: str, *, expected: bool) -> None:
        """Say what was compiled since the last look.

        Args:
            doing: what has just ended.
            expected: whether it may compile.
        """
        if not self._wanted:
            return
        count, fresh = self._runtime.compilations(), self._fresh
        more, self._count, self._fresh = count - self._count, count, []
        if more <= 0 or expected:
            return
        told = [
            f"{name} is {self._shapes[name][-1]}, was {self._shapes[name][0]}"
            for name in dict.fromkeys(fresh)
        ]
        why = "; ".join(told) or (
            "no tensor of the batch has another shape; a number of Python that comes to be 0 or"
            " 1 is a graph of its own, and PT_XLA_DEBUG_LEVEL=2 names the line of the program"
        )
        say(f"{doing}: compiled {more} more graphs, all devices waited: {why}")
