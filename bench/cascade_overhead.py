"""What the cascade costs beyond its stages: python -m retrieval.bench.cascade_overhead INDEX --queries FILE.

The stages of a pipeline run by hand, each called by itself and its run cut, and through the engine: as a
pipeline, and as one within a budget that cuts nothing. The ways take turns, query by query; a query's time
(of the process, CPU) is the fastest of its rounds, and the ratio is that of the medians over queries. Results
are compared first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import median
from time import process_time

from retrieval.bench.arguments import positive
from retrieval.data.queries import read_queries
from retrieval.errors import RetrievalError
from retrieval.index.index import Index
from retrieval.render import columns
from retrieval.stage import Cut, Stage, Then
from retrieval.types import Query, Run

Way = Callable[[list[Query]], Run]


def by_hand(stage: Stage) -> Way:
    """The same stages without the engine: their own work and a cut each."""
    steps = []
    for part in stage.parts if isinstance(stage, Then) else (stage,):
        k = part.k if isinstance(part, Cut) else 0
        inner = part.stage.within(k) if isinstance(part, Cut) else part
        steps.append((inner._run, k))

    def run(queries: list[Query]) -> Run:
        found: Run | None = None
        for work, k in steps:
            found = work(queries, found)
            found = found.cut(k) if k else found
        assert found is not None
        return found

    return run


def ways(index: Index, pipeline: str) -> dict[str, Way]:
    """The ways that are compared, by name; the first is the base."""
    stage = index.pipeline(pipeline)
    wide = index.pipeline(pipeline, budget="1000s")
    return {"by hand": by_hand(stage), "pipeline": stage, "within a budget": wide}


def measure(found: dict[str, Way], queries: Sequence[Query], rounds: int) -> dict[str, float]:
    """Milliseconds of the median query, by way."""
    times: dict[str, list[float]] = {name: [] for name in found}
    for query in queries:
        best = dict.fromkeys(found, float("inf"))
        for turn in range(rounds):
            order = list(found.items())
            for name, way in order[turn % len(order) :] + order[: turn % len(order)]:
                start = process_time()
                way([query])
                best[name] = min(best[name], process_time() - start)
        for name, seconds in best.items():
            times[name].append(1e3 * seconds)
    return {name: median(each) for name, each in times.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("retrieval.bench.cascade_overhead", description=__doc__)
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("--queries", required=True, metavar="FILE")
    parser.add_argument("--pipeline", required=True, metavar="P", help="stages with >> between them")
    parser.add_argument("--most", type=positive, default=100, metavar="N", help="queries (default: 100)")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="of each query (default: 7)")
    given = parser.parse_args(argv)
    try:
        sys.stdout.write(report(given))
    except RetrievalError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


def report(given: argparse.Namespace) -> str:
    """What was measured, as a table. Raises RetrievalError where the ways find different documents."""
    with Index.open(given.index) as index:
        queries = read_queries(given.queries)[: given.most]
        found = ways(index, given.pipeline)
        for query in queries[:20]:  # the first queries are answered without compiled code
            for way in found.values():
                way([query])
        wanted = [found["by hand"]([query]).to_dict() for query in queries]
        for name, way in found.items():
            if [way([query]).to_dict() for query in queries] != wanted:
                raise RetrievalError(f"{name} finds other documents than the stages by hand")
        times = measure(found, queries, given.rounds)
    base = times["by hand"]
    rows = [(name, f"{ms:.4f}", f"{ms / base:.4f}") for name, ms in times.items()]
    head = f"{given.pipeline}: {len(queries)} queries one at a time, fastest of {given.rounds} rounds"
    return "\n".join([head, *columns([("", "ms, median", "ratio"), *rows], right=(1, 2)), ""])


if __name__ == "__main__":
    main()
