"""The one tie rule: score descending, then document id descending (code point order)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_HALF = np.uint64(32)


def rank_order(
    offsets: NDArray[np.int64], docs: NDArray[np.int32], scores: NDArray[np.float32], doc_ids: Sequence[str]
) -> NDArray[np.int64]:
    """Permutation int64[n] that puts every query's slice into rank order.

    offsets int64[nq + 1], docs int32[n], scores float32[n]; doc_ids maps an ordinal to its id. Ids are looked
    at in tied groups only, each once; and not at all in a table that has an attribute `rank` (int32[number of
    ids], each id's place in ascending order).
    """
    known: NDArray[np.int32] | None = getattr(doc_ids, "rank", None)
    if known is not None and len(offsets) == 2:  # of one query all that counts fits one integer
        bits = (scores + np.float32(0)).view(np.int32)  # -0.0 is 0.0
        keys = (~(bits ^ ((bits >> 31) & 0x7FFFFFFF))).astype(np.int64)
        keys <<= 32
        keys -= known[docs]
        return np.argsort(keys)
    key = _falling(scores).astype(np.uint64)
    if len(offsets) > 2:  # one integer sorts by query and score
        key |= np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64) << _HALF, np.diff(offsets))
    order = np.argsort(key)
    key = key[order]
    differs = np.ones(len(key) + 1, np.bool_)  # from the one before; so does what would come last
    np.not_equal(key[1:], key[:-1], out=differs[1:-1])
    if differs.all():
        return order
    tied = np.flatnonzero(~(differs[:-1] & differs[1:]))
    group = np.cumsum(differs[:-1], dtype=np.uint64)[tied]
    backwards = np.uint64(len(doc_ids)) - _id_ranks(docs[order[tied]], doc_ids)
    # Tied groups are contiguous, so sorting all of them at once leaves each where it stands.
    order[tied] = order[tied][np.argsort((group << _HALF) | backwards)]
    return order


def _falling(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """uint32[n] that sort as the scores do from high to low."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 is 0.0
    return np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF))


def _id_ranks(docs: NDArray[np.int32], doc_ids: Sequence[str]) -> NDArray[np.uint64]:
    """uint64[n]: the places of these documents' ids in ascending order."""
    known: NDArray[np.int32] | None = getattr(doc_ids, "rank", None)
    if known is not None:
        return known[docs].astype(np.uint64)
    unique, place = np.unique(docs, return_inverse=True)
    ids = [doc_ids[doc] for doc in unique.tolist()]
    ranks = np.empty(len(ids), np.uint64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids), dtype=np.uint64)
    return ranks[place]
