"""An index seen by its blocks: what a view of documents is to stages of documents, for stages of blocks.

Ordinals are those of blocks, ids "D12#0", and a block is alive as long as its document is. So lists and
vectors of blocks are searched, re-scored, merged and exported by the code that does it for documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from retrieval.index.view import SegmentView, View
from retrieval.longdoc.aggregate import split_id
from retrieval.longdoc.block_table import BlockTable

if TYPE_CHECKING:
    from retrieval.index.filters import Filter
    from retrieval.types import Document


class _Store:
    """What stages and exports ask of a document store: the ids and their order."""

    def __init__(self, rank: NDArray[np.int32], ids: BlockIds) -> None:
        self.rank, self.ids = rank, ids


class BlockSegment(SegmentView):
    """The blocks of one segment in the representation `name`."""

    def __init__(self, segment: SegmentView, name: str, base: int) -> None:
        part = segment._part(segment.entry.get("parts"), name)
        self.table = BlockTable(segment._snapshot, part, segment.documents)
        self.sizes = np.diff(self.table.offsets)
        self.of = segment
        dead = int(self.sizes[segment.alive == 0].sum()) if segment.deleted else 0
        entry = {**segment.entry, "docs": len(self.table), "deleted": dead}
        super().__init__(segment._snapshot, entry, base)

    @cached_property
    def store(self) -> Any:  # type: ignore[override]
        """The blocks' order: by their documents' ids, and the first block of a document as the greatest."""
        ranks = self.of.store.rank
        starts = np.zeros(len(ranks), np.int64)
        order = np.argsort(ranks)
        np.cumsum(self.sizes[order][:-1], out=starts[1:])
        first = np.empty_like(starts)
        first[order] = starts
        within = np.arange(self.documents) - np.repeat(self.table.offsets[:-1], self.sizes)
        last = np.repeat(first + self.sizes - 1, self.sizes)
        return _Store((last - within).astype(np.int32), BlockIds(self.of.store.ids, self.table.offsets))

    @cached_property
    def alive(self) -> NDArray[np.uint8]:
        """See SegmentView."""
        return self.repeated(self.of.alive)

    def repeated(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask of documents as one of blocks; empty where it is."""
        return np.repeat(mask, self.sizes) if len(mask) else mask

    def _deleted_terms(self, representation: str) -> tuple[int, dict[int, int]]:
        """Counted in the lists, in one pass: the bitmap of deleted documents is all that is stored."""
        return self._lost[representation] if representation in self._lost else self._count(representation)

    @cached_property
    def _lost(self) -> dict[str, tuple[int, dict[int, int]]]:
        return {}

    def _count(self, representation: str) -> tuple[int, dict[int, int]]:
        from retrieval.index.deletes import lost_terms, lost_tokens

        postings, dead = self.postings(representation), self.alive == 0
        tokens = 0 if postings.weighted else lost_tokens(postings, dead)
        terms, counts = lost_terms(postings, dead)
        self._lost[representation] = tokens, dict(zip(terms.tolist(), counts.tolist(), strict=True))
        return self._lost[representation]


class BlockIds(Sequence[str]):
    """Ordinal of a block -> "D12#0"."""

    def __init__(self, ids: Sequence[str], offsets: NDArray[np.int64]) -> None:
        self._ids, self._offsets = ids, offsets

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def take(self, ordinals: NDArray[Any]) -> list[str]:
        """The ids of many ordinals."""
        parents = np.searchsorted(self._offsets, ordinals, "right") - 1
        names = self._ids.take(parents)  # type: ignore[attr-defined]
        numbers = (ordinals - self._offsets[parents]).tolist()
        return [f"{name}#{number}" for name, number in zip(names, numbers, strict=True)]

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return self.take(np.arange(*item.indices(len(self))))
        if not -len(self) <= item < len(self):
            raise IndexError(f"ordinal {item} of {len(self)} blocks")
        return self.take(np.array([item % len(self)]))[0]


class BlockView(View):
    """The blocks of the representation `name` of a view.

    offsets  int64[documents of the view + 1]: the blocks of document i are offsets[i]:offsets[i + 1]
    """

    segments: list[BlockSegment]  # type: ignore[assignment]

    def __init__(self, view: View, name: str) -> None:
        self.of, self.name = view, name
        self.snapshot, self.trust = view.snapshot, view.trust
        self.segments = []
        base = 0
        ends = [np.zeros(1, np.int64)]
        for segment in view.segments:
            self.segments.append(BlockSegment(segment, name, base))
            ends.append(self.segments[-1].table.offsets[1:] + base)
            base += self.segments[-1].documents
        self.offsets = np.concatenate(ends)
        self.documents = base
        self.live = sum(segment.documents - segment.deleted for segment in self.segments)
        self.corpus = f"{view.corpus}, blocks of {name}"

    @cached_property
    def ids(self) -> BlockIds:
        """Ordinal -> id."""
        return BlockIds(self.of.ids, self.offsets)

    def parents(self, blocks: NDArray[Any]) -> NDArray[np.int64]:
        """The documents of blocks: ordinals of the view."""
        return np.searchsorted(self.offsets, blocks, "right") - 1

    def span(self, block: int) -> tuple[int, int]:
        """(start, end) of a block, characters of its document's text."""
        segment = self.segment_of(block)
        start, end = segment.table.spans[block - segment.base].tolist()  # type: ignore[attr-defined]
        return start, end

    def masks(self, wanted: Filter | None) -> list[NDArray[np.uint8]]:
        """Each segment's blocks whose documents pass; an empty array where all do."""
        masks = self.of.masks(wanted)
        return [segment.repeated(mask) for segment, mask in zip(self.segments, masks, strict=True)]

    def find_many(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Ordinals of live blocks by id, -1 for the others, int64[len(ids)]."""
        parts = [split_id(each) for each in ids]
        docs = self.of.find_many([name for name, _ in parts])
        found = self.offsets[docs] + np.array([number for _, number in parts], np.int64)
        known = (docs >= 0) & (found < self.offsets[docs + 1])
        return np.where(known, found, -1)

    def live_documents(self) -> Iterator[list[Document]]:
        """Blocks are not stored as documents."""
        raise NotImplementedError


def block_view(view: View, name: str) -> BlockView:
    """The blocks of a representation, made once for each view."""
    known: dict[str, BlockView] = view.__dict__.setdefault("_blocks", {})
    if name not in known:
        known[name] = BlockView(view, name)
    return known[name]
