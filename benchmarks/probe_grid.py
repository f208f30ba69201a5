"""Linear probes fitted together against scikit-learn's one by one: CPU seconds of 20 fits.

OMP_NUM_THREADS=1 python benchmarks/probe_grid.py

Made-up features of 1,000 rows to fit and 250 to choose by, 10 strengths x 2 readouts, the second of
which knows nothing. scikit-learn standardises and fits as `probe` does, with its own stopping rule,
and is asked for AUROC on the same rows. Spectra: `flat` has independent features, the easiest for
scikit-learn; in `steep` standard deviations fall as 1 / rank, so that features agree with one
another. The difference is the largest in a probability, to scikit-learn run until nothing moves.
"""

import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median

import numpy as np
from numpy.typing import NDArray
from oct_launch import print_table
from oct_vjepa.measures.target import Target
from oct_vjepa.probes.answers import answers_of, weights_of
from oct_vjepa.probes.candidates import Question, fit_linear
from oct_vjepa.probes.configuration import GridConfig
from oct_vjepa.probes.grid import fit_grid
from oct_vjepa.probes.protocol import Round
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from writing import write_results

FIT, HELD, ROUNDS = 1000, 250, 3
STRENGTHS = GridConfig().strengths
SHOWN = ("features", "classes", "spectrum", "together_s", "one_by_one_s", "times", "difference")
Floats = NDArray[np.float64]


def main() -> None:
    """Measure, print, write."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows = []
    for width, classes, spectrum in product((768, 192), (2, 5), ("flat", "steep")):
        drawn = [draw(width, classes, spectrum, seed) for seed in (0, 1)]
        readouts, labels = {str(one): drawn[one][0] for one in (0, 1)}, drawn[0][1]
        ours, theirs = _timed(*(partial(one, readouts, labels) for one in (together, single)))
        row = {"features": width, "classes": classes, "spectrum": spectrum}
        row |= {"together_s": round(ours, 3), "one_by_one_s": round(theirs, 3)}
        row |= {"times": round(theirs / ours, 1), "difference": difference(readouts["0"], labels)}
        rows.append(row)
    print_table(SHOWN, [[str(one[name]) for name in SHOWN] for one in rows])
    facts = {"rows_fit": FIT, "strengths": list(STRENGTHS), "readouts": 2, "cpu": rows}
    write_results("probe_grid", ["numpy", "torch", "scikit-learn"], facts)


def draw(width: int, classes: int, spectrum: str, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Features, and labels that 20 of their directions tell in part."""
    draw = np.random.default_rng(seed)
    axes = np.linalg.qr(draw.normal(size=(width, width)))[0]
    hidden = draw.normal(size=(FIT + HELD, width))
    logits = hidden[:, :20] @ draw.normal(size=(20, classes)) * 0.3
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)
    falls = np.arange(1, width + 1) ** (-1.0 if spectrum == "steep" else 0.0)
    return ((hidden * falls) @ axes).astype(np.float32), labels


def together(readouts: dict[str, Floats], labels: NDArray[np.int64]) -> None:
    """The grid."""
    fit = np.arange(FIT + HELD) < FIT
    names = tuple("abcde"[: labels.max() + 1])
    target = Target(kind="nominal", values=labels, names=names)
    on = Round("", fit, ~fit, np.zeros_like(fit))
    fit_grid("linear", readouts, target, np.arange(len(fit)), on, balanced=True, seed=0)


def single(readouts: dict[str, Floats], labels: NDArray[np.int64]) -> None:
    """As many fits of scikit-learn, each scored."""
    for features, strength in product(readouts.values(), STRENGTHS):
        model = make_pipeline(
            StandardScaler(),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=5000),
        ).fit(features[:FIT], labels[:FIT])
        chances = model.predict_proba(features[FIT:])
        two = labels.max() == 1
        roc_auc_score(labels[FIT:], chances[:, 1] if two else chances, multi_class="ovr")


def difference(features: Floats, labels: NDArray[np.int64]) -> float:
    """The largest between the probabilities of the two, over three strengths."""
    x = features.astype(np.float64)
    x = (x - x[:FIT].mean(axis=0)) / x[:FIT].std(axis=0)
    names = tuple("abcde"[: labels.max() + 1])
    fit = Target(kind="nominal", values=labels[:FIT], names=names)
    ask = Question(fit, fit, answers_of(fit), weights_of(fit, balanced=True), True, 0)
    found = []
    for strength in (1e-3, 1e-1, 10.0):
        ours = fit_linear(x[:FIT], x[FIT:], ask, [strength]).scores[0]
        theirs = LogisticRegression(C=strength, class_weight="balanced", tol=1e-9, max_iter=20000)
        found.append(np.abs(theirs.fit(x[:FIT], labels[:FIT]).predict_proba(x[FIT:]) - ours).max())
    return float(f"{max(found):.1e}")


def _timed(*calls: Callable[[], None]) -> list[float]:
    """Median CPU seconds of a few calls of each, taken in turn."""
    seconds: list[list[float]] = [[] for _ in calls]
    for call, found in list(zip(calls, seconds, strict=True)) * ROUNDS:
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return [median(found) for found in seconds]


if __name__ == "__main__":
    main()
