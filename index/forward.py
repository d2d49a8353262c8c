"""The forward view: each document's terms and values side by side, for re-scoring a few candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.index.jit import jit

if TYPE_CHECKING:
    from retrieval.index.postings import Postings


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
def rescore_rows(ends, terms, values, wanted, numbers, weights, dense, sums):
    """sums[i] = the weighted values of document wanted[i].

    weights: int32, of the term numbers; dense: int32[V], all zero.
    """
    for i in range(len(numbers)):
        dense[numbers[i]] = weights[i]
    for i in range(len(wanted)):
        total = np.int32(0)
        for p in range(ends[wanted[i]], ends[wanted[i] + 1]):
            total += dense[terms[p]] * np.int32(values[p])
        sums[i] = total
    for i in range(len(numbers)):
        dense[numbers[i]] = 0


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
