"""What the README's first command ends with: AUROC of each candidate, and the encoder's gain.

Reads the folder of a run that is over, and adds it to results/first_answers.json with the CPU that
it ran on, in the place of an earlier one of that kind: training adds in another order on another.
What the run was given besides is named, too.

    uv run apps/pretrain && python benchmarks/first_answers.py runs/phantom
    uv run apps/pretrain GIVEN ... && python benchmarks/first_answers.py runs/phantom GIVEN ...

Runs that were given encoder.patch_size=[2,8,16] and loop.steps=900, or loop.steps=450, are of what
was the default before.
"""

import json
import platform
import sys
from pathlib import Path
from typing import Any

from writing import RESULTS, rounded, write_results

WIDE = ("AVX512F", "AVX2", "ASIMD")


def features() -> list[str]:
    """Vector units of this CPU that change the order of additions."""
    from numpy._core._multiarray_umath import __cpu_features__ as known

    return [name for name in WIDE if known.get(name)]


def model() -> str:
    """What Linux calls this CPU; "" elsewhere."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    return next((one.partition(": ")[2] for one in lines if one.startswith("model name")), "")


def answers_of(asked: dict[str, Any]) -> dict[str, Any]:
    """AUROC with its interval by candidate, and what the encoder has over each."""
    rows = {}
    for one in asked["candidates"]:
        gain = one["gain"] or {}
        rows[one["name"]] = {
            "auroc": rounded(one["card"]["metrics"]["auroc"]),
            "encoder_over_it": rounded(gain["difference"]) if gain else None,
            "p_holm": gain.get("p_holm"),
        }
    return rows


def main() -> None:
    """Read, print and write."""
    run_dir, given = Path(sys.argv[1]), sys.argv[2:]
    asked = json.loads((run_dir / "probes.json").read_text())
    origin = json.loads((run_dir / "provenance.json").read_text())
    facts: dict[str, Any] = {
        "git_commit": origin["git_commit"],
        "machine": platform.machine(),
        "cpu": model(),
        "vector_units": features(),
        "seed": origin["seed"],
        "given": given,
        "tested": {one["question"]["name"]: one["split"] for one in asked},
        "answers": {one["question"]["name"]: answers_of(one) for one in asked},
    }
    for name, rows in facts["answers"].items():
        print(name, {who: row["auroc"][0] for who, row in rows.items()})
    kept = RESULTS / "first_answers.json"
    before = json.loads(kept.read_text())["runs"] if kept.exists() else []
    kind = ("machine", "cpu", "vector_units", "seed", "given")
    others = [one for one in before if any(one[name] != facts[name] for name in kind)]
    found = {"phantom": True, "runs": [*others, facts]}
    write_results("first_answers", ("torch", "numpy", "oct-vjepa", "oct-io"), found)


if __name__ == "__main__":
    main()
