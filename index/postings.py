"""Reading an impact index part: lexicon, directory and lists of one segment, plain or packed."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.consistency import check_facts, check_rows, check_written_out, corrupt
from retrieval.index.lexicon import Lexicon
from retrieval.index.list_files import CHUNK, DENSE, DENSE_PLACE

if TYPE_CHECKING:
    from retrieval.snapshot import PartSource

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
    dense: NDArray[np.uint8]  # blocks of one value a document, see list_files.py
    limit: int  # postings from which a directory entry is a dense block


class Places(NamedTuple):
    """Where the lists of some terms begin: in docs, among the dense blocks, and their directory entries."""

    first: Array
    block: Array
    dir_first: Array
    dir_last: Array


class Postings:
    """One segment's inverted lists. Files: docs/format.md.

    What comes from a commit must pass check_lists (consistency.py) before it is read: the compiled code that
    takes these arrays has no bounds checks.
    """

    def __init__(self, snapshot: PartSource, part: str) -> None:
        self.part = part
        self._snapshot = snapshot
        self.facts: dict[str, Any] = check_facts(snapshot.json(f"{part}/facts.json"), part)
        self.documents: int = self.facts["documents"]
        self.tokens: int = self.facts["tokens"]
        self.mean: float = self.facts["mean"]
        self.compact: bool = self.facts["compact"]
        self.weighted: bool = self.facts["weighted"]
        self.bits: int = self.facts["bits"]
        self.lexicon = Lexicon(snapshot, part)
        self._local = threading.local()

    def has(self, name: str) -> bool:
        """Whether the part has an array."""
        return f"{self.part}/{name}.npy" in self._snapshot

    def array(self, name: str, default: Any = None) -> Array:
        """An array as it is on disk; an empty one of the type `default`, if given, where there is none."""
        if default is not None and not self.has(name):
            return np.empty(0, default)
        return self._snapshot.array(f"{self.part}/{name}.npy")

    @cached_property
    def df(self) -> NDArray[np.uint32]:
        """Documents that hold each term, uint32[V]."""
        return self.array("df")

    @cached_property
    def _begins(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first posting in docs, first dense block) of each term, int64[V]."""
        listed = self.df.astype(np.int64)
        blocks = np.zeros(len(listed), np.int64)
        if not self.compact:
            counts = self.array("dir_count")
            entries = np.flatnonzero(counts >= DENSE[self.bits] - 1)
            terms = np.searchsorted(self.dir_ptr, entries, side="right") - 1
            np.subtract.at(listed, terms, counts[entries].astype(np.int64) + 1)
            np.add.at(blocks, terms, 1)
        return np.cumsum(listed) - listed, np.cumsum(blocks) - blocks

    @property
    def first(self) -> NDArray[np.int64]:
        """Each term's first posting in docs and values, int64[V]."""
        return self._begins[0]

    @cached_property
    def kth(self) -> NDArray[np.uint8]:
        """Share of each term's 1st, 10th, 100th and 1000th best posting, rounded down, uint8[V, 4]."""
        return self.array("kth")

    @cached_property
    def peak(self) -> NDArray[np.uint8]:
        """Each term's largest bound, uint8[V]."""
        return self.array("peak")

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """The distinct document lengths, ascending."""
        return self.array("lengths", np.int32)

    @cached_property
    def codes(self) -> Array:
        """Each document's place in `lengths`."""
        return self.array("codes", np.uint16)

    @cached_property
    def padded_codes(self) -> Array:
        """The codes, and 0 up to the end of the last chunk: a list may name any document of a chunk."""
        missing = -len(self.codes) % CHUNK
        return np.append(self.codes, np.zeros(missing, self.codes.dtype)) if missing else self.codes

    @cached_property
    def order(self) -> NDArray[np.int32]:
        """Document number in the lists -> ordinal in the segment; empty where they are the same."""
        return self.array("order", np.int32)

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """The inverse of order: ordinal in the segment -> document number in the lists."""
        places = np.empty_like(self.order)
        places[self.order] = np.arange(len(self.order), dtype=np.int32)
        return places

    @cached_property
    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
        """The forward view: (row ends int64[n + 1], term numbers, values), by document number in lists."""
        return check_rows(self)

    def slots(self, terms: int) -> Array:
        """This thread's table by term number, all zero, whose type counts up to so many: uint8 or uint32."""
        name = "few" if terms < 256 else "many"
        if not hasattr(self._local, name):
            setattr(self._local, name, np.zeros(len(self.df), np.uint8 if terms < 256 else np.uint32))
        table: Array = getattr(self._local, name)
        return table

    @cached_property
    def _plain(self) -> Lists:
        return Lists(
            self.array("docs"), self.array("values"), self.array("big_place", np.int64),
            self.array("big_tf", np.int32), self.array("dir_chunk"), self.array("dir_count"),
            self.array("dir_bound"), self.bits, self.array("dense"), DENSE[self.bits],
        )  # fmt: skip

    @cached_property
    def dir_ptr(self) -> Array:
        """Each term's first directory entry, uint32[V + 1] (plain form)."""
        return self.array("dir_ptr")

    def lists(self, numbers: Sequence[int]) -> tuple[Lists, Places]:
        """The lists, and where those of the terms `numbers` are."""
        if self.compact:
            return self._unpacked(numbers)
        at = np.array(numbers, np.int64)
        first, blocks = self._begins
        ptr = self.dir_ptr
        return self._plain, Places(
            first[at], blocks[at], ptr[at].astype(np.int64), ptr[at + 1].astype(np.int64)
        )

    def whole(self, start: int = 0, end: int | None = None) -> tuple[Lists, Places]:
        """lists() of terms start:end without dense blocks, with a byte a value (255 may stand for more).

        Reads all of their postings; raises CorruptIndex for what cannot be.
        """
        end = len(self.df) if end is None else end
        lists, places = self.lists(range(start, end))
        if not self.compact:
            lists, places = _expanded(lists, places, self.df[start:end].astype(np.int64), self.part)
        if end > start:
            check_written_out(self, lists, slice(int(places.dir_first[0]), int(places.dir_last[-1])))
        return lists, places

    def _unpacked(self, numbers: Sequence[int]) -> tuple[Lists, Places]:
        from retrieval.index.packing import unpack_list

        packed, ptr = self.array("packed"), self.array("packed_ptr")
        big_place, big_tf = self.array("big_place", np.int64), self.array("big_tf", np.int32)
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
                packed, int(ptr[n]), size, self.documents, docs[at:], values[at:], dir_chunk[entry:],
                dir_count[entry:],
            )  # fmt: skip
            if made < 0:
                raise corrupt(self.part, "packed.npy", f"cannot be decoded at term {n}")
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
        lists = Lists(
            docs,
            values,
            big_place,
            big_tf,
            dir_chunk,
            dir_count,
            dir_bound,
            8,
            docs[:0].view(np.uint8),
            CHUNK + 1,
        )
        begins = [np.array(column, np.int64) for column in (first, [0] * len(first), starts, ends)]
        return lists, Places(*begins)

    def posting(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """One term's list: document ordinals (ascending unless the part is reordered) and exact values."""
        docs, values = self.listed(number)
        return (self.order[docs].astype(np.int64) if len(self.order) else docs), values

    def listed(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The same with document numbers as the lists have them, ascending."""
        lists, places = self.whole(number, number + 1)
        n = int(self.df[number])
        first, entries = int(places.first[0]), slice(int(places.dir_first[0]), int(places.dir_last[0]))
        counts = lists.dir_count[entries].astype(np.int64) + 1
        docs = np.repeat(lists.dir_chunk[entries].astype(np.int64) << 16, counts)
        docs += lists.docs[first : first + n]
        values = lists.values[first : first + n].astype(np.int64)
        lo, hi = np.searchsorted(lists.big_place, [first, first + n])
        values[lists.big_place[lo:hi] - first] = lists.big_tf[lo:hi]
        return docs, values


def halves(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values a byte, one a byte: uint8[2 n]."""
    values = np.empty(2 * len(packed), np.uint8)
    np.bitwise_and(packed, 15, out=values[0::2])
    np.right_shift(packed, 4, out=values[1::2])
    return values


def _bytes(lists: Lists, start: int, end: int) -> NDArray[np.uint8]:
    """Listed values start:end, one a byte."""
    if lists.bits == 8:
        return lists.values[start:end]
    return halves(lists.values[start >> 1 : (end + 1) >> 1])[start & 1 :][: end - start]


def _expanded(lists: Lists, places: Places, df: NDArray[np.int64], part: str) -> tuple[Lists, Places]:
    """The lists of some consecutive terms written out: every posting in docs and values, a byte a value.

    Takes 3 to 4 bytes a posting; anything wider is made for dense blocks and large frequencies alone.
    """
    if not len(df):
        return lists, places
    bits, entries = lists.bits, slice(int(places.dir_first[0]), int(places.dir_last[-1]))
    counts = lists.dir_count[entries]
    dense = np.flatnonzero(counts >= lists.limit - 1)
    first, block, total = int(places.first[0]), int(places.block[0]), int(df.sum())
    begins = ends = sizes = np.zeros(0, np.int64)  # of the dense blocks among the postings
    if len(dense):
        sizes = counts[dense].astype(np.int64) + 1
        since = np.add.reduceat(counts[: dense[-1] + 1], np.r_[0, dense[:-1] + 1], dtype=np.int64)
        ends = np.cumsum(since) + dense + 1  # a count is stored less one
        begins = ends - sizes
        docs, values = np.empty(total, np.uint16), np.empty(total, np.uint8)
        at = first
        for start, end in zip(np.r_[0, ends].tolist(), np.r_[begins, total].tolist(), strict=True):
            docs[start:end] = lists.docs[at : at + end - start]
            values[start:end] = _bytes(lists, at, at + end - start)
            at += end - start
        width = CHUNK * bits // 8
        for number, (start, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True), block):
            row = lists.dense[number * width : (number + 1) * width]
            row = row if bits == 8 else halves(row)
            present = np.flatnonzero(row)
            if len(present) != end - start:
                raise corrupt(
                    part, "dense.npy", f"does not hold the postings that are counted of block {number}"
                )
            docs[start:end] = present
            values[start:end] = row[present]
    else:
        docs, values = lists.docs[first : first + total], _bytes(lists, first, first + total)
    big_place, big_tf = np.empty(0, np.int64), np.empty(0, np.int32)
    if len(lists.big_place):
        large = np.flatnonzero(values == (1 << bits) - 1)
        keys = first + large  # what their frequencies are found by
        if len(dense):
            before = np.searchsorted(ends, large, side="right")  # dense blocks that end before
            keys -= np.r_[0, np.cumsum(sizes)][before]
            within = np.flatnonzero(large >= np.r_[begins, total][before])
            keys[within] = DENSE_PLACE + (block + before[within]) * CHUNK + docs[large[within]]
        near = np.minimum(np.searchsorted(lists.big_place, keys), len(lists.big_place) - 1)
        found = lists.big_place[near] == keys
        exact = lists.big_tf[near[found]]
        if bits < 8:  # a byte holds 255 already, for itself and what is above
            values[large[found]] = np.minimum(exact, 255)
        beyond = exact >= 255
        big_place, big_tf = large[found][beyond], exact[beyond]
    wide = lists._replace(
        docs=docs, values=values, big_place=big_place, big_tf=big_tf, bits=8,
        dense=lists.dense[:0], limit=CHUNK + 1, dir_chunk=lists.dir_chunk[entries],
        dir_count=lists.dir_count[entries], dir_bound=lists.dir_bound[entries],
    )  # fmt: skip
    begin = places.dir_first[0]
    return wide, Places(
        np.cumsum(df) - df, np.zeros(len(df), np.int64), places.dir_first - begin, places.dir_last - begin
    )
