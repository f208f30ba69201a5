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
    "dice": "Dice",
    "boundary_um": "boundaries off by, um",
}
"""Those that are no English words with underscores for spaces."""

OF_CLASS = ("dice_",)
"""What begins the metric of one class, whose name stands behind it as it is."""


def word(metric: str) -> str:
    """A metric as people write it."""
    if metric.startswith(OF_CLASS):
        measure, name = metric.split("_", 1)
        return f"{word(measure)}, {name}"
    return WORDS.get(metric, metric.replace("_", " "))
