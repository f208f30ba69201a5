"""An audit as one HTML page that holds all it shows: counts, contradictions, example B-scans."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from oct_io.catalog.audit import AuditReport
from oct_io.catalog.render import draw_enface, draw_montage, encode_png
from oct_io.errors import ScanError
from oct_io.records.opening import read_scan
from oct_io.scan.flags import FLAGS, count_flags, find_flags

TITLES = {
    "device": "Device",
    "region": "Region",
    "protocol": "Protocol",
    "laterality": "Eye",
    "shape": "B-scans x rows x columns",
    "spacing_source": "Source of the B-scan distance",
    "spacing_confidence": "Confidence in it",
    "pattern": "Scan pattern",
}

STYLE = """
:root { --ink: #1d2733; --soft: #5d6b7a; --line: #dfe5ec; --bar: #cfe0f3; --bad: #b3382c; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { margin: 0 0 4px; font-size: 28px; } h2 { margin: 40px 0 14px; font-size: 19px; }
p { margin: 0; color: var(--soft); max-width: 75ch; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px;
  margin-top: 24px; }
.tile, .card { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 14px 18px; } .tile b { display: block; font-size: 27px; line-height: 1.2; }
.tile span { color: var(--soft); font-size: 13px; } .tile.bad b { color: var(--bad); }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 16px;
  align-items: start; }
