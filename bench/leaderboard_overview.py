"""A suite at a glance: the headline of every task, and the mean of those systems that have all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retrieval.bench.leaderboard_section import Section, mapping
from retrieval.bench.row import Row

MEAN = "mean"  # the task of a quoted row of which only the mean over its "tasks" is published


class Line(NamedTuple):
    """A system: one figure a section, None where it has no row; the mean, None unless it has all of them."""

    name: str
    quoted: str
    trained_on: str
    figures: list[float | None]
    mean: float | None
    lacking: list[str]


@dataclass(frozen=True)
class Overview:
    """A suite at a glance: the headline of each task, and the mean of those systems that have all tasks.

    measure: the headline; "" where tasks differ in it, so that there is no mean.
    """

    suite: str
    measure: str
    sections: list[Section]
    lines: list[Line]
    left_out: list[str]


def overview(sections: Sequence[Section], means: Sequence[Row]) -> Overview | None:
    """None for a suite of one task."""
    counts: dict[tuple[str, str], int] = {}
    for section in sections:
        counts[section.task, section.split] = counts.get((section.task, section.split), 0) + 1
    kept = [section for section in sections if counts[section.task, section.split] == 1]
    if len(kept) < 2:
        return None
    heads = {section.headline for section in kept}
    measure = heads.pop() if len(heads) == 1 else ""
    cells: dict[tuple[str, str], list[float | None]] = {}
    trained: dict[tuple[str, str], str] = {}
    for column, section in enumerate(kept):
        for entry in section.entries:
            key = entry.name, entry.quoted
            line = cells.setdefault(key, [None] * len(kept))
            trained[key] = trained.get(key) or entry.trained_on
            if section.headline in entry.figures:
                line[column] = entry.figures[section.headline][0]
    lines = []
    for (name, quoted), figures in cells.items():
        present = [value for value in figures if value is not None]
        lacking = [kept[column].task for column, value in enumerate(figures) if value is None]
        mean = float(np.mean(present)) if measure and not lacking else None
        lines.append(Line(name, quoted, trained[name, quoted], figures, mean, lacking))
    tasks = sorted(section.task for section in kept)
    for row in means:  # only a mean is published: shown where it is over the same tasks
        told = mapping(row).get("tasks")
        same = isinstance(told, list) and sorted(map(str, told)) == tasks
        if same and row["suite"] == kept[0].suite and measure in row["measures"]:
            mean = row["measures"][measure]["mean"]
            trained_on = str(row["system"].get("trained_on") or "")
            blank: list[float | None] = [None] * len(kept)
            lines.append(Line(row["system"]["name"], str(row["quoted"]), trained_on, blank, mean, []))
    lines.sort(key=lambda line: (line.mean is None, -(line.mean or 0.0), line.name, line.quoted))
    left_out = sorted({task for (task, _), count in counts.items() if count > 1})
    return Overview(kept[0].suite, measure, kept, lines, left_out)


def remarks(over: Overview) -> list[str]:
    """What a reader must know of an overview: which systems have no mean, and why; what was left out."""
    parts = []
    if not over.measure:
        parts.append("No mean: the tasks differ in their headline measure.")
    lacking = [f"{line.name} (lacks {', '.join(line.lacking)})" for line in over.lines if line.lacking]
    if over.measure and lacking:
        parts.append(f"No mean, since not all tasks were measured: {'; '.join(lacking)}.")
    if over.left_out:
        parts.append(f"Left out, since made on different data: {', '.join(over.left_out)}.")
    return parts
