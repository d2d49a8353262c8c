"""The rows of a suite as Markdown: systems by tasks, what each costs, and tests against the first system."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.bench.learned_report import resampled_means, table
from retrieval.bench.row import Row, headline, values
from retrieval.bench.statistics import holm, paired_t

LEVEL = 0.05


def suite_table(rows: Sequence[Row], seed: int = 0) -> str:
    """The headline measure of every row, the mean over the tasks, and the costs of every row.

    `*` and `†`: above and below the first system at p < .05, two-sided paired t-test over the queries,
    Holm-corrected over the tasks. The mean has an interval of a bootstrap over queries, each task's drawn by
    themselves; there is none where tasks have different headline measures.
    """
    cells = {(row["task"], row["system"]["name"]): row for row in rows}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    systems = list(dict.fromkeys(row["system"]["name"] for row in rows))
    parts = [_quality(cells, tasks, systems, seed), _costs(rows)]
    parts += [text for text in (_classes(rows), _notes(rows, systems)) if text]
    return "\n\n".join(parts) + "\n"


def _quality(
    cells: dict[tuple[str, str], Row], tasks: Sequence[str], systems: Sequence[str], seed: int
) -> str:
    named = {task: headline(cells[task, systems[0]]) for task in tasks}
    one = len(set(named.values())) == 1
    head = [named[tasks[0]] if one else "", *(task if one else f"{task}, {named[task]}" for task in tasks)]
    mean = one and len(tasks) > 1
    body = []
    for system in systems:
        p = _corrected(cells, tasks, systems[0], system)
        line = [
            system,
            *(_cell(cells[task, system], named[task], cells[task, systems[0]], p[task]) for task in tasks),
        ]
        if mean:
            columns = [values(cells[task, system], named[task]) for task in tasks]
            drawn = np.mean(
                [resampled_means(each[:, None], seed=seed + at)[:, 0] for at, each in enumerate(columns)],
                axis=0,
            )
            low, high = np.quantile(drawn, [0.025, 0.975])
            line.append(f"{np.mean([each.mean() for each in columns]):.4f} ({low:.3f} to {high:.3f})")
        body.append(line)
    return table([*head, "mean"] if mean else head, body)


def _corrected(
    cells: dict[tuple[str, str], Row], tasks: Sequence[str], first: str, system: str
) -> dict[str, float]:
    """Task -> p of a system against the first one, corrected over the tasks."""
    if system == first:
        return dict.fromkeys(tasks, 1.0)
    found = []
    for task in tasks:
        measure = headline(cells[task, first])
        found.append(paired_t(values(cells[task, system], measure), values(cells[task, first], measure)).p)
    return dict(zip(tasks, holm(found), strict=True))


def _cell(row: Row, measure: str, first: Row, p: float) -> str:
    figure = row["measures"][measure]
    mark = ""
    if p < LEVEL:
        mark = "*" if figure["mean"] > first["measures"][measure]["mean"] else "†"
    return f"{figure['mean']:.4f}{mark} ({figure['low']:.3f} to {figure['high']:.3f})"


def _costs(rows: Sequence[Row]) -> str:
    """A line a row: the other measures, milliseconds, bytes, tokens."""
    lines = []
    for row in rows:
        times, index = row["times_ms"], row["index"]
        dropped = row["tokens_dropped"]
        size = (
            "" if index is None else f"{sum(each['bytes'] for each in index['representations'].values()):,}"
        )
        lines.append([
            row["task"], row["system"]["name"],
            ", ".join(f"{name} {figure['mean']:.4f}" for name, figure in list(row["measures"].items())[1:]),
            "" if times is None else f"{times['p50']:.2f}", "" if times is None else f"{times['p99']:.2f}",
            size, f"{dropped['documents']:,}", f"{dropped['searching']:,}",
        ])  # fmt: skip
    head = ["task", "system", "further measures", "ms a query (p50)", "p99", "index bytes"]
    return table([*head, "tokens dropped: documents", "searching"], lines, 3)


def _classes(rows: Sequence[Row]) -> str:
    """The headline measure by classes of queries, where a task has some."""
    lines = [
        [
            row["task"],
            row["system"]["name"],
            f"{name} {label}",
            f"{found['queries']:,}",
            f"{found[headline(row)]:.4f}",
        ]
        for row in rows
        for name, classes in row["buckets"].items()
        for label, found in classes.items()
    ]
    if not lines:
        return ""
    return table(["task", "system", "queries with", "queries", "headline measure"], lines, 3)


def _notes(rows: Sequence[Row], systems: Sequence[str]) -> str:
    tasks = {row["task"]: row for row in rows}
    pipelines = {row["system"]["name"]: row["system"] for row in rows}
    lines = [
        f"- {name}: `{about['pipeline']}`"
        + (f"; trained on: {about['trained_on']}" if about["trained_on"] else "")
        for name, about in pipelines.items()
    ]
    for name, row in tasks.items():
        data = row["data"]
        if data["queries"] < data["of"]:
            lines.append(f"- {name}: {data['queries']:,} of {data['of']:,} queries, drawn with a seed.")
    if len(systems) > 1:
        lines.append(
            f"- `*` above and `†` below {systems[0]}: p < .05, paired t-test over the queries, two-sided, "
            "Holm-corrected over the tasks."
        )
    lines += [f"- {name}: {row['note']}" for name, row in tasks.items() if row["note"]]
    return "\n".join(lines)
