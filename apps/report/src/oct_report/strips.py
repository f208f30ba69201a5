"""A value with its interval as a line in a cell of a table: rows of them are a forest plot."""

import math
from collections.abc import Sequence

from oct_report.page import Drawing

WIDE, HIGH = 150, 26
EDGE = 6


def strip(
    value: Sequence[float | None], *, low: float, high: float, mark: float, strong: bool = False
) -> Drawing | str:
    """Draw one interval on the scale of its column; "" where it is not known.

    Args:
        value: the value and the ends of its interval.
        low: left end of the scale.
        high: right end.
        mark: where a dashed line stands: chance, or the value of who is compared.
        strong: this is the row that the table is about.
    """
    known = [one for one in value if one is not None and math.isfinite(one)]
    if len(known) < 3:
        return ""
    span = max(high - low, 1e-12)
    middle, start, end, dash = (
        EDGE + (WIDE - 2 * EDGE) * min(max((one - low) / span, 0), 1) for one in (*known, mark)
    )
    colour = "var(--accent)" if strong else "var(--ink)"
    y = HIGH / 2
    svg = (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="xMidYMid meet">'
        f'<line x1="{dash:.1f}" x2="{dash:.1f}" y1="0" y2="{HIGH}" stroke="var(--soft)" '
        'stroke-dasharray="3 3" stroke-width="1"/>'
        f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
        'stroke-width="2"/>'
        f"{_point(middle, colour, 5 if strong else 4, cut=known[0] < low)}</svg>"
    )
    return Drawing(svg, f"{known[0]:.3f} ({known[1]:.3f} to {known[2]:.3f})")


def _point(x: float, colour: str, size: int, *, cut: bool) -> str:
    """A dot, or an arrow to the left where the value lies beyond the end of the scale."""
    y = HIGH / 2
    if cut:
        corners = f"{x - size:.1f},{y} {x + size:.1f},{y - size} {x + size:.1f},{y + size}"
        return f'<polygon points="{corners}" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y}" r="{size}" fill="{colour}"/>'
