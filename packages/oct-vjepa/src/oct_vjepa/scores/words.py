"""What metrics are called where people read them."""

WORDS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "r2": "R2",
    "ece": "calibration error",
    "mae": "mean error",
    "rmse": "root mean square error",
    "nll": "log loss",
    "brier": "Brier score",
    "f1": "F1",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "pearson": "correlation",
}
"""Those that are no English words with underscores for spaces."""


def word(metric: str) -> str:
    """A metric as people write it."""
    return WORDS.get(metric, metric.replace("_", " "))
