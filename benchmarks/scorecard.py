"""A whole score card against a loop over sklearn.metrics, and what its intervals hold.

python benchmarks/scorecard.py

Made-up scores. First, three classes of 300 participants: every metric with 1,000 resamplings by
`score_card`, and the same metrics by scikit-learn, one call a metric and sample, for 100 samples,
scaled to 1,000; scikit-learn takes one weight a row, so it cannot take all samples in one pass. CPU
seconds. Then, how many of 500 intervals of 95 % hold the mean over all seeds there could be, where
seeds differ by luck more than participants do, with seeds drawn anew and with seeds held fixed.
Then, how many of 300 hold the truth where scores are the true chances and one in five is ill, of
120 participants drawn whatever their answers, as `score_card` does, and within equal answers.
"""

import math
import time
import warnings
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from oct_launch import print_table
from oct_vjepa.measures.measure import measure
from oct_vjepa.measures.units import Units, auroc, interval_of
from oct_vjepa.scores.resampling import Draws, Part, draw_samples, replicate
from oct_vjepa.scores.scorecard import score_card
from sklearn import metrics
from writing import write_results

PARTICIPANTS, SAMPLES, LOOPED, CLASSES = 300, 1000, 100, 3
TRIALS, SEEDS, LUCK = 500, (1, 2, 3, 4, 5, 8, 16), 0.6
ILL, PEOPLE, DRAWN = 0.2, 120, 300
METRICS = ("auroc", "auprc", "accuracy", "brier", "nll")


