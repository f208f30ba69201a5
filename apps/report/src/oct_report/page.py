"""One self-contained HTML page: tiles, tables and figures, no script and no outside file."""

import base64
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from oct_report.style import STYLE


class Drawing(NamedTuple):
    """A figure as SVG that takes the colours of the page, so that it is right in the dark too."""

    svg: str  # as `drawings.as_svg` or `strips.strip` make it: nothing in it is escaped
    words: str  # a caption, and what a screen reader says


Cell = str | Drawing


class Page:
    """Collects the parts of a report in reading order, then writes them as one file.

    Every text is escaped; figures are embedded as data.
    """

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1>", f'<p class="lead">{_text(lead)}</p>']
        self._open = ""

    def headline(self, text: str) -> None:
        """Add the sentence that is read if nothing else is."""
        self._parts.append(f'<p class="headline">{_text(text)}</p>')

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

    def section(self, heading: str, text: str = "", *, folded: bool = False) -> None:
        """Begin a section; what follows stands in it. On paper a folded one is open."""
        self._close_section()
        if folded:
            self._parts.append(f'<details class="section"><summary>{_text(heading)}</summary>')
        else:
            self._parts.append(f"<section><h2>{_text(heading)}</h2>")
        self._open = "details" if folded else "section"
        if text:
            self.text(text)

    def heading(self, text: str) -> None:
        """Add a heading inside a section."""
        self._parts.append(f"<h3>{_text(text)}</h3>")

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._parts.append(f"<p>{_text(text)}</p>")

    def figure(self, png: bytes, caption: str, *, plot: bool = False) -> None:
        """Add a PNG picture with its caption, which is also its text for screen readers.

        Args:
            png: the picture.
            caption: what it shows.
            plot: lines on white rather than a photograph; turned light on dark in the dark.
        """
        data = base64.b64encode(png).decode("ascii")
        kind = ' class="plot"' if plot else ""
        self._parts.append(
            f'<figure><img{kind} alt="{_text(caption)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )

    def drawings(self, drawings: Sequence[Drawing], *, large: bool = False) -> None:
        """Add figures side by side, as many as there is room for; large ones have more."""
        figures = (
            f'<figure role="img" aria-label="{_text(words)}">{svg}'
            f"<figcaption>{_text(words)}</figcaption></figure>"
            for svg, words in drawings
        )
        kind = "grid large" if large else "grid"
        self._parts.append(f'<div class="{kind}">{"".join(figures)}</div>')

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        best: Sequence[int] = (),
        *,
        tight: bool = False,
    ) -> None:
        """Add a table; rows whose index is in `best` are set in the accent colour.

        Args:
            columns: the headings.
            rows: texts, or drawings that fit a line.
            best: numbers of the rows that stand out.
            tight: cells are not broken; a wide table is scrolled by itself.
        """
        head = "".join(f"<th>{_text(column)}</th>" for column in columns)
        body = "".join(
            "<tr>" + "".join(_cell(cell, number in best) for cell in row) + "</tr>"
            for number, row in enumerate(rows)
        )
        kind = ' class="tight"' if tight else ""
        self._parts.append(
            f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def code(self, text: str, *, wrap: bool = False) -> None:
        """Add a block of fixed-width text; `wrap` breaks long lines instead of scrolling."""
        kind = ' class="wrap"' if wrap else ""
        self._parts.append(f"<pre{kind}>{_text(text)}</pre>")

    def write(self, path: Path) -> None:
        """Write the page to `path`; an existing page is replaced in one step."""
        self._close_section()
        document = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self._title)}</title><style>{STYLE}</style></head>"
            f"<body><main>{''.join(self._parts)}</main></body></html>\n"
        )
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(document, encoding="utf-8")
        os.replace(draft, path)

    def _close_section(self) -> None:
        if self._open:
            self._parts.append(f"</{self._open}>")
            self._open = ""


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _cell(cell: Cell, best: bool) -> str:
    if isinstance(cell, Drawing):
        label = _text(cell.words)
        return f'<td class="strip" role="img" aria-label="{label}">{cell.svg}</td>'
    return f'<td class="best">{_text(cell)}</td>' if best else f"<td>{_text(cell)}</td>"
