"""A report as one HTML file: no scripts, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape

from langchain_vluna.cli.report.charts import bars, columns
from langchain_vluna.cli.report.spend import Dimension, Spend, cut
from langchain_vluna.cli.values import usd

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #667; --line: #d8dde3; --paper: #fff; --bar: #2f6fb0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --faint: #9aa3ad; --line: #333b45; --paper: #14181d; --bar: #6ea8e0; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 900px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p.faint { color: var(--faint); }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; }
dt { color: var(--faint); } dd { margin: 0; font-size: 1.3rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--ink); }
.bar { fill: var(--bar); } .grid { stroke: var(--line); }
table { border-collapse: collapse; width: 100%; margin-top: .6rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th.n, td.n { text-align: right; white-space: nowrap; }
"""
_HEADS = (("runs", "n"), ("quantity", "n"), ("XUSD", "n"), ("USD", "n"), ("not charged", "n"), ("estimated", "n"))


def page(groups: Mapping[Dimension, Sequence[Spend]], whole: Spend, *, subject: str, now: datetime, most: int) -> str:
    """Return the report as a page; `subject` says what it is about."""
    sections = "".join(_section(dimension, spends, most) for dimension, spends in groups.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Spend: {escape(subject)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Spend</h1><p>{escape(subject)}</p>{_totals(whole)}{sections}"
        f'<p class="faint">Made by langchain-vluna, {now:%Y-%m-%d %H:%M} UTC. Days are UTC. 1 XUSD is 0.000001 USD.</p>'
        "</body></html>\n"
    )


def _totals(whole: Spend) -> str:
    facts = {
        "charged": usd(whole.amount_xusd),
        "runs": f"{whole.runs:,}",
        "quantity": f"{whole.quantity:,}",
        "not charged": f"{whole.uncharged:,}",
        "estimated": f"{whole.estimated:,}",
    }
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items()) + "</dl>"


def _section(dimension: Dimension, spends: Sequence[Spend], most: int) -> str:
    over_time = dimension is Dimension.DAY
    shown = list(spends) if over_time else cut(spends, most)
    draw = columns if over_time else bars
    chart = draw([(spend.key, spend.amount_xusd) for spend in shown], f"Spend by {dimension}")
    heads = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in _HEADS)
    rows = "".join(_row(spend) for spend in shown)
    return (
        f'<section><h2>By {dimension}</h2>{chart}<table><thead><tr><th scope="col">{dimension}</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></section>"
    )


def _row(spend: Spend) -> str:
    numbers = (spend.runs, spend.quantity, spend.amount_xusd)
    cells = [f"{number:,}" for number in numbers] + [usd(spend.amount_xusd)]
    cells += [f"{spend.uncharged:,}", f"{spend.estimated:,}"]
    return f'<tr><th scope="row">{escape(spend.key)}</th>' + "".join(f'<td class="n">{c}</td>' for c in cells) + "</tr>"
