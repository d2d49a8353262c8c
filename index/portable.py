"""The same scores without compiled code: numpy, one query at a time, for a cold start and explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from retrieval.index.searcher import Segment


def contributions(segment: Segment, term: str, weight: float) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(document ordinals in the segment, fixed-point contributions) of one term of the query."""
    number = segment.postings.lexicon.find(term)
    if number < 0:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    docs, values = segment.postings.posting(number)
    return docs, segment.scoring.contributions(weight, values, docs)


def search(
    segment: Segment, terms: Sequence[str], weights: Sequence[float], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k best (ordinals int32, sums int64), best first."""
    n = segment.postings.documents
    sums = np.zeros(n, np.int32)
    for term, weight in zip(terms, weights):
        docs, parts = contributions(segment, term, weight)
        sums[docs] += parts
    order = segment.postings.order
    rank, alive = segment.rank, segment.alive
    if len(order):  # rank and alive follow the lists' numbering
        rank, alive = _by_ordinal(rank, order), _by_ordinal(alive, order)
    if len(alive):
        sums[alive == 0] = 0
    hits = np.flatnonzero(sums > 0)
    keys = (sums[hits].astype(np.float32).view(np.int32).astype(np.int64) << 32) | rank[hits]
    if len(hits) > k:
        best = np.argpartition(keys, len(keys) - k)[-k:]
        hits, keys = hits[best], keys[best]
    hits = hits[np.argsort(-keys)]
    return hits.astype(np.int32), sums[hits].astype(np.int64)


def rescore(
    segment: Segment, terms: Sequence[str], weights: Sequence[float], docs: NDArray[np.int64]
) -> NDArray[np.int32]:
    """The sums of given documents (ordinals in the segment), int32[len(docs)]."""
    sums = np.zeros(segment.postings.documents, np.int32)
    for term, weight in zip(terms, weights, strict=True):
        found, parts = contributions(segment, term, weight)
        sums[found] += parts
    return sums[docs]


def _by_ordinal(array: NDArray[Any], order: NDArray[np.int32]) -> NDArray[Any]:
    if not len(array):
        return array
    moved = np.empty_like(array)
    moved[order] = array
    return moved
