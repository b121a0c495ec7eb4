"""The page's style sheet: system fonts, one accent, light and dark, from a phone's width up."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfb; --card: #ffffff; --ink: #1d2125; --soft: #59616a; --line: #dfe3e6;
  --probe: #0b6e8f; --control: #a5adb5; --trivial: #b4531f; --warn: #fdf3e3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1b1f23; --ink: #e6e9ec; --soft: #a2abb4; --line: #30363c;
    --probe: #57bfe0; --control: #66707a; --trivial: #eb9a68; --warn: #33291a;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1.1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .8rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: 0 0 .8rem; max-width: 44rem; }
.eyebrow { color: var(--soft); font-size: .85rem; margin: 0 0 .3rem; }
.lead { font-size: 1.1rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.warn { background: var(--warn); border-left: 3px solid var(--trivial); padding: .6rem .9rem; border-radius: 3px; }
.tiles { display: grid; grid-template-columns: repeat(2, 1fr); gap: .7rem; margin: 1.2rem 0; padding: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.tiles dt { color: var(--soft); font-size: .85rem; line-height: 1.3; }
.tiles dd { margin: .15rem 0 0; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; }
.tiles .own dd { color: var(--probe); font-weight: 600; }
figure { margin: 0 0 1rem; }
figcaption { margin-top: .4rem; max-width: 44rem; }
.scroll { margin-bottom: .8rem; overflow-x: auto; -webkit-overflow-scrolling: touch; }
.scroll:focus-visible { outline: 2px solid var(--probe); outline-offset: 2px; }
.sheet { display: block; height: auto; border-radius: 6px; border: 1px solid var(--line); }
.charts { display: grid; gap: 1.2rem; margin-top: 1rem; }
.charts figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .9rem;
  margin: 0; }
.chart { display: block; width: 100%; max-width: 28rem; height: auto; font-size: 12.5px; fill: var(--ink); }
.chart .axis { fill: var(--soft); font-size: 12px; }
.chart .strong { font-weight: 650; }
.chart .grid { stroke: var(--line); }
.chart .zero { stroke: var(--soft); }
.chart .whisker { stroke: var(--ink); stroke-width: 1.4; }
.chart .probe { fill: var(--probe); }
.chart .control { fill: var(--control); }
.chart path { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.chart .probe-line { stroke: var(--probe); }
.chart .raw-line { stroke: var(--probe); stroke-width: 1; opacity: .3; }
.chart .trivial-line { stroke: var(--trivial); stroke-dasharray: 5 3; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .45rem .8rem .45rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, .facts td { text-align: left; }
tbody th { font-weight: 500; white-space: normal; min-width: 8.5rem; }
thead th { color: var(--soft); font-weight: 500; border-bottom-color: var(--soft); vertical-align: bottom; }
td small, th small { display: block; color: var(--soft); font-size: .8rem; font-weight: 400; }
td.own { font-weight: 650; color: var(--probe); }
.facts { width: 100%; }
.facts th { width: 6rem; color: var(--soft); min-width: 5.5rem; }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.controls { display: grid; grid-template-columns: max-content 1fr; gap: .3rem .9rem; margin: 0 0 1rem;
  max-width: 48rem; }
.controls dt { font-weight: 600; }
.controls dd { margin: 0; }
pre, code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .86rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem;
  margin: 0 0 1rem; }
@media (min-width: 46rem) {
  main { padding: 2.6rem 2rem 4rem; }
  h1 { font-size: 2.1rem; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  .facts th { width: 9rem; }
  .charts { grid-template-columns: 1fr 1fr; }
}
@media print { .scroll { overflow: visible; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""
