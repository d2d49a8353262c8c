"""A leaderboard: rows gathered by task and by the state of its data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from retrieval.bench.leaderboard_overview import MEAN, Overview, overview
from retrieval.bench.leaderboard_section import Section, mapping, section
from retrieval.bench.row import Row
from retrieval.errors import UnknownName, UserError

State = tuple[str, ...]  # of a task's data: hashes of documents, queries and judgements; the queries' ids
_UNKNOWN = "None"


@dataclass(frozen=True)
class Board:
    """All of it."""

    title: str
    sections: list[Section]
    overviews: list[Overview]


def board(
    rows: Sequence[Row],
    quoted: Iterable[Row] = (),
    *,
    baseline: str | None = None,
    measure: str | None = None,
    title: str = "Leaderboard",
) -> Board:
    """Gathers rows. quoted: of them, those are shown whose suite, task and split have a row of ours.

    baseline: the system to test against at first; measure: the headline where a task has it. UserError
    without a row of our own; UnknownName for a baseline or measure that no row has.
    """
    ours = [row for row in rows if "quoted" not in row]
    if not ours:
        raise UserError("no row is a measured one; make some with `retrieve bench`")
    _known("system", baseline, {row["system"]["name"] for row in ours})
    _known("measure", measure, {name for row in ours for name in row["measures"]})
    literature = [*(row for row in rows if "quoted" in row), *quoted]
    groups: dict[tuple[str, str, str], dict[State, list[Row]]] = {}
    for row in ours:
        groups.setdefault(_task(row), {}).setdefault(_state(row), []).append(row)
    groups = {task: _with_known(states) for task, states in groups.items()}
    sections = []
    for task, states in sorted(groups.items()):
        cited = [row for row in literature if _task(row) == task]
        by_size = sorted(states.items(), key=lambda item: (-len(item[1]), item[0]))
        for number, (_, members) in enumerate(by_size, 1):
            warning = _differences([group[0] for _, group in by_size]) if len(by_size) > 1 else ""
            sections.append(
                section(members, cited, baseline=baseline, measure=measure, number=number, warning=warning)
            )
    sections = _unique(sections)
    suites = dict.fromkeys(found.suite for found in sections)
    means = [row for row in literature if row["task"] == MEAN]
    overviews = [overview([found for found in sections if found.suite == suite], means) for suite in suites]
    return Board(title, sections, [found for found in overviews if found])


def _known(what: str, name: str | None, known: set[str]) -> None:
    if name is not None and name not in known:
        raise UnknownName(what, name, known)


def _task(row: Row) -> tuple[str, str, str]:
    return row["suite"], row["task"], row["split"]


def _state(row: Row) -> State:
    """The data that a row was made on: its hashes and its queries."""
    data = mapping(row.get("data"))
    hashes = (str(data.get(f"{name}_sha256")) for name in ("corpus", "queries", "qrels"))
    return (*hashes, "\n".join(map(str, row["query_ids"])))


def _with_known(states: dict[State, list[Row]]) -> dict[State, list[Row]]:
    """Rows of run files do not know the documents; they join those that do, if these agree."""
    found = dict(states)
    for state in states:
        known = [other for other in states if other[1:] == state[1:] and other[0] != _UNKNOWN]
        if state[0] == _UNKNOWN and len(known) == 1:
            found[known[0]] = found[known[0]] + found.pop(state)
    return found


def _differences(rows: Sequence[Row]) -> str:
    words = ("documents", "queries", "judgements", "choice of queries")
    differ = [word for word, states in zip(words, zip(*map(_state, rows))) if len(set(states)) > 1]
    return (
        f"Rows of this task were made on different data ({', '.join(differ)}). Each state of the data has "
        f"its own table, {len(rows)} in all; do not compare figures between them."
    )


def _unique(sections: Sequence[Section]) -> list[Section]:
    """The sections with keys that differ: names are free text, and two may look alike."""
    found: dict[str, Section] = {}
    for place, each in enumerate(sections):
        key = each.key if each.key not in found else f"{each.key}-at-{place}"
        found[key] = replace(each, key=key)
    return list(found.values())
