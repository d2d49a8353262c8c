"""Compiled work on single lists: adding contributions, collecting sums, probing for open documents."""

from __future__ import annotations

import numpy as np

from retrieval.index.jit import jit
from retrieval.index.list_files import CHUNK, DENSE_PLACE

_BLOCK = 64


@jit(inline="always")
def stored(values, place, bits):
    """The stored value of a posting: a byte, or half of one."""
    if bits == 8:
        return np.uint32(values[place])
    at = np.uint64(place)
    return np.uint32(values[at >> np.uint64(1)] >> np.uint8((at & np.uint64(1)) << np.uint64(2))) & np.uint32(
        15
    )


@jit()
def add_bm25(accumulator, docs, values, bits, first, q, table, width, norms, code, big_place, big_tf):
    """Adds one list's BM25 contributions, q * tf / (tf + norm) in fixed point, to its chunk's accumulator.

    docs: the list's slice; values: those of all lists, of which the slice's begin at posting `first`.
    """
    columns = np.uint32(width)
    if bits == 8:
        for j in range(np.uint64(len(docs))):
            d = docs[j]
            v = np.uint32(values[np.uint64(first) + j])
            accumulator[d] += np.int32(q * table[v * columns + np.uint32(code[d])])
    else:
        for j in range(np.uint64(len(docs))):
            d = docs[j]
            v = stored(values, np.uint64(first) + j, bits)
            accumulator[d] += np.int32(q * table[v * columns + np.uint32(code[d])])
    if len(big_place) > 0:  # frequencies that do not fit: replace what the table's last row gave
        most = (1 << bits) - 1
        at = np.searchsorted(big_place, first)
        while at < len(big_place) and big_place[at] < first + len(docs):
            d = docs[big_place[at] - first]
            accumulator[d] += bm25(q, big_tf[at], d, norms, code) - bm25(q, most, d, norms, code)
            at += 1


@jit(inline="always")
def frequency(values, place, bits, big_place, big_tf):
    """The exact term frequency of a posting."""
    v = np.int64(stored(values, place, bits))
    if v == (1 << bits) - 1:
        v = overflow(place, v, big_place, big_tf)
    return v


@jit()
def overflow(place, value, big_place, big_tf):
    """The frequency of a posting whose stored value is the largest: that value, or more."""
    at = np.searchsorted(big_place, place)
    if at < len(big_place) and big_place[at] == place:
        return np.int64(big_tf[at])
    return value


