"""A leaderboard as a table for a terminal, as leaderboard.csv, and as a page of one file."""

import csv
import html
import io
import math
from functools import partial
from pathlib import Path

from oct_vjepa.boards.standings import Board, Gap, Standing
from oct_vjepa.measures.units import Interval
from oct_vjepa.saving import write_whole
from oct_vjepa.scores.words import word

NAME = "leaderboard"
METRICS = {
    "auroc": ("balanced_accuracy", "auprc", "ece", "average_precision"),
    "r2": ("mae",),
    "dice": ("boundary_um",),
}
"""What stands in the short table beside the headline, of what was measured."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --paper: #fff;
  --wash: #f4f6f9; --accent: #0b6e8f; --warn-ink: #7a4b00; --warn: #fff4dc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #9aa6b6; --line: #313a47; --paper: #171c24; --wash: #0e1218;
    --accent: #4fb9da; --warn-ink: #ffd98a; --warn: #3a2d0c; }
}
@media print {
  :root { color-scheme: light; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --paper: #fff;
    --wash: #fff; --accent: #0b6e8f; --warn-ink: #7a4b00; --warn: #fff4dc; }
  .scroll { overflow: visible; border: 0; padding: 0; }
}
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; }
p { margin: 4px 0 12px; max-width: 80ch; color: var(--soft); }
.note { background: var(--warn); color: var(--warn-ink); border-radius: 8px; padding: 10px 16px; }
.scroll { overflow-x: auto; background: var(--paper); border: 1px solid var(--line);
  border-radius: 12px; padding: 12px 24px; }
table { border-collapse: collapse; width: 100%; font-size: 15px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); border-bottom: 2px solid var(--line);
  padding: 8px 14px 8px 0; }
td { border-bottom: 1px solid var(--line); padding: 7px 14px 7px 0; white-space: nowrap; }
.shared td { color: var(--soft); } .failed td { color: var(--warn-ink); white-space: normal; }
svg { display: block; }
"""
WIDTH, HEIGHT = 160, 16  # of the drawing of an interval, in pixels


def table_of(board: Board) -> tuple[list[str], list[list[str]]]:
    """Headings and rows, best first; what failed comes last."""
    measured = board.standings[0].metrics
    more = [one for one in METRICS.get(board.headline, ()) if one in measured]
    head = ["rank", "entry", word(board.headline), *(word(one) for one in more), "over the best"]
    head += ["p (Holm)"]
    if board.reference:
        head += [f"over {board.reference}", "p (Holm)"]
    head += ["seeds", "runs"]
    rows = []
    for one in board.standings:
        values = [one.metrics[name].text() for name in (board.headline, *more)]
        gaps = _gap_cells(one.to_best) + (_gap_cells(one.to_reference) if board.reference else [])
        counts = [str(len(one.entry.seeds)), str(one.entry.runs)]
        rows.append([rank_text(one), one.entry.name, *values, *gaps, *counts])
    blank = [""] * (len(head) - 3)
    rows += [["failed", name, reason, *blank] for name, reason in board.failed]
    return head, rows


