"""Exact search by inner product over float32[n, d]: the k best of each query, ties by document id.

What a document scores does not depend on how it was found. BLAS gives equal vectors unequal products, by
where they stand in a block; so products only pick candidates: all that come within a proven bound of the k-th
best. Their scores are then computed one by one in one order (exact_kernels.py; `_portable_scores` here, for
the first, cold queries, before numba is loaded; the bits are the same), for exact and approximate search and
for re-scoring alike. Equal vectors tie to the last bit, in any batch, block and split into segments.

One query is a scan, which is bound by memory and computes the scores themselves; many queries are products
of blocks, in memory that does not depend on n.
"""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError

Vectors = NDArray[np.float32]
Found = tuple[NDArray[np.int64], NDArray[np.float32]]

LANES = 16  # as in exact_kernels.py, which is not imported before it pays
LARGEST = 1e15  # of an element: products of 65,536 of them stay finite in float32
_COLD = 1 << 28  # multiplications that numpy does in the time that loading numba takes
_BLOCK = 8 << 20  # bytes of vectors, and of products, that are worked on together
_TILE = 2 << 20  # bytes of vectors that are multiplied together: a tenth faster than 8 << 20
_ROOM = 64 << 20  # bytes of candidates that are kept for the queries worked on together
_CACHED = 1 << 20  # bytes that stay in the second cache
_GROUP = 512  # queries at most
_FEW = 8  # queries that are faster scanned than multiplied (1M x 384: 4 by 3 times, 8 by 1.4)


class Mask(NamedTuple):
    """alive uint8[n]: 1 for documents that may be returned; rank int32[n]: place of each id in ascending
    order. Either may be empty: all documents; ids ascend with the rows."""

    alive: NDArray[np.uint8] = np.empty(0, np.uint8)
    rank: NDArray[np.int32] = np.empty(0, np.int32)


EVERYTHING = Mask()
for _array in EVERYTHING:
    _array.flags.writeable = False


