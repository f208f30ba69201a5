"""How the apps show a run: on the terminal, in figures, and on one self-contained HTML page."""

from oct_report.console import (
    EXIT_STOPPED,
    Mistake,
    Stages,
    exit_codes,
    mistakes,
    print_table,
)
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
    "EXIT_STOPPED",
    "BScan",
    "Curve",
    "Mistake",
    "Page",
    "Score",
    "Stages",
    "draw_features",
    "draw_masks",
    "exit_codes",
    "mistakes",
    "plot_curves",
    "plot_scores",
    "print_table",
]
