"""Query evaluation over the segments of a sparse representation: prepares, picks the algorithm, merges.

Scores are sums of fixed-point contributions. A query's scale is a power of two chosen so that the largest
possible sum stays below 2**30; contributions are truncated at that scale (an error of at most 2**-30 of the
largest possible score a term), so every algorithm, any order of terms and any split into segments give the
same scores to the last bit.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnknownName, UserError
from retrieval.index import portable
from retrieval.index.list_files import CHUNK
from retrieval.index.postings import Postings

if TYPE_CHECKING:
    from retrieval.index.scoring import Scoring

Array = NDArray[Any]
SCALE_BITS = 30
_FEW = 16  # so many queries are answered by numpy before the compiled kernel (0.6 s to load) is worth it
_HEAVY = 20_000_000  # ... unless they touch so many postings
_BATCH = 256  # queries prepared and answered together: bounds the memory of a long batch
ALGORITHMS = ("auto", "maxscore", "exhaustive", "portable")


class Segment(NamedTuple):
    """One segment as the searcher sees it."""

    postings: Postings
    scoring: Scoring
    base: int  # ordinal of its first document
    rank: NDArray[np.int32]  # place of each document's id in ascending order, by document number in the lists
    alive: NDArray[np.uint8]  # 1 for documents that may be returned, numbered as rank is; empty: all


class _Scratch(threading.local):
    """What the kernel writes on, one a thread."""

    def __init__(self) -> None:
        self.accumulator = np.zeros(CHUNK, np.int32)
        self.open_docs = np.empty(CHUNK + 64, np.uint16)
        self.open_sums = np.empty(CHUNK + 64, np.int32)


_scratch = _Scratch()


def fixed_point(weights: Mapping[str, float], most: float) -> tuple[list[str], list[float], float]:
    """(terms in order, their weights times the scale, the scale); most: the largest value of a posting."""
    terms = sorted(term for term, weight in weights.items() if weight > 0)
    bound = sum(weights[term] for term in terms) * most
    if not bound < 1e30 or math.isnan(sum(weights.values())):
        raise UserError("a query weight is not finite, or too large to score; give weights below 1e20")
    scale = 2.0 ** min(SCALE_BITS - 1 - math.frexp(bound)[1], 100) if bound > 0 else 1.0
    return terms, [weights[term] * scale for term in terms], scale


class Searcher:
    """Top-k search over segments."""

    def __init__(self, segments: Sequence[Segment], most: float) -> None:
        self.segments = segments
        self._most = most
        self._asked = 0

    def search(
        self,
        queries: Sequence[Mapping[str, float]],
        k: int,
        *,
        algorithm: str = "auto",
        threads: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        """The k best documents of each query (term -> weight, positive).

        Returns (offsets int64[q + 1], ordinals int32[n], scores float32[n]); with one segment in the order of
        the tie rule, else segment by segment and up to k of each (Run orders and the caller cuts).
        """
        if algorithm not in ALGORITHMS:
            raise UnknownName("algorithm", algorithm, ALGORITHMS)
        if k < 1 or threads < 1:
            raise UserError(f"k and threads are whole numbers of 1 and more; got {k} and {threads}")
        self._asked += len(queries)
        compiled = algorithm in ("maxscore", "exhaustive") or (
            algorithm == "auto" and ("numba" in sys.modules or self._asked > _FEW or self._heavy(queries))
        )
        groups = [queries[i : i + _BATCH] for i in range(0, len(queries), _BATCH)]
        if threads > 1 and len(queries) > 1:
            size = max(1, min(_BATCH, -(-len(queries) // threads)))
            groups = [queries[i : i + size] for i in range(0, len(queries), size)]

        def run(group: Sequence[Mapping[str, float]]) -> list[tuple[Array, Array]]:
            if compiled:
                return self._compiled(group, k, prune=algorithm != "exhaustive")
            return [self._portable(query, k) for query in group]

        if len(queries) == 1:
            docs, scores = run(queries)[0]
            return np.array([0, len(docs)], np.int64), docs, scores
        if threads > 1 and len(groups) > 1:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(run, groups))
        else:
            parts = [run(group) for group in groups]
        found = [pair for part in parts for pair in part]
        offsets = np.zeros(len(found) + 1, np.int64)
        np.cumsum([len(docs) for docs, _ in found], out=offsets[1:])
        if not found:
            return offsets, np.empty(0, np.int32), np.empty(0, np.float32)
        return offsets, np.concatenate([docs for docs, _ in found]), np.concatenate([s for _, s in found])

    def rescore(
        self, queries: Sequence[Mapping[str, float]], offsets: NDArray[np.int64], docs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """Scores float32[n] of the documents docs[offsets[i]:offsets[i + 1]] (ordinals) for each query i.

        A document without a match gets 0.
        """
        scores = np.zeros(len(docs), np.float32)
        work = self._rescored if "numba" in sys.modules or len(docs) > 2000 else portable.rescore
        for i, query in enumerate(queries):
            a, b = int(offsets[i]), int(offsets[i + 1])
            terms, weights, scale = fixed_point(query, self._most)
            sums = np.zeros(b - a, np.int32)
            for segment in self.segments:
                local = docs[a:b].astype(np.int64)
                if segment.base:
                    local -= segment.base
                inside = local.view(np.uint64) < np.uint64(segment.postings.documents)  # not negative either
                if inside.all():
                    sums = work(segment, terms, weights, local)
                elif inside.any():
                    sums[inside] = work(segment, terms, weights, local[inside])
            scores[a:b] = sums.astype(np.float32) / np.float32(scale)
        return scores

    def _rescored(
        self, segment: Segment, terms: Sequence[str], weights: Sequence[float], docs: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        from retrieval.index.forward import by_rows, rescore_rows
        from retrieval.index.rescore import rescore

        postings, scoring = segment.postings, segment.scoring
        pairs = [(n, w) for t, w in zip(terms, weights) if (n := postings.lexicon.find(t)) >= 0]
        if len(postings.order):
            docs = postings.places[docs].astype(np.int64)
        sums = np.zeros(len(docs), np.int32)
        numbers = [n for n, _ in pairs]
        q = np.array([w for _, w in pairs], np.float64)
        q_int = q.astype(np.int32)
        if by_rows(postings, len(numbers), len(docs)):
            slots = postings.slots(len(numbers))
            rescore_rows(*postings.rows, docs, np.array(numbers, np.int64), q_int, slots, sums)
            return sums
        order = np.argsort(docs)
        lists, places = postings.lists(numbers)
        rescore(
            *lists, scoring.table, scoring.width, scoring.norms, scoring.codes, *places, q.astype(np.float32),
            q_int, docs[order], sums,
        )  # fmt: skip
        placed = np.empty_like(sums)
        placed[order] = sums
        return placed

    def _heavy(self, queries: Sequence[Mapping[str, float]]) -> bool:
        touched = 0
        for segment in self.segments:
            if segment.postings.compact:
                return True
            numbers = [segment.postings.lexicon.find(term) for query in queries for term in query]
            touched += sum(int(segment.postings.df[n]) for n in numbers if n >= 0)
        return touched > _HEAVY

    def _portable(self, query: Mapping[str, float], k: int) -> tuple[Array, Array]:
        terms, weights, scale = fixed_point(query, self._most)
        docs: list[Array] = []
        scores: list[Array] = []
        for segment in self.segments:
            local, sums = portable.search(segment, terms, weights, k)
            docs.append(local + np.int32(segment.base))
            scores.append(sums.astype(np.float32) / np.float32(scale))
        return _joined(docs, np.int32), _joined(scores, np.float32)

    def _compiled(
        self, queries: Sequence[Mapping[str, float]], k: int, *, prune: bool
    ) -> list[tuple[Array, Array]]:
        prepared = [fixed_point(query, self._most) for query in queries]
        thresholds = np.ones(len(queries), np.int64)
        parts = [self._segment(segment, prepared, k, thresholds, prune) for segment in self.segments]
        if len(parts) == 1:
            return parts[0]
        return [
            (
                _joined([part[i][0] for part in parts], np.int32),
                _joined([part[i][1] for part in parts], np.float32),
            )
            for i in range(len(queries))
        ]

    def _segment(
        self,
        segment: Segment,
        prepared: Sequence[tuple[list[str], list[float], float]],
        k: int,
        thresholds: NDArray[np.int64],
        prune: bool,
    ) -> list[tuple[Array, Array]]:
        """Each query's best k of one segment: (ordinals, scores); raises the thresholds on the way."""
        from retrieval.index.kernels import search_many

        postings, scoring = segment.postings, segment.scoring
        find = postings.lexicon.find
        numbers: list[int] = []
        weights: list[float] = []
        ends = [0]
        for terms, scaled, _ in prepared:
            for term, weight in zip(terms, scaled):
                number = find(term)
                if number >= 0:
                    numbers.append(number)
                    weights.append(weight)
            ends.append(len(numbers))
        lists, places = postings.lists(numbers)
        q = np.array(weights, np.float64)
        q32 = q.astype(np.float32)
        q_int = q.astype(np.int32) if postings.weighted else q32.view(np.int32)  # not looked at by BM25
        if k > postings.documents:  # then no threshold of this segment counts for the others
            k, thresholds = max(1, postings.documents), thresholds.copy()
        level = 0 if k == 1 else 1 if k <= 10 else 2 if k <= 100 else 3
        if prune and k <= 1000 and not len(segment.alive):
            sure = scoring.sure(q32, q_int, postings.kth[numbers, level])
            for i in range(len(prepared)):
                if ends[i + 1] > ends[i]:
                    thresholds[i] = max(thresholds[i], int(sure[ends[i] : ends[i + 1]].max()))
        cap = max(2 * k, 16)
        keys = np.empty((len(prepared), cap), np.int64)
        docs = np.empty((len(prepared), cap), np.int32)
        counts = np.empty(len(prepared), np.int64)
        search_many(
            *lists, scoring.table, scoring.width, scoring.norms, scoring.codes, segment.rank, segment.alive,
            np.array(ends, np.int64), *places, q32, q_int, scoring.bound_scale, k, thresholds, prune,
            _scratch.accumulator, _scratch.open_docs, _scratch.open_sums, keys, docs, counts,
        )  # fmt: skip
        order = postings.order
        result = []
        for i, n in enumerate(counts.tolist()):
            ordinals = docs[i, :n]
            if len(order):
                ordinals = order[ordinals]
            if segment.base:
                ordinals = ordinals + np.int32(segment.base)
            sums = keys[i].view(np.int32)[1 : 2 * n : 2].view(np.float32)  # the upper half of each key
            result.append((ordinals, sums / np.float32(prepared[i][2])))
        return result


def _joined(arrays: list[Array], dtype: Any) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)
