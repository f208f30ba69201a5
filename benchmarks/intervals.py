"""The bootstrap interval of AUROC: ours, which weighs participants, against scipy.stats.bootstrap.

python benchmarks/intervals.py

Made-up scores of 800 participants, one volume each, 1,000 resamplings. scipy resamples rows and
calls scikit-learn's roc_auc_score once a sample; it knows neither participants with several volumes
nor classes that every sample must hold, so its interval is the one without either. CPU seconds.
"""

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray
from oct_launch import print_table
from oct_vjepa.measures.units import Interval, Units
from oct_vjepa.scores.scorecard import headline_interval
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score
from writing import write_results

PARTICIPANTS, SAMPLES, ROUNDS = 800, 1000, 5
SHOWN = ("who", "cpu_s", "interval")


def main() -> None:
    """Measure, print, write."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, PARTICIPANTS)
    score = draw.normal(labels * 1.2)
    timed = {"oct_vjepa": _timed(ours, labels, score), "scipy": _timed(scipys, labels, score)}
    print_table(
        SHOWN, [[who, f"{seconds:.3f}", found.text()] for who, (seconds, found) in timed.items()]
    )
    facts = {
        "participants": PARTICIPANTS,
        "samples": SAMPLES,
        "cpu_s": {who: round(seconds, 4) for who, (seconds, _) in timed.items()},
        "interval": {who: [round(one, 4) for one in found] for who, (_, found) in timed.items()},
        "scipy_over_ours": round(timed["scipy"][0] / timed["oct_vjepa"][0], 1),
    }
    write_results("intervals", ["numpy", "scipy", "scikit-learn"], facts)


def ours(labels: NDArray[np.int64], score: NDArray[np.float64]) -> Interval:
    """All samples at once: a sample is a weight for each participant."""
    units = Units(np.stack([-score, score], axis=1), labels, np.arange(len(labels)))
    return headline_interval([[units]], "nominal", seed=0, bootstrap=SAMPLES)


def scipys(labels: NDArray[np.int64], score: NDArray[np.float64]) -> Interval:
    """One call of scikit-learn a sample."""
    found = bootstrap(
        (labels, score),
        roc_auc_score,
        n_resamples=SAMPLES,
        paired=True,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(roc_auc_score(labels, score)), float(found.low), float(found.high))


def _timed(
    measure: Callable[[NDArray[np.int64], NDArray[np.float64]], Interval],
    labels: NDArray[np.int64],
    score: NDArray[np.float64],
) -> tuple[float, Interval]:
    """Median CPU seconds of a few calls, and what the last one found."""
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        found = measure(labels, score)
        seconds.append(time.process_time() - start)
    return median(seconds), found


if __name__ == "__main__":
    main()
