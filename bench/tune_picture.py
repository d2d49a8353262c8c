"""The picture of a tuning: quality against milliseconds a query, the front and what was chosen, as an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from retrieval.bench.tune_choice import Point

_WIDTH, _HEIGHT = 880, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 24, 56, 130
_LABELS = 8  # texts of the front that are written out, under the picture


def picture(
    points: Sequence[Point], front: Sequence[Point], chosen: Point, *, budget: float, measure: str, title: str
) -> str:
    """One self-contained SVG: every point grey, the front blue and numbered, the chosen one orange."""
    listed = _listed(front, chosen)
    height = _HEIGHT + 18 * len(listed)
    low = min([point.ms for point in points] + [budget]) / 1.3
    high = max([point.ms for point in points] + [budget]) * 1.3
    worst, best = min(point.quality for point in front), max(point.quality for point in points)
    room = max(best - worst, 0.01)
    bottom, top = max(0.0, worst - 0.5 * room), best + 0.15 * room
    right, lower = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(ms: float) -> float:
        return _LEFT + (right - _LEFT) * math.log(max(ms, low) / low) / math.log(high / low)

    def y(quality: float) -> float:
        return lower - (lower - _TOP) * (max(quality, bottom) - bottom) / (top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-size="15">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="42" fill="#666">{len(points):,} kinds of pipeline, cross-validated; the line '
        "joins those that no other beats</text>",
        f'<text x="18" y="{(lower + _TOP) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 18 {(lower + _TOP) / 2:.0f})">{escape(measure)}</text>',
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{lower + 38}" text-anchor="middle">milliseconds a query'
        "</text>",
    ]
    for tick in _even(bottom, top):
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.3f}</text>')
    for tick in _decades(low, high):
        parts.append(f'<path d="M{x(tick):.1f} {lower}v5" stroke="#222"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{lower + 19}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path d="M{x(budget):.1f} {_TOP}V{lower}" stroke="#b8500f" stroke-dasharray="5 4"/>')
    side, shift = ("end", -6) if x(budget) > (_LEFT + right) / 2 else ("start", 6)
    parts.append(
        f'<text x="{x(budget) + shift:.1f}" y="{_TOP + 12}" fill="#b8500f" text-anchor="{side}">'
        f"budget {budget:g} ms</text>"
    )
    for point in points:
        if point.quality >= bottom:
            parts.append(
                f'<circle cx="{x(point.ms):.1f}" cy="{y(point.quality):.1f}" r="2" fill="#bbb">'
                f"<title>{escape(_words(point))}</title></circle>"
            )
    line = " ".join(f"{x(point.ms):.1f},{y(point.quality):.1f}" for point in front)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f5fa8" stroke-width="1.6"/>')
    for point in [*front, chosen]:
        ink = "#b8500f" if point.text == chosen.text else "#1f5fa8"
        parts.append(
            f'<circle cx="{x(point.ms):.1f}" cy="{y(point.quality):.1f}" r="5" fill="{ink}">'
            f"<title>{escape(_words(point))}</title></circle>"
        )
    for number, point in enumerate(listed, 1):
        ink = "#b8500f" if point.text == chosen.text else "#1f5fa8"
        parts.append(
            f'<text x="{x(point.ms):.1f}" y="{y(point.quality) - 9:.1f}" text-anchor="middle" fill="{ink}">'
            f"{number}</text>"
        )
        parts.append(
            f'<text x="{_LEFT}" y="{lower + 50 + 18 * number}" fill="{ink}">{number}. '
            f"{escape(_words(point))}</text>"
        )
    parts.append(f'<path d="M{_LEFT} {_TOP}V{lower}H{right}" fill="none" stroke="#222"/>')
    return "\n".join([*parts, "</svg>", ""])


def _words(point: Point) -> str:
    text = point.text if len(point.text) <= 96 else f"{point.text[:95]}…"
    return f"{point.quality:.4f} at {point.ms:.3g} ms: {text}"


def _listed(front: Sequence[Point], chosen: Point) -> list[Point]:
    """The chosen point and others of the front, evenly over it."""
    others = [point for point in front if point.text != chosen.text]
    step = max(1.0, len(others) / (_LABELS - 1))
    some = [others[int(at * step)] for at in range(min(len(others), _LABELS - 1))]
    if others and others[-1] not in some:
        some[-1] = others[-1]
    return sorted([*some, chosen], key=lambda point: point.ms)


def _even(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers between two, about so many."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    return [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... between two numbers."""
    ticks = [
        factor * 10.0**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factor in (1, 2, 5)
    ]
    return [tick for tick in ticks if low <= tick <= high]
