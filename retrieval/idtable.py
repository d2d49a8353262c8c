"""Document ids on disk: ordinal -> id, id -> ordinal, and the place of each in ascending code point order.

Files of a part, for n documents:
    ids.bin           the ids in UTF-8, one after the other, then 8 zero bytes
    ids_offsets.npy   int64[n + 1], where each begins
    ids_rank.npy      int32[n], the place of each among the part's ids, ascending
    ids_hash.npy      uint64[n], their hashes, ascending
    ids_slot.npy      int32[n], the ordinal of each hash
UTF-8 sorts bytewise as its code points do, so that no id is decoded to be compared. The hash mixes
8-byte words, the same on every machine; ids made to collide fall back to a search by rank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CorruptIndex, UserError
from retrieval.part import Part
from retrieval.snapshot import PartSource

_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_TURN = np.uint64(29)
_MASKS = np.array([0] + [(1 << 8 * used) - 1 for used in range(1, 9)], np.uint64)
_MOST_COLUMNS = 6
_CHUNK = 1 << 16
_SPARE = 8

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Counts = NDArray[np.int64]


def _pack(ids: Sequence[str]) -> tuple[bytes, Counts]:
    """UTF-8 of all ids, and the length of each in bytes. Raises UserError for an id with a lone surrogate."""
    joined = "".join(ids)
    try:
        blob = joined.encode()
    except UnicodeEncodeError:
        bad = next(each for each in ids if _has_surrogate(each))
        raise UserError(f"document id {bad!r} holds a lone surrogate; give ids that are valid text") from None
    if len(blob) == len(joined):
        return blob, np.fromiter(map(len, ids), np.int64, len(ids))
    return blob, np.fromiter((len(each.encode()) for each in ids), np.int64, len(ids))


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _padded(blob: bytes) -> Bytes:
    """The bytes with room behind them to read whole words from any place."""
    return np.frombuffer(blob + bytes(_SPARE), np.uint8)


def _words(data: Bytes, starts: Counts, lengths: Counts, number: int) -> Words:
    """Word `number` of ids that reach into it (little-endian, zero beyond the end); data has spare bytes."""
    at_any_byte = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    return at_any_byte[starts + 8 * number] & _MASKS[np.minimum(lengths - 8 * number, 8)]


def _hashes(data: Bytes, starts: Counts, lengths: Counts) -> Words:
    """A 64-bit hash of each id."""
    hashes = lengths.astype(np.uint64) * _MIX
    active = np.flatnonzero(lengths)
    number = 0
    while len(active):
        words = _words(data, starts[active], lengths[active], number)
        mixed = (hashes[active] ^ words) * _MIX
        hashes[active] = mixed ^ (mixed >> _TURN)
        number += 1
        active = active[lengths[active] > 8 * number]
    mixed = hashes * _MIX
    return mixed ^ (mixed >> np.uint64(32))


def hash_ids(ids: Sequence[str]) -> NDArray[np.uint64]:
    """A 64-bit hash of each id, the same in every process: to find duplicates before they are compared."""
    blob, lengths = _pack(ids)
    return _hashes(_padded(blob), np.cumsum(lengths) - lengths, lengths)


def _ascending(data: Bytes, starts: Counts, lengths: Counts) -> NDArray[np.int64]:
    """Ordinals in ascending order of their ids."""
    widest = int(lengths.max(initial=0))
    columns: list[Words] = []
    for number in range(-(-widest // 8)):
        active = np.flatnonzero(lengths > 8 * number)
        column = np.zeros(len(lengths), np.uint64)
        column[active] = _words(data, starts[active], lengths[active], number).byteswap()
        if (column != column[0]).any():
            columns.append(column)
        if len(columns) > _MOST_COLUMNS:  # long ids that differ everywhere: comparing them is cheaper
            raw = data.tobytes()
            texts = [raw[a : a + n] for a, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
            return np.array(sorted(range(len(texts)), key=texts.__getitem__), np.int64)
    if len(columns) == 1:
        return np.argsort(columns[0])
    return np.lexsort(columns[::-1]) if columns else np.arange(len(lengths))


class IdTableWriter:
    """Collects ids and writes them as the ids files of a part. Holds the ids and 20 bytes each."""

    def __init__(self) -> None:
        self._blobs: list[bytes] = []
        self._lengths: list[Counts] = []
        self.count = 0
        self.nbytes = 0

    def add(self, ids: Sequence[str]) -> None:
        """Append ids. Raises UserError for one that is empty or holds white space or control characters."""
        blob, lengths = _pack(ids)
        if (lengths == 0).any() or _FORBIDDEN.search("".join(ids)):
            bad = next(each for each in ids if not each or _FORBIDDEN.search(each))
            raise UserError(
                f"document id {bad!r} is empty or holds white space or control characters; give another id"
            )
        self._blobs.append(blob)
        self._lengths.append(lengths)
        self.count += len(ids)
        self.nbytes += len(blob) + lengths.nbytes

    def finish(self, part: Part) -> None:
        """Write the files. Raises UserError for an id that comes twice, StorageError."""
        blob = b"".join(self._blobs)
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        data, starts = _padded(blob), offsets[:-1]
        part.bytes("ids.bin", data)
        part.array("ids_offsets.npy", offsets)
        order = _ascending(data, starts, lengths)
        hashes = _hashes(data, starts, lengths)
        slots = np.argsort(hashes)
        hashes = hashes[slots]
        twins = np.flatnonzero(hashes[1:] == hashes[:-1])
        if len(twins):  # equal hashes, perhaps equal ids: those stand side by side in order
            near = zip(order[:-1].tolist(), order[1:].tolist(), strict=True)
            ends = offsets.tolist()
            for one, two in near:
                if blob[ends[one] : ends[one + 1]] == blob[ends[two] : ends[two + 1]]:
                    twice = blob[ends[one] : ends[one + 1]].decode()
                    raise UserError(f"document id {twice!r} comes twice; give every document its own id")
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        part.array("ids_rank.npy", rank)
        part.array("ids_hash.npy", hashes)
        part.array("ids_slot.npy", slots.astype(np.int32))
        self._blobs, self._lengths = [], []


class IdTable(Sequence[str]):
    """The ids of a part: a sequence ordinal -> id that decodes what is looked at."""

    def __init__(self, snapshot: PartSource, part: str) -> None:
        self._snapshot = snapshot
        self._part = part
        self._blob = snapshot.bytes(f"{part}/ids.bin")
        self._offsets: NDArray[np.int64] = snapshot.array(f"{part}/ids_offsets.npy")
        ends = self._offsets
        fits = ends.ndim == 1 and ends.dtype == np.int64 and len(ends) and ends[0] == 0
        if not fits or ends[-1] != len(self._blob) - _SPARE:
            raise CorruptIndex(
                f"{part}/ids_offsets.npy does not fit {part}/ids.bin; index the documents again"
            )
        self._count = len(ends) - 1
        self._data: Bytes = np.frombuffer(self._blob, np.uint8)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            start, stop, step = item.indices(self._count)
            if step == 1:
                return self._span(start, max(start, stop))
            return self.take(np.arange(start, stop, step))
        place = int(item)
        if not -self._count <= place < self._count:
            raise IndexError(f"ordinal {place} of {self._count} documents")
        place %= self._count
        return self._text(int(self._offsets[place]), int(self._offsets[place + 1]))

    def _text(self, start: int, end: int) -> str:
        return str(self._blob[start:end], "utf-8")

    def _span(self, start: int, stop: int) -> list[str]:
        ends = self._offsets[start : stop + 1].tolist()
        raw = bytes(self._blob[ends[0] : ends[-1]])
        base = ends[0]
        if raw.isascii():
            text = raw.decode("ascii")
            return [text[a - base : b - base] for a, b in pairwise(ends)]
        return [raw[a - base : b - base].decode() for a, b in pairwise(ends)]

    def take(self, ordinals: NDArray[Any]) -> list[str]:
        """The ids of many ordinals."""
        starts, ends = self._offsets[ordinals].tolist(), self._offsets[np.asarray(ordinals) + 1].tolist()
        blob = self._blob
        return [str(blob[start:end], "utf-8") for start, end in zip(starts, ends, strict=True)]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._count, _CHUNK):
            yield from self._span(start, min(start + _CHUNK, self._count))

    @cached_property
    def rank(self) -> NDArray[np.int32]:
        """int32[n]: the place of each ordinal's id in ascending code point order."""
        return self._column("ids_rank.npy", np.int32)

    @cached_property
    def order(self) -> NDArray[np.int32]:
        """int32[n]: ordinals in ascending order of their ids, the inverse of rank."""
        rank = self.rank
        order = np.zeros(len(rank), np.int32)
        order[np.clip(rank, 0, max(0, len(rank) - 1))] = np.arange(len(rank), dtype=np.int32)
        return order

    def _column(self, name: str, dtype: Any) -> NDArray[Any]:
        column = self._snapshot.array(f"{self._part}/{name}")
        if column.dtype != dtype or column.shape != (self._count,):
            raise CorruptIndex(f"{self._part}/{name} does not fit its documents; index the documents again")
        return column

    def sorted_items(self) -> Iterator[tuple[int, bytes]]:
        """(ordinal, id in UTF-8), ascending by id."""
        for start in range(0, self._count, _CHUNK):
            places = self.order[start : start + _CHUNK]
            starts, ends = self._offsets[places].tolist(), self._offsets[places + 1].tolist()
            for place, begin, end in zip(places.tolist(), starts, ends, strict=True):
                yield place, bytes(self._blob[begin:end])

    def lookup(self, doc_id: str) -> int | None:
        """The ordinal of an id, or None."""
        found = int(self.lookup_many([doc_id])[0])
        return None if found < 0 else found

    def lookup_many(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """int32[len(ids)]: the ordinal of each id, -1 where there is none."""
        found = np.full(len(ids), -1, np.int32)
        if not len(ids) or not self._count:
            return found
        blob, lengths = _pack(ids)
        data, starts = _padded(blob), np.cumsum(lengths) - lengths
        hashes = _hashes(data, starts, lengths)
        table, slots = self._column("ids_hash.npy", np.uint64), self._column("ids_slot.npy", np.int32)
        turn = np.argsort(hashes)  # neighbours in the table are looked up one after the other
        places = np.empty(len(ids), np.int64)
        places[turn] = np.searchsorted(table, hashes[turn])
        near = np.flatnonzero(places < self._count)
        near = near[table[places[near]] == hashes[near]]
        ordinals = slots[places[near]].astype(np.int64)
        if len(ordinals) and not 0 <= ordinals.min() <= ordinals.max() < self._count:
            raise CorruptIndex(f"{self._part}/ids_slot.npy holds ordinals of no document; index again")
        same = self._equal(data, starts[near], lengths[near], ordinals)
        found[near[same]] = ordinals[same]
        for place in near[~same].tolist():  # another id of the same hash comes first
            found[place] = self._search(ids[place].encode())
        return found

    def _equal(self, data: Bytes, starts: Counts, lengths: Counts, ordinals: Counts) -> NDArray[np.bool_]:
        """Whether each id of `data` is the id of that ordinal."""
        mine = self._offsets[ordinals]
        same = self._offsets[ordinals + 1] - mine == lengths
        active = np.flatnonzero(same)
        number = 0
        while len(active):
            here = _words(data, starts[active], lengths[active], number)
            there = _words(self._data, mine[active], lengths[active], number)
            same[active] = here == there
            number += 1
            active = active[same[active] & (lengths[active] > 8 * number)]
        return np.asarray(same, np.bool_)

    def _search(self, raw: bytes) -> int:
        """The ordinal of an id by halving the ascending order, -1 if there is none."""
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            place = int(self.order[middle])
            text = bytes(self._blob[self._offsets[place] : self._offsets[place + 1]])
            if text == raw:
                return place
            low, high = (middle + 1, high) if text < raw else (low, middle)
        return -1
