"""The figures of a report, each a function from arrays to the bytes of a PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, SOFT, LINE, ACCENT = "#1c2430", "#5d6878", "#dfe4ea", "#0b6e8f"
EITHER = "#78828f"
"""Of words beside pictures, which stand on white and on black pages alike."""
COLOURS = (ACCENT, "#d1702c", "#7d8794", "#7a5ea8", "#3f8f5a")
"""Told apart with the common forms of colour blindness; the first is what the page is about."""
CLASSES = (*COLOURS, "#b3a125", "#a8456b", "#2f5d9b", "#8a5a3c", "#59c2b6", "#c58fd6", "#6d8f1f")
"""More than most charts need: a retina has a dozen layers."""


class Curve(NamedTuple):
    """One quantity over the steps of a run."""

    title: str
    steps: Sequence[float]
    values: Sequence[float]
    hint: str  # how to read it, in a few words


class BScan(NamedTuple):
    """One B-scan to draw on: grey values (rows, columns), and its size."""

    grey: NDArray[np.uint8]
    depth: float
    width: float
    unit: str = "mm"  # of its size


def sized(grey: NDArray[np.uint8], *, row_mm: float, column_mm: float) -> BScan:
    """A B-scan in millimetres or, where its spacing is NaN, in voxels."""
    rows, columns = grey.shape
    if not np.isfinite([row_mm, column_mm]).all():
        return BScan(grey, rows, columns, "voxels")
    return BScan(grey, row_mm * rows, column_mm * columns)


class Score(NamedTuple):
    """One point of a comparison with its interval."""

    group: str  # what was asked, such as a label
    name: str  # who answered, such as an encoder; sets the colour
    variant: str  # how, such as a pool; sets the marker; "" if there is only one way
    value: float
    low: float
    high: float


def plot_curves(curves: Sequence[Curve]) -> bytes:
    """Draw one small panel a curve, all over the same steps."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(10.4, 2.75 * rows), layout="constrained")
    for number, curve in enumerate(curves):
        axes = figure.add_subplot(rows, columns, number + 1)
        quieten(axes)
        marker = "o" if len(curve.steps) < 16 else None
        axes.plot(curve.steps, curve.values, color=ACCENT, linewidth=1.6, marker=marker, ms=3.5)
        axes.set_title(curve.title, loc="left", fontsize=11, color=INK, pad=18)
        axes.text(0, 1.03, curve.hint, transform=axes.transAxes, fontsize=8.5, color=SOFT)
        axes.set_xlabel("step", fontsize=9, color=SOFT)
    return _png(figure)


def draw_masks(bscan: BScan, hidden: Sequence[NDArray[np.bool_]], titles: Sequence[str]) -> bytes:
    """Draw a B-scan, and beside it what each mask hides from the context encoder.

    Args:
        bscan: the B-scan.
        hidden: for each mask, (patch rows, patch columns), true where the patch is a target.
        titles: a few words for each mask.
    """
    figure = Figure(figsize=(10.4, 3.1), layout="constrained")
    panels = figure.subplots(1, 1 + len(hidden), squeeze=False)[0]
    _show(panels[0], bscan, "input")
    for axes, targets, title in zip(panels[1:], hidden, titles, strict=True):
        _show(axes, bscan, title)
        veil = np.zeros((*targets.shape, 4))
        veil[targets] = (0.043, 0.43, 0.56, 0.86)
        extent = (0.0, bscan.width, bscan.depth, 0.0)
        axes.imshow(veil, extent=extent, interpolation="nearest", aspect="auto")
    return _png(figure, transparent=True)


def draw_features(bscan: BScan, maps: Sequence[tuple[str, NDArray[np.float64]]]) -> bytes:
    """Draw a B-scan beside colour maps of its tokens, (patch rows, patch columns, 3) in 0..1."""
    figure = Figure(figsize=(10.4, 3.1), layout="constrained")
    panels = figure.subplots(1, 1 + len(maps), squeeze=False)[0]
    _show(panels[0], bscan, "input")
    extent = (0.0, bscan.width, bscan.depth, 0.0)
    for axes, (title, colours) in zip(panels[1:], maps, strict=True):
        _show(axes, bscan, title)
        axes.imshow(colours, extent=extent, interpolation="nearest", aspect="auto")
    return _png(figure, transparent=True)


