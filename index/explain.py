"""Explanations: rank, score and per-term contributions of a document at each representation of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retrieval.index.index_stage import IndexStage
from retrieval.index.view import no_document
from retrieval.stage import Stage
from retrieval.types import Query

if TYPE_CHECKING:
    from retrieval.index.reader import IndexReader


def explain(index: IndexReader, query: str, doc_id: str, pipeline: str | None = None) -> dict[str, Any]:
    """{"query", "id", "pipeline", "rank", "stages": [{"representation", "score", "rank", "terms": [...]}]}.

    rank: among the documents that the pipeline returns, None if it is not one of them.
    """
    stage = index.pipeline(pipeline)
    view = index._need_view()
    ordinal = view.find(doc_id)
    if ordinal is None:
        raise no_document(doc_id)
    return {
        "query": query,
        "id": doc_id,
        "pipeline": repr(stage),
        "rank": _rank(stage, query, doc_id),
        "stages": [
            {**leaf.explain(query, ordinal), "rank": _rank(leaf, query, doc_id)} for leaf in leaves(stage)
        ],
    }


def _rank(stage: Stage, query: str, doc_id: str) -> int | None:
    hits = stage([Query("1", query)])["1"]
    return next((hit.rank for hit in hits if hit.doc_id == doc_id), None)


def leaves(stage: Stage) -> Iterator[IndexStage]:
    """The representations that a pipeline asks, in order."""
    if isinstance(stage, IndexStage):
        yield stage
    for part in stage.parts:
        yield from leaves(part)