def checked(vectors: Any, dim: int | None, what: str) -> Vectors:
    """float32[n, d], contiguous, for vectors that can be searched. what names them in the error.

    Raises UserError for another shape or type, another d than `dim` (None: any), elements that are not finite
    or larger than 1e15. Reads all of them, in blocks.
    """
    array = np.asarray(vectors)
    if array.ndim == 1 and array.size:
        array = array[None]
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UserError(
            f"{what}: the shape {array.shape} and type {array.dtype}; give float32 in the shape [n, d]"
        )
    if dim is not None and array.shape[1] != dim:
        raise UserError(f"{what}: {array.shape[1]} dimensions instead of {dim}; use the encoder of the index")
    if not array.shape[1]:
        raise UserError(f"{what}: no dimensions; give float32 in the shape [n, d]")
    rows = max(1, _BLOCK // (4 * array.shape[1]))
    for start in range(0, len(array), rows):
        block = array[start : start + rows]
        if not (np.abs(block) <= LARGEST).all():  # not true of NaN either
            bad = start + int(np.flatnonzero(~(np.abs(block) <= LARGEST).all(axis=1))[0])
            raise UserError(
                f"{what}: row {bad} holds values that are not finite (or above {LARGEST:.0e}); "
                "check the encoder's precision and its weights"
            )
    return np.ascontiguousarray(array, np.float32)


def rescore(vectors: Vectors, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Scores float32[m] of the documents `rows` int64[m] for one query float32[d], as `search` gives them.

    Raises UserError for a row that `vectors` lacks.
    """
    rows = np.ascontiguousarray(rows, np.int64)
    if "numba" not in sys.modules and len(rows) * vectors.shape[1] < _COLD:
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(vectors)):
            raise _no_row(vectors, rows)
        return _portable_scores(vectors, query, rows)
    from retrieval.index.exact_kernels import score_rows

    out = np.empty(len(rows), np.float32)
    if not score_rows(read_only(vectors), query.astype(np.float64), read_only(rows), out):
        raise _no_row(vectors, rows)
    return out


def _no_row(vectors: Vectors, rows: NDArray[np.int64]) -> UserError:
    return UserError(
        f"rows {int(rows.min())} to {int(rows.max())} of {len(vectors)} vectors; give rows below"
    )


def search(
    vectors: Vectors,
    queries: Vectors,
    k: int,
    *,
    alive: NDArray[np.uint8] = EVERYTHING.alive,
    rank: NDArray[np.int32] = EVERYTHING.rank,
    threads: int = 1,
    device: str = "cpu",
    compiled: bool | None = None,
    norm: float | None = None,
) -> list[Found]:
    """The k best documents of each query: (rows int64[m], scores float32[m]), m = min(k, documents alive).

    vectors float32[n, d] may be a read-only map; queries float32[q, d]; alive and rank as in Mask. Order:
    score descending, then rank descending. threads: of ours; BLAS has its own. device: "cuda" searches there
    (ExactGpu of exact_gpu.py keeps the vectors there). compiled: None chooses. norm: largest_norm_of the
    vectors, which saves a batch 5 % of its time. None of these changes the results.
    Raises UserError for k or threads below 1 and arrays that do not fit each other.
    """
    if k < 1 or threads < 1:
        raise UserError(f"k and threads are whole numbers of 1 and more; got {k} and {threads}")
    mask = fitting(vectors, queries, Mask(alive, rank))
    if device != "cpu":
        from retrieval.index.exact_gpu import ExactGpu

        return ExactGpu(vectors, device).search(queries, k, alive=alive, rank=rank)
    k = min(k, len(vectors) if not len(alive) else int(np.count_nonzero(alive)))
    if not k or not len(queries):
        return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
    if compiled is None:
        compiled = "numba" in sys.modules or len(queries) * vectors.size > _COLD
    if not compiled:
        return [_portable(vectors, query, k, mask) for query in queries]
    return _compiled(read_only(vectors), queries, k, mask, threads, norm)


def fitting(vectors: Vectors, queries: Vectors, mask: Mask) -> Mask:
    """The mask with arrays as compiled code takes them. Raises UserError where something does not fit."""
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.flags.c_contiguous:
        raise UserError(
            f"vectors of type {vectors.dtype} and shape {vectors.shape}; give contiguous float32[n, d]"
        )
    if queries.ndim != 2 or queries.dtype != np.float32 or queries.shape[1] != vectors.shape[1]:
        raise UserError(
            f"queries: {queries.dtype} in the shape {queries.shape}, vectors: {vectors.shape}; "
            f"give float32[q, {vectors.shape[1]}]"
        )
    if len(vectors) >= 1 << 31:
        raise UserError(f"{len(vectors)} vectors in one segment; split them: a segment holds 2**31 - 1")
    if mask.alive is EVERYTHING.alive and mask.rank is EVERYTHING.rank:
        return EVERYTHING
    for name, array in mask._asdict().items():
        if len(array) not in (0, len(vectors)):
            raise UserError(
                f"{name} has {len(array)} entries for {len(vectors)} vectors; give one each, or none"
            )
    alive, rank = mask
    return Mask(
        read_only(np.ascontiguousarray(alive).view(np.uint8)), read_only(np.ascontiguousarray(rank, np.int32))
    )


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written to: one type, so that kernels are compiled once, for maps and arrays."""
    view = array.view()
    view.flags.writeable = False
    return view


def error_bound(d: int, query_norm: Any, largest_norm: float) -> Any:
    """By how much a float32 product of d elements, summed in any order, may differ from the rounded score.

    gamma_d |q| |v| with gamma_d = d u / (1 - d u), u = 2**-24 (Higham, Accuracy and Stability of Numerical
    Algorithms, section 3.1, and Cauchy-Schwarz), two roundings more, and what underflows to zero.
    """
    u = (d + 3) * 2.0**-24
    return u / (1 - u) * query_norm * largest_norm + d * 2.0**-125


def largest_norm(block: Vectors) -> float:
    """The largest Euclidean norm of the rows, or a little more."""
    squares = np.vecdot(block, block)
    underflow: float = 1e-18 * block.shape[1]
    return math.sqrt(squares.max(initial=0)) * 1.02 + underflow


def largest_norm_of(vectors: Vectors) -> float:
    """largest_norm of all rows, read in blocks."""
    step = max(1, _BLOCK // (4 * vectors.shape[1]))
    return max((largest_norm(vectors[i : i + step]) for i in range(0, len(vectors), step)), default=0.0)


# The compiled paths.


def _compiled(
    vectors: Vectors, queries: Vectors, k: int, mask: Mask, threads: int, norm: float | None
) -> list[Found]:
    if few := len(queries) <= _FEW:  # bound by memory: threads share the documents
        work, spans = _scanned, [(0, len(queries), *span) for span in _split(len(vectors), threads, 4096)]
    else:
        most = max(1, min(_GROUP, _ROOM // (k * 48)))
        groups = max(threads, -(-len(queries) // most))
        work, spans = _multiplied, [(*span, 0, len(vectors)) for span in _split(len(queries), groups, 1)]

    def run(span: tuple[int, int, int, int]) -> list[Found]:
        return work(vectors, queries[span[0] : span[1]], k, mask, span[2:], norm)

    if threads > 1 and len(spans) > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = list(pool.map(run, spans))
    else:
        parts = [run(span) for span in spans]
    if not few or len(parts) == 1:
        return [found for part in parts for found in part]
    merged = []
    for each in zip(*parts):
        rows, scores = np.concatenate([rows for rows, _ in each]), np.concatenate([s for _, s in each])
        merged.append(in_order(rows, scores, k, mask.rank))
    return merged


def _split(n: int, parts: int, least: int) -> list[tuple[int, int]]:
    size = max(least, -(-n // parts))
    return [(a, min(n, a + size)) for a in range(0, n, size)]


def _scanned(
    vectors: Vectors, queries: Vectors, k: int, mask: Mask, span: tuple[int, int], norm: float | None
) -> list[Found]:
    from retrieval.index.exact_kernels import scan, scores_of

    shape = (len(queries), 2 * k + 64)
    keys, rows, counts = (
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.zeros(len(queries), np.int64),
    )
    chunk = max(16, _CACHED // (4 * vectors.shape[1]))
    scan(vectors, queries.astype(np.float64), span, chunk, *mask, k, keys, rows, counts)
    return [(rows[i, :n].copy(), scores_of(keys[i], n)) for i, n in enumerate(counts.tolist())]


def _multiplied(
    vectors: Vectors, queries: Vectors, k: int, mask: Mask, span: tuple[int, int], norm: float | None
) -> list[Found]:
    from retrieval.index.exact_kernels import finish, scores_of, sift

    q, d = queries.shape
    alive, rank = mask
    wide = queries.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    shape = (q, 3 * k + 256)
    keys, rows = np.empty(shape, np.int64), np.empty(shape, np.int64)
    counts, kth = np.zeros(q, np.int64), np.full(q, -np.inf, np.float32)
    step = max(64, min(4096, _TILE // (4 * d)))
    products = np.empty((q, step), np.float32)
    largest = norm or 0.0
    picked = np.empty(0, np.int64)
    margins = np.zeros(q, np.float32)
    for base in range(*span, step):
        block = vectors[base : min(span[1], base + step)]
        if len(alive):
            picked = np.flatnonzero(alive[base : base + len(block)])
            if not len(picked):
                continue
            if len(picked) < len(block):
                block = block[picked]
            picked += base
        if norm is None:
            largest = max(largest, largest_norm(block))
        margins[:] = 2 * error_bound(d, norms, largest) * (1 + 2.0**-20)
        out = products[:, : len(block)]
        np.matmul(queries, block.T, out=out)
        sift(out, vectors, wide, base, picked, rank, k, margins, keys, rows, counts, kth)
    finish(vectors, wide, rank, k, margins, keys, rows, counts)
    return [(rows[i, :n].copy(), scores_of(keys[i], n)) for i, n in enumerate(counts.tolist())]


# The paths that need only numpy.


def in_order(
    rows: NDArray[np.int64], scores: NDArray[np.float32], k: int, rank: NDArray[np.int32] = EVERYTHING.rank
) -> Found:
    """The k best of scored rows by the tie rule."""
    order = np.lexsort((rank[rows] if len(rank) else rows, scores))[::-1][:k]
    return rows[order], scores[order]


def _portable_scores(
    vectors: Vectors, query: NDArray[np.float32], rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores float32[m] of rows: LANES sums side by side, folded in halves, the rest one by one."""
    out = np.empty(len(rows), np.float32)
    wide = query.astype(np.float64)
    d = len(wide)
    whole = d - d % LANES
    for start in range(0, len(rows), 1024):
        products = vectors[rows[start : start + 1024]].astype(np.float64) * wide
        sums = np.zeros((len(products), LANES))
        for i in range(0, whole, LANES):
            sums += products[:, i : i + LANES]
        width = LANES
        while width > 1:
            width //= 2
            sums = sums[:, :width] + sums[:, width:]
        total = sums[:, 0]
        for i in range(whole, d):
            total = total + products[:, i]
        out[start : start + 1024] = total
    return out + np.float32(0)  # + 0: there is no negative zero


def _portable(vectors: Vectors, query: NDArray[np.float32], k: int, mask: Mask) -> Found:
    rows = np.empty(0, np.int64)
    products = np.empty(0, np.float32)
    norm, largest = float(np.linalg.norm(query.astype(np.float64))), 0.0
    step = max(k, 64, _BLOCK // (4 * vectors.shape[1]))
    for base in range(0, len(vectors), step):
        block = vectors[base : base + step]
        here = np.arange(base, base + len(block))
        if len(mask.alive):
            here = np.flatnonzero(mask.alive[base : base + len(block)])
            block = block if len(here) == len(block) else block[here]
            here += base
        largest = max(largest, largest_norm(block))
        rows, products = np.concatenate([rows, here]), np.concatenate([products, block @ query])
        if len(rows) > k:
            least = np.partition(products, len(products) - k)[len(products) - k]
            near = products >= least - np.float32(2 * error_bound(len(query), norm, largest) * (1 + 2.0**-20))
            rows, products = rows[near], products[near]
            if len(rows) > 2 * step:  # many alike: only their scores and ranks can tell
                rows, products = in_order(rows, _portable_scores(vectors, query, rows), k, mask.rank)
    return in_order(rows, _portable_scores(vectors, query, rows), k, mask.rank)
