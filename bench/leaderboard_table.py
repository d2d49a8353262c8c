"""The table of one task as HTML: a line a system, each cell with what it is sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from retrieval.bench.leaderboard_columns import PAD, Column, columns, mark
from retrieval.bench.leaderboard_section import Entry, Section
from retrieval.render import printable


def shown(text: str) -> str:
    """Any text as HTML: no markup, no controls, no marks that turn the direction of what follows."""
    return escape(printable(text))


def table(section: Section) -> str:
    fields = [column for column in columns(section) if column.key != "trained"]  # stands with the name
    heads = "".join(_head(column, column.key == section.headline) for column in fields)
    lines = "\n".join(_line(section, place, fields) for place in range(len(section.entries)))
    return (
        f'<div class="scroll"><table class="systems"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )


def _head(column: Column, sorted_by: bool) -> str:
    sort = f' aria-sort="{"descending" if sorted_by else "none"}"'
    kind = "number" if column.numeric else "text"
    help = f' title="{escape(column.help)}"' if column.help else ""
    falls = ' data-falls="1"' if column.falls else ""
    return (
        f'<th scope="col" class="{kind}" data-key="{escape(printable(column.key))}"{falls}{sort}>'
        f'<button type="button"{help}>{shown(column.title)}</button></th>'
    )


def _line(section: Section, place: int, fields: Sequence[Column]) -> str:
    entry = section.entries[place]
    classes = ["quoted"] if entry.quoted else []
    classes += ["base"] if place == section.baseline and section.pairs else []
    cells = []
    for column in fields:
        order = column.order[place]
        sort = "" if order is None else f' data-sort="{escape(printable(str(order)))}"'
        if column.key == "system":
            cells.append(f'<th scope="row"{sort}>{_name(section, entry)}</th>')
            continue
        kind = "number" if column.numeric else "text"
        cell = column.cells[place]
        content = shown(cell.rstrip(PAD)) + "&#8199;" * cell.count(PAD)
        if column.key == "interval":
            content = _whisker(section, entry) + f"<span>{content}</span>" if content else ""
        elif column.key == "difference":
            content = _difference(section, place, cell)
        extra = " head" if column.key == section.headline else ""
        cells.append(
            f'<td class="{kind}{extra}" data-key="{escape(printable(column.key))}" '
            f'data-label="{shown(column.title)}"{sort}>{content}</td>'
        )
    marked = f' class="{" ".join(classes)}"' if classes else ""
    return f'<tr data-place="{place}"{marked}>{"".join(cells)}</tr>'


def sources(section: Section) -> list[str]:
    """Where the quoted lines of a table come from, each source once."""
    return sorted({entry.quoted for entry in section.entries if entry.quoted})


def _name(section: Section, entry: Entry) -> str:
    words = f'<small class="trained">trained on: {shown(entry.trained_on)}</small>'
    trained = words if entry.trained_on else ""
    if entry.quoted:
        number = sources(section).index(entry.quoted) + 1
        link = f'<a href="#{escape(section.key)}-source-{number}" title="{shown(entry.quoted)}">{number}</a>'
        tag = f'<span class="quoted-mark">quoted{link}</span>'
        return f'<span class="name">{shown(entry.name)}</span> {tag}{trained}'
    return f'<button type="button" class="name" aria-expanded="false">{shown(entry.name)}</button>{trained}'


def _difference(section: Section, place: int, cell: str) -> str:
    """The mark stands in a place of its own, so that numbers with and without one are aligned."""
    pair = None if section.baseline is None else section.pair(place, section.baseline)
    found = mark(pair)
    number = shown(cell.removesuffix(found).strip())
    return f"<{'strong' if found else 'span'}>{number}</{'strong' if found else 'span'}><i>{found}</i>"


def _whisker(section: Section, entry: Entry) -> str:
    """The interval as a line, on the scale that all lines of the table share."""
    _, low, high = entry.figures.get(section.headline, (0.0, None, None))
    if low is None or high is None:
        return ""
    bounds = [each.figures[section.headline] for each in section.entries if section.headline in each.figures]
    least = min(low for _, low, _ in bounds if low is not None)
    most = max(high for _, _, high in bounds if high is not None)
    span = (most - least) or 1.0

    def x(value: float) -> str:
        return f"{3 + 70 * (value - least) / span:.1f}"

    mean = entry.figures[section.headline][0]
    return (
        '<svg class="whisker" viewBox="0 0 76 10" width="76" height="10" aria-hidden="true">'
        f'<line x1="{x(low)}" y1="5" x2="{x(high)}" y2="5"/><circle cx="{x(mean)}" cy="5" r="2.5"/></svg>'
    )
