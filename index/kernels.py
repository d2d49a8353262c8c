"""The compiled query kernel of the impact index: term-at-a-time inside windows of 65,536 documents, pruned by MaxScore.

One window is one chunk of document numbers, small enough for an accumulator that stays in the second-level cache.
Within a window the query's lists are split by their block maxima as MaxScore splits them (Turtle and Flood 1995; per
window as in block-max MaxScore): lists whose bounds together cannot reach the threshold are not read, only probed for
the few documents that the other lists leave open. The essential lists are added term at a time, without a branch per
posting. Contributions are fixed-point integers, so a sum does not depend on its order and every algorithm returns the
same scores to the last bit.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from retrieval.index.topk import make_key, select, sort_descending

CHUNK = 65536
_JIT = {"cache": True, "nogil": True, "error_model": "numpy"}
_BLOCK = 64
_SPARSE = 6144  # fewer postings than this in a window: walk them again instead of sweeping the accumulator
_SORT_LIMIT = 64  # lists a window beyond which ordering the bounds costs more than it saves
_PROBE_COST = 40  # postings added in the time of one probe
_DENSE_COST = 30000  # postings added in the time of one dense block
DENSE_PLACE = 1 << 48  # see list_files.py


@nb.njit(inline="always", **_JIT)
def stored(values, place, bits):
    """The stored value of a posting: a byte, or half of one."""
    if bits == 8:
        return np.uint32(values[place])
    at = np.uint64(place)
    return np.uint32(values[at >> np.uint64(1)] >> np.uint8((at & np.uint64(1)) << np.uint64(2))) & np.uint32(15)


@nb.njit(**_JIT)
def add_bm25(accumulator, docs, values, bits, first, q, table, width, norms, code, big_place, big_tf):
    """Adds one list's BM25 contributions, q * tf / (tf + norm) in fixed point, to the accumulator of its chunk.

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


@nb.njit(inline="always", **_JIT)
def frequency(values, place, bits, big_place, big_tf):
    """The exact term frequency of a posting."""
    v = np.int64(stored(values, place, bits))
    if v == (1 << bits) - 1:
        v = overflow(place, v, big_place, big_tf)
    return v


@nb.njit(**_JIT)
def overflow(place, value, big_place, big_tf):
    """The frequency of a posting whose stored value is the largest: that value, or more."""
    at = np.searchsorted(big_place, place)
    if at < len(big_place) and big_place[at] == place:
        return np.int64(big_tf[at])
    return value


@nb.njit(**_JIT)
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


@nb.njit(**_JIT)
def add_impacts_dense(accumulator, dense, block, q):
    """As add_impacts for a dense block."""
    row = dense[block * CHUNK : (block + 1) * CHUNK]
    for d in range(np.uint64(CHUNK)):
        accumulator[d] += q * np.int32(row[d])


