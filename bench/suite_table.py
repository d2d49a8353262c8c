"""The rows of a suite as Markdown: systems by tasks, what each costs, and tests against the first system."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.bench.learned_report import resampled_means
from retrieval.bench.row import Row, headline, values
from retrieval.bench.statistics import holm, paired_t

LEVEL = 0.05


def suite_table(rows: Sequence[Row], seed: int = 0) -> str:
    """The headline measure of every row, the mean over the tasks, and the costs of every row.

    `*` and `†`: above and below the first system at p < .05, two-sided paired t-test over the queries,
    Holm-corrected over all that the table compares. The mean has an interval of a bootstrap over queries,
    each task's drawn by themselves; there is none where tasks have different headline measures.
    """
    cells = {(row["task"], row["system"]["name"]): row for row in rows}
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    systems = list(dict.fromkeys(row["system"]["name"] for row in rows))
    parts = [_quality(cells, tasks, systems, seed), _costs(rows)]
    parts += [text for text in (_classes(rows), _secondary(rows), _notes(rows, systems)) if text]
    return "\n\n".join(parts) + "\n"


def _quality(
    cells: dict[tuple[str, str], Row], tasks: Sequence[str], systems: Sequence[str], seed: int
) -> str:
    named = {task: headline(cells[task, systems[0]]) for task in tasks}
    one = len(set(named.values())) == 1
    head = [named[tasks[0]] if one else "", *(task if one else f"{task}, {named[task]}" for task in tasks)]
    mean = one and len(tasks) > 1
    tested = _tested(cells, tasks, systems)
    body = []
    for system in systems:
        line = [system]
        for task in tasks:
            line.append(_cell(cells[task, system], named[task], tested.get((task, system), 0)))
        if mean:
            columns = [values(cells[task, system], named[task]) for task in tasks]
            drawn = np.mean(
                [resampled_means(each[:, None], seed=seed + at)[:, 0] for at, each in enumerate(columns)],
                axis=0,
            )
            low, high = np.quantile(drawn, [0.025, 0.975])
            line.append(f"{np.mean([each.mean() for each in columns]):.4f} ({low:.3f} to {high:.3f})")
        body.append(line)
    return _table([*head, "mean"] if mean else head, body)


def _tested(
    cells: dict[tuple[str, str], Row], tasks: Sequence[str], systems: Sequence[str]
) -> dict[tuple[str, str], int]:
    """(task, system) -> 1 or -1 where it is above or below the first system beyond chance."""
    pairs = [(task, system) for task in tasks for system in systems[1:]]
    found = []
    for task, system in pairs:
        measure = headline(cells[task, systems[0]])
        found.append(paired_t(values(cells[task, system], measure), values(cells[task, systems[0]], measure)))
    corrected = holm([one.p for one in found])
    return {
        pair: 1 if one.difference > 0 else -1
        for pair, one, p in zip(pairs, found, corrected, strict=True)
        if p < LEVEL
    }


def _cell(row: Row, measure: str, tested: int) -> str:
    figure = row["measures"][measure]
    mark = {0: "", 1: "*", -1: "†"}[tested]
    return f"{figure['mean']:.4f}{mark} ({figure['low']:.3f} to {figure['high']:.3f})"


def _costs(rows: Sequence[Row]) -> str:
    """A line a row: the other measures, in columns if all rows have the same; milliseconds, bytes, tokens."""
    named = [list(row["measures"])[1:] for row in rows]
    same = all(names == named[0] for names in named)
    head = ["task", "system", *(named[0] if same else ["further measures"]), "queries"]
    lines = []
    for row, names in zip(rows, named, strict=True):
        figures = [f"{row['measures'][name]['mean']:.4f}" for name in names]
        if not same:
            figures = [", ".join(f"{name} {figure}" for name, figure in zip(names, figures, strict=True))]
        times, index, dropped = row["times_ms"], row["index"], row["tokens_dropped"]
        parts = [] if index is None else list(index["representations"].values())
        built = [each["build_seconds"] for each in parts if each["build_seconds"] is not None]
        lines.append([
            row["task"], row["system"]["name"], *figures, f"{len(row['query_ids']):,}",
            *(("-", "-") if times is None else (f"{times['p50']:.2f}", f"{times['p99']:.2f}")),
            f"{sum(each['bytes'] for each in parts):,}" if parts else "-",
            f"{sum(built):,.1f}" if built else "-",
            f"{dropped['documents']:,}", f"{dropped['searching']:,}",
        ])  # fmt: skip
    head += ["ms a query (p50)", "p99", "index bytes", "build s", "tokens dropped: documents", "searching"]
    return _table(head, lines, 2 if same else 3)


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
    return _table(["task", "system", "queries with", "queries", "headline measure"], lines, 3)


def _secondary(rows: Sequence[Row]) -> str:
    """The headline measure by further judgements, where a task has some."""
    lines = [
        [row["task"], row["system"]["name"], name, f"{found[headline(row)]['mean']:.4f}"]
        for row in rows
        for name, found in row["secondary"].items()
        if headline(row) in found
    ]
    return _table(["task", "system", "judgements", "headline measure"], lines, 3) if lines else ""


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
            "Holm-corrected over all comparisons with it."
        )
    lines += [f"- {name}: {row['note']}" for name, row in tasks.items() if row["note"]]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table in Markdown, aligned for who reads it on a terminal; behind the first columns stand numbers."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines)]
    marks = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [
            cell.ljust(w) if i < text_columns else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths))
        ]
        for line in (lines[0], marks, *lines[1:])
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)
