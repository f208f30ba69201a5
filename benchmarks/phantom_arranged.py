"""Does any objective learn lesions that only an order of parts tells? All of them, three seeds.

    uv run python benchmarks/phantom_arranged.py [--runs runs/phantom_arranged]

The objectives of phantom_objectives.py, for as many steps, on 720 made-up participants of
`data=phantom_arranged`, whose every eye has the same marks, ill or not; 480 others are tested. A
linear probe for seven lesions at once: `inverted`, `misplaced`, `texture` and `folded`, which only
an order of parts tells, and thin, fluid and drusen among those marks. Then each device by a probe
of the others; the encoders have seen its scans, not its labels.

All of it by the apps, whose commands are printed; finished runs are not repeated. The settings were
fixed before, and nothing was tuned. Some 75 minutes of one core. Phantom, all of it.
"""

import argparse
from pathlib import Path

from evaluations import PACKAGES
from phantom_objectives import ALONE, ARMS, SEEDS, ask, features_of, pretrain_all, rivals
from writing import write_results

LABELS = "thin,fluid,drusen,inverted,misplaced,texture,folded"


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_arranged"))
    runs = parser.parse_args().runs
    data = [
        "data=phantom_arranged",
        f"data.root={runs / 'data'}",
        f"data.cache={runs / 'cache'}",
        "data.phantom.participants=1200",
        "data.phantom.arrangements=[inverted,misplaced,texture,folded]",
    ]
    spent = pretrain_all(runs, [*data, f"data.label_columns=[{LABELS}]"])
    beside = f"compare.encoders=[{','.join(rivals(runs))}]"
    asked = [*data, *ALONE, *features_of(runs), f"task.columns=[{LABELS}]", beside]
    few = ["compare.fractions=[0.1,0.25,1]", "compare.few_validation=false"]
    devices = ["protocol.name=leave_one_out", "protocol.by=@device", "allow_seen=true"]
    found = {
        name: ask(runs / name, [*asked, *overrides])
        for name, overrides in (("given", few), ("devices", devices))
    }
    facts = {"phantom": True, "seeds": SEEDS, "steps": ARMS, "cpu_s": spent, **found}
    write_results("phantom_arranged", (*PACKAGES, "oct-xla", "torch"), facts)


if __name__ == "__main__":
    main()