@nb.njit(**_JIT)
def _probe_dense(
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


@nb.njit(**_JIT)
def add_impacts(accumulator, docs, values, q):
    """Adds q * impact of one list to the accumulator of its chunk."""
    for j in range(np.uint32(len(docs))):
        accumulator[docs[j]] += q * np.int32(values[j])


@nb.njit(inline="always", **_JIT)
def bm25(q, tf, doc, norms, code):
    """One BM25 contribution in fixed point, for any frequency; equal to the table's to the last bit."""
    f = np.float32(tf)
    return np.int32(q * (f / (f + norms[code[doc]])))


@nb.njit(**_JIT)
def _find(docs, doc):
    """Index of doc in the ascending slice docs (not empty) of one chunk, or -1.

    Starts where the document would stand if the list were spread evenly, gallops to either side, and ends in a binary
    search without branches: what costs here is cache misses, and near the guess there are few.
    """
    n = np.int64(len(docs))
    lo = (n * np.int64(doc)) >> 16
    step = np.int64(16)
    if docs[lo] <= doc:
        while lo + step < n and docs[lo + step] <= doc:
            lo += step
            step += step
        span = min(step, n - lo)
    else:
        hi = lo
        lo = hi - step
        while lo > 0 and docs[lo] > doc:
            hi = lo
            step += step
            lo = hi - step
        lo = max(lo, np.int64(0))
        span = hi - lo
    low = np.uint64(lo)
    left = np.uint64(span)
    while left > np.uint64(1):
        half = left >> np.uint64(1)
        low += half * np.uint64(docs[low + half] <= doc)
        left -= half
    if docs[low] == doc:
        return np.int64(low)
    return np.int64(-1)


@nb.njit(**_JIT)
def _probe(
    docs, values, bits, first, q, q_int, limit, open_docs, open_sums, n, norms, width, code, big_place, big_tf
):  # fmt: skip
    """Adds one list's contribution to n open documents and keeps those that reach limit; returns their number.

    A list after the other, not a document after the other: the searches of one list do not wait for each other.
    """
    kept = 0
    for c in range(n):
        d = open_docs[c]
        s = open_sums[c]
        at = _find(docs, d)
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


@nb.njit(**_JIT)
def _collect_sparse(accumulator, docs, need, out, sums, n):
    """Takes the sums of the listed documents that reach need and clears all of them; returns the number taken."""
    for j in range(np.uint32(len(docs))):
        d = docs[j]
        s = accumulator[d]
        accumulator[d] = np.int32(0)
        if s >= need:
            out[n] = np.uint16(d)
            sums[n] = s
            n += 1
    return n


@nb.njit(**_JIT)
def _collect_dense(accumulator, need, out, sums):
    """As _collect_sparse, for the whole accumulator.

    need - 1 - sum is negative just where a sum reaches need, and or-ing the signs of a block is what LLVM turns into
    vector code; a maximum it does not.
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


@nb.njit(**_JIT)
def search(
    docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
    table, width, norms, code, rank, alive,
    term_start, term_block, term_dir, term_dir_end, q, q_int, bound_scale,
    k, threshold, prune, accumulator, open_docs, open_sums, keys, found,
):  # fmt: skip
    """Top k of one query over one segment; returns how many stand, best first, in keys (int64) and found (int32).

    docs uint16[P], values uint8: postings, a term's after another, ascending by document; a value takes `bits`, 8 or 4.
    dense uint8, limit: a directory entry of `limit` postings and more is the term's next block there (list_files.py).
    big_place, big_tf: the postings whose frequency does not fit, ascending, and their frequencies.
    dir_*: one entry a (term, chunk): chunk uint16, count - 1 uint16, bound uint8.
    width > 0: BM25 with table float32[rows * width] (row tf), norms float32[width], code[documents]; width 0: impacts.
    term_*: per query term first posting, directory range. q float32, q_int int32: query weights in fixed point.
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
    use_prune = prune
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
                    accumulator, docs[p : p + n], values, bits, p, q[i], table, width, norms, chunk_code, big_place, big_tf
                )  # fmt: skip
            else:
                add_impacts(accumulator, docs[p : p + n], values[p : p + n], q_int[i])
        need = np.int32(max(1, threshold - rest))
        n_open = 0
        if essential < _SPARSE:
            for s in range(skipped, m):
                p = slot_place[s]
                n_open = _collect_sparse(accumulator, docs[p : p + slot_n[s]], need, open_docs, open_sums, n_open)
        else:
            n_open = _collect_dense(accumulator, need, open_docs, open_sums)
        for x in range(skipped - 1, -1, -1):
            if n_open == 0:
                break
            gain -= _PROBE_COST * n_open
            p = slot_place[x]
            n = slot_n[x]
            i = slot[x]
            if n == 0:
                n_open = _probe_dense(
                    dense, bits, p, q[i], q_int[i], threshold - below[x], open_docs, open_sums, n_open, table, norms,
                    width, chunk_code, big_place, big_tf,
                )  # fmt: skip
            else:
                n_open = _probe(
                    docs[p : p + n], values, bits, p, q[i], q_int[i], threshold - below[x], open_docs, open_sums,
                    n_open, norms, width, chunk_code, big_place, big_tf,
                )  # fmt: skip
        for c in range(n_open):
            total_int = np.int64(open_sums[c])
            if total_int < threshold:
                continue
            doc = base + np.int64(open_docs[c])
            if len(alive) > 0 and alive[doc] == 0:
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
                threshold = max(threshold, np.int64(score) - 64)  # float32 keeps 24 of 30 bits
        if gain < -20000:
            use_prune = False  # probing costs more than it saves on this query
    if n_found > k:
        select(keys, found, n_found, k)
        n_found = k
    sort_descending(keys, found, n_found)
    return n_found


@nb.njit(**_JIT)
def search_many(
    docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
    table, width, norms, code, rank, alive,
    query_ends, term_start, term_block, term_dir, term_dir_end, q, q_int, bound_scale,
    k, thresholds, prune, accumulator, open_docs, open_sums, keys, found, counts,
):  # fmt: skip
    """search() for each query i, whose terms are query_ends[i]:query_ends[i + 1]; row i of keys and found, counts[i].

    thresholds int64[queries] come in as lower limits and go out raised to each query's k-th best sum, for the next segment.
    """
    for i in range(len(query_ends) - 1):
        a = query_ends[i]
        b = query_ends[i + 1]
        n = search(
            docs, values, big_place, big_tf, dir_chunk, dir_count, dir_bound, bits, dense, limit,
            table, width, norms, code, rank, alive,
            term_start[a:b], term_block[a:b], term_dir[a:b], term_dir_end[a:b], q[a:b], q_int[a:b], bound_scale,
            k, thresholds[i], prune, accumulator, open_docs, open_sums, keys[i], found[i],
        )  # fmt: skip
        counts[i] = n
        if n == k:
            score = np.int32(keys[i, k - 1] >> np.int64(32)).view(np.float32)
            thresholds[i] = max(thresholds[i], np.int64(score) - 64)


@nb.njit(**_JIT)
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
                at = _find(docs[from_ : min(end, from_ + step)], d)
                if at >= 0:
                    at += from_
                    if width > 0:
                        tf = frequency(values, at, bits, big_place, big_tf)
                        sums[x] += bm25(q[i], tf, wanted[x], norms, code)
                    else:
                        sums[x] += q_int[i] * np.int32(values[at])
                x += 1
            p = end


@nb.njit(**_JIT)
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
