"""The compiled query kernel: term-at-a-time inside windows of 65,536 documents, pruned by MaxScore.

One window is one chunk of document numbers, small enough for an accumulator that stays in the second-level
cache. Within a window the query's lists are split by their block maxima as MaxScore splits them (Turtle and
Flood 1995; per window as in block-max MaxScore): lists whose bounds together cannot reach the threshold are
not read, only probed for the few documents that the other lists leave open. The essential lists are added
term at a time, without a branch per posting. Contributions are fixed-point integers, so a sum does not
depend on its order and every algorithm returns the same scores to the last bit.
"""

from __future__ import annotations

import numpy as np

from retrieval.index.accumulate import (
    add_bm25,
    add_bm25_dense,
    add_impacts,
    add_impacts_dense,
    collect_dense,
    collect_sparse,
    probe,
    probe_dense,
)
from retrieval.index.jit import jit
from retrieval.index.list_files import CHUNK
from retrieval.index.scoring import ROUNDING
from retrieval.index.topk import make_key, select, sort_descending

_SPARSE = 6144  # fewer postings than this in a window: walk them again instead of sweeping the accumulator
_FEW_LISTS = 8  # of impacts, beyond which bounds skip too little to pay for the probes
_SORT_LIMIT = 64  # lists a window beyond which ordering the bounds costs more than it saves
_PROBE_COST = 40  # postings added in the time of one probe
_DENSE_COST = 30000  # postings added in the time of one dense block


