"""Tables of figures from 0 to 1 as an SVG picture, which needs no library: one panel a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _ROW = 96, 40  # of a cell, in the picture's units
_LEFT, _TOP, _GAP = 110, 64, 24
_INK = (0x0B, 0x3C, 0x6F)  # of the figure 1; 0 is white

Cell = tuple[str, str, str]  # panel, row, column


def picture(cells: Mapping[Cell, tuple[float, str]], title: str, rows_are: str, columns_are: str) -> str:
    """The SVG. cells: (panel, row, column) -> (figure, what stands below it), in their order."""
    panels, rows, columns = (list(dict.fromkeys(key[at] for key in cells)) for at in range(3))
    height = _TOP + len(rows) * _ROW + _GAP
    width = max(_LEFT + len(columns) * _WIDTH + _GAP, 14 + 7 * len(title))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {30 + height * len(panels)}" '
        f'width="{width}" height="{30 + height * len(panels)}" font-family="sans-serif" font-size="12" '
        'fill="#222">',
        f'<rect width="{width}" height="{30 + height * len(panels)}" fill="#fff"/>',
        f'<text x="14" y="22" font-size="15">{escape(title)}</text>',
    ]
    for at, panel in enumerate(panels):
        here = {key[1:]: value for key, value in cells.items() if key[0] == panel}
        parts += _panel(here, rows, columns, 30 + at * height, panel, f"{rows_are} / {columns_are}")
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    cells: Mapping[tuple[str, str], tuple[float, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    top: int,
    label: str,
    axes: str,
) -> list[str]:
    parts = [
        f'<text x="14" y="{top + 22}" font-size="13" font-weight="bold">{escape(label)}</text>',
        f'<text x="{_LEFT - 8}" y="{top + _TOP - 8}" text-anchor="end" fill="#777">{escape(axes)}</text>',
    ]
    for i, column in enumerate(columns):
        x = _LEFT + i * _WIDTH + _WIDTH / 2
        parts.append(f'<text x="{x:.0f}" y="{top + _TOP - 8}" text-anchor="middle">{escape(column)}</text>')
    for j, row in enumerate(rows):
        y = top + _TOP + j * _ROW
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 24}" text-anchor="end">{escape(row)}</text>')
        for i, column in enumerate(columns):
            if (row, column) not in cells:  # not measured stays empty
                continue
            figure, note = cells[row, column]
            x, share = _LEFT + i * _WIDTH, min(max(figure, 0.0), 1.0)
            fill = "".join(f"{round(255 + (ink - 255) * share):02x}" for ink in _INK)
            ink = "#fff" if share > 0.5 else "#222"
            middle = f'x="{x + _WIDTH // 2}" text-anchor="middle" fill="{ink}"'
            parts += [
                f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_ROW}" fill="#{fill}" stroke="#fff"/>',
                f'<text {middle} y="{y + 18}">{figure:.3f}</text>',
                f'<text {middle} y="{y + 32}" font-size="9">{escape(note)}</text>',
            ]
    return parts
