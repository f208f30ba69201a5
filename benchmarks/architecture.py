"""How large the libraries are, and how deep their imports go: rooms, floors, circles.

python benchmarks/architecture.py

A room is what stands in a library's top folder: a wing, or a module beside the wings. Floors are
the longest chain of imports between rooms; the longest chain between modules stands beside it.
Another checkout is measured with PYTHONPATH naming its packages/*/src. Backward arrows are what
`uv run lint-imports` looks for.
"""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import grimp
from oct_launch import print_table
from writing import write_results

LIBRARIES = ("oct_io", "oct_vjepa", "oct_xla")
SHOWN = ("library", "lines", "modules", "rooms", "floors", "modules in a chain", "circles")
Arrows = Mapping[str, frozenset[str]]


def main() -> None:
    """Measure, print, write."""
    rows = [measure(library) for library in LIBRARIES]
    print_table(SHOWN, [[str(row[name]) for name in SHOWN] for row in rows])
    for row in rows:
        print(f"{row['library']}: {' -> '.join(row['chain of rooms'])}")  # type: ignore[arg-type]
    facts = {"command": "python benchmarks/architecture.py", "libraries": rows}
    write_results("architecture", ["import-linter", "grimp"], facts)


def measure(library: str) -> dict[str, object]:
    """Figures of one library."""
    folder = _folder(library)
    graph = grimp.build_graph(library)
    modules = {
        name: frozenset(graph.find_modules_directly_imported_by(name))
        for name in graph.modules
        if name != library  # it imports everything, which says nothing
    }
    rooms: dict[str, set[str]] = {}
    for name, imported in modules.items():
        room = name.split(".")[1]
        others = {one.split(".")[1] for one in imported if "." in one}
        rooms.setdefault(room, set()).update(others - {room})
    arrows = {name: frozenset(others) for name, others in rooms.items()}
    chain = longest_chain(arrows)
    sources = list(folder.rglob("*.py"))
    return {
        "library": library,
        "lines": sum(len(path.read_text().splitlines()) for path in sources),
        "modules": len(sources),
        "rooms": len(rooms),
        "floors": len(chain),
        "modules in a chain": len(longest_chain(modules)),
        "circles": sum(
            len(graph.nominate_cycle_breakers(name))
            for name in graph.modules
            if graph.find_children(name)
        ),
        "chain of rooms": chain,
    }


def _folder(library: str) -> Path:
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{library} cannot be imported; run this with `uv run`")
    return Path(spec.origin).parent


def longest_chain(arrows: Arrows) -> list[str]:
    """The longest path along the arrows; where they go round, each is followed once."""

    @cache
    def below(name: str) -> tuple[str, ...]:
        if name in passing:
            return ()
        passing.add(name)
        paths = [below(other) for other in sorted(arrows.get(name, ()))]
        passing.discard(name)
        return (name, *max(paths, key=len, default=()))

    passing: set[str] = set()
    return list(max((below(name) for name in sorted(arrows)), key=len))


if __name__ == "__main__":
    main()
