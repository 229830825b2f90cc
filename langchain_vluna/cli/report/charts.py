"""Two kinds of chart as SVG text: columns over time, and bars by name. Colours come from the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from langchain_vluna.cli.values import usd

__all__ = ["Point", "bars", "columns", "ticks"]

Point = tuple[str, int]
"""A label and an amount in XUSD."""

_WIDTH = 860
_HEIGHT = 240
_LEFT = 90
_BOTTOM = 34
_TOP = 10
_NAMES = 260
_ROW = 26
_AMOUNTS = 110
_LONGEST_NAME = 36
_MOST_LABELS = 12
_WIDEST = 60


def columns(points: Sequence[Point], title: str) -> str:
    """Draw a column for each point, in order, with a scale on the left."""
    scale = ticks(max((amount for _, amount in points), default=0))
    most = scale[-1]
    height, width = _HEIGHT - _TOP - _BOTTOM, _WIDTH - _LEFT
    parts = []
    for tick in scale:
        y = _TOP + height - height * tick / most
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{usd(tick)}</text>')
    step = width / max(len(points), 1)
    wide = min(step * 0.8, _WIDEST)
    every = -(-len(points) // _MOST_LABELS)
    for number, (label, amount) in enumerate(points):
        middle, tall = _LEFT + (number + 0.5) * step, height * max(amount, 0) / most
        parts.append(
            f'<rect class="bar" x="{middle - wide / 2:.1f}" y="{_TOP + height - tall:.1f}" width="{wide:.1f}" '
            f'height="{tall:.1f}"><title>{escape(label)}: {usd(amount)}</title></rect>'
        )
        if number % every == 0:
            parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{escape(label[5:])}</text>')
    return _svg(_HEIGHT, title, parts)


def bars(points: Sequence[Point], title: str) -> str:
    """Draw a bar for each point, its name on the left, its amount on the right."""
    most = max((amount for _, amount in points), default=0) or 1
    width = _WIDTH - _NAMES - _AMOUNTS
    parts = []
    for number, (label, amount) in enumerate(points):
        y, long = number * _ROW, width * max(amount, 0) / most
        parts.append(f'<text x="{_NAMES - 10}" y="{y + 17}" text-anchor="end">{escape(_short(label))}</text>')
        parts.append(
            f'<rect class="bar" x="{_NAMES}" y="{y + 4}" width="{max(long, 1):.1f}" height="{_ROW - 8}">'
            f"<title>{escape(label)}: {usd(amount)}</title></rect>"
        )
        parts.append(f'<text x="{_NAMES + long + 8:.1f}" y="{y + 17}">{usd(amount)}</text>')
    return _svg(len(points) * _ROW + 4, title, parts)


def ticks(most: int) -> list[int]:
    """Return round numbers from 0 to at least `most`, about four of them."""
    if most <= 0:
        return [0, 1]
    size = 1
    while True:
        for factor in (1, 2, 5):
            step = factor * size
            if step * 4 >= most:
                return list(range(0, -(-most // step) * step + 1, step))
        size *= 10


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 1]}…"


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    name = escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>'
