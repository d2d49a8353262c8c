"""Documents near the best ones join the candidates: `bm25 % 100 >> neighbours(minilm) >> cross`.

A re-ranker can only find what the first stage found. Documents near good ones tend to be good as well (the
cluster hypothesis), so for the best `docs` documents of each run the k nearest of the whole index are looked
up in a representation: vectors by inner product, terms by asking with the document's own. They come behind
the run, the nearest first; a stage that follows scores them all. Neighbours are computed exactly when they
are needed, from what the index stores.

Differs from the papers, whose graph of neighbours is made beforehand: nothing is precomputed, and the pool
grows once, not after every batch that a re-ranker has scored.

MacAvaney, Tonellotto, Macdonald: Adaptive re-ranking with a corpus graph. CIKM 2022. Kulkarni, MacAvaney,
Goharian, Frieder: Lexically-accelerated dense retrieval. SIGIR 2023.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.registry import register
from retrieval.rerank.feedback import Feedback, check_counts
from retrieval.stage import Param
from retrieval.types import Query, Run

_BATCH = 256  # documents whose neighbours are looked up together


@register("neighbours")
class Neighbours(Feedback):
    """The stage.

    model     the representation that says what is near: dense, or of terms
    docs      documents of the run, from the first, whose neighbours join
    k         neighbours of each, itself left out
    settings  of the representation (recall, exact ...)

    Raises UserError; CompositionError for a representation of blocks.
    """

    name = "neighbours"
    searches = ("retrieve", "whole documents")

    def __init__(self, model: str, docs: int = 10, k: int = 8, **settings: Param) -> None:
        check_counts(self.name, docs=docs, k=k)
        super().__init__(model, {"docs": (docs, 10), "k": (k, 8)}, settings)
        self._docs, self._k = docs, k

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None  # needs_run
        stage = self._searched().within(self._k + 1)
        docs, offsets = stage.ordinals(run), run.offsets
        firsts = [docs[start : min(end, start + self._docs)] for start, end in pairwise(offsets)]
        near = self._near(stage, np.unique(np.concatenate([np.empty(0, np.int32), *firsts])))
        ends, all_docs, all_scores = [0], [], []
        for at, seeds in enumerate(firsts):
            mine = slice(offsets[at], offsets[at + 1])
            added = self._added(docs[mine], [near[int(seed)] for seed in seeds])
            scores = run.scores[mine]
            low = float(scores[-1]) if len(scores) else 0.0
            below = low - max(1.0, abs(low)) * 1e-3 * np.arange(1, len(added) + 1)
            all_docs += [docs[mine], added]
            all_scores += [scores, below.astype(np.float32)]
            ends.append(ends[-1] + len(docs[mine]) + len(added))
        columns = np.concatenate([np.empty(0, np.int32), *all_docs]), np.concatenate([[], *all_scores])
        return Run(queries, ends, *columns, doc_ids=stage.view.ids).cut(self.depth)

    def _near(self, stage: Any, docs: NDArray[np.int32]) -> dict[int, tuple[NDArray[Any], NDArray[Any]]]:
        """Ordinal -> (ordinals, scores) of the documents nearest to it, itself left out."""
        found: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        for at in range(0, len(docs), _BATCH):
            batch = docs[at : at + _BATCH]
            if hasattr(stage, "vectors"):
                rows = stage.retrieve(stage.vectors(batch))
            else:
                weights = [stage.method.weigh(terms, stage.statistics) for terms in stage.term_vectors(batch)]
                run = stage.retrieve([Query(str(doc), "") for doc in batch], weights)
                ends = run.offsets
                rows = [(run.docs[a:b], run.scores[a:b]) for a, b in pairwise(ends)]
            for doc, (others, scores) in zip(batch.tolist(), rows, strict=True):
                best = np.argsort(-scores, kind="stable")  # of several segments, each with its own
                kept = best[others[best] != doc][: self._k]
                found[doc] = others[kept], scores[kept]
        return found

    def _added(
        self, docs: NDArray[np.int32], near: list[tuple[NDArray[Any], NDArray[Any]]]
    ) -> NDArray[np.int32]:
        """The neighbours that are not among `docs`, once each, the nearest to any first."""
        best: dict[int, float] = {}
        for others, scores in near:
            for doc, score in zip(others.tolist(), scores.tolist(), strict=True):
                best[doc] = max(score, best.get(doc, score))
        known = set(docs.tolist())
        new = [doc for doc in best if doc not in known]
        return np.array(sorted(new, key=lambda doc: (-best[doc], doc)), np.int32)
