"""Compiled inversion: token streams of one run of documents to postings, and runs to the segment's lists.

A run is a stretch of consecutive documents inside one chunk of 65,536, so that a document fits two bytes.
Inverting is a counting sort by term, which keeps documents ascending and puts a document's repeats side by
side.
"""

from __future__ import annotations

import numpy as np

from retrieval.index.jit import jit

BIG = 255


@jit()
def invert_run(tokens, offsets, first, vocabulary):
    """Counts tokens (int32, ids below vocabulary) of documents offsets[i]:offsets[i+1], numbered from first.

    Returns (terms uint32[T], counts uint32[T], docs uint16[P], values uint8[P], big int32[B]): the terms
    that occur, ascending, with their posting counts; postings term by term; the frequencies that are 255 or
    more, in posting order.
    """
    total = len(tokens)
    ends = np.zeros(vocabulary + 1, np.int32)
    for i in range(total):
        ends[tokens[i] + 1] += np.int32(1)
    for t in range(vocabulary):
        ends[t + 1] += ends[t]
    place = ends[:-1].copy()
    sorted_docs = np.empty(total, np.uint16)
    for d in range(len(offsets) - 1):
        local = np.uint16(first + d)
        for i in range(offsets[d], offsets[d + 1]):
            t = tokens[i]
            sorted_docs[place[t]] = local
            place[t] += np.int32(1)
    values = np.empty(total, np.uint8)
    terms = np.empty(vocabulary, np.uint32)
    counts = np.empty(vocabulary, np.uint32)
    big = np.empty(total // BIG + 1, np.int32)
    n_terms = 0
    n_big = 0
    w = 0
    for t in range(vocabulary):
        i = ends[t]
        end = ends[t + 1]
        if i == end:
            continue
        before = w
        while i < end:
            d = sorted_docs[i]
            j = i + 1
            while j < end and sorted_docs[j] == d:
                j += 1
            tf = j - i
            sorted_docs[w] = d  # w never overtakes i
            if tf >= BIG:
                big[n_big] = tf
                n_big += 1
                tf = BIG
            values[w] = tf
            w += 1
            i = j
        terms[n_terms] = t
        counts[n_terms] = w - before
        n_terms += 1
    return (
        terms[:n_terms].copy(),
        counts[:n_terms].copy(),
        sorted_docs[:w].copy(),
        values[:w].copy(),
        big[:n_big].copy(),
    )


@jit()
def invert_weighted(tokens, weights, offsets, first, vocabulary):
    """As invert_run for streams that carry a weight (uint8) a token, each term at most once a document."""
    total = len(tokens)
    ends = np.zeros(vocabulary + 1, np.int32)
    for i in range(total):
        ends[tokens[i] + 1] += np.int32(1)
    for t in range(vocabulary):
        ends[t + 1] += ends[t]
    place = ends[:-1].copy()
    docs = np.empty(total, np.uint16)
    values = np.empty(total, np.uint8)
    for d in range(len(offsets) - 1):
        local = np.uint16(first + d)
        for i in range(offsets[d], offsets[d + 1]):
            p = place[tokens[i]]
            docs[p] = local
            values[p] = weights[i]
            place[tokens[i]] = p + np.int32(1)
    counts = ends[1:] - ends[:-1]
    terms = np.flatnonzero(counts).astype(np.uint32)
    return terms, counts[terms].astype(np.uint32), docs, values, np.empty(0, np.int32)


@jit()
def merge_runs(
    term, vocabulary, capacity, run_terms, run_counts, run_big, cursor, run_end, big_cursor, place, run_chunk,
    all_docs, all_values, bm25, table, width, code, docs, values, df, dir_ptr, dir_chunk, dir_count,
    dir_bound, kth, peak, big_place, big_tf, written, n_dir, n_big,
):  # fmt: skip
    """Writes whole lists from `term` on while they fit `capacity` postings.

    Returns (next term, postings, n_dir, n_big). run_*: the runs' (terms, counts) behind one another, run r
    at cursor[r]:run_end[r]; place[r] its next posting in all_docs / all_values. docs, values: output
    buffers. dir_*: directory, one entry a (term, chunk). kth uint8[V, 4]: the 1st, 10th, 100th and 1000th
    largest share of a term, rounded down; peak uint8[V]: the largest bound. written: postings that stand
    before the buffer.
    """
    runs = len(cursor)
    out = np.int64(0)
    histogram = np.zeros(256, np.int64)
    while term < vocabulary:
        n = np.int64(0)
        for r in range(runs):
            if cursor[r] < run_end[r] and run_terms[cursor[r]] == term:
                n += run_counts[cursor[r]]
        if out + n > capacity and out > 0:
            break
        df[term] = n
        dir_ptr[term] = n_dir
        if n > 0:
            histogram[:] = 0
        chunk = np.int64(-1)
        bound = np.uint8(0)
        for r in range(runs):
            if cursor[r] >= run_end[r] or run_terms[cursor[r]] != term:
                continue
            c = np.int64(run_counts[cursor[r]])
            cursor[r] += 1
            if run_chunk[r] != chunk:
                if chunk >= 0:
                    dir_bound[n_dir - 1] = bound
                chunk = np.int64(run_chunk[r])
                dir_chunk[n_dir] = chunk
                dir_count[n_dir] = np.uint16(c - 1)
                n_dir += 1
                bound = np.uint8(0)
            else:
                dir_count[n_dir - 1] += np.uint16(c)
            base = chunk * 65536
            p = place[r]
            place[r] += c
            for j in range(c):
                d = all_docs[p + j]
                v = all_values[p + j]
                docs[out] = d
                values[out] = v
                if bm25:
                    share = table[
                        np.uint32(v) * np.uint32(width) + np.uint32(code[base + np.int64(d)])
                    ] * np.float32(255)
                    low = np.uint8(share)
                    high = np.uint8(np.ceil(share))
                    if v == BIG:
                        big_place[n_big] = written + out
                        big_tf[n_big] = run_big[big_cursor[r]]
                        big_cursor[r] += 1
                        n_big += 1
                        high = np.uint8(255)
                    histogram[np.int64(low)] += 1
                else:
                    high = v
                    histogram[v] += 1
                bound = max(bound, high)
                out += 1
        if n > 0:
            dir_bound[n_dir - 1] = bound
            seen = np.int64(0)
            rank = np.int64(1)
            level = 0
            for b in range(255, -1, -1):
                seen += histogram[b]
                while level < 4 and seen >= rank:
                    kth[term, level] = b
                    level += 1
                    rank *= 10
                if level == 4:
                    break
            peak[term] = 0
            for at in range(dir_ptr[term], n_dir):
                peak[term] = max(peak[term], dir_bound[at])
        term += 1
    dir_ptr[term] = n_dir
    return term, out, n_dir, n_big


@jit()
def cut_run(
    docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, at, entry, last, sequence, numbers,
    chunk, target, begin, end,
):  # fmt: skip
    """The lists of a chunk, renumbered: a run as invert_run makes of documents with begin <= target < end.

    at, entry, last int64[V]: each list's cursor and directory range; sequence: old term numbers by
    ascending new one; numbers: old -> new term number; target int64[documents]: new document number, -1 for
    those that leave.
    """
    total = np.int64(0)
    for i in range(len(entry)):
        if entry[i] < last[i] and dir_chunk[entry[i]] == chunk:
            total += np.int64(dir_count[entry[i]]) + 1
    out_docs = np.empty(total, np.uint16)
    out_values = np.empty(total, np.uint8)
    terms = np.empty(len(sequence), np.uint32)
    counts = np.empty(len(sequence), np.uint32)
    big = np.empty(len(big_place), np.int32)
    n_terms = 0
    n_big = 0
    w = np.int64(0)
    base = np.int64(chunk) * 65536
    for x in range(len(sequence)):
        t = sequence[x]
        if entry[t] >= last[t] or dir_chunk[entry[t]] != chunk:
            continue
        before = w
        for p in range(at[t], at[t] + np.int64(dir_count[entry[t]]) + 1):
            new = target[base + np.int64(docs[p])]
            if new < begin or new >= end:
                continue
            v = values[p]
            out_docs[w] = np.uint16(new & 65535)
            out_values[w] = v
            w += 1
            if v == BIG and len(big_place) > 0:
                b = np.searchsorted(big_place, p)
                if b < len(big_place) and big_place[b] == p:
                    big[n_big] = big_tf[b]
                    n_big += 1
        if w > before:
            terms[n_terms] = numbers[t]
            counts[n_terms] = w - before
            n_terms += 1
    return (
        terms[:n_terms].copy(),
        counts[:n_terms].copy(),
        out_docs[:w].copy(),
        out_values[:w].copy(),
        big[:n_big].copy(),
    )
