"""Compiled top-k selection: a bounded buffer of (key, document) pairs, with a key that carries the tie rule.

A key is the bit pattern of the non-negative float32 score in the upper half and the document's rank in
ascending id order in the lower half. Comparing keys is comparing (score, doc id), so the tie rule (score
descending, then doc id descending) costs nothing and no two keys of a segment are equal.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from retrieval.index.jit import jit


@jit(nb.int64(nb.float32, nb.int32), inline="always")
def make_key(score, rank):
    """The sortable key of a score (float32, not negative) and an id rank (int32)."""
    bits = np.float32(score).view(np.int32)
    return (np.int64(bits) << np.int64(32)) | np.int64(rank)


@jit()
def _partition(keys, docs, lo, hi):
    """Moves the larger keys of [lo, hi] to the left of a pivot and returns the pivot's place."""
    mid = (lo + hi) >> 1
    if keys[mid] > keys[lo]:
        keys[mid], keys[lo] = keys[lo], keys[mid]
        docs[mid], docs[lo] = docs[lo], docs[mid]
    if keys[hi] > keys[lo]:
        keys[hi], keys[lo] = keys[lo], keys[hi]
        docs[hi], docs[lo] = docs[lo], docs[hi]
    if keys[mid] > keys[hi]:  # the median of three ends up at hi
        keys[mid], keys[hi] = keys[hi], keys[mid]
        docs[mid], docs[hi] = docs[hi], docs[mid]
    pivot = keys[hi]
    place = lo
    for i in range(lo, hi):
        if keys[i] > pivot:
            keys[i], keys[place] = keys[place], keys[i]
            docs[i], docs[place] = docs[place], docs[i]
            place += 1
    keys[place], keys[hi] = keys[hi], keys[place]
    docs[place], docs[hi] = docs[hi], docs[place]
    return place


@jit()
def select(keys, docs, n, k):
    """Moves the k largest of n keys, 0 < k <= n, to the front (unordered); returns the smallest of them."""
    lo = 0
    hi = n - 1
    while lo < hi:
        place = _partition(keys, docs, lo, hi)
        if place == k - 1:
            break
        if place < k - 1:
            lo = place + 1
        else:
            hi = place - 1
    return keys[k - 1]


@jit()
def sort_descending(keys, docs, n):
    """Sorts n pairs by key, largest first, in place: quicksort down to runs of 16, then insertion sort."""
    stack = np.empty(128, np.int64)
    top = 0
    stack[0] = 0
    stack[1] = n - 1
    top = 2
    while top > 0:
        top -= 2
        lo = stack[top]
        hi = stack[top + 1]
        while hi - lo > 16:
            place = _partition(keys, docs, lo, hi)
            if place - lo < hi - place:  # the larger part waits: the stack stays logarithmic
                stack[top] = place + 1
                stack[top + 1] = hi
                hi = place - 1
            else:
                stack[top] = lo
                stack[top + 1] = place - 1
                lo = place + 1
            top += 2
    for i in range(1, n):
        key = keys[i]
        doc = docs[i]
        j = i - 1
        while j >= 0 and keys[j] < key:
            keys[j + 1] = keys[j]
            docs[j + 1] = docs[j]
            j -= 1
        keys[j + 1] = key
        docs[j + 1] = doc