@jit()
def add_bm25_dense(accumulator, dense, bits, block, q, table, width, norms, code, big_place, big_tf):
    """As add_bm25 for a dense block; absent documents have the value 0, and row 0 of the table is 0."""
    columns = np.uint32(width)
    if bits == 8:
        row = dense[block * CHUNK : (block + 1) * CHUNK]
        for d in range(np.uint64(len(code))):
            accumulator[d] += np.int32(q * table[np.uint32(row[d]) * columns + np.uint32(code[d])])
    else:
        row = dense[block * (CHUNK // 2) : (block + 1) * (CHUNK // 2)]
        for x in range(np.uint64(len(code) // 2)):
            d = x + x
            v = np.uint32(row[x])
            accumulator[d] += np.int32(q * table[(v & np.uint32(15)) * columns + np.uint32(code[d])])
            d += np.uint64(1)
            accumulator[d] += np.int32(q * table[(v >> np.uint32(4)) * columns + np.uint32(code[d])])
        if len(code) & 1:
            d = np.uint64(len(code) - 1)
            v = np.uint32(row[d >> np.uint64(1)]) & np.uint32(15)
            accumulator[d] += np.int32(q * table[v * columns + np.uint32(code[d])])
    if len(big_place) > 0:
        most = (1 << bits) - 1
        first = DENSE_PLACE + block * CHUNK
        at = np.searchsorted(big_place, first)
        while at < len(big_place) and big_place[at] < first + CHUNK:
            d = big_place[at] - first
            accumulator[d] += bm25(q, big_tf[at], d, norms, code) - bm25(q, most, d, norms, code)
            at += 1


@jit()
def add_impacts_dense(accumulator, dense, block, q):
    """As add_impacts for a dense block."""
    row = dense[block * CHUNK : (block + 1) * CHUNK]
    for d in range(np.uint64(CHUNK)):
        accumulator[d] += q * np.int32(row[d])


@jit()
def probe_dense(
    dense, bits, block, q, q_int, limit, open_docs, open_sums, n, table, norms, width, code, big_place, big_tf
):  # fmt: skip
    """As _probe for a dense block: one read a document."""
    kept = 0
    base = np.uint64(block * CHUNK)
    most = np.uint32((1 << bits) - 1)
    for c in range(n):
        d = open_docs[c]
        s = open_sums[c]
        v = stored(dense, base + np.uint64(d), bits)
        if width == 0:
            s += q_int * np.int32(v)
        elif v < most:
            s += np.int32(q * table[v * np.uint32(width) + np.uint32(code[d])])
        else:
            place = DENSE_PLACE + np.int64(base) + np.int64(d)
            s += bm25(q, overflow(place, np.int64(v), big_place, big_tf), d, norms, code)
        open_docs[kept] = d
        open_sums[kept] = s
        kept += s >= limit
    return kept


@jit()
def add_impacts(accumulator, docs, values, q):
    """Adds q * impact of one list to the accumulator of its chunk."""
    for j in range(np.uint32(len(docs))):
        accumulator[docs[j]] += q * np.int32(values[j])


@jit(inline="always")
def bm25(q, tf, doc, norms, code):
    """One BM25 contribution in fixed point, for any frequency; equal to the table's to the last bit."""
    f = np.float32(tf)
    return np.int32(q * (f / (f + norms[code[doc]])))


@jit(inline="always")
def radius_of(n):
    """How far from its even place a document of a chunk's list of n stands, nearly always: 2 sqrt(n)."""
    return np.int64(2 * np.sqrt(np.float32(n))) + 8


@jit()
def find(docs, doc, radius):
    """Index of doc in the ascending slice docs (not empty) of one chunk, or -1.

    Looks where the document stands if the list is spread evenly, and only elsewhere if it must. The binary
    search has no branches, so that the processor overlaps the cache misses of one search with those of the
    next.
    """
    n = np.int64(len(docs))
    guess = (n * np.int64(doc)) >> 16
    lo = max(guess - radius, np.int64(0))
    hi = min(guess + radius, n)
    if docs[lo] > doc:
        hi = lo
        lo = np.int64(0)
        if hi == 0:
            return np.int64(-1)
    elif hi < n and docs[hi] <= doc:
        lo = hi
        hi = n
    low = np.uint64(lo)
    left = np.uint64(hi - lo)
    while left > np.uint64(1):
        half = left >> np.uint64(1)
        low += half * np.uint64(docs[low + half] <= doc)
        left -= half
    if docs[low] == doc:
        return np.int64(low)
    return np.int64(-1)


@jit()
def probe(
    docs, values, bits, first, q, q_int, limit, open_docs, open_sums, n, norms, width, code, big_place, big_tf
):  # fmt: skip
    """Adds one list's contribution to n open documents; keeps those that reach limit, returns their number.

    List after list, not document after document: the searches of one list do not wait for each other.
    """
    kept = 0
    radius = radius_of(len(docs))
    for c in range(n):
        d = open_docs[c]
        s = open_sums[c]
        at = find(docs, d, radius)
        if at >= 0:
            at += first
            if width == 0:
                s += q_int * np.int32(values[at])
            else:
                s += bm25(q, frequency(values, at, bits, big_place, big_tf), d, norms, code)
        open_docs[kept] = d
        open_sums[kept] = s
        kept += s >= limit
    return kept


@jit()
def collect_sparse(accumulator, docs, need, out, sums, n):
    """Takes the sums of the listed documents that reach need and clears all; returns the number taken."""
    for j in range(np.uint32(len(docs))):
        d = docs[j]
        s = accumulator[d]
        accumulator[d] = np.int32(0)
        if s >= need:
            out[n] = np.uint16(d)
            sums[n] = s
            n += 1
    return n


@jit()
def collect_dense(accumulator, need, out, sums):
    """As collect_sparse, for the whole accumulator.

    need - 1 - sum is negative just where a sum reaches need, and or-ing the signs of a block is what LLVM
    turns into vector code; a maximum it does not.
    """
    n = np.uint64(0)
    for b in range(np.uint64(CHUNK // _BLOCK)):
        start = b * np.uint64(_BLOCK)
        hit = np.int32(0)
        for x in range(np.uint64(_BLOCK)):
            hit |= np.int32(need - np.int32(1) - accumulator[start + x])
        if hit < 0:
            for x in range(np.uint64(_BLOCK)):
                s = accumulator[start + x]
                out[n] = np.uint16(start + x)
                sums[n] = s
                n += np.uint64(s >= need)
    accumulator[:] = 0
    return np.int64(n)
