"""The table of one task as HTML: a line a system, each cell with what it is sorted by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from retrieval.bench.leaderboard_columns import PAD, Column, columns, mark
from retrieval.bench.leaderboard_section import Entry, Section
from retrieval.render import printable


def shown(text: str) -> str:
    """Any text as HTML: no markup, no controls, no marks that turn the direction of what follows."""
    return escape(printable(text))


def table(section: Section) -> str:
    """The whole table, in a box that scrolls where it is wider than the page."""
    fields = [column for column in columns(section) if column.key != "trained"]  # stands with the name
    heads = "".join(head(column, column.key == section.headline) for column in fields)
    lines = "\n".join(_line(section, place, fields) for place in range(len(section.entries)))
    return (
        f'<div class="scroll"><table class="systems"><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{lines}\n</tbody></table></div>"
    )


def head(column: Column, sorted_by: bool) -> str:
    """A heading that sorts."""
    sort = f' aria-sort="{"descending" if sorted_by else "none"}"'
    kind = "number" if column.numeric else "text"
    help = f' title="{escape(column.help)}"' if column.help else ""
    falls = ' data-falls="1"' if column.falls else ""
    return (
        f'<th scope="col" class="{kind}" data-key="{escape(printable(column.key))}"{falls}{sort}>'
        f'<button type="button"{help}>{_breakable(column.title)}</button></th>'
    )


def _breakable(title: str) -> str:
    return shown(title).replace("_", "_<wbr>")


def _line(section: Section, place: int, fields: Sequence[Column]) -> str:
    entry = section.entries[place]
    classes = ["quoted"] if entry.quoted else []
    classes += ["base"] if place == section.baseline and section.pairs else []
    cited = [each.quoted for each in section.entries]
    name = name_of(entry.name, entry.quoted, entry.trained_on, cited, section.key, opens=True)
    cells = []
    for column in fields:
        order = column.order[place]
        sort = "" if order is None else f' data-sort="{escape(printable(str(order)))}"'
        if column.key == "system":
            cells.append(f'<th scope="row"{sort}>{name}</th>')
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


def sources(cited: Iterable[str]) -> list[str]:
    """Where quoted lines come from, each source once. cited: "" for a line of ours."""
    return sorted(filter(None, set(cited)))


def listed(cited: Iterable[str], key: str) -> str:
    """The sources of a table as a numbered list below it, empty where nothing is quoted."""
    items = "".join(
        f'<li id="{escape(key)}-source-{number}">{shown(source)}</li>'
        for number, source in enumerate(sources(cited), 1)
    )
    return f'<div class="sources">Quoted from<ol>{items}</ol></div>' if items else ""


def name_of(name: str, quoted: str, trained_on: str, cited: Iterable[str], key: str, *, opens: bool) -> str:
    """A system's name, with what it was trained on; a quoted one with the number of its source."""
    words = f'<small class="trained">trained on: {shown(trained_on)}</small>' if trained_on else ""
    if quoted:
        number = sources(cited).index(quoted) + 1
        link = f'<a href="#{escape(key)}-source-{number}" title="{shown(quoted)}">{number}</a>'
        return f'<span class="name">{shown(name)}</span> <span class="quoted-mark">quoted{link}</span>{words}'
    if not opens:
        return f'<span class="name">{shown(name)}</span>{words}'
    return f'<button type="button" class="name" aria-expanded="false">{shown(name)}</button>{words}'


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