def main() -> None:
    """Measure, print, write."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, PARTICIPANTS)
    raised = np.exp(draw.normal(size=(PARTICIPANTS, CLASSES)) + np.eye(CLASSES)[labels])
    units = Units(raised / raised.sum(axis=1, keepdims=True), labels, np.arange(PARTICIPANTS))
    ours = _seconds_of_ours(units)
    looped = _seconds_of_loop(units) * SAMPLES / LOOPED
    print_table(("who", "cpu_s"), [["oct_vjepa", f"{ours:.3f}"], ["loop", f"{looped:.1f}"]])
    covered = _coverage(draw)
    rows = [[str(seeds), *map(str, found.values())] for seeds, found in covered.items()]
    print_table(("seeds", "held, seeds drawn", "held, seeds fixed"), rows)
    shares = _coverage_by_draw()
    rows = [[name, *map(str, found.values())] for name, found in shares.items()]
    print_table(("metric", "held, whatever the answer", "held, within equal answers"), rows)
    facts = {
        "participants": PARTICIPANTS,
        "classes": CLASSES,
        "samples": SAMPLES,
        "samples_looped": LOOPED,
        "cpu_s": {"oct_vjepa": round(ours, 4), "scikit_learn_scaled": round(looped, 2)},
        "loop_over_ours": round(looped / ours, 1),
        "share_of_intervals_that_hold_the_truth_by_seeds": covered,
        "share_of_intervals_that_hold_the_truth_by_draw": shares,
    }
    write_results("scorecard", ["numpy", "scikit-learn"], facts)


def _seconds_of_ours(units: Units) -> float:
    seconds = []
    for _ in range(5):
        start = time.process_time()
        score_card([[units]], "ordinal", "abc", seed=0, bootstrap=SAMPLES)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def _seconds_of_loop(units: Units) -> float:
    drawn = draw_samples([[units]], "ordinal", bootstrap=LOOPED, seed=0).participants_RG
    weights = drawn[:, units.groups_N].astype(np.float64)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of samples that lack a score, which are no matter here
        for row in weights:
            _by_scikit_learn(units, row)
    return time.process_time() - start


def _by_scikit_learn(units: Units, weight: NDArray[np.float64]) -> None:
    labels, scores, called = units.labels_N, units.scores_NC, units.scores_NC.argmax(axis=1)
    every = list(range(CLASSES))
    sides = {"y_true": labels, "y_pred": called, "sample_weight": weight}
    for one in every:
        metrics.roc_auc_score(labels == one, scores[:, one], sample_weight=weight)
        metrics.average_precision_score(labels == one, scores[:, one], sample_weight=weight)
        metrics.roc_curve(labels == one, scores[:, one], sample_weight=weight)
        metrics.recall_score(labels != one, called != one, sample_weight=weight)
    metrics.recall_score(**sides, labels=every, average=None, zero_division=0)
    for average in (None, "macro", "weighted"):
        metrics.f1_score(**sides, labels=every, average=average, zero_division=0)
    metrics.balanced_accuracy_score(**sides)
    metrics.accuracy_score(**sides)
    metrics.cohen_kappa_score(labels, called, weights="quadratic", sample_weight=weight)
    metrics.brier_score_loss(labels, scores, labels=every, sample_weight=weight)
    metrics.log_loss(labels, scores, labels=every, sample_weight=weight)


def _coverage(draw: np.random.Generator) -> dict[int, dict[str, float]]:
    truth = NormalDist().cdf(1.0 / math.sqrt(2.0 + LUCK**2))
    covered = {}
    for seeds in SEEDS:
        held = {"drawn": 0, "fixed": 0}
        for trial in range(TRIALS):
            common = draw.normal(size=400)
            runs = [[_one_seed(draw, common)] for _ in range(seeds)]
            drawn = draw_samples(runs, "nominal", bootstrap=200, seed=trial)
            fixed = drawn._replace(seeds_RS=np.ones_like(drawn.seeds_RS))
            for name, draws in (("drawn", drawn), ("fixed", fixed)):
                held[name] += _holds(runs, draws, truth)
        covered[seeds] = {name: round(count / TRIALS, 3) for name, count in held.items()}
    return covered


def _one_seed(draw: np.random.Generator, common: NDArray[np.float64]) -> Units:
    """Scores of half sick, half healthy; how well they are told apart is the luck of the seed."""
    labels = np.arange(len(common)) % 2
    score = common + (1.0 + LUCK * draw.normal()) * labels
    return Units(np.stack([-score, score], axis=1), labels, np.arange(len(common)))


def _holds(runs: list[list[Units]], draws: Draws, truth: float) -> bool:
    parts = [[Part(one.groups_N, lambda w, one=one: {"": auroc(one, w)})] for (one,) in runs]
    found = replicate(parts, draws)[""]
    interval = interval_of(float(found.value), found.samples)
    return interval.low <= truth <= interval.high


def _coverage_by_draw() -> dict[str, dict[str, float]]:
    everybody = measure("nominal", _people(np.random.default_rng(0), 200_000))
    held = {name: {"plain": 0, "within answers": 0} for name in METRICS}
    for trial in range(DRAWN):
        units = _people(np.random.default_rng(trial + 1), PEOPLE)
        plain = draw_samples([[units]], "nominal", bootstrap=300, seed=trial)
        # Answers as that by which participants are drawn apart.
        within = draw_samples(
            [[units]], "nominal", bootstrap=300, seed=trial, apart_G=units.labels_N
        )
        for how, draws in (("plain", plain), ("within answers", within)):
            part = Part(units.groups_N, lambda w, of=units: measure("nominal", of, w))
            found = replicate([[part]], draws)
            for name in METRICS:
                side = found[name].interval(name)
                held[name][how] += side.low <= everybody[name][0] <= side.high
    return {
        name: {how: round(count / DRAWN, 3) for how, count in counts.items()}
        for name, counts in held.items()
    }


def _people(draw: np.random.Generator, count: int) -> Units:
    """Participants of whom one in five is ill, and the true chance that each is."""
    labels = (draw.random(count) < ILL).astype(np.int64)
    odds = draw.normal(size=count) + labels - 0.5 + math.log(ILL / (1 - ILL))
    chance = 1 / (1 + np.exp(-odds))
    return Units(np.stack([1 - chance, chance], axis=1), labels, np.arange(count))


if __name__ == "__main__":
    main()
