"""The look of a page: system fonts, two colour schemes, one column on a phone; and the frame around its parts."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from pipeline.page.parts import html, joined

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark;
  --bg: #fafaf8; --card: #ffffff; --ink: #191c20; --soft: #5b636d; --line: #e4e4df; --edge: #8a8f96; --track: #ecece7;
  --accent: #3a5bd0; --good: #17713f; --warn: #8f5300; --bad: #b3261e;
  --s1: #3a6fd8; --s2: #14907f; --s3: #c9741a; --s4: #8457c4; --s5: #b8447a; --s6: #667085; }
@media (prefers-color-scheme: dark) { :root {
  --bg: #111417; --card: #191d21; --ink: #e9ebee; --soft: #a0a8b2; --line: #2b3036; --edge: #6d757f; --track: #272c32;
  --accent: #8fa8ff; --good: #5fcf92; --warn: #f0b35a; --bad: #ff8a80;
  --s1: #7ba3f5; --s2: #4cc3b0; --s3: #eda65a; --s4: #b795ee; --s5: #ea86b3; --s6: #98a2b3; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
main, footer { max-width: 1120px; margin: 0 auto; padding: 0 clamp(16px, 4vw, 40px); }
header { padding: clamp(40px, 8vw, 88px) 0 24px; }
h1 { margin: 4px 0 10px; font-size: clamp(2rem, 5.5vw, 3.1rem); line-height: 1.1; letter-spacing: -.025em;
  font-weight: 680;
  text-wrap: balance; }
h2 { margin: 0; font-size: 1.5rem; line-height: 1.25; letter-spacing: -.015em; font-weight: 650; }
h3 { margin: 0; font-size: 1.05rem; font-weight: 620; }
p { margin: 0; }
b, strong { font-weight: 600; }
.eyebrow { color: var(--accent); font-size: .9rem; font-weight: 600; }
.uri { color: var(--soft); font: .875rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; }
.lead { max-width: 68ch; margin: 6px 0 20px; color: var(--soft); }
section { padding: clamp(32px, 5vw, 56px) 0; border-top: 1px solid var(--line); }
#summary { padding-top: 0; border-top: 0; }
.part { min-width: 0; }
section > .part { margin-top: 44px; }
.state { display: flex; align-items: center; gap: 10px; font-weight: 600; }
.state i { flex: none; width: 10px; height: 10px; border-radius: 50%; background: currentColor; }
.state.good { color: var(--good); } .state.warn { color: var(--warn); } .state.bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 1px; margin: 24px 0;
  overflow: hidden; background: var(--line); border: 1px solid var(--line); border-radius: 14px; }
.tiles div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: 20px 20px 12px;
  background: var(--card); }
.tiles dt { color: var(--soft); font-size: .875rem; }
.tiles dd { margin: 0; font-size: 1.75rem; line-height: 1.25; font-weight: 640; letter-spacing: -.02em;
  white-space: nowrap; }
.tiles small { display: block; font-size: .8125rem; }
.audit { color: var(--soft); overflow-wrap: anywhere; } .audit b { color: var(--ink); margin-right: 6px; }
.audit.bad, .audit.bad b { color: var(--bad); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 26px 16px;
  margin-top: 20px; }
.sheet.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 32px 24px; }
figure { min-width: 0; margin: 0; }
.card img, .open img, .tile { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: cover;
  border-radius: 10px;
  background: var(--track); }
.card img.whole { aspect-ratio: auto; } .wide img, .wide .tile { border-radius: 6px; }
.card img.pixels { image-rendering: pixelated; }
.tile { background: repeating-linear-gradient(135deg, var(--track) 0 8px, var(--line) 8px 9px); }
.notice { margin-bottom: 32px; color: var(--warn); }
.pair { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 6px; }
.pair.three { grid-auto-flow: row; grid-template-columns: repeat(3, minmax(0, 1fr)); }
figcaption { margin-top: 9px; font-size: .875rem; line-height: 1.45; }
.answer { display: flex; justify-content: space-between; gap: 8px; }
.answer strong { display: -webkit-box; min-width: 0; overflow: hidden; overflow-wrap: anywhere; line-height: 1.3;
  -webkit-box-orient: vertical; -webkit-line-clamp: 2; }
.answer b { flex: none; } .answer.none { color: var(--soft); }
.others { color: var(--soft); font-size: .8125rem; }
.others span { display: flex; justify-content: space-between; gap: 6px; } .others b { flex: none; font-weight: 400; }
.others i { overflow: hidden; font-style: normal; text-overflow: ellipsis; white-space: nowrap; }
.key { display: block; overflow: hidden; color: var(--soft); font-size: .8125rem; text-overflow: ellipsis;
  white-space: nowrap; }
.why, .under { color: var(--soft); font-size: .8125rem; } .under { margin-top: 4px; overflow-wrap: anywhere; }
.command { display: grid; grid-template-columns: minmax(0, max-content) auto; justify-content: start;
  align-items: center; gap: 2px 14px; margin-top: 16px; font-size: .875rem; }
.command span { grid-column: 1 / -1; } .command i { display: inline-block; max-width: 100%; font-style: normal; }
.command code { white-space: normal; overflow-wrap: anywhere; color: var(--soft); font: .875rem/1.5 ui-monospace,
  SFMono-Regular, Menlo, Consolas, monospace; }
summary { min-height: 28px; margin-top: 6px; color: var(--soft); cursor: pointer; }
.masks-only { display: flex; align-items: center; gap: 8px; width: fit-content; margin-top: 20px; font-size: .875rem; }
.masks-only input { width: 24px; height: 24px; margin: 0; }
.layers .alone { display: none; } section:has(.masks-only input:checked) .layers .alone { display: block; }
section:has(.masks-only input:checked) .layers .over { display: none; }
.captions { grid-auto-flow: row; grid-template-columns: repeat(auto-fit, minmax(70px, 1fr)); }
td .few { margin-bottom: 6px; }
[hidden] { display: none !important; }
button, select, input { font: inherit; color: inherit; accent-color: var(--accent); }
button:focus-visible, select:focus-visible, input:focus-visible, summary:focus-visible {
  outline: 2px solid var(--accent); outline-offset: 2px; }
button { cursor: pointer; }
.open { display: block; width: 100%; padding: 0; border: 0; border-radius: 10px; background: none; }
.copy, .close, .turn, .tools button, .tools select { min-height: 32px; padding: 3px 12px; border: 1px solid var(--edge);
  border-radius: 8px; background: var(--card); font-size: .875rem; }
.tools { display: flex; flex-wrap: wrap; align-items: center; gap: 10px 22px; font-size: .875rem; }
.tools label { display: flex; align-items: center; gap: 8px; } .tools select { max-width: 14em; }
.tools output { color: var(--soft); min-width: 3em; } .tools input[type=range] { width: 120px; height: 24px; }
.tools input[type=checkbox] { width: 24px; height: 24px; margin: 0; }
dialog { width: min(920px, 94vw); max-height: 92vh; padding: 20px; overflow: auto; border: 1px solid var(--line);
  border-radius: 16px; background: var(--card); color: var(--ink); }
dialog::backdrop { background: rgb(0 0 0 / .55); }
dialog form { display: flex; gap: 8px; margin-bottom: 14px; } dialog .close { margin-left: auto; }
dialog .body { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 24px; }
dialog .picture img { display: block; width: 100%; max-width: 512px; height: auto; border-radius: 10px; }
dialog .pixels { image-rendering: pixelated; } dialog .told > * + * { margin-top: 12px; }
dialog .told { min-width: 0; overflow-wrap: anywhere; }
dialog .bars li { grid-template-columns: minmax(60px, 9em) 1fr minmax(3.5em, auto); }
svg { display: block; }
.score { display: grid; grid-template-columns: 1fr auto; align-items: center; gap: 8px; margin: 2px 0 3px; }
.score .bar { height: 5px; } .score b { font-size: .8125rem; }
.track { fill: var(--track); } .fill { fill: var(--accent); } .bad .fill { fill: var(--bad); }
.bars { display: grid; gap: 9px; max-width: 780px; margin: 20px 0 0; padding: 0; list-style: none; }
.bars li { display: grid; grid-template-columns: minmax(84px, 13em) 1fr minmax(3.5em, auto);
  align-items: center; gap: 14px;
  font-size: .9375rem; }
.bars .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars b { text-align: right; } .bar { width: 100%; height: 12px; }
.bars.pictured { max-width: none; } .few { display: flex; gap: 6px; } .few .open { width: 44px; }
.few .open img { border-radius: 6px; } .bars.pictured li { grid-template-columns: minmax(84px, 13em) 1fr 3.5em 194px; }
.bars.long li { grid-template-columns: minmax(84px, 22em) 1fr minmax(3.5em, auto); }
.bars.wide-value li { grid-template-columns: 5em 1fr 8.5em; }
.matrix { width: auto; } .matrix td, .matrix th { min-width: 2.6em; padding: 6px 10px; overflow-wrap: normal;
  white-space: nowrap; }
.matrix td:first-child { color: var(--soft); font-size: .8125rem; } .matrix .none { color: var(--soft); }
.matrix .right { background: color-mix(in srgb, var(--accent) var(--heat), transparent); }
.matrix .wrong { background: color-mix(in srgb, var(--bad) var(--heat), transparent); }
.bars + .scroll { margin-top: 28px; }
.near { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 14px; max-width: 900px;
  padding: 14px 0; }
.near .query { position: relative; }
.near .query::after { position: absolute; inset: 0 -8px 0 auto; border-right: 1px solid var(--line); content: ""; }
.near.group .card b { color: var(--soft); font-weight: 400; }
.near .query b { color: var(--accent); }
.map { width: 100%; min-width: 640px; background: var(--card); border: 1px solid var(--line);
  border-radius: 14px; }
.map image { image-rendering: auto; } .map rect { fill: none; stroke-width: 4; }
.map circle { fill: var(--accent); fill-opacity: .6; }
.chips, .legend { display: flex; flex-wrap: wrap; gap: 4px 14px; margin: 0; padding: 0; list-style: none; }
.legend { gap: 6px 20px; font-size: .875rem; } .legend span { color: var(--soft); }
.legend + .sheet { margin-top: 28px; }
.chips i, .legend i { display: inline-block; width: 11px; height: 11px; margin-right: 7px; border-radius: 3px;
  box-shadow: inset 0 0 0 1px rgb(128 128 128 / .45); }
.chips b { font-weight: 400; color: var(--soft); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 48px;
  margin-top: 24px; }
.step + .step { margin-top: 28px; } .step p { margin-bottom: 6px; color: var(--soft); font-size: .875rem; }
.stack { width: 100%; height: 26px; margin-bottom: 12px; overflow: hidden; border-radius: 7px;
  background: var(--track); }
.s1 { fill: var(--s1); background: var(--s1); } .s2 { fill: var(--s2); background: var(--s2); }
.s3 { fill: var(--s3); background: var(--s3); } .s4 { fill: var(--s4); background: var(--s4); }
.s5 { fill: var(--s5); background: var(--s5); } .s6 { fill: var(--s6); background: var(--s6); }
.chart { display: grid; grid-template-columns: auto 1fr; gap: 8px 12px; color: var(--soft);
  font-size: .8125rem; }
.chart .y { display: flex; flex-direction: column; justify-content: space-between; text-align: right;
  line-height: 1; }
.chart .x { display: flex; grid-column: 2; justify-content: space-between; }
.plot { width: 100%; height: 190px; overflow: visible; }
.lead + .chart, h2 + .chart { margin-top: 20px; } .plot.low { height: 110px; overflow: hidden; }
.failed { fill: var(--bad); } .chart + .scroll { margin-top: 24px; }
.plot path, .plot polyline { fill: none; vector-effect: non-scaling-stroke; }
.grid { stroke: var(--line); } .area { fill: var(--accent); fill-opacity: .1; }
.line { stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.mean { stroke: var(--soft); stroke-dasharray: 4 4; }
.scroll { overflow-x: auto; margin-top: 16px; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 4px; border-radius: 6px; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th { color: var(--soft); font-size: .8125rem; font-weight: 500; text-align: left; white-space: nowrap; }
th, td { padding: 10px 18px 10px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
td { min-width: 5em; overflow-wrap: anywhere; } td.n, th.n { min-width: 0; text-align: right; }
time, code { font: inherit; white-space: nowrap; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr));
  gap: 18px 28px; margin: 20px 0 0; }
.facts dt { color: var(--soft); font-size: .8125rem; } .facts dd { margin: 0; overflow-wrap: anywhere; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
footer { padding-bottom: 72px; color: var(--soft); font-size: .8125rem; }
@media (max-width: 600px) {
  .tiles { grid-template-columns: 1fr 1fr; } .tiles div { padding: 16px; } .tiles dd { font-size: 1.5rem; }
  .tiles div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .sheet { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 20px 10px; }
  .sheet .others:not(.own) { display: none; }
  .sheet.pairs { grid-template-columns: 1fr; }
  .bars li { grid-template-columns: minmax(0, 9em) 1fr auto; }
  .near { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 16px 12px; padding: 20px 0; }
  .bars.pictured li { grid-template-columns: minmax(0, 9em) 1fr auto; } .few { grid-column: 1 / -1; }
  .few:empty { display: none; }
  .near .query::after { content: none; }
  .near + .near { border-top: 1px solid var(--line); } }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def document(title: str, header: Markup, parts: Iterable[Markup], footer: Markup, script: str = "") -> str:
    """A whole page of these parts, which needs nothing else.

    Only a script of this digest (base64 of SHA-256) runs in it; what stands in rows, names and errors cannot.
    """
    scripts = f"script-src 'sha256-{script}'; " if script else ""
    return html(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" content="{}"><link rel="icon" href="data:,">'
        "<title>{}</title><style>{}</style></head><body><main>{}\n{}</main>{}</body></html>\n",
        *(f"{POLICY}; {scripts}".rstrip("; "), title, Markup(STYLE), header, joined(parts), footer),
    )
