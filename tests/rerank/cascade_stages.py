"""Stages whose work can be seen: a retriever of given scores, re-rankers that count the pairs they read."""

from __future__ import annotations

from time import sleep

import numpy as np

from retrieval.stage import Stage
from retrieval.types import Query, Run


class Fixed(Stage):
    """Retrieves n documents d00, d01, ... by falling score."""

    name = "fixed"

    def __init__(self, documents: int, seconds: float = 0.0) -> None:
        self.ids = [f"d{at:03d}" for at in range(documents)]
        self.seconds = seconds

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        sleep(self.seconds)
        size = min(self.depth, len(self.ids))
        docs = np.tile(np.arange(size), len(queries))
        return Run(queries, np.arange(len(queries) + 1) * size, docs, -docs.astype(float), self.ids)


class Scored(Stage):
    """Re-ranks by scores[ordinal] (default: the last document first) and counts the pairs that it reads."""

    needs_run = True

    def __init__(self, name: str = "scored", scores: list[float] | None = None, seconds: float = 0.0) -> None:
        self.name = name
        self.scores = None if scores is None else np.array(scores, np.float32)
        self.seconds = seconds
        self.read: list[int] = []

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None
        self.read.append(len(run.docs))
        sleep(self.seconds * len(run.docs))
        scores = run.docs.astype(np.float32) if self.scores is None else self.scores[run.docs]
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids)


def ids(run: Run, query: str = "1") -> list[str]:
    """Documents of a query, in order."""
    return [hit.doc_id for hit in run[query]]
