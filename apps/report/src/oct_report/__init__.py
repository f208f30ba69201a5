"""How the apps show a run: in figures and on one self-contained HTML page."""

from oct_report.figures import (
    BScan,
    Curve,
    Score,
    draw_features,
    draw_masks,
    plot_curves,
    plot_scores,
    sized,
)
from oct_report.overlays import draw_overlay, draw_thickness
from oct_report.page import Page
from oct_report.runs import (
    REFERENCE,
    add_probe_scores,
    add_probe_table,
    begin_page,
    best_rows,
    end_page,
)

__all__ = [
    "REFERENCE",
    "BScan",
    "Curve",
    "Page",
    "Score",
    "add_probe_scores",
    "add_probe_table",
    "begin_page",
    "best_rows",
    "draw_features",
    "draw_masks",
    "draw_overlay",
    "draw_thickness",
    "end_page",
    "plot_curves",
    "plot_scores",
    "sized",
]
