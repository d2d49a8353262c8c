"""The forward view: each document's terms and values side by side, for re-scoring a few candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.index.jit import jit, prefetch
from retrieval.index.list_files import CHUNK

if TYPE_CHECKING:
    from retrieval.index.postings import Postings

_NEAR, _FAR = 12, 24  # documents ahead; half and twice as many make little difference
_BLOCK = np.uint64(8)
_LINE = 64  # bytes of a cache line
# What re-scoring takes, in nanoseconds, as measured with a million documents: a document's row and each
# posting in it; the lists at all, each candidate's place in their order, each search in a list, and the first
# search in each chunk of it.
_ROW, _POSTING = 80.0, 2.0
_LISTS, _SORT, _PROBE, _CHUNK = 8_000.0, 22.0, 22.0, 200.0


@jit()
def transpose_run(terms, counts, docs, values, first, n):
    """A run's lists by document: (ends int64[n + 1], terms uint32[P], values uint8[P]).

    The documents are first:first + n.
    """
    ends = np.zeros(n + 1, np.int64)
    for p in range(len(docs)):
        ends[np.int64(docs[p]) - first + 1] += 1
    for d in range(n):
        ends[d + 1] += ends[d]
    place = ends[:-1].copy()
    out_terms = np.empty(len(docs), np.uint32)
    out_values = np.empty(len(docs), np.uint8)
    p = 0
    for i in range(len(terms)):
        for _ in range(np.int64(counts[i])):
            d = np.int64(docs[p]) - first
            out_terms[place[d]] = terms[i]
            out_values[place[d]] = values[p]
            place[d] += 1
            p += 1
    return ends, out_terms, out_values


@jit()
def rescore_rows(ends, terms, values, wanted, numbers, weights, slots, sums):
    """sums[i] = the weighted values of document wanted[i].

    weights: int32, of the term numbers; slots: unsigned, by term number, all zero; counts up to len(numbers).

    Rows of documents in any order are almost never in a cache, and waiting for them is most of the work: so
    they are asked for _NEAR documents ahead, and where they are _FAR ahead. Most terms of a row are not in
    the query, so the slots, small enough for the nearest cache, are looked at for _BLOCK terms at once.
    """
    slot_weights = np.zeros(len(numbers) + 1, np.int32)
    for i in range(len(numbers)):
        slots[numbers[i]] = i + 1
        slot_weights[i + 1] = weights[i]
    n = len(wanted)
    for i in range(n):
        if i + _FAR < n:
            prefetch(ends, wanted[i + _FAR])
        if i + _NEAR < n:
            begin = ends[wanted[i + _NEAR]]
            end = ends[wanted[i + _NEAR] + 1]
            for p in range(begin, end, _LINE // terms.itemsize):
                prefetch(terms, p)
            for p in range(begin, end, _LINE):
                prefetch(values, p)
            prefetch(terms, end - 1)  # rows begin anywhere in a line
            prefetch(values, end - 1)
        total = np.int32(0)
        p = np.uint64(ends[wanted[i]])
        last = np.uint64(ends[wanted[i] + 1])
        while p + _BLOCK <= last:
            found = slots[terms[p]]
            for x in range(np.uint64(1), _BLOCK):
                found |= slots[terms[p + x]]
            if found:
                for x in range(_BLOCK):
                    total += slot_weights[slots[terms[p + x]]] * np.int32(values[p + x])
            p += _BLOCK
        while p < last:
            total += slot_weights[slots[terms[p]]] * np.int32(values[p])
            p += np.uint64(1)
        sums[i] = total
    for i in range(len(numbers)):
        slots[numbers[i]] = 0


@jit()
def row_lengths(docs, dir_chunk, dir_count, first, dir_first, dir_last, documents):
    """In how many of the lists each document stands, int64[documents]."""
    counts = np.zeros(documents, np.int64)
    for t in range(len(first)):
        p = first[t]
        for entry in range(dir_first[t], dir_last[t]):
            base = np.int64(dir_chunk[entry]) << 16
            for _ in range(np.int64(dir_count[entry]) + 1):
                counts[base + np.int64(docs[p])] += 1
                p += 1
    return counts


@jit()
def transpose_lists(docs, values, dir_chunk, dir_count, first, dir_first, dir_last, documents):
    """All lists by document: (ends int64[documents + 1], terms uint32[P], values uint8[P]).

    Terms ascend in a row.
    """
    ends = np.zeros(documents + 1, np.int64)
    for turn in range(2):
        if turn == 1:
            for d in range(documents):
                ends[d + 1] += ends[d]
            place = ends[:-1].copy()
            out_terms = np.empty(ends[documents], np.uint32)
            out_values = np.empty(ends[documents], np.uint8)
        for t in range(len(first)):
            p = first[t]
            for entry in range(dir_first[t], dir_last[t]):
                base = np.int64(dir_chunk[entry]) << 16
                for _ in range(np.int64(dir_count[entry]) + 1):
                    d = base + np.int64(docs[p])
                    if turn == 0:
                        ends[d + 1] += 1
                    else:
                        out_terms[place[d]] = t
                        out_values[place[d]] = values[p]
                        place[d] += 1
                    p += 1
    return ends, out_terms, out_values


def document_rows(
    postings: Postings,
) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
    """The forward view of a part that does not store it, as transpose_lists gives it."""
    lists, places = postings.whole()
    rows: tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]] = transpose_lists(
        lists.docs, lists.values, lists.dir_chunk, lists.dir_count, places.first, places.dir_first,
        places.dir_last, postings.documents,
    )  # fmt: skip
    return rows


def by_rows(postings: Postings, terms: int, candidates: int) -> bool:
    """Whether re-scoring by the rows is likely to be faster than by the lists of so many terms."""
    if not postings.facts.get("forward"):
        return False
    if postings.compact:  # whole lists would be unpacked
        return True
    documents = max(1, postings.documents)
    row: float = _ROW + _POSTING * postings.facts["postings"] / documents
    found = _PROBE * candidates + _CHUNK * min(candidates, documents / CHUNK)
    return bool(candidates * row < _LISTS + _SORT * candidates + terms * found)
