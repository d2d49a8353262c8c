"""Tuning: depths and weights of a pipeline for an index, on queries whose judgements are known.

Every stage scores each query's documents once (tune_tables.py); all pipelines of the space (tune_space.py)
are then computed from the scores, priced by what the stages took one query at a time, and compared by
cross-validation (tune_choice.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.bench.evaluate import evaluate
from retrieval.bench.measures import Measure
from retrieval.bench.tune_choice import Chooser, Family, Point, Values, front, plainer, split
from retrieval.bench.tune_space import Costs, Space, first_stages, text_of
from retrieval.bench.tune_tables import Tables
from retrieval.errors import CompositionError, UserError
from retrieval.stage import Stage
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index import Index

DEPTHS = (10, 20, 50, 100)
_TIMED = 40  # queries that are timed, one at a time
_ROUNDS = 3  # of all of them; a query's fastest counts: what is slower is the machine's other work
Judgements = Mapping[str, Mapping[str, int]]
Job = Callable[[int], object]
"""Asks the query at a place."""
Started = Callable[[str, int], Callable[[int], None]]
"""(what begins now, how many steps it has) -> what is called with the steps that are done."""


@dataclass(frozen=True)
class Tuned:
    """What was found.

    points    cross-validated, the best of their families; front: those that nothing beats
    chosen    the best within the budget; nested: its values on folds that it was not chosen on
    rejected  the best within the budget and its nested values, where these are no better than the best single
              representation: then that one is chosen, and nested are its values, in which nothing is tuned
    measured  milliseconds of the median query of the chosen pipeline itself
    compared  pipelines that were compared
    """

    points: list[Point]
    front: list[Point]
    chosen: Point
    nested: Values
    rejected: tuple[Point, Values] | None
    measured: float
    compared: int
    queries: int
    costs: Costs


def judged_queries(
    index: Index, queries: Sequence[Query], judgements: Judgements
) -> tuple[list[Query], Judgements, str]:
    """(queries with a judged document of the index, their judgements, what was left out, in words).

    Raises UserError where queries, or documents, and judgements have nothing in common.
    """
    named = [query for query in queries if judgements.get(query.query_id)]
    if not named:
        raise UserError(
            "queries and judgements share no query id; give the judgements of the same queries "
            f"(queries: {_some([query.query_id for query in queries])}; judged: {_some(list(judgements))})"
        )
    docs = sorted({doc for query in named for doc in judgements[query.query_id]})
    known = {doc for doc in docs if doc in index}
    if not known:
        raise UserError(
            f"none of the {len(docs):,} judged documents is in the index ({_some(docs)}); give the "
            "judgements of this collection"
        )
    kept = [query for query in named if known & judgements[query.query_id].keys()]
    parts = []
    if len(named) < len(queries):
        parts.append(f"{len(queries) - len(named):,} of {len(queries):,} queries have no judgements")
    if len(known) < len(docs):
        parts.append(f"{len(docs) - len(known):,} of {len(docs):,} judged documents are not in the index")
    if len(kept) < len(named):
        parts.append(f"{len(named) - len(kept):,} queries have no judged document in the index, left out")
    return kept, {query.query_id: judgements[query.query_id] for query in kept}, "; ".join(parts)


def tune(
    index: Index,
    queries: Sequence[Query],
    judgements: Judgements,
    measure: Measure,
    budget: float,
    *,
    rerankers: Sequence[str] = (),
    pipelines: Sequence[str] = (),
    depths: Sequence[int] = DEPTHS,
    folds: int = 5,
    seed: int = 0,
    started: Started,
) -> Tuned:
    """The best pipeline within `budget` milliseconds a query, by the measure.

    queries    each with judgements; rerankers: texts of stages that re-rank; pipelines: texts to compare
    Raises UserError where there are fewer queries than folds, where a stage cannot run, and for a budget that
    no pipeline meets.
    """
    need_folds(len(queries), folds)
    names = list(index.representations)
    stages = {text: _reranker(index, text) for text in rerankers}
    given = {text: index.pipeline(text) for text in pipelines}
    step = started("scoring", len(queries) * (2 * len(names) + len(stages)))
    tables = Tables(index, queries, judgements, names, step)
    wanted = _reached(tables, names, depths[-1])
    for text, stage in stages.items():
        tables.scores[text] = tables.score(stage, wanted, step)
    sample = [int(at) for at in np.linspace(0, len(queries) - 1, min(_TIMED, len(queries)))]
    costs = _costs(index, tables, names, stages, sample, depths, started)
    space = Space(tables, names, list(stages), depths, costs, measure)
    count = 1 + len({first for first, _ in first_stages(names, few=True)})
    step = started("comparing", count)
    families: list[Family] = []
    for some in space.families():
        families += some
        step(1)
    asked = [tables.queries[at] for at in sample]
    given_ms = _timed(
        {text: _asking(stage, asked) for text, stage in given.items()}, len(asked), lambda done: None
    )
    for text, stage in given.items():
        values = evaluate(stage(tables.queries), judgements, [measure]).values[str(measure)]
        families.append(Family([text], given_ms[text], values.astype(np.float32)[None]))
    chooser = Chooser(families, split(len(queries), folds, seed))
    found = chooser.choose(budget)
    if found is None:
        least = min(families, key=lambda family: family.ms)
        raise UserError(
            f"no pipeline answers a query in {budget:g} ms; the cheapest, {least.texts[0]!r}, takes "
            f"{least.ms:.3g} ms; give a larger --budget"
        )
    points = [chooser.point(at) for at in range(len(families))]
    chosen, nested, rejected = points[found[0]], chooser.nested(budget), None
    single = {text_of([name], ()) for name in names}
    plain = [point for point in points if point.text in single and point.ms <= budget]
    if chosen.text not in single and (better := plainer(nested, plain)):
        rejected = chosen, nested
        chosen, nested = better, better.values
    job = _asking(index.pipeline(chosen.text) % 10, asked)
    measured = _timed({"": job}, len(asked), lambda done: None)[""]
    return Tuned(
        points, front(points), chosen, nested, rejected, measured,
        sum(len(family.texts) for family in families), len(queries), costs,
    )  # fmt: skip


def need_folds(queries: int, folds: int) -> None:
    """Raises UserError where a fold would have fewer than two queries."""
    if queries < 2 * folds:
        raise UserError(
            f"{queries:,} judged queries are too few for {folds:,} folds; give fewer, of two queries each"
        )


def _reranker(index: Index, text: str) -> Stage:
    """The stage of a re-ranker's text. Raises CompositionError for what is none."""
    found = index.pipeline(f"{next(iter(index.representations))} >> {text}").parts[1]
    if found.parts or found.expands or found.gates:
        raise CompositionError(f"--reranker {text!r}: name one stage that re-ranks, such as cross(./model)")
    return found


