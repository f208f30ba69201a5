"""Writing down what a benchmark measured, with the versions that it was measured with."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_results(name: str, packages: Sequence[str], facts: Mapping[str, Any]) -> None:
    """Write results/NAME.json: the command, the versions of `packages`, and `facts`."""
    result = {
        "command": f"python benchmarks/{name}.py",
        "versions": {package: version(package) for package in packages},
        **facts,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
