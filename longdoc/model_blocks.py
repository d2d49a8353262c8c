"""Vectors of blocks by an encoder that reads a document as a whole and cuts it itself, such as SMITH."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import UserError
from retrieval.index.dense_builder import Spill, built
from retrieval.index.record_builder import COUNTED, slices, too_long
from retrieval.index.record_builder import FACTS as ENCODING
from retrieval.index.vector_part import write_vectors
from retrieval.longdoc.block_table import BlockTableWriter
from retrieval.longdoc.blocks import Block

if TYPE_CHECKING:
    from retrieval.index.dense import DenseMethod
    from retrieval.part import Part
    from retrieval.types import Document

_SLICE = 1 << 18  # characters of documents that are encoded together


class ModelBlockBuilder:
    """Writes the part of one segment. What was encoded does not survive a kill: it begins anew."""

    def __init__(self, method: DenseMethod, scratch: str) -> None:
        self._method = method
        self._dim = int(method.settings["identity"]["dim"])
        self._spill = Spill(scratch, self._dim)
        self._table = BlockTableWriter()
        self._facts = dict.fromkeys(COUNTED, 0)
        self._seconds = 0.0
        self.strict = False  # see RecordBuilder

    def add(self, documents: Sequence[Document]) -> None:
        """The next documents, in order. Raises UserError for vectors of another length or not finite."""
        for some in slices(documents, _SLICE):
            self._add(some)

    def _add(self, documents: Sequence[Document]) -> None:
        begun = perf_counter()
        encoder: Any = self._method.query_encoder()
        made = encoder.encode_blocks([document.full_text() for document in documents], "passage")
        self._seconds += perf_counter() - begun
        rows = np.ascontiguousarray(made.rows, "<f4")
        if rows.shape != (len(made.blocks), self._dim) or not np.isfinite(rows).all():
            raise UserError(
                f"the encoder gave vectors of the shape {rows.shape} for {len(made.blocks)} blocks, or "
                f"numbers that are not finite; the index holds vectors of {self._dim} numbers"
            )
        self._spill.write(rows.tobytes())
        ends = made.offsets.tolist()
        for document, first, last in zip(documents, ends[:-1], ends[1:], strict=True):
            blocks = made.blocks[first:last]
            self._table.add([_within(document, block) for block in blocks])
            dropped = sum(block.dropped for block in blocks)
            tokens = sum(block.tokens for block in blocks) + dropped
            if self.strict and dropped:
                raise too_long(document.doc_id, tokens, dropped)
            self._facts["documents"] += 1
            self._facts["tokens"] += tokens
            self._facts["dropped"] += dropped
            self._facts["cut"] += dropped > 0

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        vectors = self._spill.vectors()
        write_vectors(part, vectors, built(vectors, self._method.settings["structure"]))
        part.json(ENCODING, {**self._facts, "seconds": round(self._seconds, 3)})
        self._spill.close()
        self._table.finish(part)


def _within(document: Document, block: Block) -> Block:
    """The block of title and text, in characters of the text alone."""
    shift = len(document.title) + 1 if document.title and document.text else 0
    size = len(document.text)
    start, end = (min(max(place - shift, 0), size) for place in (block.start, block.end))
    return block._replace(start=start, end=end)
