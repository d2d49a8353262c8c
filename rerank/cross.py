"""Re-ranking with a cross-encoder: `bm25 % 100 >> cross(./model)`.

Every candidate is read together with the query; the score is the model's. Candidates of all queries are
packed without padding, sorted by length. What does not fit the model is cut off and counted in the trace
(tokens dropped): the end of the document, and of a query that takes more than half of the room. The model
(cross_model.py) is a directory: a BERT for sequence classification, or a B-PROP model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.learned import need_torch, positions
from retrieval.index.model_files import ModelFiles
from retrieval.registry import register
from retrieval.rerank.text_stage import TextStage, by_document
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.rerank.cross_model import CrossEncoder

_KINDS = ("cross", "bprop")


@register("cross")
class Cross(TextStage):
    """The stage.

    model      a model directory
    length     tokens of query and document together, special ones included; 0: as many as the model reads
    precision  float32, or bfloat16 for twice the speed where the processor has it
    """

    name = "cross"

    def __init__(self, model: str, length: int = 0, precision: str = "float32") -> None:
        need_torch("re-ranking with a cross-encoder")
        self.params: dict[str, Param] = {"model": model}
        if length:
            self.params["length"] = length
        if precision != "float32":
            self.params["precision"] = precision
        if precision not in ("float32", "bfloat16"):
            raise UserError(f"cross cannot take precision={precision!r}; give float32 or bfloat16")
        self._precision = precision
        self._files = files = ModelFiles.open(model)
        kind = files.settings.get("kind", "cross")
        if kind not in _KINDS:
            raise UserError(f"{model!r} holds a model of kind {kind!r}; cross takes {' or '.join(_KINDS)}")
        room = positions(files)
        most = length or files.settings.get("length", room)
        if isinstance(most, bool) or not isinstance(most, int) or not 8 <= most <= room:
            raise UserError(f"cross cannot take length={most!r}; {model!r} reads 8 to {room} tokens")
        self._length: int = most
        self._model: CrossEncoder | None = None

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        run, lookup = self._given(run)
        if self._model is None:
            from retrieval.index.tilde_model import best_device
            from retrieval.rerank.cross_model import load_cross

            self._model = load_cross(self._files)[0].eval().to(best_device())
        scores = np.empty(len(run.docs), np.float32)
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        asked = self._files.vocabulary.encode([one.text for one in queries])
        dropped = 0
        for documents, pairs, local in by_document(run, lookup):
            texts = [one.full_text() for one in documents]
            scores[pairs], lost = self._score(self._model, asked, query[pairs], texts, local)
            dropped += lost
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids, dropped=dropped)

    def _score(
        self,
        model: CrossEncoder,
        asked: list[NDArray[np.int32]],
        query: NDArray[np.int64],
        texts: list[str],
        document: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], int]:
        """(scores float32[n], tokens dropped) of the pairs asked[query[i]], texts[document[i]]."""
        from retrieval.index.tilde_model import encoder_precision
        from retrieval.rerank.cross_model import join, score_pairs

        vocabulary = self._files.vocabulary
        read = vocabulary.encode(texts)
        pairs = [
            join(asked[q], read[d], self._length, vocabulary.cls, vocabulary.sep)
            for q, d in zip(query.tolist(), document.tolist(), strict=True)
        ]
        with encoder_precision(model, self._precision):
            found = score_pairs(model, pairs)
        if not np.isfinite(found).all():
            raise UserError(
                f"{self._files.path!r} gives scores that are not finite; its files are damaged, or its "
                "training failed"
            )
        return found, sum(pair.dropped for pair in pairs)
