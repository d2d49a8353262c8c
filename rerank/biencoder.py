"""Re-ranking with a dense encoder, without vectors in the index: `bm25 % 100 >> biencoder(./model)`.

Query and candidates are encoded apart, each distinct candidate once; the score is the inner product. Pairs
of long documents (SMITH, CIKM 2020) are re-ranked so too, with reads=passage where the query is a
document. With blocks=sentences a candidate is cut into blocks (longdoc/splitter.py), which are encoded each
by itself and pooled (longdoc/pooling.py): MaxP of a passage encoder. Tokens that the model did not read are
counted in the trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoder import DenseEncoder, Kind
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder
from retrieval.longdoc.pooling import pool
from retrieval.longdoc.splitter import SETTINGS, Splitter, room, take_settings
from retrieval.registry import register
from retrieval.rerank.text_stage import TextStage, by_document
from retrieval.stage import Param
from retrieval.types import Document, Query, Run

_POOLED = ("max", "first", "sum", "mean")


@register("biencoder")
class BiEncoder(TextStage):
    """The stage.

    model      what --dense takes: a model directory, a GGUF file, a fetched hub id
    reads      how queries are encoded: query, or passage where they are documents
    aggregate  with blocks: max, first, sum, or mean of the `best` ones
    settings   the splitter's, where there is `blocks`, and the encoder's (precision, length ...)

    Raises UserError, UnknownName, MissingExtra.
    """

    name = "biencoder"

    def __init__(
        self, model: str, reads: str = "query", aggregate: str = "max", best: int = 3, **settings: Param
    ) -> None:
        own: dict[str, Param] = {"reads": reads, "aggregate": aggregate, "best": best}
        usual: dict[str, Param] = {"reads": "query", "aggregate": "max", "best": 3}
        self.params = {"model": model, **{k: v for k, v in own.items() if v != usual[k]}, **settings}
        if reads not in ("query", "passage"):
            raise UserError(f"biencoder cannot take reads={reads!r}; it is query or passage")
        if aggregate not in _POOLED:
            raise UserError(
                f"biencoder cannot take aggregate={aggregate!r}; it is one of {', '.join(_POOLED)}"
            )
        if isinstance(best, bool) or not isinstance(best, int) or best < 1:
            raise UserError(f"biencoder cannot take best={best!r}; it is a whole number of 1 or more")
        self._kind: Kind = "passage" if reads == "passage" else "query"
        self._how, self._best = aggregate, best
        blocks = "blocks" in settings
        cut = {key: value for key, value in settings.items() if blocks and key in SETTINGS}
        rest = {key: value for key, value in settings.items() if key not in cut}
        self._encoder: DenseEncoder = open_encoder(model, params=rest)
        self._splitter: Splitter | None = None
        if blocks:
            offsets: Any = getattr(self._encoder, "offsets", None)
            self._splitter = Splitter(take_settings(self.name, cut, room(self._encoder)), offsets)

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        run, lookup = self._given(run)
        asked = self._encoder.encode([one.text for one in queries], self._kind)
        dropped = int(asked.dropped.sum())
        scores = np.empty(len(run.docs), np.float32)
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        for documents, pairs, local in by_document(run, lookup):
            rows, offsets, lost = self._read(documents)
            dropped += lost
            for pair, doc in zip(pairs.tolist(), local.tolist(), strict=True):
                mine = rows[offsets[doc] : offsets[doc + 1]] @ asked.rows[query[pair]]
                scores[pair] = pool(mine, np.array([0, len(mine)]), self._how, k=self._best)[0]
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids, dropped=dropped)

    def _read(self, documents: list[Document]) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """(vectors, where each document's begin, tokens dropped)."""
        if self._splitter is None:
            made = self._encoder.encode([one.full_text() for one in documents], "passage")
            return made.rows, np.arange(len(documents) + 1), int(made.dropped.sum())
        found = self._splitter.blocks(documents)
        texts = [
            part.full_text()
            for document, blocks in zip(documents, found, strict=True)
            for part in self._splitter.documents(document, blocks)
        ]
        made = self._encoder.encode(texts, "passage")
        lost = sum(block.dropped for blocks in found for block in blocks) + int(made.dropped.sum())
        return made.rows, np.cumsum([0, *map(len, found)]), lost
