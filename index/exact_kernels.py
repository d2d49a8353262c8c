"""Compiled parts of exact vector search: the one score, a scan for one query, selection from products.

A score is the inner product in float64, in one order: element i goes to lane i % 16 of 16 sums, the sums are
folded in halves, what is left behind the last multiple of 16 is added one by one; then it is rounded to
float32. Products of float32 are exact in float64, so the machine may fuse multiplication and addition or not:
the bits stay the same (exact.py has the same in numpy). A key is a score and the document's rank in one
int64, as in topk.py, but for scores of either sign.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numba as nb
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # numba brings it
from numba.core import cgutils
from numba.extending import intrinsic

from retrieval.index.jit import jit
from retrieval.index.topk import select, sort_descending

LANES = 16
_AHEAD = 1536  # floats: the scan is bound by memory, and asking this early beat 512 and 4096
_NO_KEY = np.int64(-(2**63))


@intrinsic
def _lanes(typing, row, query, n):
    """Sum of the first n products, n a multiple of 16, of float32[d] and float64[d]."""

    def generate(context, builder, signature, arguments):
        a, b = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 1))
        i8p, i32, i64 = ir.IntType(8).as_pointer(), ir.IntType(32), ir.IntType(64)
        narrow, wide = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.DoubleType(), LANES)
        hint = builder.module.declare_intrinsic(
            "llvm.prefetch", [i8p], ir.FunctionType(ir.VoidType(), [i8p, i32, i32, i32])
        )
        total = cgutils.alloca_once_value(builder, ir.Constant(wide, None))
        with cgutils.for_range_slice(builder, i64(0), arguments[2], i64(LANES), i64) as (i, _):
            ahead = builder.bitcast(builder.gep(a, [builder.add(i, i64(_AHEAD))]), i8p)
            builder.call(hint, [ahead, i32(0), i32(3), i32(1)])  # beyond the end it does nothing
            x = builder.load(builder.bitcast(builder.gep(a, [i]), narrow.as_pointer()), align=4)
            y = builder.load(builder.bitcast(builder.gep(b, [i]), wide.as_pointer()), align=8)
            product = builder.fmul(builder.fpext(x, wide), y)
            builder.store(builder.fadd(builder.load(total), product), total)
        sums, width = builder.load(total), LANES
        while width > 1:
            width //= 2
            places = ir.VectorType(i32, width)
            low = ir.Constant(places, [i32(j) for j in range(width)])
            high = ir.Constant(places, [i32(j + width) for j in range(width)])
            sums = builder.fadd(
                builder.shuffle_vector(sums, sums, low), builder.shuffle_vector(sums, sums, high)
            )
        return builder.extract_element(sums, i32(0))

    return nb.float64(row, query, n), generate


@intrinsic
def _any_reaches(typing, values, at, least):
    """Whether one of the 16 float32 from values[at] on is not below `least`."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        vector, i32 = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        place = builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer())
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), arguments[2], i32(0))
        zeros = ir.Constant(ir.VectorType(i32, LANES), [i32(0)] * LANES)
        reached = builder.fcmp_unordered(
            ">=", builder.load(place, align=4), builder.shuffle_vector(one, one, zeros)
        )
        bits = builder.bitcast(reached, ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, ir.IntType(LANES)(0))

    return nb.boolean(values, at, least), generate


@jit(inline="always")
def _score(row, query):
    whole = row.shape[0] - row.shape[0] % LANES
    total = _lanes(row, query, np.int64(whole))
    for i in range(whole, row.shape[0]):
        total += np.float64(row[i]) * query[i]
    return np.float32(total) + np.float32(0)  # + 0: there is no negative zero


@jit(nb.int64(nb.float32, nb.int64), inline="always")
def make_key(score, rank):
    """The sortable key of a finite score of either sign."""
    bits = np.float32(score).view(np.int32)
    bits = np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return (np.int64(bits) << np.int64(32)) | rank


@jit(nb.float32(nb.int64), inline="always")
def key_score(key):
    """The score in a key."""
    bits = np.int32(key >> np.int64(32))
    bits = np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return np.int32(bits).view(np.float32)


@jit()
def score_rows(vectors, query, rows, out):
    """out[i] = score of vectors[rows[i]]; False, at the first one, where a row is none of the array's."""
    for i in range(len(rows)):
        if rows[i] < 0 or rows[i] >= vectors.shape[0]:
            return False
        out[i] = _score(vectors[rows[i]], query)
    return True


