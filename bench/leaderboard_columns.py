"""The columns of a task's table as text with aligned decimals, for the page, Markdown and LaTeX alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from retrieval.bench.leaderboard_pairs import Pair, significant
from retrieval.bench.leaderboard_section import Entry, Section

PAD = "\u2007"  # a space as wide as a digit
NONE = "–"
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))


@dataclass(frozen=True)
class Column:
    """One column: a short key, a heading, a text a line, and what each line is sorted by (None: last).

    falls: whether the best value is the largest. help: what the heading stands for.
    """

    key: str
    title: str
    cells: list[str]
    order: list[float | str | None]
    falls: bool = False
    help: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers, set to the right."""
        return not any(isinstance(value, str) for value in self.order)


def columns(section: Section) -> list[Column]:
    """All columns, the lines in the order of `section.entries`; tests are against its baseline."""
    entries = section.entries
    found = [Column("system", "System", [e.name for e in entries], [e.name.casefold() for e in entries])]
    found.append(_measure(section, section.headline))
    bounds = [interval(entry, section.headline) for entry in entries]
    low = [entry.figures.get(section.headline, (0.0, None, None))[1] for entry in entries]
    found.append(Column("interval", "95 % interval", bounds, list(low), True, "bootstrap over queries"))
    if section.pairs:
        found += _differences(section)
    if any(entry.p50 is not None for entry in entries):
        for key, help in (("p50", "median time of a query"), ("p99", "time that 99 % of queries stay below")):
            times = [getattr(entry, key) for entry in entries]
            found.append(Column(key, f"{key}, ms", _scaled(times), times, False, help))
    if any(entry.size is not None for entry in entries):
        sizes = [None if entry.size is None else float(entry.size) for entry in entries]
        most = max(size for size in sizes if size is not None)
        unit, name = next((pair for pair in _UNITS if most >= pair[0]), _UNITS[-1])
        cells = _scaled([None if size is None else size / unit for size in sizes])
        help = "size of the representations that the system reads"
        found.append(Column("index", f"index, {name}", cells, list(sizes), False, help))
    found.append(_dropped(entries))
    found += [_measure(section, name) for name in section.measures]
    trained = [entry.trained_on or NONE for entry in entries]
    found.append(Column("trained", "trained on", trained, [entry.trained_on for entry in entries]))
    machines = hardware(section)
    if len(machines) > 1:
        numbers: list[float | str | None] = [
            None if entry.quoted else float(machines.index(entry.hardware) + 1) for entry in entries
        ]
        shown = [NONE if number is None else f"{number:.0f}" for number in numbers]
        found.append(Column("machine", "machine", shown, numbers, False, "listed below"))
    return [_without(column, section) for column in found]


def _without(column: Column, section: Section) -> Column:
    """The column, empty where a quoted line has nothing: a dash is for what a row of ours does not tell."""
    cells = [
        "" if entry.quoted and set(cell) <= {*NONE, " ", "/"} else cell
        for cell, entry in zip(column.cells, section.entries, strict=True)
    ]
    return replace(column, cells=cells)


def hardware(section: Section) -> list[str]:
    """The machines of the measured rows, each once, sorted."""
    return sorted({entry.hardware for entry in section.entries if not entry.quoted})


def interval(entry: Entry, measure: str) -> str:
    """`[0.4012, 0.5554]`, or a dash where none is known."""
    _, low, high = entry.figures.get(measure, (0.0, None, None))
    return NONE if low is None or high is None else f"[{fixed(low)}, {fixed(high)}]"


def fixed(value: float, digits: int = 4) -> str:
    """The number with so many decimals, a real minus in front of a negative one."""
    text = f"{value:.{digits}f}"
    return "\u2212" + text[1:] if value < 0 and text.strip("-0.") else text.lstrip("-")


def signed(value: float) -> str:
    """A difference: +0.0123."""
    text = fixed(value)
    return "+" + text if value > 0 and text.strip("0.") else text


def chance(pair: Pair) -> str:
    """A corrected p-value: 0.012, or <0.001."""
    return "<0.001" if pair.corrected < 0.001 else f"{pair.corrected:.3f}"


def mark(pair: Pair | None) -> str:
    """▲ or ▼ where a corrected test tells two systems apart."""
    return {1: "▲", -1: "▼", 0: ""}[significant(pair)]


def _measure(section: Section, name: str) -> Column:
    """A measure; literature has three digits at times, and what is missing to four is left blank."""
    cells, order = [], []
    for entry in section.entries:
        value = entry.figures.get(name, (None,))[0]
        order.append(value)
        if value is None:
            cells.append(NONE)
            continue
        digits = 4
        if entry.quoted:
            digits = min(4, max(3, len(repr(value).partition(".")[2])))
        cells.append(fixed(value, digits) + PAD * (4 - digits))
    return Column(name, name, cells, list(order), True)


def _differences(section: Section) -> list[Column]:
    base = section.baseline
    gaps, odds, cells, shown = [], [], [], []
    for place, entry in enumerate(section.entries):
        pair = None if base is None else section.pair(place, base)
        gaps.append(None if pair is None else pair.difference)
        odds.append(None if pair is None else pair.corrected)
        untested = "baseline" if place == base else "not tested" if entry.quoted else NONE
        cells.append(untested if pair is None else f"{signed(pair.difference)} {mark(pair)}".strip())
        shown.append("" if pair is None else chance(pair))
    return [
        Column("difference", "difference", cells, list(gaps), True, "from the baseline; ▲▼ where p < 0.05"),
        Column("p", "p", shown, list(odds), False, "paired test, corrected by Holm over all pairs"),
    ]


def _dropped(entries: Sequence[Entry]) -> Column:
    def count(value: int | None) -> str:
        return NONE if value is None else f"{value:,}"

    cells = [" / ".join(map(count, entry.dropped)) for entry in entries]
    order: list[float | str | None] = [
        None if entry.dropped == (None, None) else float(sum(part or 0 for part in entry.dropped))
        for entry in entries
    ]
    help = "not read by a model: in documents, then while searching"
    return Column("dropped", "tokens dropped", cells, order, False, help)


def _scaled(values: Sequence[float | None]) -> list[str]:
    """Numbers of one column with the decimals that its smallest needs for two digits, three at most."""
    known = [value for value in values if value]
    least = min(known, default=1.0)
    digits = min(3, max(0, 1 - math.floor(math.log10(least))))
    if max(known, default=1.0) >= 1000:
        digits = min(digits, 1)
    return [NONE if value is None else f"{value:,.{digits}f}" for value in values]
