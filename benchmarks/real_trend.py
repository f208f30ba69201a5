r"""What do steps, people, width and objective make of a short pretraining on real B-scans?

Each arm changes one thing of `experiment=bscans` at 900 steps and is asked about one fold of
benchmarks/real_bscans.py, whose data these are; objectives take as many steps as make their seconds
of the processor about equal. QUARTERS is the table FOLDS with fold-1 called test and the others
dealt to q0 to q3 by turns, ASK the same with the others called train:

    awk -F'\t' -v OFS='\t' 'NR>1{$2=($2=="fold-1")?"test":"q" NR%4}1' FOLDS > QUARTERS
    awk -F'\t' -v OFS='\t' 'NR>1{$2=($2=="fold-1")?"test":"train"}1' FOLDS > ASK
    arm() { name=$1; shift
      uv run apps/pretrain $DATA data.split=QUARTERS data.excluded_splits=[test] loop.steps=900 \
        experiment=bscans loop.evaluate_every=0 run_dir=runs/$name "$@"
      for question in dme dr; do
        uv run apps/finetune $DATA evaluation=bscans data.split=ASK encoder=runs/$name/encoder \
          seeds=1 compare.fractions=[0.1,1] compare.few_validation=false compare.baselines=[] \
          compare.maps=0 run_dir=runs/$name-$question ...  # labels as in benchmarks/real_bscans.py
      done; }
    arm steps-300 loop.steps=300
    arm steps-2700 loop.steps=2700
    arm share-25 'data.excluded_splits=[test,q1,q2,q3]'
    arm share-50 'data.excluded_splits=[test,q2,q3]'
    arm width-96 encoder.width=96
    arm width-384 encoder.width=384 encoder.heads=6
    arm mae objective=mae_smoke masking=mae loop.steps=1900
    arm dino objective=dino_smoke loop.steps=350
    arm lejepa objective=lejepa_smoke loop.steps=450
    arm vjepa2 objective=vjepa2_smoke loop.steps=1000
    arm vjepa21 objective=vjepa21_smoke loop.steps=950
    arm patches masking=mae loop.steps=1250
    arm patches-4000 masking=mae loop.steps=4000
    arm patches-one-level objective=vjepa2_voxels_smoke masking=mae loop.steps=1300
    uv run python benchmarks/real_trend.py runs steps-300=107 ...

reads runs/NAME-dme and runs/NAME-dr, and takes down how long each was trained, in seconds of the
processor. One fold, one seed: an arm is a reading, not a verdict.

Here `experiment=bscans` stands for what it was until results/real_bscans_filter_targets.json:
objective=vjepa21_voxels_smoke masking=multiblock loop.steps=2700 loop.evaluate_every=300, and what
is given beside it goes before that.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from writing import rounded, write_results

QUESTIONS = ("dme", "dr")


def read(folder: Path) -> dict[str, Any]:
    """The encoder's score with all and with a tenth of the labels, and what it has over others."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    headline = found["headline"]
    rows = {one["name"]: one for one in found["candidates"]}
    few = {one["candidate"]: one for one in found["efficiency"] if one["fraction"] < 1}
    return {
        headline: rounded(rows["pretrained"]["card"]["metrics"][headline]),
        "over_random_init": rounded(rows["random init"]["gain"]["difference"]),
        "a_tenth_of_the_labels": {
            headline: rounded(few["pretrained"]["headline"]),
            "over_random_init": rounded(few["random init"]["gain"]["difference"]),
        },
    }


def main() -> None:
    """Read, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("arms", nargs="+", help="NAME=CPU_SECONDS")
    options = parser.parse_args()
    rows = []
    for arm in options.arms:
        name, _, seconds = arm.partition("=")
        asked = {one: read(options.runs / f"{name}-{one}") for one in QUESTIONS}
        rows.append({"arm": name, "cpu_s": int(seconds), **asked})
        print(json.dumps(rows[-1]))
    write_results("real_trend", ("oct-io", "oct-vjepa", "numpy"), {"phantom": False, "arms": rows})


if __name__ == "__main__":
    main()
