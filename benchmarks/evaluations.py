"""What benchmarks that read finished evaluations have alike: folders in, one small table out."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from writing import write_results

PACKAGES = ("oct-io", "oct-vjepa", "numpy")


def write_evaluations(
    name: str, about: str, describe: Callable[[Mapping[str, Any]], dict[str, Any]], *, phantom: bool
) -> None:
    """Describe each evaluation that the command line names, print it, and write results/NAME.json.

    Args:
        name: of the benchmark.
        about: its docstring.
        describe: from results.json to what is kept of it.
        phantom: what the scans must be; a folder of the other kind ends the program.
    """
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished evaluations")
    parser.add_argument("--into", default=name, help=f"results/INTO.json; {name} by default")
    options, found = parser.parse_args(), []
    for folder in options.runs:
        document = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if document["made_up_data"] != phantom:
            raise SystemExit(
                f"{folder}: this table is of {'phantoms' if phantom else 'real scans'}"
            )
        found.append(describe(document))
    print(json.dumps(found, indent=1))
    write_results(options.into, PACKAGES, {"phantom": phantom, "runs": found})
