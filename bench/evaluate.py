"""evaluate: a run against judgements, each measure for each judged query, by the tie rule of that measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.measures import UNJUDGED, Measure, Ranking, parse_all
from retrieval.bench.statistics import Interval, bootstrap
from retrieval.errors import UserError
from retrieval.types import Run

Scores = Mapping[str, Mapping[str, float]]
Judgements = Mapping[str, Mapping[str, int]]
DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "R@100", "R@1000")


@dataclass(frozen=True)
class Evaluation:
    """What a run is worth. Every judged query counts; one without hits counts 0.

    query_ids: the judged queries, in the order of the judgements.
    values: measure -> float64 [queries], in the same order.
    unanswered: how many of them the run does not hold.
    unjudged: how many queries of the run have no judgements, and were left out.
    """

    measures: tuple[Measure, ...]
    query_ids: list[str]
    values: dict[str, NDArray[np.float64]]
    unanswered: int
    unjudged: int

    @property
    def means(self) -> dict[str, float]:
        """Measure -> mean over the judged queries (NumQ, NumRel and NumRet: the sum)."""
        return {str(measure): measure.summary(self.values[str(measure)]) for measure in self.measures}

    @property
    def per_query(self) -> dict[str, dict[str, float]]:
        """Query id -> measure -> value."""
        columns = {name: values.tolist() for name, values in self.values.items()}
        return {qid: {name: columns[name][i] for name in columns} for i, qid in enumerate(self.query_ids)}

    @property
    def warning(self) -> str:
        """One sentence about the queries that only one side knows; empty when both know the same ones."""
        parts = []
        if self.unanswered:
            parts.append(
                f"{self.unanswered:,} of {len(self.query_ids):,} judged queries have no hits and count 0"
            )
        if self.unjudged:
            parts.append(f"{self.unjudged:,} queries of the run are not judged and were left out")
        return "; ".join(parts)

    def interval(self, measure: str, level: float = 0.95, seed: int = 0) -> Interval:
        """Bootstrap confidence interval of a measure's mean."""
        return bootstrap(self.values[measure], level=level, seed=seed)


def evaluate(
    run: Run | Scores,
    judgements: Judgements,
    measures: Iterable[str | Measure] = DEFAULT_MEASURES,
    *,
    same_collection: bool = False,
) -> Evaluation:
    """Scores a run. `run` is a Run, or {query id: {document id: score}}, whose scores keep double precision.

    judgements: a Qrels, or {query id: {document id: grade}}. measures: as `retrieval.bench.measures.parse`
    takes them. Raises UnknownName for a measure; UserError when run and judgements have no query or, though
    there are hits, no document in common: they belong to different collections, and every figure would be 0.
    """
    wanted = parse_all(measures)
    judged = {query_id: grades for query_id, grades in judgements.items() if grades}
    table = _Table(run)
    known = [query_id for query_id in judged if query_id in table.places]
    if not known:
        raise UserError(
            f"run and judgements share no query: the run has {_some(table.places)}, the judgements "
            f"{_some(judged)}; give the judgements of the same topics"
        )
    ordinals = table.ordinals_of(known, {doc for query_id in known for doc in judged[query_id]})
    found = table.example(known)
    if not ordinals and found is not None and not same_collection:
        raise UserError(
            f"run and judgements share no document: the run has {found!r}, the judgements "
            f"{_some(judged[known[0]])}; give the judgements of the same collection"
        )
    values = {str(measure): np.zeros(len(judged)) for measure in wanted}
    for place, (query_id, grades) in enumerate(judged.items()):
        if query_id not in table.places:
            continue
        rankings: dict[bool, Ranking] = {}
        for measure in wanted:
            if measure.marco not in rankings:
                rankings[measure.marco] = table.ranking(query_id, grades, ordinals, measure.marco)
            values[str(measure)][place] = measure.value(rankings[measure.marco])
    unanswered = len(judged) - len(known)
    return Evaluation(tuple(wanted), list(judged), values, unanswered, len(table.places) - len(known))


class _Table:
    """A run's columns in the order of trec_eval, and one query's grades in that of MS MARCO on request."""

    def __init__(self, run: Run | Scores) -> None:
        # Run keeps trec_eval's order; scores in double precision decide MS MARCO's, where there are any.
        self.exact: Scores | None = None if isinstance(run, Run) else run
        self.run = run if isinstance(run, Run) else Run.from_dict(run)
        self.places = {query_id: place for place, query_id in enumerate(self.run.query_ids)}

    def _span(self, query_id: str) -> slice:
        place = self.places[query_id]
        return slice(int(self.run.offsets[place]), int(self.run.offsets[place + 1]))

    def example(self, query_ids: Sequence[str]) -> str | None:
        """The first document that any of the queries has found; None where none has."""
        spans = map(self._span, query_ids)
        docs = (int(self.run.docs[span.start]) for span in spans if span.stop > span.start)
        return next((self.run.doc_ids[doc] for doc in docs), None)

    def ordinals_of(self, query_ids: Sequence[str], wanted: set[str]) -> dict[str, int]:
        """Document id -> ordinal of those `wanted` that any of the queries has found."""
        doc_ids = self.run.doc_ids
        seen = np.zeros(len(doc_ids), bool)
        for query_id in query_ids:
            seen[self.run.docs[self._span(query_id)]] = True
        named = ((doc_ids[ordinal], ordinal) for ordinal in np.flatnonzero(seen).tolist())
        return {doc_id: ordinal for doc_id, ordinal in named if doc_id in wanted}

    def ranking(
        self, query_id: str, grades: Mapping[str, int], ordinals: Mapping[str, int], marco: bool
    ) -> Ranking:
        judged = np.fromiter(grades.values(), np.int64, len(grades))
        if marco and self.exact is not None:
            hits = self.exact[query_id]
            ranked = sorted(hits, key=lambda doc: (-hits[doc], doc))
            return Ranking(np.array([grades.get(doc_id, UNJUDGED) for doc_id in ranked], np.int64), judged)
        span = self._span(query_id)
        docs = self._marco(span) if marco else self.run.docs[span]
        found = sorted((ordinals[doc_id], grade) for doc_id, grade in grades.items() if doc_id in ordinals)
        if not found:
            return Ranking(np.full(len(docs), UNJUDGED), judged)
        keys, known = np.array(found, np.int64).T
        at = np.minimum(np.searchsorted(keys, docs), len(keys) - 1)
        return Ranking(np.where(keys[at] == docs, known[at], UNJUDGED), judged)

    def _marco(self, span: slice) -> NDArray[np.int32]:
        """The documents by score descending, ties by id ascending: every tied group turned round."""
        docs, scores = self.run.docs[span], self.run.scores[span]
        if not (scores[1:] == scores[:-1]).any():
            return docs
        return docs[np.lexsort((np.arange(len(docs), 0, -1), -scores))]


def _some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in islice(names, 3))