def text_of(board: Board) -> str:
    """The table with aligned columns, remarks below it."""
    head, rows = table_of(board)
    # A reason may be long, and is the last of what its row says: it need not widen its column.
    fitted = [head, *(row for row in rows if row[0] != "failed")]
    widths = [max(len(row[number]) for row in fitted) for number in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([*lines, *board.remarks])


def sentence_of(board: Board) -> str:
    """Who is ahead, and of how many nobody can say that they are behind."""
    first = board.standings[0]
    close = [one for one in board.standings[1:] if one.to_best and not one.to_best.p_holm < 0.05]
    phantom = "On made-up volumes: " if board.made_up else ""
    value = f"{word(board.headline)} {first.metrics[board.headline].text()}"
    said = (
        f"{phantom}{board.question['name']}: {first.entry.name} is ahead with {value}, "
        f"{board.participants} participants"
    )
    if len(board.standings) == 1:
        return f"{said}."
    return f"{said}; {len(close)} of {len(board.standings) - 1} others may be as good."


def write_board(board: Board, folder: Path, name: str = NAME) -> list[Path]:
    """Write NAME.csv and NAME.html to `folder`, each whole or not at all; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, make in (("csv", csv_of), ("html", page_of)):
        path = folder / f"{name}.{suffix}"
        write_whole(path, partial(_write, make(board)))
        paths.append(path)
    return paths


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def csv_of(board: Board) -> str:
    """Every number, a line an entry; what failed has its reason in the last column."""
    metrics = list(dict.fromkeys(key for one in board.standings for key in one.metrics))
    about = list(dict.fromkeys(key for one in board.standings for key in one.entry.about))
    about = [f"setting {key}" for key in about]
    head = ["rank", "rank_low", "rank_high", "entry", "shared", *about]
    head += ["encoder_place", "fingerprint", "runs", "seeds"]
    for key in metrics:
        head += [key, f"{key}_low", f"{key}_high"]
    for who in ("best", "reference"):
        head += [f"over_{who}{end}" for end in ("", "_low", "_high", "_p", "_p_holm")]
    head += ["failed"]
    rows = [_csv_row(one) for one in board.standings]
    rows += [{"entry": name, "failed": reason} for name, reason in board.failed]
    text = io.StringIO()
    writer = csv.DictWriter(text, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _csv_row(one: Standing) -> dict[str, str]:
    entry = one.entry
    row = {
        "rank": str(one.rank),
        "rank_low": str(one.rank_low),
        "rank_high": str(one.rank_high),
        "entry": entry.name,
        "shared": str(entry.shared).lower(),
        "encoder_place": entry.encoder,
        "fingerprint": entry.fingerprint,
        "runs": str(entry.runs),
        "seeds": " ".join(map(str, sorted(entry.seeds))),
    }
    row |= {f"setting {key}": value for key, value in entry.about.items()}
    for key, interval in one.metrics.items():
        row |= _csv_interval(key, interval)
    for who, gap in (("best", one.to_best), ("reference", one.to_reference)):
        if gap:
            row |= _csv_interval(f"over_{who}", gap.difference)
            row |= {f"over_{who}_p": _number(gap.p), f"over_{who}_p_holm": _number(gap.p_holm)}
    return row


def _csv_interval(key: str, interval: Interval) -> dict[str, str]:
    ends = ("", "_low", "_high")
    return {f"{key}{end}": _number(value) for end, value in zip(ends, interval, strict=True)}


def _number(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else ""


def page_of(board: Board) -> str:
    """One page without a script and without an outside file."""
    head, rows = table_of(board)
    head = [*head[:2], "", *head[2:]]
    values = [one.metrics[board.headline] for one in board.standings]
    ends = [end for one in values for end in one if math.isfinite(end)]
    scale = (min(ends, default=0.0), max(ends, default=1.0))
    lines = []
    for number, row in enumerate(rows):
        failed = number >= len(values)
        drawn = "" if failed else _draw(values[number], scale)
        kind = "failed" if failed else "shared" if board.standings[number].entry.shared else "own"
        cells = [f"<td>{html.escape(cell)}</td>" for cell in row]
        if failed:
            cells[2:] = [f'<td colspan="{len(head) - 3}">{html.escape(row[2])}</td>']
        lines.append(f'<tr class="{kind}">{"".join([*cells[:2], f"<td>{drawn}</td>", *cells[2:]])}')
    title = f"Leaderboard: {board.question['name']}"
    notes = [f'<p class="note">{html.escape(one)}</p>' for one in board.remarks]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(sentence_of(board))}</p>{''.join(notes)}"
        f'<div class="scroll"><table><thead><tr>'
        f"{''.join(f'<th>{html.escape(one)}</th>' for one in head)}</tr></thead>"
        f"<tbody>{'</tr>'.join(lines)}</tr></tbody></table></div>"
        "<p>Intervals are 95 % of bootstrap samples of participants and seeds, the same for all; a "
        "rank stands with those that 95 % of the samples gave it. Differences are in pairs; "
        "p is two-sided and corrected by Holm's method. The best was found on these very "
        "participants, so that its lead is told a little too large. Grey lines are shared by all "
        "runs: baselines and untrained networks.</p></main></body></html>\n"
    )


def _draw(interval: Interval, scale: tuple[float, float]) -> str:
    """The interval as a line with a dot."""
    if not all(map(math.isfinite, interval)):
        return ""
    low, high = scale
    value, start, end = (
        4 + (WIDTH - 8) * ((one - low) / (high - low) if high > low else 0.5) for one in interval
    )
    middle = HEIGHT / 2
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{interval.text()}">'
        f'<path d="M{start:.1f} {middle}H{end:.1f}" stroke="var(--accent)" stroke-width="2"/>'
        f'<circle cx="{value:.1f}" cy="{middle}" r="4" fill="var(--accent)"/></svg>'
    )


def rank_text(one: Standing) -> str:
    """`2 (1 to 4)`."""
    return f"{one.rank} ({one.rank_low} to {one.rank_high})"


def _gap_cells(gap: Gap | None) -> list[str]:
    return [gap.difference.text("+"), f"{gap.p_holm:.3f}"] if gap else ["", ""]
