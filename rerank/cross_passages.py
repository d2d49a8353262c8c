"""A cross-encoder that reads each candidate's best block: `bm25 % 100 >> cross(./model, passages=parts)`.

A representation of blocks, `parts` here, scores the blocks of every candidate for the query, and only the
best one is read, wherever in the document it stands: a cheap model chooses what an expensive one reads, the
idea of Hofstätter et al., "Intra-Document Cascading: Learning to Select Passages for Neural Document Ranking"
(SIGIR 2021), here with the index's own lists or vectors as the cheap model. Several best blocks are pooled by
their maximum.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CompositionError, UserError
from retrieval.longdoc.block_stage import BlockStage, Passage
from retrieval.longdoc.pooling import pool
from retrieval.rerank.cross import Cross
from retrieval.rerank.text_stage import by_document
from retrieval.stage import Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.index.index_stage import IndexStage

_SUCH = '--sparse "{}=bm25(blocks=sentences, tokens=128)"'


class CrossPassages(Cross):
    """Candidates by their best blocks, the title before each where there is one.

    model, length, precision   as Cross
    passages  the representation of blocks that chooses
    best      how many blocks of a document are read (1)
    """

    reads_best = True
    settings: Mapping[str, Param] = {}  # of the representation

    def __init__(
        self, model: str = "", length: int = 0, precision: str = "float32", *, passages: str,
        best: int = 1, **others: Param,
    ) -> None:  # fmt: skip
        if others:
            raise UserError(
                f"cross cannot take {next(iter(others))}= with passages=; it then has model, length, "
                "precision and best, and the blocks are the representation's"
            )
        if not isinstance(passages, str) or not passages:
            raise UserError(f"cross cannot take passages={passages!r}; name a representation of blocks")
        if isinstance(best, bool) or not isinstance(best, int) or best < 1:
            raise UserError(f"cross cannot take best={best!r}; it is a whole number of 1 or more")
        super().__init__(model, length, precision)
        self.params |= {"passages": passages} | ({"best": best} if best != 1 else {})
        self.representation = passages
        self.missing = f"Where there is none of blocks, add one: retrieve add DIR {_SUCH.format(passages)}"
        self._best = best
        self._chooser: BlockStage | None = None

    def with_representation(self, stage: IndexStage) -> Self:
        """This stage with the representation that chooses, and the texts of its index.

        Raises CompositionError for one that is not of blocks, UserError for an index without text.
        """
        if not isinstance(stage, BlockStage):
            raise CompositionError(
                f"{self!r} reads the best block of each document, and {self.representation} is not of "
                f"blocks; name a representation that is, such as {_SUCH.format('parts')}"
            )
        twin = copy.copy(self)
        twin._chooser, twin.corpus, twin.documents = stage, stage.corpus, stage.documents
        return twin

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None  # for the type checker: needs_run
        scores, _, ends, dropped = self._read(queries, run)
        return Run(queries, run.offsets, run.docs, pool(scores, ends, "max"), run.doc_ids, dropped=dropped)

    def passages(self, query: str, ids: Sequence[str]) -> list[Passage]:
        """The block of each document that was read; of several the best, for which they are read again."""
        stage = self._choosing()
        if self._best == 1:
            return stage.passages(query, ids)
        docs = stage.view.find_many(ids).astype(np.int32)
        run = Run([Query("1", query)], [0, len(docs)], docs, np.zeros(len(docs)), stage.view.ids)
        scores, blocks, ends, _ = self._read(run.queries, run)
        found = {}
        for at, doc in enumerate(run.docs.tolist()):
            best = int(ends[at] + np.argmax(scores[ends[at] : ends[at + 1]]))
            number = int(blocks[best] - stage.blocks.offsets[doc])
            span = stage.blocks.span(int(blocks[best]))
            found[doc] = Passage(stage.view.ids[doc], number, *span, float(scores[best]))
        return [found[doc] for doc in docs.tolist()]

    def _choosing(self) -> BlockStage:
        if self._chooser is None:
            raise CompositionError(
                f"{self!r} reads blocks of an index; use it in a pipeline of one, index.pipeline(text), or "
                f"give it a stage: with_representation(index.stage({self.representation!r}))"
            )
        return self._chooser

    def _read(
        self, queries: list[Query], run: Run
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64], int]:
        """(scores, blocks, ends, tokens dropped): candidate i has blocks[ends[i]:ends[i + 1]], best first."""
        stage = self._choosing()
        run, lookup = self._given(run)
        blocks, ends, dropped = stage.best_blocks(queries, run.offsets, stage.ordinals(run), self._best)
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        asked = self._reader.encode([one.text for one in queries])
        scores, sizes = np.empty(len(blocks), np.float32), np.diff(ends)
        for documents, pairs, which in by_document(run, lookup):
            counts = sizes[pairs]
            begins = np.cumsum(counts) - counts
            places = np.repeat(ends[pairs] - begins, counts) + np.arange(counts.sum())
            distinct, first, each = np.unique(blocks[places], return_index=True, return_inverse=True)
            owners = np.repeat(which, counts)[first]
            texts = []
            for block, owner in zip(distinct.tolist(), owners.tolist(), strict=True):
                start, end = stage.blocks.span(block)
                document = documents[owner]
                texts.append(document._replace(text=document.text[start:end]).full_text())
            scores[places], lost = self._pairs(asked, np.repeat(query[pairs], counts), texts, each)
            dropped += lost
        return scores, blocks, ends, dropped
