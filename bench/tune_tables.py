"""What tuning works on: every document that any first stage may return, scored by every stage, once a query.

A table has a row for each query and a column for each document of its pool, by id descending, so that a
stable sort by score keeps the tie rule. What a pipeline of these stages returns, at any depth and with any
weights, is computed from the columns (`fused`, `reranked`), the same as the pipeline itself would find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.measures import UNJUDGED, Measure, Ranking
from retrieval.rerank.interpolate import STEP, Interpolate
from retrieval.stage import Stage
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index import Index

DEPTH = 1000  # documents that a first stage returns
_QUERIES = 16  # that are scored together
Columns = NDArray[np.int32]
Scores = NDArray[np.float32]
Progress = Callable[[int], None]


class Tables:
    """Documents, judgements and scores of some queries.

    docs       int32[q, p]: ordinals of the pool by id descending, -1 where a query has fewer
    grades     int64[q, p]: their judgements
    scores     name of a stage -> float32[q, p], NaN where it has none
    retrieved  name of a representation -> bool[q, p]: what it finds itself, to the depth of DEPTH
    """

    def __init__(
        self,
        index: Index,
        queries: Sequence[Query],
        judgements: Mapping[str, Mapping[str, int]],
        names: Sequence[str],
        progress: Progress,
    ) -> None:
        self.queries = list(queries)
        self._judged = [np.array(list(judgements[query.query_id].values()), np.int64) for query in queries]
        self._ids: Any = index._need_view().ids
        self.scores: dict[str, Scores] = {}
        self.retrieved: dict[str, NDArray[np.bool_]] = {}
        self._known: dict[tuple[int, bytes], float] = {}
        runs = {name: _in_groups(index.stage(name) % DEPTH, queries, progress) for name in names}
        self.docs = self._pool(list(runs.values()))
        for name, run in runs.items():
            self.retrieved[name] = ~np.isnan(self._table(run))
            self.scores[name] = self.score(index.stage(name), self.docs >= 0, progress)
        self.grades = np.full(self.docs.shape, UNJUDGED)
        for at, query in enumerate(queries):
            grades = judgements[query.query_id]
            row = self.docs[at]
            names_of = [self._ids[doc] for doc in row[row >= 0].tolist()]
            self.grades[at, : len(names_of)] = [grades.get(name, UNJUDGED) for name in names_of]

    def _pool(self, runs: Sequence[Run]) -> NDArray[np.int32]:
        rows = []
        for at in range(len(self.queries)):
            spans = [run.docs[run.offsets[at] : run.offsets[at + 1]] for run in runs]
            docs = np.unique(np.concatenate(spans))
            names = [self._ids[doc] for doc in docs.tolist()]
            rows.append(docs[sorted(range(len(docs)), key=names.__getitem__, reverse=True)])
        table = np.full((len(rows), max(1, *map(len, rows))), -1, np.int32)
        for at, row in enumerate(rows):
            table[at, : len(row)] = row
        return table

    def _table(self, run: Run) -> Scores:
        """The scores of a run in the columns of the pool."""
        table = np.full(self.docs.shape, np.nan, np.float32)
        for at in range(len(self.queries)):
            span = slice(run.offsets[at], run.offsets[at + 1])
            order = np.argsort(self.docs[at])
            place = np.searchsorted(self.docs[at], run.docs[span], sorter=order)
            table[at, order[place]] = run.scores[span]
        return table

    def score(self, stage: Stage, wanted: NDArray[np.bool_], progress: Progress) -> Scores:
        """The scores that a stage gives to the wanted documents (bool[q, p]) of each query."""
        table = np.full(self.docs.shape, np.nan, np.float32)
        for at in range(0, len(self.queries), _QUERIES):
            some = slice(at, at + _QUERIES)
            given = self.pool_run(range(*some.indices(len(self.queries))), wanted[some])
            found = stage(given.queries, given)
            if found.doc_ids is not self._ids:
                found = _renamed(found, given)
            for row in range(len(given)):
                span = slice(found.offsets[row], found.offsets[row + 1])
                order = np.argsort(self.docs[at + row])
                place = np.searchsorted(self.docs[at + row], found.docs[span], sorter=order)
                table[at + row, order[place]] = found.scores[span]
            progress(len(given))
        return table

    def pool_run(self, rows: Sequence[int], wanted: NDArray[np.bool_]) -> Run:
        """The wanted documents (bool[len(rows), p]) of some queries as a run, all with the score 0."""
        docs = [self.docs[row][keep] for row, keep in zip(rows, wanted, strict=True)]
        offsets = np.cumsum([0, *map(len, docs)])
        joined = np.concatenate([np.empty(0, np.int32), *docs])
        return Run([self.queries[row] for row in rows], offsets, joined, np.zeros(len(joined)), self._ids)

    def fused(self, names: Sequence[str], weights: Sequence[float]) -> tuple[Columns, Scores]:
        """(columns int32[q, p] in the order of a first stage's run, -1 behind its end; scores in that order).

        One name: its own run. Several: the weighted sum of their normalised runs.
        """
        if len(names) == 1:
            return _ordered(np.where(self.retrieved[names[0]], self.scores[names[0]], np.nan))
        runs = [np.where(self.retrieved[name], self.scores[name], np.nan) for name in names]
        return _ordered(_sum(runs, weights))

    def reranked(
        self, columns: Columns, names: Sequence[str], weights: Sequence[float]
    ) -> tuple[Columns, Scores]:
        """The same for these columns only, by the weighted sum of the stages' normalised scores."""
        columns = np.sort(np.where(columns < 0, np.iinfo(np.int32).max, columns), axis=1)
        there = columns < self.docs.shape[1]
        at = np.where(there, columns, 0)
        parts = [np.where(there, np.take_along_axis(self.scores[name], at, 1), np.nan) for name in names]
        order, scores = _ordered(parts[0] if len(names) == 1 else _sum(parts, weights))
        return np.where(order < 0, -1, np.take_along_axis(columns, np.maximum(order, 0), 1)), scores

    def interpolated(
        self, columns: Columns, scores: Scores, stage: Interpolate, reranker: str, k: int
    ) -> tuple[Columns, NDArray[np.int64]]:
        """(columns by rerank/interpolate.py's score, candidates that it reads of each query for the first k).

        columns, scores: what comes in, in order; reranker: whose scores are mixed in.
        """
        there = columns >= 0
        prior = (1.0 - stage.weight) * _normalised(np.where(there, scores, np.nan))
        found = np.take_along_axis(self.scores[reranker], np.maximum(columns, 0), 1)
        total = (prior + stage.weight * stage.share(found)).astype(np.float32)
        total[~there] = np.nan
        lengths = there.sum(axis=1)
        read = lengths.copy()
        for end in range(max(k, STEP), columns.shape[1], STEP):
            kth = np.partition(-np.nan_to_num(total[:, :end], nan=-np.inf), k - 1, axis=1)[:, k - 1]
            certain = (prior[:, end] + stage.weight).astype(np.float32) < -kth
            read = np.where(certain & (read > end), end, read)
        by_column = np.full(self.docs.shape, np.nan, np.float32)  # in which ties stand as they should
        rows, places = np.nonzero(there)
        by_column[rows, columns[rows, places]] = total[rows, places]
        return _ordered(by_column)[0][:, : columns.shape[1]], read

    def values(self, columns: Columns, measure: Measure) -> NDArray[np.float32]:
        """float32[q]: the measure of each query's ranking."""
        grades = np.take_along_axis(self.grades, np.maximum(columns, 0), 1)
        lengths = (columns >= 0).sum(axis=1)
        cutoff = dict(measure.params).get("cutoff")
        if cutoff is not None:
            lengths = np.minimum(lengths, cutoff)
        found = np.empty(len(columns), np.float32)
        for row, length in enumerate(lengths.tolist()):
            seen = grades[row, :length]
            key = row, seen.tobytes()
            value = self._known.get(key)
            if value is None:
                value = self._known[key] = measure.value(Ranking(seen, self._judged[row]))
            found[row] = value
        return found


def _in_groups(stage: Stage, queries: Sequence[Query], progress: Progress) -> Run:
    from retrieval.types import joined

    runs = []
    for at in range(0, len(queries), _QUERIES):
        runs.append(stage(list(queries[at : at + _QUERIES])))
        progress(len(runs[-1]))
    return joined(runs)


def _renamed(found: Run, given: Run) -> Run:
    """The run with the ordinals of another one that holds its documents."""
    ordinals = {given.doc_ids[doc]: doc for doc in np.unique(given.docs).tolist()}
    docs = [ordinals[found.doc_ids[doc]] for doc in found.docs.tolist()]
    return Run(found.queries, found.offsets, docs, found.scores, given.doc_ids)


def _ordered(scores: NDArray[Any]) -> tuple[Columns, Scores]:
    """(columns by score descending, those without one as -1 behind; the scores in that order)."""
    scores = scores.astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)  # NaN sorts last
    ranked = np.take_along_axis(scores, order, 1)
    return np.where(np.isnan(ranked), -1, order), ranked


def _sum(runs: Sequence[Scores], weights: Sequence[float]) -> NDArray[np.float64]:
    """The weighted sum of normalised scores as rerank/fusion.py has it; NaN for what no run holds."""
    total = np.zeros(runs[0].shape)
    held = np.zeros(runs[0].shape, bool)
    for run, weight in zip(runs, weights, strict=True):
        share = _normalised(run)
        some = ~np.isnan(share)
        total += np.where(some, weight * share, 0.0)
        held |= some
    return np.where(held, total, np.nan)


def _normalised(run: Scores) -> NDArray[np.float64]:
    """Each row's scores from 0 to 1, all 1 where they are equal; NaN stays."""
    exact = run.astype(np.float64)
    some = ~np.isnan(exact)
    low = np.where(some, exact, np.inf).min(axis=1, keepdims=True)
    high = np.where(some, exact, -np.inf).max(axis=1, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(some, np.where(high > low, (exact - low) / spread, 1.0), np.nan)
