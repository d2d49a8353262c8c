"""The nouns that every folder speaks: Document, Query, Hit, Run, Qrels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retrieval.errors import UserError
from retrieval.ordering import rank_order

DocIds: TypeAlias = Sequence[str]
"""Ordinal -> document id. May offer `rank` int32[n], each id's place in ascending order, to sort by."""


class Document(NamedTuple):
    """What is indexed: an id without white space, a text, perhaps a title, and fields to filter by."""

    doc_id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = {}

    def full_text(self) -> str:
        """What is searched: title, space, text; or whichever of the two is not empty."""
        return f"{self.title} {self.text}" if self.title and self.text else self.title or self.text


class Query(NamedTuple):
    """A question with an id."""

    query_id: str
    text: str


class Hit(NamedTuple):
    """One answer; rank counts from 1."""

    doc_id: str
    score: float
    rank: int


class StageTrace(NamedTuple):
    """What one leaf stage did to a batch of queries: wall seconds, documents in and out, tokens cut off."""

    stage: str
    seconds: float
    candidates_in: int
    candidates_out: int
    tokens_dropped: int


Queries: TypeAlias = "str | Query | Sequence[str | Query] | Mapping[str, str]"


def as_queries(queries: Queries) -> list[Query]:
    """Queries from a text, a Query, a sequence of both (texts are numbered from "1") or a mapping id -> text.

    Raises UserError for anything else and for an id that comes twice.
    """
    if isinstance(queries, (str, Query)):
        queries = [queries]
    elif isinstance(queries, Mapping):
        queries = [Query(query_id, text) for query_id, text in queries.items()]
    found = [
        query if isinstance(query, Query) else Query(str(number), query)
        for number, query in enumerate(queries, 1)
    ]
    seen: set[str] = set()
    for query_id, text in found:
        if not isinstance(text, str) or not isinstance(query_id, str):
            raise UserError(f"query {query_id!r}: {text!r} is no text; give strings or Query(query_id, text)")
        if query_id in seen:
            raise UserError(f"query id {query_id!r} comes twice; give every query its own id")
        seen.add(query_id)
    return found


