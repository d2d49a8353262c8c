"""A file of queries into a run file: group by group, each written as it comes, in memory that stays flat."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from retrieval.cli_common import note, write_json
from retrieval.cli_search import budget_facts, dropped, refuse_dropped, timing

if TYPE_CHECKING:
    from retrieval.stage import Stage
    from retrieval.types import Query, Run, StageTrace

_GROUP = 256  # queries searched together, at most
_FIRST = 16  # ... to begin with: a slow pipeline shows what it does, and fast ones grow
_QUICK = 1.0  # seconds of a group after which the next one is larger


def search_file(stage: Stage, queries: list[Query], given: Namespace) -> None:
    """Searches for all queries, writes the run, and says or prints what it took."""
    from retrieval.data.runs import trec_lines, write_runs
    from retrieval.rerank.cascade import summed

    out = given.run
    start = perf_counter()
    trace: list[StageTrace] = []
    hits = 0

    def counted() -> Iterator[Run]:
        nonlocal trace, hits
        for run in _groups(stage, queries):
            refuse_dropped(run, given)
            trace = summed([*trace, *run.trace])
            hits += len(run.docs)
            yield run

    if out == "-":
        for run in counted():
            sys.stdout.writelines(trec_lines(run))
    else:
        write_runs(counted(), out)
    total = perf_counter() - start
    if given.json:
        counts = {"queries": len(queries), "hits": hits, "run": out}
        facts = {"timing_ms": timing(trace, total), "tokens_dropped": dropped(trace)}
        write_json({**counts, **facts, **budget_facts(trace, given.budget)})
        return
    for step, count in dropped(trace).items():
        note(f"{step} did not read {count:,} tokens, which are beyond its length")
    for share in budget_facts(trace, given.budget).get("budget", {}).get("cuts", []):
        note(f"budget: {share['stage']} read {share['read']:,} of {share['candidates']:,} candidates")
    rate = len(queries) / total if total else 0.0
    name = "standard output" if out == "-" else out
    note(f"{name}: {hits:,} hits of {len(queries):,} queries in {total:.2f} s, {rate:,.0f} queries/s")


def _groups(stage: Stage, queries: list[Query]) -> Iterator[Run]:
    from retrieval.progress import Progress

    with Progress("searching", len(queries), unit="queries") as progress:
        at, size = 0, min(_FIRST, _GROUP)
        while at < len(queries):
            start = perf_counter()
            group = queries[at : at + size]
            yield stage(group)
            progress.update(len(group))
            at += len(group)
            if perf_counter() - start < _QUICK:
                size = min(2 * size, _GROUP)