@jit()
def scan(vectors, queries, span, chunk, alive, rank, k, keys, rows, counts):
    """The k best of the rows span[0] to span[1] for each query, in order; how many goes into counts int64[q].

    keys, rows int64[q, more than k]. Queries take turns on `chunk` rows, which stay in the cache meanwhile.
    """
    least = np.full(len(queries), -np.inf, np.float32)
    lowest = np.full(len(queries), _NO_KEY)
    for start in range(span[0], span[1], chunk):
        for q in range(len(queries)):
            query, into, places = queries[q], keys[q], rows[q]
            n, low, enough = counts[q], lowest[q], least[q]
            for i in range(start, min(span[1], start + chunk)):
                if len(alive) and not alive[i]:
                    continue
                score = _score(vectors[i], query)
                if score < enough:
                    continue
                key = make_key(score, np.int64(rank[i]) if len(rank) else np.int64(i))
                if key <= low:
                    continue
                into[n] = key
                places[n] = i
                n += 1
                if n == len(into):
                    low = select(into, places, n, k)
                    enough = key_score(low)
                    n = k
            counts[q], lowest[q], least[q] = n, low, enough
    for q in range(len(queries)):
        counts[q] = _best(keys[q], rows[q], counts[q], k)


@jit()
def _best(keys, rows, n, k):
    if n > k:
        select(keys, rows, n, k)
        n = k
    if n > 0:
        sort_descending(keys, rows, n)
    return n


@jit()
def _squeeze(vectors, query, rank, k, margin, keys, rows, n):
    """Drops what cannot be among the k best, n > k; at most 3/4 of the room stays taken. How many stay.

    Keys hold products or scores: either is within margin / 2 of the score.
    """
    least = key_score(select(keys, rows, n, k)) - margin
    kept = k
    for i in range(k, n):
        if key_score(keys[i]) >= least:
            keys[kept] = keys[i]
            rows[kept] = rows[i]
            kept += 1
    if 4 * kept > 3 * len(keys):  # many alike: only their scores and ranks can tell
        _rescore(vectors, query, rank, keys, rows, kept)
        select(keys, rows, kept, k)
        kept = k
    return kept


@jit()
def _rescore(vectors, query, rank, keys, rows, n):
    for i in range(n):
        row = rows[i]
        r = np.int64(rank[row]) if len(rank) else row
        keys[i] = make_key(_score(vectors[row], query), r)


@jit()
def sift(products, vectors, queries, base, picked, rank, k, margins, keys, rows, counts, kth):
    """Takes a block of products float32[q, b] into the candidates keys, rows int64[q, room] of each query.

    The block's columns are the rows picked[j], or base + j where picked is empty. kth float32[q]: the k-th
    best product so far. margins float32[q]: twice the error of a product, which may grow from block to block.
    """
    width = products.shape[1]
    for q in range(products.shape[0]):
        line = products[q]
        into, places = keys[q], rows[q]
        n = counts[q]
        least = np.float32(kth[q] - margins[q])
        j = np.int64(0)
        while j < width:
            if j + LANES <= width and not _any_reaches(line, j, least):
                j += LANES
                continue
            for x in range(j, min(j + LANES, width)):
                if line[x] < least:
                    continue
                into[n] = make_key(line[x] + np.float32(0), np.int64(0))
                places[n] = picked[x] if len(picked) else base + x
                n += 1
                if n == len(into):
                    n = _squeeze(vectors, queries[q], rank, k, margins[q], into, places, n)
                    kth[q] = key_score(select(into, places, n, k))
                    least = np.float32(kth[q] - margins[q])
            j += LANES
        counts[q] = n


@jit()
def finish(vectors, queries, rank, k, margins, keys, rows, counts):
    """Scores the candidates that are left: the k best of each query, in order."""
    for q in range(len(counts)):
        n = counts[q]
        if n > k:
            n = _squeeze(vectors, queries[q], rank, k, margins[q], keys[q], rows[q], n)
        _rescore(vectors, queries[q], rank, keys[q], rows[q], n)
        counts[q] = _best(keys[q], rows[q], n, k)


@jit()
def pick(vectors, queries, found, products, alive, rank, k, bound, keys, counts, unsure):
    """Scores candidates found int64[q, m], in place: the k best of each query, in order, with their keys.

    Candidates that are no row of the vectors, or not alive, are left out. counts int64[q]: how many stay.
    bound: the error of products float32[q, m], a factor of the query's norm and what is added. unsure
    uint8[q]: 1 where a document behind the last candidate could be among the k best.
    """
    query = np.empty(queries.shape[1], np.float64)
    for q in range(len(found)):
        into, places = keys[q], found[q]
        squares = 0.0
        for j in range(len(query)):
            query[j] = np.float64(queries[q, j])
            squares += query[j] * query[j]
        n = 0
        tail = places[-1]
        for i in range(len(places)):
            row = places[i]
            if row < 0 or row >= vectors.shape[0] or (len(alive) and not alive[row]):
                continue
            score = _score(vectors[row], query)
            into[n] = make_key(score, np.int64(rank[row]) if len(rank) else row)
            places[n] = row
            n += 1
        n = _best(into, places, n, k)
        counts[q] = n
        reach = np.float64(products[q, -1]) + bound[0] * np.sqrt(squares) + bound[1]
        unsure[q] = tail >= 0 and n == k and reach >= np.float64(key_score(into[n - 1]))


@jit()
def scores_of(keys, n):
    """The scores float32[n] in keys."""
    out = np.empty(n, np.float32)
    for i in range(n):
        out[i] = key_score(keys[i])
    return out
