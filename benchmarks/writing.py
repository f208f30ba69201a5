"""Writing down what a benchmark measured, with the versions that it was measured with."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_results(name: str, packages: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write results/NAME.json: the command, the versions of `packages`, and `facts`."""
    result = {
        "command": f"python benchmarks/{Path(sys.argv[0]).name}",
        "versions": {package: version(package) for package in packages},
        **facts,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def as_cell(value: Any) -> str:
    """One value of a row for the terminal: "-" for none, three decimals for each of a list."""
    if value is None:
        return "-"
    return " ".join(f"{one:.3f}" for one in value) if isinstance(value, list) else str(value)


def rounded(values: Sequence[float]) -> list[float | None]:
    """Three decimals of each; what is not defined is null."""
    return [round(one, 3) if math.isfinite(one) else None for one in map(float, values)]