class Run(Mapping[str, list[Hit]]):
    """Ranked documents for each query, in columns: query id -> list of Hit, built when looked at.

    query_ids   list of nq strings, texts likewise (texts may be empty)
    offsets     int64[nq + 1]: the slice of query i is offsets[i]:offsets[i + 1]
    docs        int32[n], ordinals into doc_ids
    scores      float32[n], finite
    doc_ids     ordinal -> id
    trace       StageTrace of every leaf stage that had a part in it, in order
    dropped     tokens that truncation cut off while the last stage made it

    The tie rule holds within each slice: score descending, then document id descending. `ordered=True`
    trusts the caller that it does already, and that the columns fit. Raises UserError for scores that are not
    finite, and otherwise for columns that do not fit.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        offsets: ArrayLike,
        docs: ArrayLike,
        scores: ArrayLike,
        doc_ids: DocIds,
        ordered: bool = False,
        *,
        trace: Iterable[StageTrace] = (),
        dropped: int = 0,
    ) -> None:
        self.query_ids = [query.query_id for query in queries]
        self.texts = [query.text for query in queries]
        self.offsets: NDArray[np.int64] = np.asarray(offsets, np.int64)
        self.docs: NDArray[np.int32] = np.asarray(docs, np.int32)
        self.scores: NDArray[np.float32] = np.asarray(scores, np.float32)
        self.doc_ids = doc_ids
        self.trace = list(trace)
        self.dropped = dropped
        self._places: dict[str, int] | None = None
        if not ordered:
            self._check_columns()
        self._check_scores()
        if not ordered:
            order = rank_order(self.offsets, self.docs, self.scores, doc_ids)
            self.docs, self.scores = self.docs[order], self.scores[order]

    def _check_columns(self) -> None:
        ends, size = self.offsets, len(self.docs)
        fits = len(ends) == len(self.query_ids) + 1 and ends[0] == 0 and ends[-1] == size
        if not fits or (len(ends) > 2 and (np.diff(ends) < 0).any()):
            raise UserError(
                f"the offsets of a run of {len(self.query_ids)} queries and {size} documents are "
                f"{len(self.query_ids) + 1} numbers that rise from 0 to {size}; got {ends.tolist()[:20]}"
            )
        if len(self.scores) != size:
            raise UserError(f"a run has {size} documents but {len(self.scores)} scores; give one score each")

    def _check_scores(self) -> None:
        finite = np.isfinite(self.scores)
        if not finite.all():
            place = int(np.argmin(finite))
            query = self.query_ids[int(np.searchsorted(self.offsets, place, side="right")) - 1]
            raise UserError(
                f"query {query!r}: document {self.doc_ids[int(self.docs[place])]!r} has the score "
                f"{self.scores[place]}, which cannot be ranked; scores are finite float32 numbers"
            )

    @classmethod
    def from_dict(cls, run: Mapping[str, Mapping[str, float]], texts: Mapping[str, str] | None = None) -> Run:
        """A run from {query id: {document id: score}}; texts, where given, are the queries' texts by id."""
        ordinals: dict[str, int] = {}
        docs = [ordinals.setdefault(doc, len(ordinals)) for hits in run.values() for doc in hits]
        try:
            exact = np.array([score for hits in run.values() for score in hits.values()], np.float64)
        except (TypeError, ValueError) as error:
            raise UserError(f"a score of the run is not a number ({error}); give floats") from None
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused as such
            scores = exact.astype(np.float32)
        offsets = np.cumsum([0, *(len(hits) for hits in run.values())])
        queries = [Query(query_id, (texts or {}).get(query_id, "")) for query_id in run]
        return cls(queries, offsets, np.array(docs, np.int32), scores, list(ordinals))

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{query id: {document id: score}}, in rank order."""
        return {query_id: {hit.doc_id: hit.score for hit in hits} for query_id, hits in self.items()}

    @property
    def queries(self) -> list[Query]:
        """The queries that were asked, in order."""
        return list(map(Query, self.query_ids, self.texts))

    def _place(self, query_id: object) -> int | None:
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.query_ids)}
        return self._places.get(query_id)  # type: ignore[call-overload, no-any-return]

    def __getitem__(self, query_id: str) -> list[Hit]:
        place = self._place(query_id)
        if place is None:
            raise KeyError(query_id)
        span = slice(self.offsets[place], self.offsets[place + 1])
        docs = self.docs[span]
        take = getattr(self.doc_ids, "take", None)  # tables on disk decode many at once
        ids = take(docs) if take else map(self.doc_ids.__getitem__, docs.tolist())
        scores = self.scores[span].tolist()
        return [Hit(*hit) for hit in zip(ids, scores, range(1, len(scores) + 1), strict=True)]

    def __contains__(self, query_id: object) -> bool:
        return self._place(query_id) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.query_ids)

    def __len__(self) -> int:
        return len(self.query_ids)

    def cut(self, k: int) -> Run:
        """The first k documents of each query."""
        if len(self.docs) <= k:
            return self
        lengths = np.diff(self.offsets)
        if not (lengths > k).any():
            return self
        rank = np.arange(len(self.docs)) - np.repeat(self.offsets[:-1], lengths)
        keep = rank < k
        return self._with(
            offsets=np.append(0, np.cumsum(np.minimum(lengths, k))),
            docs=self.docs[keep],
            scores=self.scores[keep],
        )

    def aligned(self, queries: Sequence[Query]) -> Run:
        """The same run for just these queries, in their order; one that it does not know has no hits."""
        if self.query_ids == [query.query_id for query in queries]:
            return self
        places = [self._place(query.query_id) for query in queries]
        spans = [(0, 0) if p is None else (int(self.offsets[p]), int(self.offsets[p + 1])) for p in places]
        keep = np.concatenate([np.arange(0), *(np.arange(start, end) for start, end in spans)])
        return self._with(
            query_ids=[query.query_id for query in queries],
            texts=[query.text for query in queries],
            offsets=np.cumsum([0, *(end - start for start, end in spans)]),
            docs=self.docs[keep],
            scores=self.scores[keep],
            _places=None,
        )

    def with_trace(self, trace: Iterable[StageTrace]) -> Run:
        """The same run with this history."""
        return self._with(trace=list(trace))

    def _with(self, **columns: Any) -> Run:
        twin = object.__new__(type(self))  # a fifth of what copy.copy takes
        vars(twin).update(vars(self), **columns)
        return twin

    def __repr__(self) -> str:
        return f"<Run: {len(self)} queries, {len(self.docs)} documents>"


def joined(runs: Sequence[Run]) -> Run:
    """One run of one or more that have different queries, in this order, with the first one's trace."""
    if len(runs) == 1:
        return runs[0]
    first = runs[0]
    queries = [query for run in runs for query in run.queries]
    if any(run.doc_ids is not first.doc_ids for run in runs):
        found = {query_id: hits for run in runs for query_id, hits in run.to_dict().items()}
        return Run.from_dict(found, dict(queries)).with_trace(first.trace)
    sizes = np.concatenate([np.diff(run.offsets) for run in runs])
    docs, scores = (np.concatenate([getattr(run, name) for run in runs]) for name in ("docs", "scores"))
    offsets = np.append(0, np.cumsum(sizes))
    return Run(queries, offsets, docs, scores, first.doc_ids, ordered=True, trace=first.trace)


class Qrels(Mapping[str, Mapping[str, int]]):
    """Judgements: query id -> {document id: relevance}; 0 is judged and not relevant."""

    def __init__(self, judgements: Mapping[str, Mapping[str, int]]) -> None:
        self._judgements = judgements

    @classmethod
    def from_dict(cls, judgements: Mapping[str, Mapping[str, int]]) -> Qrels:
        """Judgements from {query id: {document id: relevance}}, copied; UserError for what is no integer."""
        for query_id, judged in judgements.items():
            for doc_id, relevance in judged.items():
                if not isinstance(relevance, (int, np.integer)):
                    raise UserError(
                        f"query {query_id!r}: document {doc_id!r} is judged {relevance!r}; give an integer"
                    )
        return cls({q: {doc: int(rel) for doc, rel in judged.items()} for q, judged in judgements.items()})

    def to_dict(self) -> dict[str, dict[str, int]]:
        """{query id: {document id: relevance}}, a copy."""
        return {query_id: dict(judged) for query_id, judged in self.items()}

    def __getitem__(self, query_id: str) -> Mapping[str, int]:
        return self._judgements[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._judgements)

    def __len__(self) -> int:
        return len(self._judgements)

    def __repr__(self) -> str:
        return f"<Qrels: {len(self)} queries, {sum(map(len, self.values()))} judgements>"
