"""One self-contained HTML page: tiles, tables and figures, no script and no outside file."""

import base64
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_STYLE = """
:root { --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea; --paper: #ffffff; --wash: #f4f6f9;
  --accent: #0b6e8f; --warn-ink: #7a4b00; --warn: #fff4dc; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 0 0 4px; }
p { margin: 4px 0 12px; max-width: 74ch; }
.lead { color: var(--soft); font-size: 17px; }
.note { background: var(--warn); color: var(--warn-ink); border-radius: 8px; padding: 10px 16px;
  margin: 16px 0; max-width: none; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 22px 26px; margin: 22px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 14px;
  margin: 24px 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; letter-spacing: -0.01em; }
.tile span { color: var(--soft); font-size: 14px; }
figure { margin: 12px 0 4px; overflow-x: auto; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 14px; max-width: 80ch; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 15px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  padding: 8px 12px 8px 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--line); padding: 7px 12px 7px 0; vertical-align: top; }
td.best { font-weight: 650; color: var(--accent); }
tr:last-child td { border-bottom: 0; }
code, pre { font: 13.5px/1.5 ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", monospace; }
pre { background: var(--wash); border-radius: 8px; padding: 12px 16px; overflow-x: auto; }
"""


class Page:
    """Collects the parts of a report in reading order, then writes them as one file.

    Every text is escaped; figures are embedded as data.
    """

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(lead)}</p>']
        self._in_section = False

    def note(self, text: str) -> None:
        """Add a highlighted sentence that nobody should miss."""
        self._parts.append(f'<p class="note">{_text(text)}</p>')

    def tiles(self, values: Mapping[str, str]) -> None:
        """Add the few figures to read first, label to value."""
        cells = (
            f'<div class="tile"><b>{_text(value)}</b><span>{_text(label)}</span></div>'
            for label, value in values.items()
        )
        self._parts.append(f'<div class="tiles">{"".join(cells)}</div>')

    def section(self, heading: str, text: str = "") -> None:
        """Begin a section; what follows stands in it."""
        self._close_section()
        self._parts.append(f"<section><h2>{_text(heading)}</h2>")
        self._in_section = True
        if text:
            self.text(text)

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def figure(self, png: bytes, caption: str) -> None:
        """Add a PNG picture with its caption, which is also its text for screen readers."""
        data = base64.b64encode(png).decode("ascii")
        self._parts.append(
            f'<figure><img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[int] = ()
    ) -> None:
        """Add a table; rows whose index is in `best` are set in the accent colour."""
        head = "".join(f"<th>{_text(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(_cell(cell, number in best) for cell in row) + "</tr>"
            for number, row in enumerate(rows)
        )
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def code(self, text: str) -> None:
        """Add a block of fixed-width text."""
        self._parts.append(f"<pre>{_text(text)}</pre>")

    def write(self, path: Path) -> None:
        """Write the page to `path`; an existing page is replaced in one step."""
        self._close_section()
        document = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self._title)}</title><style>{_STYLE}</style></head>"
            f"<body><main>{''.join(self._parts)}</main></body></html>\n"
        )
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(document, encoding="utf-8")
        os.replace(draft, path)

    def _close_section(self) -> None:
        if self._in_section:
            self._parts.append("</section>")
            self._in_section = False


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _cell(text: str, best: bool) -> str:
    return f'<td class="best">{_text(text)}</td>' if best else f"<td>{_text(text)}</td>"