def draw_occlusion(
    front: BScan,
    front_map: NDArray[np.floating[Any]],
    above: BScan,
    above_map: NDArray[np.floating[Any]],
    *,
    at: float,
) -> bytes:
    """Draw a B-scan and a view from above, each bare and with what covering its parts takes away.

    Args:
        front: the B-scan.
        front_map: (parts along depth, parts across), above 0 where the answer loses.
        above: B-scans down, columns across.
        above_map: (parts of the B-scans, parts across).
        at: share of the way down the view from above where the B-scan lies.
    """
    figure = Figure(figsize=(10.4, 2.9), layout="constrained")
    panels = figure.subplots(1, 4, squeeze=False)[0]
    strongest = max(float(np.abs(front_map).max()), float(np.abs(above_map).max()), 1e-12)
    for start, (bscan, values, title) in enumerate(
        ((front, front_map, "B-scan"), (above, above_map, "from above"))
    ):
        bare, covered = panels[2 * start], panels[2 * start + 1]
        _show(bare, bscan, title)
        _show(covered, bscan, "what it hangs on")
        share = np.repeat(np.repeat(values / strongest, 8, axis=0), 8, axis=1)
        veil = np.zeros((*share.shape, 4))
        veil[..., :3] = np.where(share[..., None] > 0, (1.0, 0.5, 0.1), (0.2, 0.55, 1.0))
        veil[..., 3] = 0.65 * np.abs(share)
        extent = (0.0, bscan.width, bscan.depth, 0.0)
        covered.imshow(veil, extent=extent, interpolation="nearest", aspect="auto")
    for axes in panels[2:]:
        axes.axhline(at * above.depth, color="white", linewidth=1, linestyle=(0, (3, 3)))
    return _png(figure, transparent=True)


