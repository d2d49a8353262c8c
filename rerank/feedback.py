"""Pseudo-relevance feedback: the best documents of a run are taken as relevant, and the query is asked anew.

`bm25 % 10 >> rm3(bm25) % 1000`: the run that comes in is the feedback, the brackets name the representation
that is searched with the expanded query. It is a new search, which may find documents that the run lacks.
Here stands what the ways to expand share; each has its file (rm3.py, rocchio.py, vector_rocchio.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from retrieval.errors import CompositionError, UserError
from retrieval.stage import Param, Stage
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index_stage import IndexStage
    from retrieval.index.stages import SparseStage

_BATCH = 64  # queries whose feedback is in memory at a time
_TERMS = 100_000  # of which it is known whether they are worth adding
_SHORTEST, _LONGEST = 2, 20  # characters of a term that a query is expanded by

Terms = Mapping[str, float]


class Feedback(Stage):
    """Base of a stage that expands queries.

    representation  the name of what is searched with the new query
    settings        of that representation, such as k1 and b
    """

    needs_run = True
    expands = True
    searches: tuple[str, str] = ("", "")  # a method of the stages that it can search; what they are called

    def __init__(
        self, model: str, own: Mapping[str, tuple[Param, Param]], settings: Mapping[str, Param]
    ) -> None:
        """own: each parameter's value and its default, which repr leaves out."""
        self.representation = model
        self.settings = dict(settings)
        given = {key: value for key, (value, usual) in own.items() if value != usual}
        self.params = {"model": model, **given, **settings}
        self._asked: IndexStage | None = None
        self._known: dict[str, bool] = {}  # whether a term is worth adding, in this representation

    def with_representation(self, stage: IndexStage) -> Self:
        """This stage over the stage of a representation. Raises CompositionError for one of another kind."""
        method, called = self.searches
        if not hasattr(stage, method):
            raise CompositionError(f"{self!r} searches {called}, and {stage!r} is none; name another one")
        twin = copy.copy(self)
        twin._asked, twin.corpus = stage, stage.corpus
        twin._known = {}
        return twin

    def _searched(self) -> Any:
        """The stage to search with, as deep as this one. Raises CompositionError without one."""
        if self._asked is None:
            raise CompositionError(
                f"{self!r} searches an index; use it in a pipeline of one, index.pipeline(text), or give it "
                "a stage: with_representation(index.bm25())"
            )
        return self._asked.within(self.depth)


class TermFeedback(Feedback):
    """Base of a stage that expands queries of terms.

    max_df        the largest share of documents that a term may stand in, to be added to a query
    alphanumeric  whether such a term must consist of letters and digits
    """

    searches = ("term_vectors", "terms of whole documents")
    max_df: float
    alphanumeric = False

    def expand(self, queries: Sequence[Query], run: Run) -> list[dict[str, float]]:
        """Term -> weight of each query, expanded, before collection statistics; {} for a blank query."""
        stage: SparseStage = self._searched()
        useful = self._useful(stage)
        found = []
        for at in range(0, len(queries), _BATCH):
            batch = queries[at : at + _BATCH]
            some = run.aligned(batch)
            docs, scores = stage.ordinals(some), some.scores.tolist()
            chosen = [self._chosen(begin, end) for begin, end in pairwise(some.offsets.tolist())]
            needed = np.unique(docs[np.array([place for each in chosen for place in each], np.int64)])
            read = zip(needed.tolist(), stage.term_vectors(needed), strict=True)
            vectors = {doc: {t: value for t, value in terms.items() if useful(t)} for doc, terms in read}
            for query, places in zip(batch, chosen, strict=True):
                feedback = [(vectors[int(docs[place])], scores[place]) for place in places]
                blank = not query.text.strip()
                found.append({} if blank else self._expanded(stage.method.query(query.text), feedback))
        return found

    def _chosen(self, begin: int, end: int) -> list[int]:
        """Which of the places begin:end of a run are the feedback of one query."""
        raise NotImplementedError

    def _expanded(self, query: Terms, feedback: Sequence[tuple[Terms, float]]) -> dict[str, float]:
        """The new query. feedback: useful terms and score of each document chosen, in that order."""
        raise NotImplementedError

    def _useful(self, stage: SparseStage) -> Callable[[str], bool]:
        most, known = self.max_df * stage.statistics.documents, self._known
        if len(known) > _TERMS:  # a server that runs for months must not grow
            known.clear()

        def useful(term: str) -> bool:
            worth = known.get(term)
            if worth is None:
                fits = _SHORTEST <= len(term) <= _LONGEST and (term.isalnum() or not self.alphanumeric)
                worth = known[term] = fits and stage.statistics.df(term) <= most
            return worth

        return useful

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None  # needs_run
        stage: SparseStage = self._searched()
        expanded = self.expand(queries, run)
        return stage.retrieve(queries, [stage.method.weigh(terms, stage.statistics) for terms in expanded])


def largest(terms: Terms, k: int) -> dict[str, float]:
    """The k terms of largest weight; among equals the first of the alphabet."""
    if len(terms) <= k:
        return dict(terms)
    return dict(sorted(terms.items(), key=lambda pair: (-pair[1], pair[0]))[:k])


def scaled(terms: Terms, norm: float) -> dict[str, float]:
    """The terms, their weights divided by the norm; nothing where it is 0."""
    return {term: weight / norm for term, weight in terms.items()} if norm > 0 else {}


def added(*parts: tuple[float, Terms]) -> dict[str, float]:
    """The sum of weighted terms; what is not above 0 is left out."""
    total: dict[str, float] = {}
    for weight, terms in parts:
        for term, value in terms.items():
            total[term] = total.get(term, 0.0) + weight * value
    return {term: value for term, value in total.items() if value > 0}


def check_counts(stage: str, **values: int) -> None:
    """Raises UserError for what is no whole number of 1 or more."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{stage} cannot take {key}={value!r}; it is a whole number of 1 or more")


def check_numbers(stage: str, most: float, **values: float) -> None:
    """Raises UserError for what is no number from 0 to `most`."""
    for key, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= most:
            raise UserError(f"{stage} cannot take {key}={value!r}; it is a number from 0 to {most:g}")
