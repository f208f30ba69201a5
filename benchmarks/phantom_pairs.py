"""Does any objective learn what only two scans of a participant tell? All of them, three seeds.

    uv run python benchmarks/phantom_pairs.py [--runs runs/phantom_pairs]

The objectives of phantom_objectives.py, for as many steps, on two visits of both eyes of 180
made-up participants with every lesion of `oct_io.phantom.arrangements`. Asked are the participants
of phantom_baselines.py and phantom_visits.py, `asymmetry` of pairs of eyes and `progression` of
pairs of visits, and both of the mean over the two, which cannot know it. Intervals have the luck of
participants and of seeds in them. The trivial baselines of these questions stand in the results of
those two programs.

Finished pretraining is not repeated. The settings were fixed before, and nothing was tuned. Some
80 minutes of one core. Phantom, all of it.
"""

import argparse
from pathlib import Path

from evaluations import PACKAGES
from oct_vjepa import Encoder
from phantom_baselines import TREE, answers, draw_cohort, interval_of, mean_of, pairs_of, tails_of
from phantom_objectives import ARMS, SEEDS, TEACHER, pretrain_all
from phantom_visits import VISITS
from writing import write_results

LESIONS = "inverted,misplaced,texture,asymmetry,progression,folded"
QUESTIONS = {"asymmetry": TREE, "progression": VISITS}
HOW = {"mean": mean_of, "pairs": pairs_of}


def main() -> None:
    """Pretrain, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phantom_pairs"))
    runs = parser.parse_args().runs
    data = [
        "data=phantom_arranged",
        f"data.root={runs / 'data'}",
        f"data.cache={runs / 'cache'}",
        "data.phantom.participants=300",
        "data.phantom.eyes=[R,L]",
        "data.phantom.visits=2",
        f"data.phantom.arrangements=[{LESIONS}]",
        f"data.label_columns=[{LESIONS}]",
    ]
    spent = pretrain_all(runs, data)
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in ARMS if name != TEACHER}
    for label, tree in QUESTIONS.items():
        cohort = draw_cohort(tree)
        for name, row in rows.items():
            folders = [runs / f"{name}-seed{seed}" / "encoder" for seed in range(SEEDS)]
            made = [tails_of(Encoder.from_pretrained(one), cohort.volumes) for one in folders]
            for how, join in HOW.items():
                units = [answers(join(one), cohort, label, eyes=1) for one in made]
                row[f"{label}, {how}"] = interval_of(units)
            print(f"{name:12}", row, flush=True)
    facts = {"phantom": True, "seeds": SEEDS, "steps": ARMS, "cpu_s": spent, "auroc": rows}
    write_results("phantom_pairs", (*PACKAGES, "oct-xla", "torch"), facts)


if __name__ == "__main__":
    main()
