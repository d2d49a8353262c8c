"""A cross-encoder over blocks of long documents: `bm25 % 100 >> cross(./model, blocks=sentences)`.

Documents are cut by a splitter (longdoc/splitter.py) that counts the model's own tokens; each block is read
with the query as if it were a document, and the scores are pooled (longdoc/pooling.py): MaxP of Dai and
Callan, "Deeper Text Understanding for IR with Contextual Neural Language Modeling" (SIGIR 2019), or first,
sum, mean. Tokens are dropped only where a splitter drops some, or where query and block together do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.longdoc.block_stage import Passage
from retrieval.longdoc.blocks import Block
from retrieval.longdoc.pooling import pool
from retrieval.longdoc.splitter import SETTINGS, TITLE, Splitter, take_settings
from retrieval.rerank.cross import Cross
from retrieval.rerank.pairs import Ids
from retrieval.stage import Param
from retrieval.types import Document

_POOLED = ("max", "first", "sum", "mean")
_QUERY = 32  # tokens of the model's length that a block leaves to the query, by default
_LONGEST = 256  # tokens of a block by default, whatever a model could read


class CrossBlocks(Cross):
    """Candidates in blocks.

    model, length, precision   as Cross
    blocks, tokens, overlap, max_blocks, title, language, compat   the splitter's. tokens: by default what the
               model reads, 256 at most, less 32 for the query and 24 for the title
    aggregate  max (default), first, sum, or mean of the `best` blocks (3)
    """

    def __init__(
        self, model: str = "", length: int = 0, precision: str = "float32", *, aggregate: str = "max",
        best: int = 3, **settings: Param,
    ) -> None:  # fmt: skip
        super().__init__(model, length, precision)
        own: dict[str, Param] = {"aggregate": aggregate, "best": best}
        usual: dict[str, Param] = {"aggregate": "max", "best": 3}
        self.params |= settings
        self.params |= {key: one for key, one in own.items() if one != usual[key]}
        for key in settings:
            if key not in SETTINGS:
                raise UserError(
                    f"cross has no setting {key!r}; with blocks it has aggregate, best, {', '.join(SETTINGS)}"
                )
        if aggregate not in _POOLED:
            raise UserError(f"cross cannot take aggregate={aggregate!r}; it is one of {', '.join(_POOLED)}")
        if isinstance(best, bool) or not isinstance(best, int) or best < 1:
            raise UserError(f"cross cannot take best={best!r}; it is a whole number of 1 or more")
        self._how, self._best = aggregate, best
        usual_tokens = min(self._length - self._reader.frame.size - _QUERY, _LONGEST) - TITLE
        self._splitter = Splitter(
            take_settings("cross", settings, max(8, usual_tokens)), self._reader.offsets
        )

    def _score(
        self, asked: list[Ids], query: NDArray[np.int64], documents: list[Document], which: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], int]:
        blocks, texts = self._cut(documents)
        scores, offsets, dropped = self._score_blocks(asked, query, blocks, texts, which)
        lost = np.array([sum(block.dropped for block in each) for each in blocks])
        pooled = pool(scores, offsets, self._how, k=self._best)
        return pooled, dropped + int(lost[which].sum())

    def passages(self, query: str, ids: Sequence[str]) -> list[Passage]:
        """The best block of each document for a query, the first one among equals."""
        documents = list(self._texts()(list(ids)))
        blocks, texts = self._cut(documents)
        which = np.arange(len(documents))
        asked = self._reader.encode([query])
        scores, offsets, _ = self._score_blocks(asked, np.zeros_like(which), blocks, texts, which)
        found = []
        for at, doc_id in enumerate(ids):
            best = int(np.argmax(scores[offsets[at] : offsets[at + 1]]))
            block, score = blocks[at][best], scores[offsets[at] + best]
            found.append(Passage(doc_id, best, block.start, block.end, float(score)))
        return found

    def _cut(self, documents: list[Document]) -> tuple[list[list[Block]], list[str]]:
        """(the blocks of each document, the texts of all blocks behind one another)."""
        found = self._splitter.blocks(documents)
        if self._how == "first":
            found = [[blocks[0]] for blocks in found]
        texts = [
            part.full_text()
            for document, blocks in zip(documents, found, strict=True)
            for part in self._splitter.documents(document, blocks)
        ]
        return found, texts

    def _score_blocks(
        self,
        asked: list[Ids],
        query: NDArray[np.int64],
        blocks: list[list[Block]],
        texts: list[str],
        which: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
        """(score of each block, where those of each pair begin, tokens dropped) of Cross._score's pairs."""
        sizes = np.array([len(each) for each in blocks], np.int64)
        starts = np.append(0, np.cumsum(sizes))
        counts = sizes[which]
        offsets = np.append(0, np.cumsum(counts))
        each = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts[which], counts)
        scores, dropped = self._pairs(asked, np.repeat(query, counts), texts, each)
        return scores, offsets, dropped
