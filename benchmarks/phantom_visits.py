"""Can what nobody learned tell what only two visits, or only the order of B-scans, tell? Phantom.

    python benchmarks/phantom_visits.py [--encoders RUN/encoder ...]

As phantom_baselines.py, on right eyes at two visits with `progression` and `folded`. `progression`
is asked of the first visit and of the mean over both, which cannot know it, and of pairs: means and
distances of the features of the two visits. `folded` is asked of each visit, scores averaged within
the participant; its oracle is told Bruch's membrane, wrong by some micrometres in each A-scan.
"""

from dataclasses import replace

from phantom_baselines import TREE, Cohort, Floats, ask, ask_twos, measure

VISITS = replace(TREE, arrangements=("progression", "folded"), eyes=("R",), visits=2)


def ask_visits(features: Floats, cohort: Cohort) -> dict[str, list[float]]:
    """Both questions, as the docstring on top says, of features of each visit."""
    found = ask_twos(features, cohort, "progression")
    return found | {"folded": ask(features, cohort, "folded", eyes=2)}


if __name__ == "__main__":
    measure("phantom_visits", __doc__ or "", VISITS, ask_visits)
