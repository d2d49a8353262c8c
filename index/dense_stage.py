"""The stage of a dense representation: it retrieves at the head of a pipeline, after >> it re-scores.

A score is the inner product of the two vectors, summed in float64 in one order and rounded to float32
(exact.py): whatever structure found a document, its score is the same to the last bit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import Kind
from retrieval.errors import UserError
from retrieval.index import exact
from retrieval.index.index_stage import IndexStage
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.dense import DenseMethod
    from retrieval.index.vector_part import VectorPart
    from retrieval.index.view import SegmentView, View

_WORTH_A_GPU = 1 << 22  # numbers; fewer are read from memory sooner than a device answers
_BATCH = 256  # queries encoded and answered together
_EFFORT = "nprobe", "ef", "refine"
_RUNTIME = "model", "backend", "precision", "device"
_PARAMETERS = "recall", *_EFFORT, "exact", "reads", *_RUNTIME


class DenseStage(IndexStage):
    """Search and re-scoring with one dense representation of an index.

    params  recall (.95): what the approximate structure has to have reached when it was built; instead of it
            nprobe, ef or refine, as the kind of structure has them; exact=true: no structure; model, backend,
            precision, device: another copy, or another way of computing, of the very model that the documents
            were encoded with; reads (query): passage, where queries are documents, encoded as such
    masks   per segment, which documents may be returned
    unread  why a structure that is there is not read, so that the search is exact; empty where none is
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
        self._kind = _kind(name, params.get("reads", "query"))
        self._runtime = {key: params[key] for key in _RUNTIME if key in params}
        if "model" in params:
            method.query_encoder(self._runtime)  # another model is refused here, not at the first query
        reasons = ("" if self._exact else self._part(each).unread(view.trust) for each in view.segments)
        self.unread = next(filter(None, reasons), "")
        self._on_gpu: dict[int, Any] = {}  # of a segment's base: its vectors on the device

    def _part(self, segment: SegmentView) -> VectorPart:
        return segment.vectors(self.name)

    def _search(self, segment: SegmentView, rows: Any, mask: NDArray[np.uint8]) -> list[exact.Found]:
        """The best of one segment: through its structure, on a GPU, or on the CPU."""
        part = self._part(segment)
        rows = exact.checked(rows, part.dim, "query")
        rank = segment.store.rank
        structure = None if self._exact else part.ann(self.view.trust)
        if structure is not None:
            return structure.search(
                part.vectors, rows, self.depth, recall=self._recall, effort=self._effort, alive=mask,
                rank=rank, threads=self._threads,
            )  # fmt: skip
        if part.vectors.size >= _WORTH_A_GPU and self._runtime.get("device", "auto") != "cpu" and has_gpu():
            from retrieval.index.exact_gpu import ExactGpu

            if segment.base not in self._on_gpu:
                self._on_gpu[segment.base] = ExactGpu(part.vectors)
            found: list[exact.Found] = self._on_gpu[segment.base].search(
                rows, self.depth, alive=mask, rank=rank
            )
            return found
        return exact.search(
            part.vectors, rows, self.depth, alive=mask, rank=rank, threads=self._threads, norm=part.norm
        )

    def encode(self, queries: Sequence[Query]) -> tuple[NDArray[np.float32], int]:
        """(float32[q, dim], tokens cut off) of queries. Raises UserError for a vector that is not finite."""
        made = self.method.query_encoder(self._runtime).encode([query.text for query in queries], self._kind)
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
            batch = queries[at : at + _BATCH]
            rows, lost = self.encode(batch)
            found += self.retrieve(rows)
            dropped += lost
        return self.ranked(queries, found, dropped)

    def ranked(
        self,
        queries: Sequence[Query],
        found: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]],
        dropped: int = 0,
    ) -> Run:
        """The run of what retrieve() found for each query; dropped: tokens of the queries."""
        nothing = np.empty(0, np.int32), np.empty(0, np.float32)
        # A blank query has a vector too, which means nothing.
        found = [each if query.text.strip() else nothing for query, each in zip(queries, found, strict=True)]
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
            for place, (local, scores) in enumerate(self._search(segment, rows, mask)):
                parts[place].append((local + segment.base, scores))
        return [
            (
                np.concatenate([np.empty(0, np.int64), *(docs for docs, _ in each)]).astype(np.int32),
                np.concatenate([np.empty(0, np.float32), *(scores for _, scores in each)]),
            )
            for each in parts
        ]

    def vectors(self, docs: NDArray[np.int32]) -> NDArray[np.float32]:
        """The vectors float32[n, dim] of documents by ordinal."""
        rows = np.empty((len(docs), self.method.settings["identity"]["dim"]), np.float32)
        for segment in self.view.segments:
            local = docs.astype(np.int64) - segment.base
            inside = np.flatnonzero((local >= 0) & (local < segment.documents))
            if len(inside):
                rows[inside] = self._part(segment).vectors[local[inside]]
        return rows

    def scores(
        self, queries: list[Query], offsets: NDArray[np.int64], docs: NDArray[np.int32]
    ) -> tuple[NDArray[np.float32], int]:
        """See IndexStage."""
        scores = np.zeros(len(docs), np.float32)
        dropped = 0
        for at in range(0, len(queries), _BATCH):
            rows, lost = self.encode(queries[at : at + _BATCH])
            dropped += lost
            for place, row in enumerate(rows, at):
                span = slice(int(offsets[place]), int(offsets[place + 1]))
                scores[span] = self._scores(row, docs[span])
        return scores, dropped

    def _scores(self, row: NDArray[np.float32], docs: NDArray[np.int32]) -> NDArray[np.float32]:
        scores = np.zeros(len(docs), np.float32)
        for segment in self.view.segments:
            local = docs.astype(np.int64) - segment.base
            inside = np.flatnonzero((local >= 0) & (local < segment.documents))
            if len(inside):
                scores[inside] = exact.rescore(self._part(segment).vectors, row, local[inside])
        return scores

    def explain(self, query: str, ordinal: int) -> dict[str, Any]:
        """Score of one document; a vector has no terms to show."""
        rows, _ = self.encode([Query("1", query)])
        score = self._scores(rows[0], np.array([ordinal], np.int32))
        return {"representation": self.name, "score": float(score[0]), "terms": []}


def has_gpu() -> bool:
    """Whether torch, where it has been loaded, sees a CUDA device."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def _kind(name: str, reads: Param) -> Kind:
    if reads == "query":
        return "query"
    if reads == "passage":
        return "passage"
    raise UserError(f"{name} cannot take reads={reads!r}; it is query or passage")


def _search_parameters(name: str, params: Mapping[str, Param]) -> tuple[float, dict[str, int] | None, bool]:
    """(recall, effort, exact). Raises UserError."""
    for key in params:
        if key not in _PARAMETERS:
            raise UserError(f"{name} has no parameter {key!r}; it has {', '.join(_PARAMETERS)}")
    recall, only = params.get("recall", 0.95), params.get("exact", False)
    if isinstance(recall, bool) or not isinstance(recall, (int, float)) or not 0 < recall <= 1:
        raise UserError(f"{name} cannot take recall={recall!r}; it is a share of 1, such as 0.95")
    effort: dict[str, int] = {}
    for key in _EFFORT:
        value = params.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} cannot take {key}={value!r}; it is a whole number of 1 or more")
        if key in params:
            effort[key] = value
    if not isinstance(only, bool):
        raise UserError(f"{name} cannot take exact={only!r}; it is true or false")
    return float(recall), effort or None, only
