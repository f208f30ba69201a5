"""How a page looks: wide, on a phone, in the dark, and on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #dfe4ea;
  --paper: #ffffff; --wash: #f4f6f9; --accent: #0b6e8f; --warn-ink: #7a4b00; --warn: #fff4dc;
  --c2: #d1702c; --c3: #7d8794; --c4: #7a5ea8; --c5: #3f8f5a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #9aa6b6; --line: #313a47; --paper: #171c24; --wash: #0e1218;
    --accent: #4fb9da; --warn-ink: #ffd98a; --warn: #3a2d0c;
    --c2: #ee9a5c; --c3: #8f9aa9; --c4: #b39ae0; --c5: #6cc48c; }
  figure img.plot { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 0 0 4px; }
h3 { font-size: 16px; margin: 22px 0 4px; }
p { margin: 4px 0 12px; max-width: 74ch; }
.lead { color: var(--soft); font-size: 17px; }
.headline { font-size: 25px; line-height: 1.35; font-weight: 600; letter-spacing: -0.01em;
  max-width: 46ch; margin: 20px 0 10px; text-wrap: pretty; }
.note { background: var(--warn); color: var(--warn-ink); border-radius: 8px; padding: 10px 16px;
  margin: 16px 0; max-width: none; }
section, details.section { background: var(--paper); border: 1px solid var(--line);
  border-radius: 12px; padding: 22px 26px; margin: 22px 0; }
details.section > summary { cursor: pointer; font-size: 20px; font-weight: 700; }
details.section[open] > summary { margin-bottom: 8px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px;
  margin: 24px 0; }
.tiles + .tiles { margin-top: -10px; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 14px 18px; }
.tile b { display: block; font-size: 26px; line-height: 1.2; letter-spacing: -0.01em; }
.tile span { color: var(--soft); font-size: 14px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr));
  gap: 10px 20px; }
.grid.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); }
figure { margin: 12px 0 4px; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
figure svg { display: block; width: 100%; height: auto; max-width: 100%; }
figure svg text { font-family: inherit; }
figcaption { color: var(--soft); font-size: 14px; max-width: 80ch; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; min-width: min(100%, 560px); font-size: 15px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  padding: 8px 12px 8px 0; white-space: nowrap; }
td { border-bottom: 1px solid var(--line); padding: 7px 12px 7px 0; vertical-align: top; }
table.tight { width: 100%; }
table.tight td { white-space: nowrap; font-size: 14px; }
td.best { font-weight: 650; color: var(--accent); }
td.strip { padding-top: 3px; padding-bottom: 0; min-width: 90px; }
td.strip svg { display: block; width: 100%; min-width: 90px; height: 26px; }
tr:last-child td { border-bottom: 0; }
code, pre { font: 13.5px/1.5 ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", monospace; }
pre { background: var(--wash); border-radius: 8px; padding: 12px 16px; overflow-x: auto; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 24px 14px 40px; }
  section, details.section { padding: 16px 14px; border-radius: 10px; }
  h1 { font-size: 24px; }
  .headline { font-size: 20px; }
  .tiles { grid-template-columns: repeat(2, 1fr); gap: 10px; }
  .tile { padding: 10px 12px; }
  .tile b { font-size: 20px; }
}
@media print {
  @page { margin: 14mm; }
  :root { color-scheme: light; --ink: #000000; --soft: #444444; --line: #cccccc;
    --paper: #ffffff; --wash: #ffffff; --accent: #0b6e8f; --warn-ink: #000000; --warn: #eeeeee;
    --c2: #d1702c; --c3: #7d8794; --c4: #7a5ea8; --c5: #3f8f5a; }
  body { font-size: 11px; background: none; }
  main { max-width: none; padding: 0; }
  section, details.section { border: 0; padding: 0; margin: 16px 0; }
  .headline { font-size: 17px; }
  .tile b { font-size: 17px; }
  .tile span, figcaption { font-size: 10px; }
  .tiles { gap: 8px; grid-template-columns: repeat(4, 1fr); }
  h2, h3, summary, h2 + p, h3 + p { break-after: avoid; }
  figure, tr, .tile, .note { break-inside: avoid; }
  .grid { grid-template-columns: repeat(3, 1fr); gap: 6px 14px; }
  .scroll { overflow: visible; }
  table, table.tight td { font-size: 9px; }
  table.tight td, th { white-space: normal; }
  th { overflow-wrap: break-word; }
  thead { display: table-header-group; }
  td.strip, td.strip svg { min-width: 90px; }
  td.strip svg { height: 18px; }
  pre, pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 8px; padding: 0; }
  pre:not(.wrap) { columns: 3; }
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
  figure img.plot { filter: none; mix-blend-mode: normal; }
}
"""
COLOURS = ("accent", "c2", "c3", "c4", "c5")
"""Names in `STYLE` of what drawings tell apart; the first is what a page is about."""
