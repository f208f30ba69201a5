"""Figures of a report as SVG in the page's own colours, each a function from numbers to a text.

Text stays text, and colours are names of `style.STYLE`, so that dark screens and paper look right.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from oct_report.figures import COLOURS as HUES
from oct_report.figures import INK, LINE, SOFT, quieten
from oct_report.style import COLOURS

PAPER = "#fefefe"
"""Stands for the paper; white itself is left to pictures."""
NAMES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper"} | dict(
    zip(HUES, COLOURS, strict=True)
)
WIDTH, HEIGHT = 3.3, 3.0
MANY = 1500
"""Points above which a cloud is a picture inside the drawing."""


class Line(NamedTuple):
    """One line of a chart, with a band where its interval is known."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    points: bool = False
    steps: bool = False
    reference: bool = False  # drawn thin and dashed: chance, or what costs nothing


class Cloud(NamedTuple):
    """Points of one name."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


class Axis(NamedTuple):
    """What an axis shows."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    ticks: Mapping[float, str] | None = None  # places with their words; None: numbers that fit


def as_svg(figure: Figure, salt: str) -> str:
    """Write a figure as SVG to stand inside a page.

    Args:
        figure: drawn in the colours of `NAMES`.
        salt: unlike that of any other drawing of the page, for its ids are made of it.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, put in TIDY:
        svg = re.sub(pattern, put, svg, flags=re.DOTALL)
    for colour, name in NAMES.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.strip()


TIDY = (
    (r"<metadata>.*?</metadata>|<!--.*?-->", ""),
    (r'<g id="[^"]*"', "<g"),
    (r'^<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">'),
    (r"font: ([0-9.]+px)[^;\"]*", r"font-size: \1"),
    ("xlink:href", "href"),
    (r"\n\s*", "\n"),
)
"""What matplotlib writes for files of their own, and a drawing inside a page does without."""


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis, *, square: bool = True) -> str:
    """Draw lines with their bands; the first is what the chart is about.

    Args:
        title: a few words above it.
        lines: in the order of their colours.
        x: the axis along.
        y: the axis up.
        square: as high as wide, for axes of one unit; wide otherwise.
    """
    figure, axes = _axes(title, x, y, (WIDTH, HEIGHT if square else 2.6))
    hues = iter(HUES * (1 + len(lines) // len(HUES)))
    for line in lines:
        if line.reference:
            axes.plot(line.x, line.y, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            if line.name:
                axes.lines[-1].set_label(plain(line.name))
            continue
        hue = next(hues)
        style = "steps-post" if line.steps else "default"
        marker = "o" if line.points else None
        axes.plot(
            line.x,
            line.y,
            color=hue,
            linewidth=1.8,
            drawstyle=style,
            label=plain(line.name) or None,
            marker=marker,
            ms=4.5,
        )
        if len(line.low):
            axes.fill_between(
                line.x,
                line.low,
                line.high,
                color=hue,
                alpha=0.16,
                linewidth=0,
                step="post" if line.steps else None,
            )
    _limits(axes, x, y)
    _legend(figure, axes)
    return as_svg(figure, repr((title, lines, x, y)))


def scatter(
    title: str,
    clouds: Sequence[Cloud],
    x: Axis,
    y: Axis,
    *,
    across: Sequence[tuple[float, str]] = (),
    diagonal: bool = False,
) -> str:
    """Draw points, a colour a name.

    Args:
        title: a few words above it.
        clouds: the points.
        x: the axis along.
        y: the axis up.
        across: heights at which a dashed line runs across, and what it is.
        diagonal: draw the line of equal values.
    """
    figure, axes = _axes(title, x, y, (WIDTH, HEIGHT))
    shown = sum(len(one.x) for one in clouds)
    for number, cloud in enumerate(clouds):
        axes.scatter(
            cloud.x,
            cloud.y,
            s=16 if shown < 400 else 7,
            alpha=0.75,
            linewidths=0,
            color=_hue(number),
            label=plain(cloud.name) or None,
            rasterized=shown > MANY,
        )
    for height, name in across:
        axes.axhline(height, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=SOFT,
        )
    if diagonal:
        axes.axline((0, 0), slope=1, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    _limits(axes, x, y)
    _legend(figure, axes)
    return as_svg(figure, repr((title, clouds, x, y)))


def matrix(counts: NDArray[np.float64], names: Sequence[str], *, down: str, along: str) -> str:
    """Draw a confusion matrix: counts, shaded by their share of the row.

    Args:
        counts: (true, called).
        names: of the classes.
        down: what the rows are.
        along: what the columns are.
    """
    size = len(names)
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
    for row in range(size):
        for column in range(size):
            share = float(shares[row, column])
            axes.fill_between(
                [column - 0.48, column + 0.48],
                row - 0.48,
                row + 0.48,
                color=HUES[0],
                alpha=0.06 + 0.5 * share,
                linewidth=0,
            )
            axes.text(
                column,
                row,
                f"{counts[row, column]:.4g}\n{share:.0%}",
                ha="center",
                va="center",
                fontsize=11 if size < 5 else 8,
                color=INK,
            )
    axes.set_xticks(
        range(size),
        [plain(one) for one in names],
        color=INK,
        fontsize=9,
        rotation=30 if size * max(map(len, names)) > 28 else 0,
    )
    axes.set_yticks(range(size), [plain(one) for one in names], color=INK, fontsize=9)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xlabel(along, color=SOFT, fontsize=9)
    axes.set_ylabel(down, color=SOFT, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return as_svg(figure, f"matrix {names} {counts.tolist()}")


def _axes(title: str, x: Axis, y: Axis, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size)
    axes = figure.add_subplot()
    quieten(axes)
    axes.set_title(plain(title), loc="left", fontsize=10.5, color=INK)
    axes.set_xlabel(plain(x.label), fontsize=9.5, color=SOFT)
    axes.set_ylabel(plain(y.label), fontsize=9.5, color=SOFT)
    if x.log:
        axes.set_xscale("log")
    if x.ticks:
        axes.set_xticks(list(x.ticks), [plain(one) for one in x.ticks.values()])
        axes.minorticks_off()
    return figure, axes


def _limits(axes: Axes, x: Axis, y: Axis) -> None:
    if x.low is not None or x.high is not None:
        axes.set_xlim(x.low, x.high)
    if y.low is not None or y.high is not None:
        axes.set_ylim(y.low, y.high)


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below, and margins that hold it: measured layouts take ten times as long."""
    names = axes.get_legend_handles_labels()[1]
    columns = 1 if any(len(name) > 18 for name in names) else 2
    rows = -(-len(names) // columns)
    height = float(figure.get_size_inches()[1])
    bottom = 0.52 + 0.19 * rows + (0.06 if rows else 0)
    figure.set_size_inches(figure.get_size_inches()[0], height + 0.19 * max(0, rows - 1))
    height += 0.19 * max(0, rows - 1)
    figure.subplots_adjust(left=0.23, right=0.97, top=1 - 0.3 / height, bottom=bottom / height)
    if names:
        figure.legend(
            loc="lower center",
            bbox_to_anchor=(0.57, 0.0),
            ncols=columns,
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            handlelength=1.4,
            columnspacing=1.2,
            borderpad=0.1,
            labelspacing=0.3,
        )


def plain(text: str) -> str:
    """A text that is not taken for mathematics, nor left out of a legend."""
    return text.replace("$", r"\$").removeprefix("_")


def _hue(number: int) -> str:
    """Five of the page, and more from a wheel where a column has more values."""
    if number < len(HUES):
        return HUES[number]
    return str(matplotlib.colors.to_hex(matplotlib.colormaps["tab20"](number % 20)))
