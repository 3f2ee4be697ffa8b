"""The style sheet of the report's page, and its chart's colours."""

from __future__ import annotations

LIGHT = ("#4263eb", "#0ca678", "#f59f00", "#d6336c", "#7048e8", "#1098ad", "#e8590c", "#868e96")
DARK = ("#748ffc", "#38d9a9", "#ffc94d", "#f783ac", "#9775fa", "#3bc9db", "#ff922b", "#868e96")


def _colours(colours: tuple[str, ...]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))


_CLASSES = "\n".join(f".c{number} {{ fill: var(--c{number}); background: var(--c{number}); }}" for number in range(8))

STYLE = f"""\
:root {{
  color-scheme: light dark;
  --page: #f6f6f3; --card: #ffffff; --text: #1d1f24; --soft: #686c76; --line: #e7e7e2;
  --warn: #b35c00; --warn-page: #fff4e2; --bad: #c92a2a; {_colours(LIGHT)}
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --page: #121317; --card: #1b1d23; --text: #e8e9ed; --soft: #9a9ea9; --line: #2b2e36;
    --warn: #ffc078; --warn-page: #33270f; --bad: #ff8787; {_colours(DARK)}
  }}
}}
* {{ box-sizing: border-box; }}
body {{
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}}
main {{ max-width: 1060px; margin: 0 auto; padding: 40px 20px 32px; }}
header {{ display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 16px; margin-bottom: 20px; }}
h1 {{ font-size: 26px; letter-spacing: -0.02em; margin: 0; }}
h2 {{ font-size: 15px; margin: 0 0 10px; }}
p {{ margin: 0; color: var(--soft); }}
section, .card {{ background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 18px 20px; }}
section, .pair {{ margin-bottom: 16px; }}
section > p {{ margin: -6px 0 12px; }}
.cards {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 16px;
  padding: 0; border: 0; background: none;
}}
.card h2 {{ font-weight: 500; color: var(--soft); margin: 0; }}
.card p {{ font-size: 13px; }}
.card .sum {{
  font-size: 32px; line-height: 1.3; font-weight: 650; letter-spacing: -0.02em; color: var(--text);
  font-variant-numeric: tabular-nums;
}}
.sum span, .sum small {{ color: var(--soft); font-weight: 450; font-size: 20px; letter-spacing: 0; }}
.sum span {{ margin-right: 2px; }}
.warn {{ background: var(--warn-page); border-color: transparent; }}
.warn h2, .warn p, .warn .sum, .warn .sum * {{ color: var(--warn); }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 16px; align-items: start; }}
.pair section {{ margin-bottom: 0; min-width: 0; }}
.pair > div {{ display: grid; gap: 16px; min-width: 0; }}
.chart h2 {{ display: inline-block; margin-right: 16px; }}
.chart input {{ position: absolute; opacity: 0; }}
.chart label {{
  font-size: 13px; color: var(--soft); padding: 3px 12px; border: 1px solid var(--line); cursor: pointer;
}}
.chart label:first-of-type {{ border-radius: 99px 0 0 99px; border-right: 0; }}
.chart label:last-of-type {{ border-radius: 0 99px 99px 0; }}
.chart input:checked + label {{ background: var(--line); color: var(--text); }}
.chart input:focus-visible + label {{ outline: 2px solid var(--c0); outline-offset: 1px; }}
figure {{ display: none; margin: 8px 0 0; }}
#by-model:checked ~ .of-model, #by-network:checked ~ .of-network {{ display: block; }}
svg {{ display: block; width: 100%; min-width: 620px; height: auto; }}
svg text {{ font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }}
svg .tick {{ text-anchor: end; }}
svg .day {{ text-anchor: middle; }}
svg .grid {{ stroke: var(--line); }}
svg .bar rect {{ stroke: var(--card); stroke-width: 1; }}
svg:hover .bar {{ opacity: 0.45; }}
svg .bar:hover {{ opacity: 1; }}
figcaption ul {{ display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 10px 0 0; padding: 0; }}
figcaption li {{ font-size: 13px; color: var(--soft); overflow-wrap: anywhere; }}
figcaption i {{ display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 7px; }}
{_CLASSES}
.cx {{ background: var(--soft); opacity: 0.55; }}
.scroll {{ overflow-x: auto; }}
.chart .scroll {{ direction: rtl; }}
.chart svg {{ direction: ltr; }}
table {{ width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: 6px 0 6px 14px; font-weight: 400; white-space: nowrap; }}
th:first-child, td:first-child {{ padding-left: 0; }}
thead th {{ font-size: 12px; color: var(--soft); padding-top: 0; }}
tbody tr {{ border-top: 1px solid var(--line); }}
.sums td, .sums thead th + th {{ text-align: right; width: 1%; }}
.sums th span {{ display: block; white-space: normal; overflow-wrap: anywhere; }}
.share {{ display: block; height: 4px; border-radius: 2px; margin-top: 3px; min-width: 2px; }}
.list td {{ font-size: 13px; }}
.list td:nth-child(2), .list th:nth-child(2) {{ text-align: right; }}
.code {{ font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--soft); }}
.code {{ max-width: 260px; overflow: hidden; text-overflow: ellipsis; }}
.code:hover {{ max-width: none; }}
.pad {{ visibility: hidden; }}
.state {{ font-size: 12px; color: var(--soft); }}
.state.unknown {{ color: var(--warn); }}
.state.rejected {{ color: var(--bad); }}
.state.settled {{ color: var(--c1); }}
details summary {{ cursor: pointer; color: var(--soft); font-size: 13px; padding-top: 8px; }}
.empty p {{ text-align: center; padding: 48px 0; }}
footer {{ margin-top: 24px; }}
footer p {{ font-size: 12px; }}
code {{ font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }}
@media (max-width: 760px) {{ .pair {{ grid-template-columns: minmax(0, 1fr); }} main {{ padding-top: 24px; }} }}
@media print {{ body {{ background: none; }} section, .card {{ break-inside: avoid; }} }}
"""
