"""The stage of a dense representation: it retrieves at the head of a pipeline, after >> it re-scores.

A score is the inner product of the two vectors, summed in float64 in one order and rounded to float32
(exact.py): whatever structure found a document, its score is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index import exact
from retrieval.index.index_stage import IndexStage
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.dense import DenseMethod
    from retrieval.index.view import View

_BATCH = 256  # queries encoded and answered together
_PARAMETERS = "recall", "effort", "exact", "model", "backend", "precision", "device"


class DenseStage(IndexStage):
    """Search and re-scoring with one dense representation of an index.

    params  recall (.95): what the approximate structure has to have reached when it was built; effort: its
            nprobe, efSearch ... instead; exact=true: no structure; model, backend, precision, device: another
            copy, or another way of computing, of the very model that the documents were encoded with
    masks   per segment, which documents may be returned
    unread  ordinals of the first documents of segments whose structure is not ours to read (View.trust)
    """

    def __init__(
        self,
        view: View,
        name: str,
        method: DenseMethod,
        params: Mapping[str, Param],
        *,
        masks: Sequence[NDArray[np.uint8]] | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(view, name, params)
        self.method = method
        self._threads = threads
        self._masks = view.masks(None) if masks is None else masks
        self._recall, self._effort, self._exact = _search_parameters(name, params)
        self._runtime = {key: params[key] for key in _PARAMETERS[3:] if key in params}
        if "model" in params:
            method.query_encoder(self._runtime)  # another model is refused here, not at the first query
        self.unread = [
            segment.base
            for segment in view.segments
            if not self._exact and self._segment(segment).structure and self._structure(segment) is None
        ]

    def _segment(self, segment: Any) -> Any:
        return segment.vectors(self.name)

    def _structure(self, segment: Any) -> Any:
        return None if self._exact else self._segment(segment).ann(self.view.trust)

    def _encode(self, queries: Sequence[Query]) -> tuple[NDArray[np.float32], int]:
        made = self.method.query_encoder(self._runtime).encode([query.text for query in queries], "query")
        for query, row in zip(queries, made.rows, strict=True):
            if not np.isfinite(row).all():
                raise UserError(f"query {query.query_id!r}: its vector is not finite; is the model damaged?")
        return made.rows, int(made.dropped.sum())

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if run is not None:
            return self._rescore(queries, run)
        found: list[tuple[NDArray[np.int32], NDArray[np.float32]]] = []
        dropped = 0
        for at in range(0, len(queries), _BATCH):
            rows, lost = self._encode(queries[at : at + _BATCH])
            found += self.retrieve(rows)
            dropped += lost
        offsets = np.zeros(len(queries) + 1, np.int64)
        np.cumsum([len(docs) for docs, _ in found], out=offsets[1:])
        docs = np.concatenate([np.empty(0, np.int32), *(docs for docs, _ in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)])
        made = Run(queries, offsets, docs, scores, self.view.ids, dropped=dropped)
        return made.cut(self.depth)

    def retrieve(self, rows: NDArray[np.float32]) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """(ordinals, scores) of up to `depth` documents of each segment, for each row of float32[q, dim]."""
        parts: list[list[tuple[NDArray[Any], NDArray[np.float32]]]] = [[] for _ in rows]
        for segment, mask in zip(self.view.segments, self._masks, strict=True):
            vectors = self._segment(segment).vectors
            rows = exact.checked(rows, vectors.shape[1], "query")
            structure = self._structure(segment)
            options = {"alive": mask, "rank": segment.store.rank, "threads": self._threads}
            if structure is None:
                found = exact.search(vectors, rows, self.depth, **options)
            else:
                found = structure.search(
                    vectors, rows, self.depth, recall=self._recall, effort=self._effort, **options
                )
            for place, (local, scores) in enumerate(found):
                parts[place].append((local + segment.base, scores))
        return [
            (
                np.concatenate([np.empty(0, np.int64), *(docs for docs, _ in each)]).astype(np.int32),
                np.concatenate([np.empty(0, np.float32), *(scores for _, scores in each)]),
            )
            for each in parts
        ]

    def _rescore(self, queries: list[Query], run: Run) -> Run:
        docs = self.ordinals(run)
        scores = np.zeros(len(docs), np.float32)
        dropped = 0
        for at in range(0, len(queries), _BATCH):
            rows, lost = self._encode(queries[at : at + _BATCH])
            dropped += lost
            for place, row in enumerate(rows, at):
                span = slice(int(run.offsets[place]), int(run.offsets[place + 1]))
                scores[span] = self._scores(row, docs[span])
        return Run(queries, run.offsets, docs, scores, self.view.ids, dropped=dropped)

    def _scores(self, row: NDArray[np.float32], docs: NDArray[np.int32]) -> NDArray[np.float32]:
        scores = np.zeros(len(docs), np.float32)
        for segment in self.view.segments:
            local = docs.astype(np.int64) - segment.base
            inside = np.flatnonzero((local >= 0) & (local < segment.documents))
            if len(inside):
                scores[inside] = exact.rescore(self._segment(segment).vectors, row, local[inside])
        return scores

    def explain(self, query: str, ordinal: int) -> dict[str, Any]:
        """Score of one document; a vector has no terms to show."""
        rows, _ = self._encode([Query("1", query)])
        score = self._scores(rows[0], np.array([ordinal], np.int32))
        return {"representation": self.name, "score": float(score[0]), "terms": []}


def _search_parameters(name: str, params: Mapping[str, Param]) -> tuple[float, int | None, bool]:
    """(recall, effort, exact). Raises UserError."""
    for key in params:
        if key not in _PARAMETERS:
            raise UserError(f"{name} has no parameter {key!r}; it has {', '.join(_PARAMETERS)}")
    recall, effort, only = params.get("recall", 0.95), params.get("effort"), params.get("exact", False)
    if isinstance(recall, bool) or not isinstance(recall, (int, float)) or not 0 < recall <= 1:
        raise UserError(f"{name} cannot take recall={recall!r}; it is a share of 1, such as 0.95")
    if effort is not None and (isinstance(effort, bool) or not isinstance(effort, int) or effort < 1):
        raise UserError(f"{name} cannot take effort={effort!r}; it is a whole number of 1 or more")
    if not isinstance(only, bool):
        raise UserError(f"{name} cannot take exact={only!r}; it is true or false")
    return float(recall), effort, only
