"""Asking a system: every query by itself, timed; rankings are kept in columns, 8 bytes a document."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.suite import Task
from retrieval.stage import Stage
from retrieval.types import Query, Run, StageTrace, joined

_FIRST, _SECONDS = 10, 1.0  # queries that warm up, and how long at most


@dataclass
class Answers:
    """What a system answered to the queries of a task.

    run           the rankings as they count: cut, without what the task leaves out
    milliseconds  wall time of each query; None for run files, whose making nobody timed
    stages        {"stage", "ms", "in", "out", "tokens_dropped"} of each stage: means a query, tokens in all
    """

    run: Run
    milliseconds: NDArray[np.float64] | None
    stages: list[dict[str, Any]]

    @property
    def tokens_dropped(self) -> int:
        """Tokens that were cut off while all queries were answered."""
        return sum(stage["tokens_dropped"] for stage in self.stages)


def ask(
    stage: Stage,
    task: Task,
    *,
    timed: bool,
    same: Collection[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Answers:
    """Asks all queries of a task, one at a time; the first ones twice: what is loaded once is nobody's time.

    timed=False: all at once, for systems that only read files. same: queries whose ids are documents' too;
    None: any may be.
    """
    deep = stage % (task.depth + 1 if task.same_id else task.depth)
    if not timed:
        return Answers(_counted(deep(list(task.queries)), task, same), None, [])
    _warm_up(deep, task)
    kept, trace, times = [], _Trace(), []
    for query in task.queries:
        given = _candidates(task, query)
        start = perf_counter()
        run = deep([query], given)
        times.append(1e3 * (perf_counter() - start))
        trace.add(run.trace)
        kept.append(_counted(run, task, same))
        if progress is not None:
            progress(1)
    return Answers(joined(kept), np.array(times), trace.means(len(times)))


def _warm_up(stage: Stage, task: Task) -> None:
    """Up to ten queries, or for a second; with compiled code, which the first ones would do without."""
    import numba  # noqa: F401

    start = perf_counter()
    for query in task.queries[:_FIRST]:
        stage([query], _candidates(task, query))
        if perf_counter() - start > _SECONDS:
            break


def _candidates(task: Task, query: Query) -> Run | None:
    """The documents to be re-ranked, in their order."""
    if task.candidates is None:
        return None
    names = list(dict.fromkeys(task.candidates.get(query.query_id, ())))
    return Run([query], [0, len(names)], np.arange(len(names)), -np.arange(len(names)), names, ordered=True)


def _counted(run: Run, task: Task, same: Collection[str] | None) -> Run:
    """The run without documents that do not count, cut to the task's depth."""
    keep = np.ones(len(run.docs), np.bool_)
    for at, query_id in enumerate(run.query_ids):
        itself = task.same_id and (same is None or query_id in same)
        if not itself and task.candidates is None:  # then no id need be read
            continue
        span = slice(int(run.offsets[at]), int(run.offsets[at + 1]))
        allowed = None if task.candidates is None else set(task.candidates.get(query_id, ()))
        for place, doc in enumerate(run.docs[span].tolist(), span.start):
            doc_id = run.doc_ids[doc]
            if (itself and doc_id == query_id) or (allowed is not None and doc_id not in allowed):
                keep[place] = False
    if not keep.all():
        offsets = np.append(0, np.cumsum(keep))[run.offsets]
        docs, scores = run.docs[keep], run.scores[keep]
        run = Run(run.queries, offsets, docs, scores, run.doc_ids, ordered=True, trace=run.trace)
    return run.cut(task.depth)


@dataclass
class _Trace:
    """Sums of the traces of many runs, by what the stages are called and where they stand."""

    sums: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, steps: Sequence[StageTrace]) -> None:
        for step, key in zip(steps, _keys(steps), strict=True):
            sums = self.sums.setdefault(key, [0.0] * 4)
            for place, value in enumerate(step[1:]):
                sums[place] += value

    def means(self, queries: int) -> list[dict[str, Any]]:
        return [
            {
                "stage": stage,
                "ms": 1e3 * seconds / queries,
                "in": seen / queries,
                "out": found / queries,
                "tokens_dropped": int(dropped),
            }
            for (stage, _), (seconds, seen, found, dropped) in self.sums.items()
        ]


def _keys(steps: Sequence[StageTrace]) -> Iterator[tuple[str, int]]:
    """(name of a stage, how many of that name stand before it)."""
    seen: dict[str, int] = {}
    for step in steps:
        yield step.stage, seen.get(step.stage, 0)
        seen[step.stage] = seen.get(step.stage, 0) + 1
