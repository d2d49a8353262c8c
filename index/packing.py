"""Compact postings: document gaps and values bit-packed in blocks of 64, one stream a term.

Block: one header byte, gap width * 9 + value width; the gaps' bits; the values' bits (value - 1); each run
padded to a byte. Gaps count from the term's document before, the first from -1, less one. Decoding gives the
plain form back, so every query algorithm serves both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.consistency import PADDING
from retrieval.index.jit import jit

if TYPE_CHECKING:
    from retrieval.part import Part

BLOCK = 64
_MAX_GAP_BITS = 27


@jit()
def _width(x):
    bits = 0
    while x > 0:
        bits += 1
        x >>= 1
    return bits


@jit()
def _put(out, at, numbers, n, width):
    """Appends n numbers of `width` bits at byte `at`; returns the byte behind them."""
    hold = np.uint64(0)
    held = 0
    for i in range(n):
        hold |= np.uint64(numbers[i]) << np.uint64(held)
        held += width
        while held >= 8:
            out[at] = np.uint8(hold & np.uint64(255))
            at += 1
            hold >>= np.uint64(8)
            held -= 8
    if held > 0:
        out[at] = np.uint8(hold & np.uint64(255))
        at += 1
    return at


@jit()
def pack_lists(docs, values, term, end, df, dir_ptr, dir_chunk, dir_count, out, ptr, written):
    """Packs the lists of terms term:end, whose postings begin docs and values; returns how many bytes.

    out uint8 takes them; ptr int64[V + 1] gets each term's first byte, counted from `written`. A gap of 2**27
    documents or more gives -1.
    """
    gaps = np.empty(BLOCK, np.uint32)
    rests = np.empty(BLOCK, np.uint32)
    at = np.int64(0)
    i = np.int64(0)
    for t in range(term, end):
        ptr[t] = written + at
        before = np.int64(-1)
        waiting = 0
        entry = dir_ptr[t]
        left = np.int64(0)
        base = np.int64(0)
        for x in range(np.int64(df[t])):
            if left == 0:
                left = np.int64(dir_count[entry]) + 1
                base = np.int64(dir_chunk[entry]) << 16
                entry += 1
            doc = base + np.int64(docs[i])
            gaps[waiting] = np.uint32(doc - before - 1)
            rests[waiting] = np.uint32(values[i]) - np.uint32(1)
            before = doc
            waiting += 1
            left -= 1
            i += 1
            if waiting == BLOCK or x + 1 == df[t]:
                gap_bits = 0
                rest_bits = 0
                for w in range(waiting):
                    gap_bits = max(gap_bits, _width(gaps[w]))
                    rest_bits = max(rest_bits, _width(rests[w]))
                if gap_bits > _MAX_GAP_BITS:
                    return np.int64(-1)
                out[at] = gap_bits * 9 + rest_bits
                at = _put(out, at + 1, gaps, waiting, gap_bits)
                at = _put(out, at, rests, waiting, rest_bits)
                waiting = 0
    ptr[end] = written + at
    return at


@jit(inline="always")
def _get(data, first, bit):
    """Up to 57 bits from `bit` on, counted from byte `first`; the caller masks."""
    at = np.uint64(first + (bit >> 3))
    word = np.uint64(data[at])
    for b in range(1, 5):  # 27 bits and an offset of 7 lie within five bytes
        word |= np.uint64(data[at + np.uint64(b)]) << np.uint64(8 * b)
    return word >> np.uint64(bit & 7)


@jit()
def unpack_list(data, at, n, documents, docs, values, dir_chunk, dir_count):
    """Decodes the n postings that begin at byte `at` into docs uint16[n] and values uint8[n].

    Returns the number of directory entries, or -1 for data that no list of so many documents has.
    """
    end = np.int64(len(data)) - PADDING
    if at < 0 or n > len(docs) or n > len(values):
        return -1
    doc = np.int64(-1)
    chunk = np.int64(-1)
    entries = 0
    count = np.int64(0)
    i = np.int64(0)
    while i < n:
        if at >= end:
            return -1
        block = min(np.int64(BLOCK), n - i)
        gap_bits = np.int64(data[at]) // 9
        rest_bits = np.int64(data[at]) - gap_bits * 9
        at += 1
        if gap_bits > _MAX_GAP_BITS:
            return -1
        if at + ((block * gap_bits + 7) >> 3) + ((block * rest_bits + 7) >> 3) > end:
            return -1
        mask = (np.uint64(1) << np.uint64(gap_bits)) - np.uint64(1)
        for j in range(block):
            doc += np.int64(_get(data, at, j * gap_bits) & mask) + 1
            docs[i + j] = np.uint16(doc & 65535)
            if doc >> 16 != chunk:
                if entries == len(dir_chunk):
                    return -1
                if chunk >= 0:
                    dir_count[entries - 1] = np.uint16(count - 1)
                chunk = doc >> 16
                dir_chunk[entries] = np.uint16(chunk)
                entries += 1
                count = np.int64(0)
            count += 1
        if doc >= documents:
            return -1
        at += (block * gap_bits + 7) >> 3
        mask = (np.uint64(1) << np.uint64(rest_bits)) - np.uint64(1)
        for j in range(block):
            values[i + j] = np.uint8((_get(data, at, j * rest_bits) & mask) + np.uint64(1))
        if rest_bits == 8:
            for j in range(block):
                if values[i + j] == 0:  # 256, which no value is
                    return -1
        at += (block * rest_bits + 7) >> 3
        i += block
    if entries > 0:
        dir_count[entries - 1] = np.uint16(count - 1)
    return entries


class ListPacker:
    """Writes packed.npy and packed_ptr.npy of a part."""

    def __init__(self, part: Part, vocabulary: int) -> None:
        self._part = part
        self._stream = part.array_stream("packed.npy", np.uint8)
        self._ptr = np.zeros(vocabulary + 1, np.int64)
        self._written = 0

    def add(
        self, docs: NDArray[np.uint16], values: NDArray[np.uint8], lists: Any, start: int, end: int
    ) -> None:
        """Packs the lists of terms start:end; `lists` has df, dir_ptr, dir_chunk, dir_count."""
        room = len(docs) * 6 + (len(docs) // BLOCK + end - start) * 3 + 16
        out = np.empty(room, np.uint8)
        used = pack_lists(
            docs, values, start, end, lists.df, lists.dir_ptr, lists.dir_chunk, lists.dir_count, out,
            self._ptr, self._written,
        )  # fmt: skip
        if used < 0:
            raise ValueError("a gap of 134 million documents or more")
        self._stream.write(out[:used])
        self._written += used

    def close(self) -> None:
        """Finishes both files."""
        self._stream.write(np.zeros(PADDING, np.uint8))
        self._stream.close()
        self._part.array("packed_ptr.npy", self._ptr)
