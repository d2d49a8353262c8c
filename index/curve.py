"""The curve of a training: a line of JSON for each point, and a small SVG picture that needs no library."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import orjson

from retrieval.data.output import atomic
from retrieval.diskio import disk_errors

Row = Mapping[str, Any]
_WIDTH, _HEIGHT = 720, 260  # of one panel, in the picture's units
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 36, 46
_INK = ("#1f5fa8", "#b8500f", "#2b7a3d", "#7a3d8f", "#8a6d00")


class Curve:
    """The points of a training in OUT/curve.jsonl; draw() writes OUT/curve.svg.

    A row is {"step", "loss", "lr", ...} of training steps, or {"step", "held_out": {figure: value}}.
    """

    def __init__(self, out: str, upto: int) -> None:
        """Takes up the rows there that are not after step `upto`, and drops the others."""
        self._path = os.path.join(out, "curve.jsonl")
        self._picture = os.path.join(out, "curve.svg")
        self.rows: list[Row] = [row for row in _read(self._path) if row["step"] <= upto]
        with atomic(self._path) as write:
            for row in self.rows:
                write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def add(self, row: Row) -> None:
        """Appends a row. Raises StorageError."""
        self.rows.append(row)
        with disk_errors("write", self._path), open(self._path, "ab") as file:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

    def draw(self, title: str) -> None:
        """Writes the picture. Raises StorageError."""
        with atomic(self._picture) as write:
            write(picture(self.rows, title).encode())


def _read(path: str) -> list[Row]:
    """The whole lines of a file; what a kill left half-written is passed over."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    rows: list[Row] = []
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def picture(rows: Iterable[Row], title: str) -> str:
    """An SVG of three panels: the loss, the figures on held-out examples, the learning rate."""
    rows = list(rows)
    loss = {"training loss": _points(rows, lambda row: row.get("loss"))}
    names = list(dict.fromkeys(name for row in rows for name in row.get("held_out", {})))
    held_out = {name: _points(rows, lambda row: row.get("held_out", {}).get(name)) for name in names}  # noqa: B023
    if "loss" in held_out:
        loss["held-out loss"] = held_out.pop("loss")
    panels = [("loss", loss)]
    if held_out:
        panels.append(("held-out figures", held_out))
    panels.append(("learning rate", {"learning rate": _points(rows, lambda row: row.get("lr"))}))
    end = max([1, *(row["step"] for row in rows)])
    height = 30 + len(panels) * _HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for at, (label, lines) in enumerate(panels):
        parts += _panel(label, lines, end, 30 + at * _HEIGHT)
    return "\n".join([*parts, "</svg>", ""])


def _points(rows: Sequence[Row], value: Any) -> list[tuple[int, float]]:
    found = [(row["step"], value(row)) for row in rows]
    return [(step, y) for step, y in found if isinstance(y, int | float) and math.isfinite(y)]


def _panel(label: str, lines: Mapping[str, list[tuple[int, float]]], end: int, top: int) -> list[str]:
    values = [y for points in lines.values() for _, y in points]
    ticks = _ticks(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]
    left, right = _LEFT, _WIDTH - _RIGHT
    upper, lower = top + _TOP, top + _HEIGHT - _BOTTOM

    def x(step: float) -> float:
        return left + (right - left) * step / end

    def y(value: float) -> float:
        return lower - (lower - upper) * (value - low) / (high - low)

    middle, center = (upper + lower) / 2, (left + right) / 2
    parts = [
        f'<text x="14" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 14 {middle:.0f})">'
        f"{escape(label)}</text>",
        f'<text x="{center:.0f}" y="{lower + 34}" text-anchor="middle">step</text>',
    ]
    for tick in ticks:
        parts.append(f'<path d="M{left} {y(tick):.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for step in _ticks(0, end):
        if step <= end:
            parts.append(f'<path d="M{x(step):.1f} {lower}v4" stroke="#222"/>')
            parts.append(f'<text x="{x(step):.1f}" y="{lower + 17}" text-anchor="middle">{step:,.0f}</text>')
    parts.append(f'<path d="M{left} {upper}V{lower}H{right}" fill="none" stroke="#222"/>')
    for at, (name, points) in enumerate(lines.items()):
        ink = _INK[at % len(_INK)]
        place = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{place}" fill="none" stroke="{ink}" stroke-width="1.6"/>')
        if len(points) < 40:
            parts += [
                f'<circle cx="{x(step):.1f}" cy="{y(v):.1f}" r="2.4" fill="{ink}"/>' for step, v in points
            ]
        last = f" {points[-1][1]:.4g}" if points else ""
        parts.append(
            f'<text x="{left + 8 + 150 * at}" y="{upper - 8}" fill="{ink}">{escape(name)}{last}</text>'
        )
    return parts


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about `wanted` of them."""
    if not high > low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [at * step for at in range(first, last + 1)]