@jit()
def search(
    docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
    table, width, norms, code, rank, alive,
    term_start, term_block, term_dir, term_dir_end, q, q_int, bound_scale,
    k, threshold, prune, accumulator, open_docs, open_sums, keys, found,
):  # fmt: skip
    """Top k of one query over one segment; returns how many stand, best first, in keys and found.

    keys int64, found int32: the sortable keys and document numbers of the hits, with room to spare (topk.py).
    docs uint16[P], values uint8: postings, a term's after another, ascending by document; a value takes
    `bits`, 8 or 4.
    dense uint8, limit: a directory entry of `limit` postings and more is the term's next block there
    (list_files.py).
    big_place, big_tf: the postings whose frequency does not fit, ascending, and their frequencies.
    dir_*: one entry a (term, chunk): chunk uint16, count - 1 uint16, bound uint8.
    width > 0: BM25 with table float32[rows * width] (row tf), norms float32[width], code, an entry a document
    and up to the end of the last chunk; width 0: impacts. rank[documents].
    term_*: per query term first posting, directory range. q float32, q_int int32: fixed-point query weights.
    bound_scale float32: what one unit of a bound is worth, as a share of q.
    threshold: only documents that reach it are wanted. accumulator int32[65536], zero on entry and on exit;
    open_docs uint16[65600] and open_sums int32[65600] are scratch.
    """
    terms = len(q)
    is_bm25 = width > 0
    cap = len(keys)
    n_found = 0
    min_key = np.int64(-1)
    gain = np.int64(0)
    cursor = term_dir.copy()
    place = term_start.copy()
    block = term_block.copy()
    slot = np.empty(terms, np.int64)
    slot_place = np.empty(terms, np.int64)
    slot_n = np.empty(terms, np.int64)  # postings, or 0 for a dense block
    slot_ub = np.empty(terms, np.int64)
    below = np.empty(terms + 1, np.int64)
    use_prune = prune and (is_bm25 or terms <= _FEW_LISTS)
    while True:
        chunk = np.int64(1 << 40)
        for i in range(terms):
            if cursor[i] < term_dir_end[i] and dir_chunk[cursor[i]] < chunk:
                chunk = np.int64(dir_chunk[cursor[i]])
        if chunk == np.int64(1 << 40):
            break
        m = 0
        total = np.int64(0)
        for i in range(terms):
            at = cursor[i]
            if at < term_dir_end[i] and dir_chunk[at] == chunk:
                n = np.int64(dir_count[at]) + 1
                if is_bm25:
                    share = min(np.float32(1.0), np.float32(dir_bound[at]) * bound_scale)
                    ub = np.int64(q[i] * share) + 1
                else:
                    ub = np.int64(q_int[i]) * np.int64(dir_bound[at])
                slot[m] = i
                slot_ub[m] = ub
                total += ub
                if n >= limit:
                    slot_place[m] = block[i]
                    slot_n[m] = 0
                    block[i] += 1
                else:
                    slot_place[m] = place[i]
                    slot_n[m] = n
                    place[i] += n
                m += 1
                cursor[i] = at + 1
        if total < threshold:
            continue
        skipped = 0
        below[0] = 0
        if use_prune and threshold > 1 and m <= _SORT_LIMIT:
            for a in range(1, m):  # insertion sort by bound, ascending
                i = slot[a]
                p = slot_place[a]
                n = slot_n[a]
                ub = slot_ub[a]
                b = a - 1
                while b >= 0 and slot_ub[b] > ub:
                    slot[b + 1] = slot[b]
                    slot_place[b + 1] = slot_place[b]
                    slot_n[b + 1] = slot_n[b]
                    slot_ub[b + 1] = slot_ub[b]
                    b -= 1
                slot[b + 1] = i
                slot_place[b + 1] = p
                slot_n[b + 1] = n
                slot_ub[b + 1] = ub
            while skipped < m and below[skipped] + slot_ub[skipped] < threshold:
                below[skipped + 1] = below[skipped] + slot_ub[skipped]
                gain += slot_n[skipped] if slot_n[skipped] > 0 else _DENSE_COST
                skipped += 1
        rest = below[skipped]
        base = chunk * CHUNK
        chunk_code = code[base : base + CHUNK]
        essential = 0
        for s in range(skipped, m):
            i = slot[s]
            p = slot_place[s]
            n = slot_n[s]
            essential += n if n > 0 else CHUNK
            if n == 0:
                if is_bm25:
                    add_bm25_dense(
                        accumulator, dense, bits, p, q[i], table, width, norms, chunk_code, big_place, big_tf
                    )  # fmt: skip
                else:
                    add_impacts_dense(accumulator, dense, p, q_int[i])
            elif is_bm25:
                add_bm25(
                    accumulator, docs[p : p + n], values, bits, p, q[i], table, width, norms, chunk_code,
                    big_place, big_tf,
                )  # fmt: skip
            else:
                add_impacts(accumulator, docs[p : p + n], values[p : p + n], q_int[i])
        need = np.int32(max(1, threshold - rest))
        n_open = 0
        if essential < _SPARSE:
            for s in range(skipped, m):
                p = slot_place[s]
                n_open = collect_sparse(
                    accumulator, docs[p : p + slot_n[s]], need, open_docs, open_sums, n_open
                )
        else:
            n_open = collect_dense(accumulator, need, open_docs, open_sums)
        for x in range(skipped - 1, -1, -1):
            if n_open == 0:
                break
            gain -= _PROBE_COST * n_open
            p = slot_place[x]
            n = slot_n[x]
            i = slot[x]
            if n == 0:
                n_open = probe_dense(
                    dense, bits, p, q[i], q_int[i], threshold - below[x], open_docs, open_sums, n_open,
                    table, norms, width, chunk_code, big_place, big_tf,
                )  # fmt: skip
            else:
                n_open = probe(
                    docs[p : p + n], values, bits, p, q[i], q_int[i], threshold - below[x], open_docs,
                    open_sums, n_open, norms, width, chunk_code, big_place, big_tf,
                )  # fmt: skip
        for c in range(n_open):
            total_int = np.int64(open_sums[c])
            if total_int < threshold:
                continue
            doc = base + np.int64(open_docs[c])
            if doc >= len(rank) or (len(alive) > 0 and alive[doc] == 0):  # no such document: damaged lists
                continue
            key = make_key(np.float32(total_int), rank[doc])
            if key <= min_key:
                continue
            keys[n_found] = key
            found[n_found] = np.int32(doc)
            n_found += 1
            if n_found == cap:
                min_key = select(keys, found, n_found, k)
                n_found = k
                score = np.int32(min_key >> np.int64(32)).view(np.float32)
                threshold = max(threshold, np.int64(score) - ROUNDING)
        if gain < -20000:
            use_prune = False  # probing costs more than it saves on this query
    if n_found > k:
        select(keys, found, n_found, k)
        n_found = k
    sort_descending(keys, found, n_found)
    return n_found


@jit()
def search_many(
    docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
    table, width, norms, code, rank, alive,
    query_ends, term_start, term_block, term_dir, term_dir_end, q, q_int, bound_scale,
    k, thresholds, prune, accumulator, open_docs, open_sums, keys, found, counts,
):  # fmt: skip
    """search() for each query i, whose terms are query_ends[i]:query_ends[i + 1].

    Fills row i of keys and found, and counts[i]. thresholds int64[queries] come in as lower limits and go out
    raised to each query's k-th best sum, for the next segment.
    """
    for i in range(len(query_ends) - 1):
        a = query_ends[i]
        b = query_ends[i + 1]
        n = search(
            docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
            table, width, norms, code, rank, alive,
            term_start[a:b], term_block[a:b], term_dir[a:b], term_dir_end[a:b], q[a:b], q_int[a:b],
            bound_scale, k, thresholds[i], prune, accumulator, open_docs, open_sums, keys[i], found[i],
        )  # fmt: skip
        counts[i] = n
        if n == k:
            score = np.int32(keys[i, k - 1] >> np.int64(32)).view(np.float32)
            thresholds[i] = max(thresholds[i], np.int64(score) - ROUNDING)
