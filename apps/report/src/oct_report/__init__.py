"""How the apps show a run: in figures and on one self-contained HTML page."""

from oct_report.drawings import Axis, Cloud, Line, chart, matrix, scatter
from oct_report.figures import (
    BScan,
    Curve,
    Score,
    draw_features,
    draw_masks,
    draw_occlusion,
    draw_on_localizer,
    plot_curves,
    plot_degradation,
    plot_scores,
    sized,
)
from oct_report.overlays import draw_overlay, draw_patches, draw_thickness
from oct_report.page import Drawing, Page
from oct_report.runs import begin_page, end_page
from oct_report.strips import strip

__all__ = [
    "Axis",
    "BScan",
    "Cloud",
    "Curve",
    "Drawing",
    "Line",
    "Page",
    "Score",
    "begin_page",
    "chart",
    "draw_features",
    "draw_masks",
    "draw_occlusion",
    "draw_on_localizer",
    "draw_overlay",
    "draw_patches",
    "draw_thickness",
    "end_page",
    "matrix",
    "plot_curves",
    "plot_degradation",
    "plot_scores",
    "scatter",
    "sized",
    "strip",
]