def draw_on_localizer(
    image: NDArray[Any],
    corners: NDArray[np.floating[Any]],
    above_map: NDArray[np.floating[Any]],
    line: NDArray[np.floating[Any]],
    *,
    strongest: float,
) -> bytes:
    """Draw an en-face image, bare and with what covering parts of the scan takes away.

    Args:
        image: (height, width) grey.
        corners: (parts + 1, parts + 1, 2), row and column of the corners of the parts in pixels.
        above_map: (parts of the B-scans, parts across), above 0 where the answer loses.
        line: (2, 2), row and column of the ends of the B-scan that is shown.
        strongest: change that is full colour.
    """
    figure = Figure(figsize=(10.4, 2.9), layout="constrained")
    bare, covered, *empty = figure.subplots(1, 4, squeeze=False)[0]
    for axes in empty:  # as large as the pictures above it
        axes.axis("off")
    height, width = image.shape
    share = above_map / max(strongest, 1e-12)
    veil = np.zeros((*share.shape, 4))
    veil[..., :3] = np.where(share[..., None] > 0, (1.0, 0.5, 0.1), (0.2, 0.55, 1.0))
    veil[..., 3] = 0.65 * np.minimum(np.abs(share), 1.0)
    for axes, title in ((bare, "localizer"), (covered, "what it hangs on")):
        axes.imshow(image, cmap="gray", extent=(0.0, width, height, 0.0), vmin=0, vmax=255)
        axes.plot(*line.T[::-1], color="white", linewidth=1, linestyle=(0, (3, 3)))
        around = np.concatenate(
            [corners[0], corners[1:, -1], corners[-1, -2::-1], corners[-2::-1, 0]]
        )
        axes.plot(*around.T[::-1], color="white", linewidth=0.8, alpha=0.7)
        axes.set(title=title, xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        axes.title.set(size=9, color=SOFT)
    mesh = covered.pcolormesh(corners[..., 1], corners[..., 0], share, shading="flat")
    mesh.set_array(None)
    mesh.set_facecolor(veil.reshape(-1, 4))
    return _png(figure, transparent=True)


MARKERS = ("o", "s", "^", "D")


def plot_scores(scores: Sequence[Score], *, label: str, chance: float) -> bytes:
    """Draw values with their 95 % intervals, grouped; one colour a name, one marker a variant."""
    groups = list(dict.fromkeys(score.group for score in scores))
    names = list(dict.fromkeys(score.name for score in scores))
    series = list(dict.fromkeys((score.name, score.variant) for score in scores))
    variants = list(dict.fromkeys(variant for _, variant in series if variant))
    height = 0.9 + len(groups) * (0.22 * len(series) + 0.28)
    figure = Figure(figsize=(10.4, height), layout="constrained")
    axes = figure.add_subplot()
    quieten(axes)
    for number, (name, variant) in enumerate(series):
        own = [score for score in scores if (score.name, score.variant) == (name, variant)]
        axes.errorbar(
            [score.value for score in own],
            [groups.index(score.group) * (len(series) + 1.2) + number for score in own],
            xerr=[
                [score.value - score.low for score in own],
                [score.high - score.value for score in own],
            ],
            fmt=MARKERS[variants.index(variant) % len(MARKERS)] if variant else "X",
            ms=6,
            color=CLASSES[names.index(name) % len(CLASSES)],
            elinewidth=1.6,
            label=f"{name}, {variant}" if variant else name,
        )
    middle = (len(series) - 1) / 2
    centres = [row * (len(series) + 1.2) + middle for row in range(len(groups))]
    axes.set_yticks(centres, groups, fontsize=11, color=INK)
    axes.invert_yaxis()
    axes.axvline(chance, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlabel(f"{label}; dashed: chance; bars: 95 % interval", fontsize=9, color=SOFT)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=10)
    return _png(figure)


Triple = Sequence[float | None]
"""A value and the ends of its interval; None where there is none."""


def plot_degradation(
    candidates: Mapping[str, Mapping[str, Sequence[Triple]]],
    *,
    strengths: Sequence[int],
    label: str,
    chance: float | None = None,
) -> bytes:
    """Draw how a score falls when volumes are spoilt: a panel for each way, a line a candidate.

    Args:
        candidates: name to the way of spoiling to a value with its interval for each strength, as
            results.json has them under "perturbations".
        strengths: 0, which spoils nothing, and upwards.
        label: of the score.
        chance: what guessing would score; None draws no line.
    """
    kinds = list(dict.fromkeys(kind for found in candidates.values() for kind in found))
    columns = min(4, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(10.4, 2.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, kind in zip(panels.flat, kinds, strict=False):
        quieten(axes)
        for number, (name, found) in enumerate(candidates.items()):
            values, lows, highs = _columns(found[kind])
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(strengths, values, color=colour, linewidth=1.6, marker="o", ms=3, label=name)
            axes.fill_between(strengths, lows, highs, color=colour, alpha=0.14, linewidth=0)
        if chance is not None:
            axes.axhline(chance, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(kind.replace("_", " "), loc="left", fontsize=11, color=INK)
        axes.set_xticks(strengths)
    for axes in panels.flat[len(kinds) :]:
        axes.set_axis_off()
    figure.supxlabel("strength; 0: as scanned; bands: 95 % interval", fontsize=9, color=SOFT)
    figure.supylabel(label, fontsize=9, color=SOFT)
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper right", ncols=len(names), frameon=False, fontsize=9
    )
    return _png(figure)


def _columns(triples: Sequence[Triple]) -> NDArray[np.float64]:
    """(3, strengths): values, lows and highs; NaN where there is none."""
    rows = [[np.nan if one is None else one for one in triple] for triple in triples]
    return np.array(rows, np.float64).T


def _show(axes: Axes, bscan: BScan, title: str) -> None:
    """Show a B-scan upright, in its unit, stretched in depth as clinicians see it."""
    extent = (0.0, bscan.width, bscan.depth, 0.0)
    axes.imshow(bscan.grey, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
    axes.set_title(title, loc="left", fontsize=11, color=EITHER)
    axes.set_xlabel(bscan.unit, fontsize=9, color=EITHER)
    axes.tick_params(labelsize=8, colors=EITHER, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def quieten(axes: Axes) -> None:
    """Draw axes so that the values are seen first."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(labelsize=9, colors=SOFT, length=0)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)


def _png(figure: Figure, *, transparent: bool = False) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=140, facecolor="none" if transparent else "white")
    return stream.getvalue()
