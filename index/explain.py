"""Explanations: rank, score and per-term contributions of a document at each representation of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from retrieval.index.index_stage import IndexStage
from retrieval.index.view import no_document
from retrieval.path import as_json, lost, path, reason
from retrieval.stage import Stage
from retrieval.types import Query

if TYPE_CHECKING:
    from retrieval.index.reader import IndexReader


def explain(
    index: IndexReader, query: str, doc_id: str, pipeline: str | None = None, budget: str | None = None
) -> dict[str, Any]:
    """Why a document has its rank, or why it is not there.

    {"query", "id", "pipeline", "rank", "stages", "path", "lost"}: rank among the documents that the pipeline
    returns, None if it is not one of them. stages: {"representation", "score", "rank", "terms", "block"} of
    every representation that the pipeline asks, each searched by itself. path: the document after every stage
    of the pipeline (retrieval/path.py), and lost: the one that lost it, with a reason; None if none did.
    """
    stage = index.pipeline(pipeline, budget=budget)
    view = index._need_view()
    ordinal = view.find(doc_id)
    if ordinal is None:
        raise no_document(doc_id)
    steps = path(stage, query, doc_id, view.documents)
    loser = lost(steps)
    return {
        "query": query,
        "id": doc_id,
        "pipeline": repr(stage),
        "rank": steps[-1].rank,
        "path": [as_json(step) for step in steps],
        "lost": None if loser is None else {**as_json(loser), "reason": reason(loser)},
        "stages": [
            {**leaf.explain(query, ordinal), "rank": _rank(leaf, query, doc_id)}
            for leaf in {repr(leaf): leaf for leaf in leaves(stage)}.values()
        ],
    }


def _rank(stage: Stage, query: str, doc_id: str) -> int | None:
    hits = stage([Query("1", query)])["1"]
    return next((hit.rank for hit in hits if hit.doc_id == doc_id), None)


def stages(stage: Stage) -> Iterator[Stage]:
    """What a pipeline is composed of, in order."""
    if not stage.parts:
        yield stage
    for part in stage.parts:
        yield from stages(part)


def leaves(stage: Stage) -> Iterator[IndexStage]:
    """The representations that a pipeline asks, in order."""
    yield from (part for part in stages(stage) if isinstance(part, IndexStage))
