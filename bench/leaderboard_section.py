"""The table of one task: its systems as lines, best first, with tests and the Pareto front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.leaderboard_pairs import Pair, all_pairs, front
from retrieval.bench.row import Row, headline, slug
from retrieval.bench.statistics import bootstrap


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    figures: measure -> (mean, low, high), the bounds None where a quoted row has none.
    values: float64[queries] of the section's headline; None for a quoted row, which is never tested.
    p50, p99: milliseconds a query. size: bytes of its representations. dropped: tokens not read, in
    documents and when searching. None: not told.
    """

    row: Row
    name: str
    quoted: str
    figures: dict[str, tuple[float, float | None, float | None]]
    values: NDArray[np.float64] | None
    p50: float | None
    p99: float | None
    size: int | None
    dropped: tuple[int | None, int | None]
    trained_on: str
    hardware: str


@dataclass(frozen=True)
class Section:
    """The table of one task, on one state of its data.

    entries: best first. pairs: (i, j) with i < j -> their test. front: those of the Pareto front, by time.
    """

    key: str
    suite: str
    task: str
    split: str
    headline: str
    measures: list[str]
    entries: list[Entry]
    pairs: dict[tuple[int, int], Pair]
    test: str
    baseline: int | None
    front: list[int]
    query_ids: list[str]
    of: int
    notes: list[str]
    warning: str = ""

    @property
    def title(self) -> str:
        """Suite, task and split in words."""
        return " ".join(dict.fromkeys((self.suite, self.task, self.split)))

    def pair(self, i: int, j: int) -> Pair | None:
        """The test of i against j; None where either was not tested."""
        found = self.pairs.get((min(i, j), max(i, j)))
        return found if found is None or i < j else found._replace(difference=-found.difference)


def section(
    rows: Sequence[Row],
    cited: Sequence[Row],
    *,
    baseline: str | None = None,
    measure: str | None = None,
    number: int = 1,
    warning: str = "",
) -> Section:
    """The table of rows of one task and one state of its data, and of quoted rows of the task."""
    first = min(rows, key=lambda row: row["system"]["name"])
    leading = measure if any(measure in row["measures"] for row in rows) else None
    leading = leading or headline(first)
    entries = [_entry(row, leading) for row in (*rows, *cited)]
    entries.sort(key=lambda e: (-e.figures[leading][0] if leading in e.figures else 1.0, e.name, e.quoted))
    suite, task, split = (first["suite"], first["task"], first["split"])
    data = mapping(first.get("data"))
    pairs, test = all_pairs(_tested(entries))
    others = dict.fromkeys(name for entry in entries if not entry.quoted for name in entry.row["measures"])
    key = "-".join(dict.fromkeys(map(slug, (suite, task, split)))) + (f"-{number}" if number > 1 else "")
    return Section(
        key=key,
        suite=suite,
        task=task,
        split=split,
        headline=leading,
        measures=[name for name in others if name != leading],
        entries=entries,
        pairs=pairs,
        test=test,
        baseline=_baseline(entries, baseline),
        front=front(_timed(entries, leading)),
        query_ids=list(map(str, first["query_ids"])),
        of=_count(data.get("of")) or len(first["query_ids"]),
        notes=sorted({str(row["note"]) for row in rows if row.get("note")}),
        warning=warning,
    )


def _entry(row: Row, leading: str) -> Entry:
    quoted = (str(row["quoted"]) or "source not told") if "quoted" in row else ""
    figures = {}
    for name, figure in row["measures"].items():
        low, high = figure.get("low"), figure.get("high")
        if not quoted and (low is None or high is None):
            _, low, high = bootstrap(figure["values"])
        figures[name] = (float(figure["mean"]), low, high)
    held = row["measures"].get(leading)
    values = None if quoted or held is None else np.array(held["values"], np.float64)
    times = mapping(row.get("times_ms"))
    parts = mapping(mapping(row.get("index")).get("representations")).values()
    sizes = [_count(mapping(part).get("bytes")) for part in parts]
    known = [size for size in sizes if size is not None]
    dropped = mapping(row.get("tokens_dropped"))
    if row.get("index") is None and not times:  # a run that was made elsewhere: nobody counted
        dropped = {}
    return Entry(
        row=row,
        name=row["system"]["name"],
        quoted=quoted,
        figures=figures,
        values=values,
        p50=_time(times.get("p50")),
        p99=_time(times.get("p99")),
        size=sum(known) if known else None,
        dropped=(_count(dropped.get("documents")), _count(dropped.get("searching"))),
        trained_on=str(row["system"].get("trained_on") or ""),
        hardware=_hardware(mapping(row.get("hardware"))),
    )


def _tested(entries: Sequence[Entry]) -> dict[int, NDArray[np.float64]]:
    return {place: entry.values for place, entry in enumerate(entries) if entry.values is not None}


def _timed(entries: Sequence[Entry], leading: str) -> list[tuple[float, float, int]]:
    return [
        (entry.p50, entry.figures[leading][0], place)
        for place, entry in enumerate(entries)
        if entry.p50 is not None and leading in entry.figures
    ]


def _baseline(entries: Sequence[Entry], wanted: str | None) -> int | None:
    """The wanted one; else what is called BM25; else the lowest. None where nothing can be tested."""
    names = {place: entries[place].name for place in _tested(entries)}
    for place, name in names.items():
        if name == wanted:
            return place
    for place, name in names.items():
        if name.casefold() == "bm25":
            return place
    return max(names, default=None)


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object of JSON, else an empty one: rows come from anybody."""
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None


def _time(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 1e12 else None


def _hardware(told: Mapping[str, Any]) -> str:
    """What the times were measured on, in words; what was running beside it is no part of the machine."""
    parts = [str(told.get("processor") or "processor not told")]
    for key in ("cores", "threads"):
        if told.get(key):
            parts.append(f"{told[key]} {key if told[key] != 1 else key[:-1]}")
    if told.get("gpu"):
        parts.append(str(told["gpu"]) if isinstance(told["gpu"], str) else json.dumps(told["gpu"]))
    return ", ".join(parts)
