"""Reading an impact index part: lexicon, directory and lists of one segment, plain or packed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.lexicon import Lexicon

if TYPE_CHECKING:
    from retrieval.snapshot import Snapshot

CHUNK = 65536
Array = NDArray[Any]


class Lists(NamedTuple):
    """Inverted lists as the query algorithms read them; term i owns first[i] and dir_first[i]:dir_last[i]."""

    docs: NDArray[np.uint16]
    values: NDArray[np.uint8]
    big_place: NDArray[np.int64]
    big_tf: NDArray[np.int32]
    dir_chunk: NDArray[np.uint16]
    dir_count: NDArray[np.uint16]
    dir_bound: NDArray[np.uint8]
    bits: int  # a value's: 8, or 4 and the first of two in the lower half


class Postings:
    """One segment's inverted lists. Files: docs/format.md."""

    def __init__(self, snapshot: Snapshot, part: str) -> None:
        self.part = part
        self._snapshot = snapshot
        self.facts: dict[str, Any] = snapshot.json(f"{part}/facts.json")
        self.documents: int = self.facts["documents"]
        self.tokens: int = self.facts["tokens"]
        self.mean: float = self.facts["mean"]
        self.compact: bool = self.facts["compact"]
        self.weighted: bool = self.facts["weighted"]
        self.bits: int = self.facts["bits"]
        self.lexicon = Lexicon(snapshot, part)
        self._local = threading.local()

    def _array(self, name: str, default: Any = None) -> Array:
        path = f"{self.part}/{name}.npy"
        if default is not None and path not in self._snapshot:
            return np.empty(0, default)
        return self._snapshot.array(path)

    @cached_property
    def df(self) -> NDArray[np.uint32]:
        """Documents that hold each term, uint32[V]."""
        return self._array("df")

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """Each term's first posting, int64[V]."""
        ends = np.cumsum(self.df, dtype=np.int64)
        return ends - self.df

    @cached_property
    def kth(self) -> NDArray[np.uint8]:
        """Share of each term's 1st, 10th, 100th and 1000th best posting, rounded down, uint8[V, 4]."""
        return self._array("kth")

    @cached_property
    def peak(self) -> NDArray[np.uint8]:
        """Each term's largest bound, uint8[V]."""
        return self._array("peak")

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """The distinct document lengths, ascending."""
        return self._array("lengths", np.int32)

    @cached_property
    def codes(self) -> Array:
        """Each document's place in `lengths`."""
        return self._array("codes", np.uint16)

    @cached_property
    def order(self) -> NDArray[np.int32]:
        """Document number in the lists -> ordinal in the segment; empty where they are the same."""
        return self._array("order", np.int32)

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """The inverse of order: ordinal in the segment -> document number in the lists."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(self.order), dtype=np.int32)
        return places

    @cached_property
    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
        """The forward view: (row ends int64[n + 1], term numbers, values), by document number in the lists."""
        return self._array("row_ends"), self._array("row_terms"), self._array("row_values")

    def dense(self) -> NDArray[np.int32]:
        """This thread's table of query weights by term number, all zero."""
        if not hasattr(self._local, "dense"):
            self._local.dense = np.zeros(len(self.df), np.int32)
        table: NDArray[np.int32] = self._local.dense
        return table

    @cached_property
    def _plain(self) -> Lists:
        return Lists(
            self._array("docs"), self._array("values"), self._array("big_place", np.int64),
            self._array("big_tf", np.int32), self._array("dir_chunk"), self._array("dir_count"),
            self._array("dir_bound"), self.bits,
        )  # fmt: skip

    @cached_property
    def dir_ptr(self) -> Array:
        """Each term's first directory entry, uint32[V + 1] (plain form)."""
        return self._array("dir_ptr")

    def lists(self, numbers: Sequence[int]) -> tuple[Lists, list[int], list[int], list[int]]:
        """(lists, first posting, first and last directory entry of each of the terms `numbers`)."""
        if self.compact:
            return self._unpacked(numbers)
        first, ptr = self.first, self.dir_ptr
        return (
            self._plain,
            [int(first[n]) for n in numbers],
            [int(ptr[n]) for n in numbers],
            [int(ptr[n + 1]) for n in numbers],
        )

    def whole(self) -> tuple[Lists, list[int], list[int], list[int]]:
        """lists() of all terms, with a byte a value (255 may stand for more): for those who read everything."""
        lists, *places = self.lists(range(len(self.df)))
        if lists.bits == 4:
            values = halves(lists.values)[: len(lists.docs)]
            values[lists.big_place] = np.minimum(lists.big_tf, 255)
            big = lists.big_tf >= 255
            lists = lists._replace(
                values=values, big_place=lists.big_place[big], big_tf=lists.big_tf[big], bits=8
            )
        return lists, *places  # type: ignore[return-value]

    def _unpacked(self, numbers: Sequence[int]) -> tuple[Lists, list[int], list[int], list[int]]:
        from retrieval.index.packing import unpack_list

        packed, ptr = self._array("packed"), self._array("packed_ptr")
        big_place, big_tf = self._array("big_place", np.int64), self._array("big_tf", np.int32)
        chunks = (self.documents + CHUNK - 1) // CHUNK
        sizes = [int(self.df[n]) for n in numbers]
        total, entries = sum(sizes), sum(min(size, chunks) for size in sizes)
        docs, values = np.empty(total, np.uint16), np.empty(total, np.uint8)
        dir_chunk, dir_count = np.empty(entries, np.uint16), np.empty(entries, np.uint16)
        dir_bound = np.empty(entries, np.uint8)
        first, starts, ends = [], [], []
        places: list[Array] = []
        tfs: list[Array] = []
        at = entry = 0
        for n, size in zip(numbers, sizes):
            made = unpack_list(
                packed, int(ptr[n]), size, docs[at:], values[at:], dir_chunk[entry:], dir_count[entry:]
            )
            dir_bound[entry : entry + made] = self.peak[n]
            first.append(at)
            starts.append(entry)
            ends.append(entry + made)
            if len(big_place):
                begin = int(self.first[n])
                lo, hi = np.searchsorted(big_place, [begin, begin + size])
                places.append(big_place[lo:hi] - begin + at)
                tfs.append(big_tf[lo:hi])
            at += size
            entry += made
        if places:
            big_place, big_tf = np.concatenate(places), np.concatenate(tfs)
            order = np.argsort(big_place, kind="stable")
            big_place, big_tf = big_place[order], big_tf[order]
        return Lists(docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, 8), first, starts, ends

    def posting(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One term's list: document ordinals (ascending unless the part is reordered) and exact values."""
        docs, values = self.listed(number)
        return (self.order[docs].astype(np.int64) if len(self.order) else docs), values

    def listed(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same with document numbers as the lists have them, ascending."""
        lists, first, starts, ends = self.lists([number])
        counts = lists.dir_count[starts[0] : ends[0]].astype(np.int64) + 1
        begin, n = first[0], int(counts.sum())
        chunks = np.repeat(lists.dir_chunk[starts[0] : ends[0]].astype(np.int64) << 16, counts)
        docs = chunks + lists.docs[begin : begin + n]
        if lists.bits == 8:
            values = lists.values[begin : begin + n].astype(np.int64)
        else:
            values = halves(lists.values[begin >> 1 : (begin + n + 1) >> 1])[begin & 1 :][:n].astype(np.int64)
        lo, hi = np.searchsorted(lists.big_place, [begin, begin + n])
        values[lists.big_place[lo:hi] - begin] = lists.big_tf[lo:hi]
        return docs, values


def halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values a byte, one a byte: uint8[2 n]."""
    values = np.empty(2 * len(packed), np.uint8)
    values[0::2] = packed & 15
    values[1::2] = packed >> 4
    return values
