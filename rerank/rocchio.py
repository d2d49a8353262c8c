"""Rocchio's feedback on terms: `bm25 % 10 >> rocchio(bm25) % 1000`.

query' = alpha query + beta mean(best documents) - gamma mean(last documents), each a vector of length 1
(Rocchio 1971; Manning, Raghavan and Schütze, section 9.1.1). As in Anserini, the components of a document
are its frequencies, of the means the `top_fb_terms` (`bottom_fb_terms`) largest remain, terms in more than a
tenth of the documents or of 1 or more than 20 characters are left out, and no weight is negative. The last
documents are those of the run that comes in, without its best ones: with a gamma, let a deep run come in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from retrieval.registry import register
from retrieval.rerank.feedback import (
    TermFeedback,
    Terms,
    added,
    check_counts,
    check_numbers,
    largest,
    scaled,
)
from retrieval.stage import Param


@register("rocchio")
class Rocchio(TermFeedback):
    """The stage. Its score is that of the expanded query.

    model            the sparse representation to search
    top_fb_terms     terms of the mean of the best documents
    top_fb_docs      how many documents of the run are the best
    bottom_fb_terms  terms of the mean of the last documents
    bottom_fb_docs   how many are the last
    alpha            weight of the query
    beta             weight of the best documents
    gamma            weight of the last documents, which are taken from the query
    max_df           only terms in at most this share of the documents are added
    settings         of the representation (k1, b)

    Raises UserError.
    """

    name = "rocchio"

    def __init__(
        self,
        model: str = "bm25",
        top_fb_terms: int = 10,
        top_fb_docs: int = 10,
        bottom_fb_terms: int = 10,
        bottom_fb_docs: int = 10,
        alpha: float = 1,
        beta: float = 0.75,
        gamma: float = 0,
        max_df: float = 0.1,
        **settings: Param,
    ) -> None:
        check_counts(
            self.name, top_fb_terms=top_fb_terms, top_fb_docs=top_fb_docs, bottom_fb_terms=bottom_fb_terms,
            bottom_fb_docs=bottom_fb_docs,
        )  # fmt: skip
        check_numbers(self.name, 1e6, alpha=alpha, beta=beta, gamma=gamma)
        check_numbers(self.name, 1, max_df=max_df)
        own: dict[str, tuple[Param, Param]] = {
            "top_fb_terms": (top_fb_terms, 10),
            "top_fb_docs": (top_fb_docs, 10),
            "bottom_fb_terms": (bottom_fb_terms, 10),
            "bottom_fb_docs": (bottom_fb_docs, 10),
            "alpha": (alpha, 1),
            "beta": (beta, 0.75),
            "gamma": (gamma, 0),
            "max_df": (max_df, 0.1),
        }
        super().__init__(model, own, settings)
        self.max_df = max_df
        self._terms = top_fb_terms, bottom_fb_terms
        self._docs = top_fb_docs, bottom_fb_docs
        self._weights = alpha, beta, gamma

    def _chosen(self, begin: int, end: int) -> list[int]:
        top, bottom = self._docs
        best = range(begin, min(end, begin + top))
        last = range(max(best.stop, end - bottom), end) if self._weights[2] else ()
        return [*best, *last]

    def _expanded(self, query: Terms, feedback: Sequence[tuple[Terms, float]]) -> dict[str, float]:
        vectors = [terms for terms, _ in feedback]
        top = self._docs[0]
        alpha, beta, gamma = self._weights
        best, last = _mean(vectors[:top], self._terms[0]), _mean(vectors[top:], self._terms[1])
        return added((alpha, _unit(query)), (beta, best), (-gamma, last))


def _mean(vectors: Sequence[Terms], k: int) -> dict[str, float]:
    """The k largest components of the mean of vectors of length 1, as a vector of length 1."""
    total: dict[str, float] = {}
    for terms in vectors:
        total = added((1, total), (1, _unit(terms)))
    return _unit(largest(total, k))


def _unit(terms: Terms) -> dict[str, float]:
    return scaled(terms, math.sqrt(sum(value * value for value in terms.values())))
