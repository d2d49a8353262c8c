"""Compiled passes over given documents: re-scoring candidates by the lists, counting marked documents."""

from __future__ import annotations

import numpy as np

from retrieval.index.accumulate import bm25, find, frequency, overflow, stored
from retrieval.index.jit import jit
from retrieval.index.list_files import CHUNK, DENSE_PLACE


@jit()
def rescore(
    docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
    table, width, norms, code, term_start, term_block, term_dir, term_dir_end, q, q_int, wanted, sums,
):  # fmt: skip
    """Adds to sums int32[n] what the terms contribute to the documents wanted int64[n], ascending."""
    for i in range(len(q)):
        p = term_start[i]
        block = term_block[i]
        x = 0
        for entry in range(term_dir[i], term_dir_end[i]):
            n = np.int64(dir_count[entry]) + 1
            base = np.int64(dir_chunk[entry]) * CHUNK
            while x < len(wanted) and wanted[x] < base:
                x += 1
            if x == len(wanted):
                break
            if n >= limit:
                while x < len(wanted) and wanted[x] < base + CHUNK:
                    at = block * CHUNK + wanted[x] - base
                    v = np.int64(stored(dense, at, bits))
                    if width == 0:
                        sums[x] += q_int[i] * np.int32(v)
                    elif v > 0:
                        if v == (1 << bits) - 1:
                            v = overflow(DENSE_PLACE + at, v, big_place, big_tf)
                        sums[x] += bm25(q[i], v, wanted[x], norms, code)
                    x += 1
                block += 1
                continue
            from_ = p
            end = p + n
            while x < len(wanted) and wanted[x] < base + CHUNK and from_ < end:
                d = np.uint16(wanted[x] - base)
                step = np.int64(1)  # gallop: the candidates ascend, as the list does
                while from_ + step < end and docs[from_ + step] <= d:
                    from_ += step
                    step += step
                at = find(docs[from_ : min(end, from_ + step)], d, step)
                if at >= 0:
                    at += from_
                    if width > 0:
                        tf = frequency(values, at, bits, big_place, big_tf)
                        sums[x] += bm25(q[i], tf, wanted[x], norms, code)
                    else:
                        sums[x] += q_int[i] * np.int32(values[at])
                x += 1
            p = end


@jit()
def count_marked(docs, dir_chunk, dir_count, first, dir_first, dir_last, marked, counts):
    """counts[i] += how many documents of list i are marked (uint8 by document number)."""
    for i in range(len(first)):
        p = first[i]
        total = 0
        for entry in range(dir_first[i], dir_last[i]):
            base = np.int64(dir_chunk[entry]) * CHUNK
            for _ in range(np.int64(dir_count[entry]) + 1):
                total += marked[base + np.int64(docs[p])]
                p += 1
        counts[i] += np.uint32(total)