def _reached(tables: Tables, names: Sequence[str], depth: int) -> Any:
    """bool[q, p]: the documents among the first `depth` of any first stage that re-rankers stand behind."""
    wanted = np.zeros(tables.docs.shape, bool)
    for first, weights in first_stages(names, few=True):
        columns = tables.fused(first, weights)[0][:, :depth]
        rows, places = np.nonzero(columns >= 0)
        wanted[rows, columns[rows, places]] = True
    return wanted


def _costs(
    index: Index,
    tables: Tables,
    names: Sequence[str],
    stages: Mapping[str, Stage],
    sample: Sequence[int],
    depths: Sequence[int],
    started: Started,
) -> Costs:
    """What first stages take a query, and every stage for its candidates, one query at a time."""
    queries = [tables.queries[at] for at in sample]
    firsts = dict(first_stages(names, few=True))
    behind = {**{name: index.stage(name) for name in names}, **stages}
    ends = depths[0], depths[-1]
    given = {depth: [_cut(tables, row, names, depth) for row in sample] for depth in ends}
    jobs: dict[Any, Job] = {}
    for first, weights in firsts.items():
        jobs[first] = _asking(index.pipeline(text_of(first, weights)), queries)
    for text, stage in behind.items():
        for depth in ends:
            jobs[text, depth] = _asking(stage, queries, given[depth])
    ms = _timed(jobs, len(queries), started("timing", _ROUNDS * len(queries)))
    lines = {}
    for text in behind:
        few, many = (ms[text, depth] for depth in ends)
        each = max(0.0, many - few) / max(1, ends[1] - ends[0])
        lines[text] = (max(0.0, few - each * ends[0]), each)
    return Costs({first: ms[first] for first in firsts}, lines)


def _asking(stage: Stage, queries: Sequence[Query], runs: Sequence[Run] | None = None) -> Job:
    return lambda at: stage([queries[at]], None if runs is None else runs[at])


def _timed(jobs: Mapping[Any, Job], count: int, step: Callable[[int], None]) -> dict[Any, float]:
    """Milliseconds of each job's median query of `count`, after one that loads what is loaded once.

    The jobs take turns, query by query and round by round, so that none of them has a bad moment to itself.
    """
    for job in jobs.values():
        job(0)
    best = {key: [float("inf")] * count for key in jobs}
    for _ in range(_ROUNDS):
        for at in range(count):
            for key, job in jobs.items():
                start = perf_counter()
                job(at)
                best[key][at] = min(best[key][at], 1e3 * (perf_counter() - start))
            step(1)
    return {key: median(times) for key, times in best.items()}


def _cut(tables: Tables, row: int, names: Sequence[str], depth: int) -> Run:
    """The first `depth` documents that the first representation finds for a query."""
    name = names[0]
    scores = np.where(tables.retrieved[name][row], tables.scores[name][row], -np.inf)
    best = np.argsort(-scores, kind="stable")[:depth]
    wanted = np.zeros((1, tables.docs.shape[1]), bool)
    wanted[0, best[np.isfinite(scores[best])]] = True
    return tables.pool_run([row], wanted)


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
