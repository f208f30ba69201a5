"""How the apps show a run: figures as bytes, and one self-contained HTML page."""

from oct_report.figures import (
    BScan,
    Curve,
    Score,
    draw_features,
    draw_masks,
    plot_curves,
    plot_scores,
)
from oct_report.page import Page

__all__ = [
    "BScan",
    "Curve",
    "Page",
    "Score",
    "draw_features",
    "draw_masks",
    "plot_curves",
    "plot_scores",
]
