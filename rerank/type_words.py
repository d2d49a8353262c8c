"""Queries that name a type, expanded by words of that type: `type_words(words.tsv) % 1000`.

The file has a line a type, `type<TAB>word, word, ...` (data/type_names.py): kinds of the type (hyponyms),
known instances, synonyms; `python -m retrieval.data.type_words` makes one from WordNet or from the train
split of NERetrieve. A query is looked up as a whole, by its terms, so that `Film directors` finds
`film director`; one that no line is for is asked as it is.

The new query is `(1 - weight) * query + weight * words`, each of which sums to 1; of the words the `terms`
most frequent terms remain, among equals those that the file names first. It is a search of its own, wherever
it stands: after `>>` it does not keep to the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from retrieval.data.type_names import read_type_words, verbalised
from retrieval.registry import register
from retrieval.rerank.feedback import Feedback, added, check_counts, check_numbers, scaled
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index_stage import IndexStage
    from retrieval.index.method import SparseMethod
    from retrieval.index.stages import SparseStage

_WEIGHT, _TERMS = 0.5, 100
_KEPT = 10_000  # queries whose words are known


@register("type_words")
class TypeWords(Feedback):
    """The stage.

    model      the file of types and their words
    sparse     the sparse representation to search
    weight     share of the words in the new query, 0 to 1
    terms      how many terms of a type's words are asked for
    settings   of the representation (k1, b)

    Raises UserError, BadLine.
    """

    name = "type_words"
    needs_run = False
    searches = ("term_vectors", "terms of whole documents")

    def __init__(
        self,
        model: str,
        sparse: str = "bm25",
        weight: float = _WEIGHT,
        terms: int = _TERMS,
        **settings: Param,
    ) -> None:
        check_counts(self.name, terms=terms)
        check_numbers(self.name, 1, weight=weight)
        own: dict[str, tuple[Param, Param]] = {
            "sparse": (sparse, "bm25"),
            "weight": (weight, _WEIGHT),
            "terms": (terms, _TERMS),
        }
        super().__init__(model, own, settings)
        self.representation = sparse
        self._weight, self._terms = weight, terms
        self._words = read_type_words(model)
        self._shares: dict[str, dict[str, float]] = {}
        self._by_terms: dict[frozenset[str], list[str]] | None = None

    def with_representation(self, stage: IndexStage) -> Self:
        """This stage over the stage of a representation. Raises CompositionError for one of another kind."""
        twin = super().with_representation(stage)
        twin._shares, twin._by_terms = {}, None
        return twin

    def words(self, text: str, method: SparseMethod) -> list[str]:
        """The words of the type that a query names; none where the file has no line for it."""
        found = self._words.get(text.strip().lower())
        if found is None:
            if self._by_terms is None:  # analysing all names takes a second for WordNet's 80,000
                self._by_terms = {}
                for name, words in self._words.items():
                    self._by_terms.setdefault(frozenset(method.query(name)), []).extend(words)
            found = self._by_terms.get(frozenset(method.query(text)))
        return found or []

    def expand(self, queries: Sequence[Query]) -> list[dict[str, float]]:
        """Term -> weight of each query, before collection statistics; {} for a blank query."""
        method: SparseMethod = self._searched().method
        return [self._expanded(_in_words(query.text), method) for query in queries]

    def _expanded(self, text: str, method: SparseMethod) -> dict[str, float]:
        query = method.query(text)
        own = scaled(query, sum(query.values()))
        if text not in self._shares and own:
            if len(self._shares) > _KEPT:  # a server that runs for months must not grow
                self._shares.clear()
            counts: Counter[str] = Counter()
            for word in self.words(text, method):
                counts.update(dict.fromkeys(method.query(word), 1))
            best = dict(counts.most_common(self._terms))  # among equals those that came first
            self._shares[text] = scaled(best, sum(best.values()))
        words = self._shares.get(text)
        return added((1 - self._weight, own), (self._weight, words)) if words else own

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        stage: SparseStage = self._searched()
        expanded = self.expand(queries)
        return stage.retrieve(queries, [stage.method.weigh(terms, stage.statistics) for terms in expanded])


def _in_words(text: str) -> str:
    """A query as words: `FilmDirector` is looked up as `film director`, any other text as it is."""
    return verbalised(text) if text.isidentifier() else text
