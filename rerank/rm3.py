"""RM3: a query interpolated with the relevance model of its best documents: `bm25 % 10 >> rm3(bm25) % 1000`.

The relevance model (Lavrenko and Croft, SIGIR 2001) gives a term the sum over the feedback documents of its
share of the document times the document's score; RM3 (Abdul-Jaleel et al., TREC 2004) mixes it with the
query. Both sum to 1. As in Anserini, only the `fb_terms` most frequent terms of a document count, so many
remain of the model, and terms in more than a tenth of the documents are left out, as are those of 1 or more
than 20 characters. What differs: "letters and digits" are those of any language, not English ones alone; and
where a score is not above 0 (logits of a re-ranker), a query's documents weigh alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval.errors import UserError
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


@register("rm3")
class RM3(TermFeedback):
    """The stage. Its score is that of the expanded query, whose weights sum to 1 before idf.

    model                  the sparse representation to search
    fb_terms               terms of the relevance model
    fb_docs                documents of the run that it is made of
    original_query_weight  share of the query, 0 to 1
    filter_terms           only terms of letters and digits are added
    max_df                 only terms in at most this share of the documents are added
    settings               of the representation (k1, b)

    Raises UserError.
    """

    name = "rm3"

    def __init__(
        self,
        model: str = "bm25",
        fb_terms: int = 10,
        fb_docs: int = 10,
        original_query_weight: float = 0.5,
        filter_terms: bool = True,
        max_df: float = 0.1,
        **settings: Param,
    ) -> None:
        check_counts(self.name, fb_terms=fb_terms, fb_docs=fb_docs)
        check_numbers(self.name, 1, original_query_weight=original_query_weight, max_df=max_df)
        if not isinstance(filter_terms, bool):
            raise UserError(f"rm3 cannot take filter_terms={filter_terms!r}; it is true or false")
        own: dict[str, tuple[Param, Param]] = {
            "fb_terms": (fb_terms, 10),
            "fb_docs": (fb_docs, 10),
            "original_query_weight": (original_query_weight, 0.5),
            "filter_terms": (filter_terms, True),
            "max_df": (max_df, 0.1),
        }
        super().__init__(model, own, settings)
        self.alphanumeric, self.max_df = filter_terms, max_df
        self._terms, self._docs, self._share = fb_terms, fb_docs, original_query_weight

    def _chosen(self, begin: int, end: int) -> list[int]:
        return list(range(begin, min(end, begin + self._docs)))

    def _expanded(self, query: Terms, feedback: Sequence[tuple[Terms, float]]) -> dict[str, float]:
        alike = any(score <= 0 for _, score in feedback)
        model: dict[str, float] = {}
        for terms, score in feedback:
            document = _shares(largest(terms, self._terms))
            model = added((1, model), (1 if alike else score, document))
        model = _shares(largest(model, self._terms))
        return added((self._share, _shares(query)), (1 - self._share, model))


def _shares(terms: Terms) -> dict[str, float]:
    return scaled(terms, sum(terms.values()))
