"""Rocchio's feedback on vectors: `minilm % 3 >> vector_rocchio(minilm) % 1000`.

query' = alpha query + beta mean(the vectors of the run's best documents) (Li, Mourad, Zhuang, Koopman and
Zuccon, TOIS 2023, "Vector-based PRF"; defaults as Pyserini has them). The documents' vectors are those of the
index: nothing but the query is encoded. The paper's "average" of the query and p documents is
alpha = 1 / (p + 1), beta = p / (p + 1). The run may come from any stage, a cross-encoder's for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from retrieval.registry import register
from retrieval.rerank.feedback import Feedback, check_counts, check_numbers
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.dense_stage import DenseStage

_BATCH = 256  # queries answered together


@register("vector_rocchio")
class VectorRocchio(Feedback):
    """The stage. Its score is the inner product with the new query vector.

    model     the dense representation to search
    fb_docs   documents of the run whose vectors are averaged
    alpha     weight of the query's vector
    beta      weight of the documents' mean
    settings  of the representation (recall, exact, reads ...)

    Raises UserError.
    """

    name = "vector_rocchio"
    searches = ("vectors", "vectors of whole documents")

    def __init__(
        self, model: str, fb_docs: int = 3, alpha: float = 0.9, beta: float = 0.1, **settings: Param
    ) -> None:
        check_counts(self.name, fb_docs=fb_docs)
        check_numbers(self.name, 1e6, alpha=alpha, beta=beta)
        own: dict[str, tuple[Param, Param]] = {
            "fb_docs": (fb_docs, 3), "alpha": (alpha, 0.9), "beta": (beta, 0.1),
        }  # fmt: skip
        super().__init__(model, own, settings)
        self._docs, self._alpha, self._beta = fb_docs, alpha, beta

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None  # needs_run
        stage: DenseStage = self._searched()
        docs, offsets = stage.ordinals(run), run.offsets
        found = []
        dropped = 0
        for at in range(0, len(queries), _BATCH):
            rows, lost = stage.encode(queries[at : at + _BATCH])
            moved = self._alpha * rows.astype(np.float64)
            for place, row in enumerate(moved, at):
                feedback = docs[offsets[place] : min(offsets[place + 1], offsets[place] + self._docs)]
                if len(feedback):
                    row += self._beta * stage.vectors(feedback).mean(axis=0, dtype=np.float64)
            found += stage.retrieve(moved.astype(np.float32))
            dropped += lost
        return stage.ranked(queries, found, dropped)