.card { padding: 14px 18px 16px; overflow: hidden; } .card h3 { margin: 0 0 8px; font-size: 15px; }
table { width: 100%; border-collapse: collapse; font-size: 14px; }
td, th { padding: 4px 8px; text-align: left; border-top: 1px solid var(--line); }
tr:first-child > * { border-top: 0; } th { color: var(--soft); font-weight: 500; }
td.n { text-align: right; font-variant-numeric: tabular-nums; width: 5em; }
td.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat 0 50% / var(--share) 76%; }
code { font: 12.5px ui-monospace, monospace; color: var(--soft); }
.shots { display: grid; grid-template-columns: repeat(auto-fit, minmax(500px, 1fr)); gap: 16px; }
.shot { background: #10161d; color: #e8edf3; border-radius: 10px; padding: 14px; }
.shot h3 { margin: 0; font-size: 15px; }
.shot p { color: #9fb0c1; font-size: 13px; margin: 0 0 10px; }
.shot div { display: flex; gap: 12px; align-items: flex-start; }
.shot img { display: block; border-radius: 4px; min-width: 0; }
.shot img.b { flex: 3; width: 70%; } .shot img.e { flex: 1; width: 26%; }
"""


@dataclass(frozen=True, slots=True)
class Example:
    """One scan of a device and protocol, drawn.

    Attributes:
        device: normalised name.
        protocol: normalised token.
        about: one line under them.
        flags: what is suspicious about the scan.
        bscans: PNG of a few B-scans; empty where the scan cannot be decoded.
        enface: PNG of the view from the front.
    """

    device: str
    protocol: str
    about: str
    bscans: bytes = b""
    enface: bytes = b""
    flags: tuple[str, ...] = ()


def draw_examples(
    report: AuditReport, root: str | Path, progress: Callable[[int, int], None] | None = None
) -> list[Example]:
    """Decode and draw the first usable scan of each device and protocol.

    Counts their flags in `report`, unless it has those of a cache.
    """
    found = []
    for (device, protocol), record in sorted(report.examples.items(), key=lambda one: one[0]):
        try:
            volume = read_scan(root, record)
        except ScanError as error:
            found.append(Example(device, protocol, f"{error.stage}: {error.reason}"))
        else:
            shape = " x ".join(map(str, volume.voxels.shape))
            steps = " x ".join(f"{step:.3g}" for step in volume.spacing)
            montage = encode_png(draw_montage(volume, tiles=4, across=2, tile_columns=320))
            enface = encode_png(draw_enface(volume, columns=256))
            flags = find_flags(volume)
            about = f"{shape}; {steps} mm; signal {flags.signal_db:.0f} dB"
            found.append(Example(device, protocol, about, montage, enface, flags.names))
        if progress is not None:
            progress(len(found), len(report.examples))
    report.flags = report.flags or count_flags(example.flags for example in found)
    return found


def audit_page(report: AuditReport, examples: list[Example]) -> str:
    """HTML of a page that asks for nothing else, from anywhere."""
    counts = "".join(_card(TITLES.get(n, n), report.counts[n]) for n in report.counts)
    shots = "".join(map(_shot, examples))
    body = [
        "<h1>Audit of a set of retinal OCT scans</h1>",
        "<p>Counted from tables and headers. Participants and scans appear as hashes only.</p>",
        f'<div class="tiles">{_tiles(report)}</div>',
        f"<h2>Examples</h2><p>The first usable scan of each device and protocol: B-scans in true "
        f"proportions, superior first, and the mean over depth seen from the front.</p><br>"
        f'<div class="shots">{shots}</div>'
        if shots
        else "",
        f'<h2>What the usable scans are</h2><div class="grid">{counts}{_annotated(report)}</div>',
        _problems(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _tiles(report: AuditReport) -> str:
    known = report.without_scans is not None and report.not_in_table is not None
    tiles = [
        ("scans", report.scans, False),
        ("usable", report.usable, False),
        ("refused", sum(report.refused.values()), True),
        ("participants with scans", report.participants, False),
        ("repeated SOP Instance UIDs", report.duplicates, True),
        ("contradictions", sum(report.mismatches.values()), True),
    ]
    if known:
        tiles.append(("participants without a scan", len(report.without_scans or ()), True))
        tiles.append(("not in the table", len(report.not_in_table or ()), True))
    return "".join(
        f'<div class="tile{" bad" if wrong and number else ""}"><b>{number:,}</b>'
        f"<span>{name}</span></div>"
        for name, number, wrong in tiles
    )


def _card(title: str, counts: dict[str, int]) -> str:
    most = max(counts.values(), default=1)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = "".join(
        f'<tr><td class="bar" style="--share:{100 * number / most:.0f}%">{escape(value)}</td>'
        f'<td class="n">{number:,}</td></tr>'
        for value, number in ranked
    )
    return f'<div class="card"><h3>{escape(title)}</h3><table>{rows}</table></div>'


def _annotated(report: AuditReport) -> str:
    """Cards of boundaries, with the share of A-scans that have each, and of classes of masks."""
    found, cards = report.annotations, ""
    if found.with_layers:
        shares = found.coverage
        named = {f"{one} ({shares[one]:.0%} of A-scans)": n for one, n in found.layers.items()}
        cards += _card(f"Layer boundaries, in {found.with_layers:,} scans", named)
    if found.with_mask:
        cards += _card(f"Classes of masks, in {found.with_mask:,} scans", found.classes)
    return cards


def _shot(example: Example) -> str:
    pictures = "".join(
        f'<img class="{kind}" alt="{alt}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for kind, alt, png in (("b", "B-scans", example.bscans), ("e", "en face", example.enface))
        if png
    )
    about = f"{example.protocol}; {example.about}"
    flags = f"<p>Flags: {', '.join(example.flags)}</p>" if example.flags else ""
    title = f"<h3>{escape(example.device)}</h3><p>{escape(about)}</p>{flags}"
    return f'<div class="shot">{title}<div>{pictures}</div></div>'


def _problems(report: AuditReport) -> str:
    cards = []
    if report.refused:
        rows = "".join(
            f"<tr><td>{escape(stage)}</td><td>{escape(report.reasons[stage])}</td>"
            f'<td class="n">{number:,}</td></tr>'
            for stage, number in report.refused.most_common()
        )
        cards.append(("Refused, with the first reason at each stage", rows))
    if report.annotations.unusable:
        rows = (
            f"<tr><td>{escape(report.annotations.reason)}</td>"
            f'<td class="n">{report.annotations.unusable:,}</td></tr>'
        )
        cards.append(("Masks and layers that cannot be read, with the first reason", rows))
    if report.mismatches:
        rows = "".join(
            f'<tr><td>{escape(name)}</td><td class="n">{number:,}</td></tr>'
            for name, number in report.mismatches.most_common()
        )
        cards.append(("Contradicts the header: the manifest, the folder or the file name", rows))
        rows = "".join(
            f"<tr><td><code>{key}</code></td><td>{escape(what)}</td></tr>"
            for key, what in report.contradictions[:40]
        )
        cards.append(("Scans with contradictions, the first 40", rows))
    if report.flags:
        rows = "".join(
            f'<tr><td>{name}: {FLAGS[name]}</td><td class="n">{number:,}</td></tr>'
            for name, number in report.flags.items()
        )
        cards.append(("Flags of decoded scans", rows))
    for title, people in (
        ("Participants of the table without a scan", report.without_scans),
        ("Participants with scans that the table lacks", report.not_in_table),
    ):
        if people:
            listed = " ".join(f"<code>{one}</code>" for one in people[:60])
            more = f" and {len(people) - 60:,} more" if len(people) > 60 else ""
            cards.append((f"{title}: {len(people):,}", f"<tr><td>{listed}{more}</td></tr>"))
    if not cards:
        return ""
    text = "".join(
        f'<div class="card"><h3>{t}</h3><table>{rows}</table></div>' for t, rows in cards
    )
    return f'<h2>What needs a look</h2><div class="grid">{text}</div>'
