"""The blocks of a segment's documents on disk, beside the lists or vectors that are of these blocks.

block_offsets.npy  int64[documents + 1]: the blocks of document i are offsets[i]:offsets[i + 1], one or more
block_spans.npy    int32[blocks, 2]: first and last character (exclusive) in the document's text
block_facts.json   {"documents", "blocks", "tokens", "dropped"}, as the splitter counts tokens
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.consistency import corrupt

if TYPE_CHECKING:
    from retrieval.longdoc.blocks import Block
    from retrieval.part import Part
    from retrieval.snapshot import PartSource

OFFSETS, SPANS, FACTS = "block_offsets.npy", "block_spans.npy", "block_facts.json"
COUNTED = "documents", "blocks", "tokens", "dropped"


class BlockTable:
    """The table of a part of `documents` documents, checked. Raises CorruptIndex."""

    def __init__(self, source: PartSource, part: str, documents: int) -> None:
        self.offsets: NDArray[np.int64] = source.array(f"{part}/{OFFSETS}")
        self.spans: NDArray[np.int32] = source.array(f"{part}/{SPANS}")
        facts = source.json(f"{part}/{FACTS}")
        offsets, spans = self.offsets, self.spans
        if offsets.dtype != np.int64 or offsets.shape != (documents + 1,):
            raise corrupt(part, OFFSETS, f"does not fit {documents} documents")
        if offsets[0] != 0 or (np.diff(offsets) < 1).any():
            raise corrupt(part, OFFSETS, "does not rise from 0")
        if spans.dtype != np.int32 or spans.shape != (int(offsets[-1]), 2):
            raise corrupt(part, SPANS, f"does not hold {int(offsets[-1])} blocks")
        if len(spans) and (spans.min() < 0 or (spans[:, 0] > spans[:, 1]).any()):
            raise corrupt(part, SPANS, "holds a block that ends before it starts")
        counts = [facts.get(key) if isinstance(facts, dict) else None for key in COUNTED]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise corrupt(part, FACTS, "does not count documents, blocks and tokens")
        self.facts: dict[str, int] = dict(zip(COUNTED, counts, strict=True))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.spans)


class BlockTableWriter:
    """Collects the blocks of documents, in order; 16 bytes a block."""

    def __init__(self) -> None:
        self._ends = array("q", [0])
        self._spans = array("i")
        self._tokens = self._dropped = 0

    def add(self, blocks: Sequence[Block]) -> None:
        """The blocks of the next document, one or more."""
        for block in blocks:
            self._spans.append(block.start)
            self._spans.append(block.end)
            self._tokens += block.tokens + block.dropped
            self._dropped += block.dropped
        self._ends.append(self._ends[-1] + len(blocks))

    def finish(self, part: Part) -> None:
        """Writes the part's files."""
        offsets = np.frombuffer(self._ends, np.int64)
        spans = np.frombuffer(self._spans, np.int32).reshape(-1, 2)
        write_table(part, offsets, spans, tokens=self._tokens, dropped=self._dropped)


def write_table(
    part: Part, offsets: NDArray[np.int64], spans: NDArray[np.int32], *, tokens: int, dropped: int
) -> None:
    """Writes a table's files."""
    part.array(OFFSETS, offsets)
    part.array(SPANS, spans)
    counts = (len(offsets) - 1, len(spans), tokens, dropped)
    part.json(FACTS, dict(zip(COUNTED, counts, strict=True)))


def merge_tables(part: Part, tables: Iterable[tuple[BlockTable, NDArray[Any]]]) -> None:
    """Writes the blocks of some documents of several tables; with each, which: bool[documents].

    Tokens of documents that are left out are taken to be as many a block as the others'.
    """
    sizes, spans, tokens, dropped = [np.zeros(1, np.int64)], [], 0, 0
    for table, kept in tables:
        counts = np.diff(table.offsets)
        sizes.append(counts[kept])
        spans.append(table.spans[np.repeat(kept, counts)])
        share = len(spans[-1]) / max(1, len(table))
        tokens += round(table.facts["tokens"] * share)
        dropped += round(table.facts["dropped"] * share)
    offsets = np.cumsum(np.concatenate(sizes))
    write_table(part, offsets, np.concatenate(spans), tokens=tokens, dropped=dropped)
