"""The stage of a sparse representation: it retrieves at the head of a pipeline, after >> it re-scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.consistency import corrupt
from retrieval.index.index_stage import IndexStage
from retrieval.index.searcher import Searcher, Segment, fixed_point
from retrieval.index.statistics import Statistics
from retrieval.index.term_vectors import TermVectors
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.method import SparseMethod
    from retrieval.index.view import View


class SparseStage(IndexStage):
    """Search and re-scoring with one representation of an index.

    statistics  of a larger collection, to rank as a shard of it (default: this index's own)
    masks       per segment, which documents may be returned
    """

    def __init__(
        self,
        view: View,
        name: str,
        method: SparseMethod,
        params: Mapping[str, Param],
        *,
        statistics: Statistics | None = None,
        masks: Sequence[NDArray[np.uint8]] | None = None,
        threads: int = 1,
        algorithm: str = "auto",
    ) -> None:
        super().__init__(view, name, params)
        # A method may have parameters that weigh queries, not only ones that score lists.
        self.method: SparseMethod = method.configured(params) if hasattr(method, "configured") else method
        self.statistics = statistics or view_statistics(view, name)
        self.threads = threads
        self.algorithm = algorithm
        self._masks = view.masks(None) if masks is None else masks
        self._terms = TermVectors(view, name, self.method)

    @cached_property
    def searcher(self) -> Searcher:
        """The prepared segments."""
        segments = []
        for segment, mask in zip(self.view.segments, self._masks, strict=True):
            postings = segment.postings(self.name)
            rank, order = segment.store.rank, postings.order
            if len(rank) != postings.documents or len(mask) not in (0, len(rank)):
                raise corrupt(
                    postings.part, "facts.json", f"does not count the segment's {len(rank)} documents"
                )
            if len(order):
                rank, mask = rank[order], mask[order] if len(mask) else mask
            scoring = self.method.scoring(postings, self.statistics, self.params)
            segments.append(Segment(postings, scoring, segment.base, rank, mask))
        return Searcher(segments, self.method.most)

    def prepared(self) -> SparseStage:
        """This stage with its segments opened. Raises UserError for parameters the method cannot take."""
        self.searcher  # noqa: B018
        return self

    def weights(self, text: str) -> dict[str, float]:
        """Term -> weight of a query text."""
        return self.method.weigh(self.method.query(text), self.statistics)

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if run is not None:
            return self._rescore(queries, run)
        return self.retrieve(queries, [self.weights(query.text) for query in queries])

    def retrieve(self, queries: list[Query], weights: Sequence[Mapping[str, float]]) -> Run:
        """The best documents for ready term weights (one mapping a query)."""
        offsets, docs, scores = self.searcher.search(
            weights, self.depth, algorithm=self.algorithm, threads=self.threads
        )
        if len(self.view.segments) <= 1:
            return Run(queries, offsets, docs, scores, self.view.ids, ordered=True)
        return Run(queries, offsets, docs, scores, self.view.ids).cut(self.depth)

    def term_vectors(self, docs: NDArray[np.int32]) -> list[dict[str, float]]:
        """Term -> value of documents by ordinal, see term_vectors.py. Raises UserError."""
        return self._terms.read(docs)

    def scores(
        self, queries: list[Query], offsets: NDArray[np.int64], docs: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], int]:
        """See IndexStage."""
        weights = [self.weights(query.text) for query in queries]
        return self.searcher.rescore(weights, offsets, docs), 0

    def explain(self, query: str, ordinal: int) -> dict[str, Any]:
        """Score of one document, and what each query term has to do with it."""
        segment = self.view.segment_of(ordinal)
        prepared = self.searcher.segments[self.view.segments.index(segment)]
        counts = self.method.query(query)
        weighted = self.method.weigh(counts, self.statistics)
        terms, scaled, scale = fixed_point(weighted, self.method.most)
        contributions = dict.fromkeys(counts, 0)
        values = dict.fromkeys(counts, 0)
        for term, weight in zip(terms, scaled, strict=True):
            number = prepared.postings.lexicon.find(term)
            if number < 0:
                continue
            docs, stored = prepared.postings.posting(number)
            at = np.flatnonzero(docs == ordinal - segment.base)
            if len(at):
                values[term] = int(stored[at[0]])
                contributions[term] = int(prepared.scoring.contributions(weight, stored[at], docs[at])[0])
        total = float(np.float32(sum(contributions.values())) / np.float32(scale))
        return {
            "representation": self.name,
            "score": total,
            "terms": [
                {
                    "term": term,
                    "query_weight": float(count),
                    "weight": weighted.get(term, 0.0),
                    "df": self.statistics.df(term),
                    "value": values[term],
                    "contribution": contributions[term] / scale,
                }
                for term, count in counts.items()
            ],
        }


def view_statistics(view: View, representation: str) -> Statistics:
    """Statistics of the live documents of a view, exact after deletions too."""
    tokens = 0
    gone: list[dict[int, int]] = []
    for segment in view.segments:
        lost, terms = segment.deleted_terms(representation)
        tokens += segment.postings(representation).tokens - lost
        gone.append(terms)

    def df(term: str) -> int:
        total = 0
        for segment, terms in zip(view.segments, gone, strict=True):
            postings = segment.postings(representation)
            number = postings.lexicon.find(term)
            if number >= 0:
                total += int(postings.df[number]) - terms.get(number, 0)
        return total

    return Statistics(view.live, tokens, df)
