"""The plot of quality against time, as inline SVG: log time across, labelled points, the front drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from retrieval.bench.leaderboard_section import Section
from retrieval.render import printable

_CHARACTER = 6.4  # width of one at 12 px, about
_LINE = 13.0


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class _Point(NamedTuple):
    x: float
    y: float
    name: str
    title: str
    front: bool
    place: int


def pareto(section: Section, width: int, height: int) -> str:
    """An <svg> of that size; empty where fewer than two systems have times."""
    timed = [
        (place, entry.p50, entry.figures[section.headline][0])
        for place, entry in enumerate(section.entries)
        if entry.p50 is not None and section.headline in entry.figures
    ]
    if len(timed) < 2:
        return ""
    left, right, top, bottom = 46.0, width - 14.0, 14.0, height - 40.0
    low, high = (math.log10(f(time for _, time, _ in timed)) for f in (min, max))
    pad = max(0.06 * (high - low), 0.1)
    low, high = low - pad, high + 2 * pad
    steps = _steps([quality for _, _, quality in timed])
    down, up = steps[0], steps[-1]

    def across(time: float) -> float:
        return left + (math.log10(time) - low) / (high - low) * (right - left)

    def upward(quality: float) -> float:
        return bottom - (quality - down) / (up - down) * (bottom - top)

    parts = [f'<line class="axis" x1="{left:.1f}" y1="{bottom:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"/>']
    for step in steps:
        y = upward(step)
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 7, y + 4, f"{step:.{_digits(steps)}f}", "tick", "end"))
    for time in _times(low, high):
        x = across(time)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" y1="{bottom:.1f}" x2="{x:.1f}" y2="{bottom + 4:.1f}"/>'
        )
        parts.append(_text(x, bottom + 17, f"{time:,g}", "tick", "middle"))
    parts.append(_text(right, bottom + 33, "p50, ms a query (log)", "tick", "end"))
    parts.append(_text(left, top - 3, section.headline, "tick", "start"))
    points = [
        _Point(across(time), upward(quality), printable(section.entries[place].name),
               f"{time:,.3g} ms, {quality:.4f}", place in section.front, place)
        for place, time, quality in timed
    ]  # fmt: skip
    by_place = {point.place: point for point in points}
    parts.append(_front([by_place[place] for place in section.front], right))
    for point, (x, y, anchor, label) in zip(points, _labels(points, left, right, top, bottom), strict=True):
        kind = "front" if point.front else "behind"
        title = f"<title>{escape(f'{point.name}: {point.title}')}</title>"
        parts.append(
            f'<g class="{kind}">{title}<circle cx="{point.x:.1f}" cy="{point.y:.1f}" r="4"/>'
            f"{_text(x, y, label, 'label', anchor)}</g>"
        )
    about = f"{section.headline} against the median milliseconds a query of {len(points)} systems"
    return (
        f'<svg role="img" aria-label="{escape(about)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(parts)}</svg>'
    )


def _front(points: Sequence[_Point], right: float) -> str:
    """Steps: what the best quality is within a time."""
    path = f"M{points[0].x:.1f} {points[0].y:.1f}"
    for point in points[1:]:
        path += f"H{point.x:.1f}V{point.y:.1f}"
    return f'<path class="front-line" d="{path}H{right:.1f}"/>'


def _segments(points: Sequence[_Point], right: float) -> list[_Box]:
    """Where the line of the front runs."""
    ends = [*(point.x for point in points[1:]), right]
    flat = [_Box(point.x, point.y - 1, end, point.y + 1) for point, end in zip(points, ends)]
    steep = [_Box(b.x - 1, b.y, b.x + 1, a.y) for a, b in itertools.pairwise(points)]
    return flat + steep


def _labels(
    points: Sequence[_Point], left: float, right: float, top: float, bottom: float
) -> list[tuple[float, float, str, str]]:
    """(x, y, anchor, text) for each: the first of some places where it covers nothing; front ones first."""
    taken = [_Box(point.x - 5, point.y - 5, point.x + 5, point.y + 5) for point in points]
    found: dict[int, tuple[float, float, str, str]] = {}
    lines = _segments([point for point in sorted(points) if point.front], right)
    for point in sorted(points, key=lambda point: (not point.front, point.place)):
        name = point.name if len(point.name) <= 34 else point.name[:33] + "…"
        wide = len(name) * _CHARACTER
        places = [
            (point.x + dx * side, point.y + dy, "start" if side > 0 else "end")
            for dx, dy in ((8, 4), (7, -7), (7, 16), (4, -20), (4, 29), (4, -33), (4, 42))
            for side in (1, -1)
        ]
        places += [(point.x, point.y + dy, "middle") for dy in (-9, 19, -22, 32)]
        best, least = places[0], math.inf
        box = taken[0]
        for x, y, anchor in places:
            start = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
            here = _Box(start, y - _LINE + 3, start + wide, y + 3)
            cost = float(sum(here.meets(other) for other in taken))
            cost += 0.5 * any(here.meets(line) for line in lines)
            cost += 5 * (here.left < left + 2 or here.right > right or here.top < top or here.bottom > bottom)
            if cost < least:
                best, least, box = (x, y, anchor), cost, here
        taken.append(box)
        found[point.place] = (*best, name)
    return [found[point.place] for point in points]


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _steps(values: Sequence[float]) -> list[float]:
    """Round numbers around the values, four to eight of them."""
    least, most = min(values), max(values)
    span = max(most - least, 1e-3)
    size = 10 ** math.floor(math.log10(span / 4))
    size *= next(factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 6)
    first, last = math.floor(least / size), math.ceil(most / size)
    last += first == last
    return [step * size for step in range(first, last + 1)]


def _digits(steps: Sequence[float]) -> int:
    return min(6, max(1, -math.floor(math.log10(steps[1] - steps[0]) + 1e-9)))


def _times(low: float, high: float) -> list[float]:
    """1, 2, 5 of each power of ten between two exponents; the powers alone where there would be many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    factors = (1, 2, 5) if high - low < 2.2 else (1,) if high - low > 5 else (1, 3)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]
