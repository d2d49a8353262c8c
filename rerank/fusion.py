"""Fusion of several runs into one: reciprocal rank fusion, and the weighted sum of min-max normalised scores.

`a + b` reaches `rrf` through the registry, `0.3 * a + b` reaches `minmax`. A document that is absent from a
run adds nothing for it. Sums are taken in float64, in the order of the runs, and stored as float32.

Cormack, Clarke, Büttcher: Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods. SIGIR 2009.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.registry import register
from retrieval.types import DocIds, Run


@register("rrf", kind="fusion")
def rrf(runs: Sequence[Run], k: int = 60) -> Run:
    """Score of a document: the sum of 1 / (k + its rank) over the runs, ranks from 1."""
    return _sum(runs, [1.0 / (k + _ranks(run)) for run in runs])


@register("minmax", kind="fusion")
def minmax(runs: Sequence[Run], weights: Sequence[float]) -> Run:
    """Score of a document: the sum of weight * (score - lowest) / (highest - lowest), by run and query.

    Where all scores of a query are equal, a single document included, each counts as 1: to be in the list
    at all is worth more than to be absent. The lowest of several counts as 0, as much as an absent
    document.
    """
    if len(weights) != len(runs):
        raise UserError(f"{len(runs)} runs and {len(weights)} weights do not pair; give one weight a run")
    return _sum(runs, [weight * normalised(run) for run, weight in zip(runs, weights, strict=True)])


def _ranks(run: Run) -> NDArray[np.int64]:
    """int64[n]: each document's rank in its query, from 1."""
    return np.arange(1, len(run.docs) + 1) - np.repeat(run.offsets[:-1], np.diff(run.offsets))


def normalised(run: Run) -> NDArray[np.float64]:
    """float64[n]: each query's scores on a scale from 0 to 1."""
    scores, lengths = run.scores.astype(np.float64), np.diff(run.offsets)
    some = lengths > 0
    # A run is in rank order: a query's first score is its highest, its last the lowest.
    high = np.repeat(scores[run.offsets[:-1][some]], lengths[some])
    low = np.repeat(scores[run.offsets[1:][some] - 1], lengths[some])
    spread = high - low
    return np.divide(scores - low, spread, out=np.ones_like(scores), where=spread > 0)


def _sum(runs: Sequence[Run], scores: Sequence[NDArray[np.float64]]) -> Run:
    """One run of the documents of all, each with the sum of its scores; UserError for unlike queries."""
    if not runs:
        raise UserError("there is no run to fuse; give one or more")
    first = runs[0]
    if any(run.query_ids != first.query_ids for run in runs):
        raise UserError("runs of different queries do not fuse; align them with run.aligned(queries)")
    doc_ids, docs = one_table(runs)
    query = np.concatenate([np.repeat(np.arange(len(run)), np.diff(run.offsets)) for run in runs])
    # One key for a (query, document) pair.
    pairs, place = np.unique(query * max(len(doc_ids), 1) + np.concatenate(docs), return_inverse=True)
    totals = np.bincount(place, weights=np.concatenate(scores), minlength=len(pairs)).astype(np.float32)
    query, doc = np.divmod(pairs, max(len(doc_ids), 1))
    offsets = np.searchsorted(query, np.arange(len(first) + 1))
    trace = [step for run in runs for step in run.trace]
    return Run(first.queries, offsets, doc, totals, doc_ids, trace=trace)


def one_table(runs: Sequence[Run]) -> tuple[DocIds, list[NDArray[np.int64]]]:
    """A table of ids that serves all runs, and each run's ordinals in it."""
    table = runs[0].doc_ids
    if all(run.doc_ids is table for run in runs):
        return table, [run.docs.astype(np.int64) for run in runs]
    ordinals: dict[str, int] = {}
    docs = []
    for run in runs:
        unique, place = np.unique(run.docs, return_inverse=True)
        mine = [ordinals.setdefault(run.doc_ids[doc], len(ordinals)) for doc in unique.tolist()]
        docs.append(np.array(mine, np.int64)[place])
    return list(ordinals), docs
