"""Can what nobody learned tell what only two visits, or only the order of B-scans, tell? Phantom.

    python benchmarks/phantom_visits.py [--encoders RUN/encoder ...]

As phantom_baselines.py, on right eyes at two visits with `progression` and `folded`. `progression`
is asked of the first visit and of the mean over both, which cannot know it, and of pairs: means and
distances of the features of the two visits. `folded` is asked of each visit, scores averaged within
the participant; its oracle is told Bruch's membrane, wrong by some micrometres in each A-scan.
"""

import argparse
from dataclasses import replace

from oct_io.phantom.tables import SPLITS
from phantom_baselines import ERROR_MM, ERROR_UM, TREE, all_features, ask, ask_twos, draw_cohort
from writing import write_results

VISITS = replace(TREE, arrangements=("progression", "folded"), eyes=("R",), visits=2)


def main() -> None:
    """Draw, ask, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoders", nargs="*", default=[], help="folders of trained encoders")
    parser.add_argument("--participants", type=int, default=VISITS.participants)
    options = parser.parse_args()
    cohort = draw_cohort(replace(VISITS, participants=options.participants))
    rows = {}
    for name, features in all_features(cohort, options.encoders):
        rows[name] = ask_twos(features, cohort, "progression")
        rows[name]["folded"] = ask(features, cohort, "folded", eyes=2)
        print(f"{name:20}", *(f"{key} {one[0]:.3f}" for key, one in rows[name].items()), flush=True)
    facts = {
        "phantom": True,
        "participants": {part: int((cohort.parts == part).sum()) for part in SPLITS},
        "oracle_error": {"um": ERROR_UM, "mm": ERROR_MM},
        "auroc": rows,
    }
    write_results("phantom_visits", ("oct-io", "oct-vjepa", "torch", "numpy"), facts)


if __name__ == "__main__":
    main()
