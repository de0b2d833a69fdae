"""Frame and elements of a report's page. Text from outside is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

# The policy keeps browsers from loading anything, whatever the names in a report contain.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fcam-zoo">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{page_style}
{chart_style}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

STYLE = """:root{color-scheme:light dark;--line:#d8dce0;--soft:#5b6570;--page:#fff;--bar:#d6e6f2}
@media screen and (prefers-color-scheme:dark){:root{--line:#3b4248;--soft:#a3adb6;--page:#16191c;--bar:#24435a}}
@media print{:root{color-scheme:light}}
body{margin:0;background:var(--page);font:15px/1.5 system-ui,sans-serif}
main{max-width:1160px;margin:0 auto;padding:24px}
h1{font-size:26px;margin:0}h2{font-size:19px;margin:0 0 10px;padding-top:18px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:16px 0 8px}section{margin-top:26px}p{margin:6px 0;max-width:85ch}
.note{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto;margin-bottom:12px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th{font-weight:600}th[scope=row],tr>:first-child,.text{text-align:left}th[colspan]{text-align:center}
td.best{font-weight:700}
td.bar{min-width:90px;background:linear-gradient(90deg,var(--bar) var(--share),transparent 0);
print-color-adjust:exact;-webkit-print-color-adjust:exact}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,366px));gap:12px}
.charts svg{width:100%;height:auto}figure{margin:0}
.legend span{margin-right:18px;white-space:nowrap}.swatch{vertical-align:middle;margin-right:6px}
summary{cursor:pointer;margin-bottom:8px}
.cards{display:flex;flex-wrap:wrap;gap:14px}
.card{border:1px solid var(--line);border-radius:6px;padding:8px;break-inside:avoid}
.tiles{display:flex;flex-wrap:wrap;gap:6px}.tile{font-size:12px}
.tile img{display:block;max-width:100%;height:auto}.tile>span{display:block}
figcaption{width:0;min-width:100%;font-size:12px;color:var(--soft);overflow-wrap:anywhere;margin-top:4px}
.key{padding:0 4px;background:#333}.found{color:#f4f}.truth{color:#fff}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;font-size:13px}dt{color:var(--soft)}dd{margin:0}
pre{font-size:12px;white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--line);padding:8px}
@media print{main{padding:0;max-width:none}h2,h3,.legend,summary{break-after:avoid}tr,.charts{break-inside:avoid}
.charts{grid-template-columns:repeat(3,1fr)}.scroll{overflow:visible}table{font-size:11px}th,td{padding:3px 5px}}"""


def cell(value: Any, digits: int = 1) -> str:
    """Format a value as escaped text: floats with some digits, None as a dash."""
    if value is None:
        return '–'
    return f'{value:.{digits}f}' if isinstance(value, float) else escape(str(value))


def paragraph(text: str, kind: str = '') -> str:
    """Make a paragraph, with a CSS class."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f'<p>{escape(text)}</p>'


def section(title: str, content: str) -> str:
    """Make a section with a heading; the content is HTML."""
    return f'<section><h2>{escape(title)}</h2>{content}</section>'


def heads(titles: Iterable[str]) -> str:
    """Make a row of column headings."""
    return ''.join(f'<th scope="col"{" class=text" * (title == "maps")}>{cell(title)}</th>' for title in titles)


def table(head_rows: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table from the rows of its head and the cells of its other rows, all of them HTML."""
    head = ''.join(f'<tr>{row}</tr>' for row in head_rows)
    body = ''.join(f'<tr>{"".join(row)}</tr>' for row in rows)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def bar_cell(percent: float | None) -> str:
    """Make a table cell with a percentage, and a bar of this length behind it."""
    share = 0 if percent is None else percent
    return f'<td class="bar" style="--share:{share:.1f}%">{cell(percent)}</td>'


def definition_list(entries: Iterable[tuple[str, Any]]) -> str:
    """Make a list of names and values."""
    return f'<dl>{"".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in entries)}</dl>'
