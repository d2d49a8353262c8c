"""What turns a stored value into a contribution: BM25 (frequency, length) or an impact (the value itself)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.index.bounds import K1, B, bm25_table, bound_scales
from retrieval.index.consistency import corrupt
from retrieval.index.postings import Postings

Array = NDArray[Any]
ROUNDING = 64  # sums below 2**30 that are equal as float32 differ by less


class Scoring(Protocol):
    """How one segment's values score; the arrays go to the compiled kernel as they are."""

    table: NDArray[np.float32]
    width: int
    norms: NDArray[np.float32]
    bound_scale: np.float32

    @property
    def codes(self) -> Array:
        """Each document's length code, and up to the end of the last chunk; empty for impacts."""

    def contributions(
        self, weight: float, values: NDArray[np.int64], docs: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Fixed-point contributions of one term's postings (docs: ordinals in the segment)."""

    def sure(
        self, q: NDArray[np.float32], q_int: NDArray[np.int32], kth: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """What the k-th best posting of each term contributes at least."""


class Bm25Scoring:
    """Lucene's BM25: weight * tf / (tf + k1 * (1 - b + b * length / mean))."""

    def __init__(self, postings: Postings, mean: float, k1: float = K1, b: float = B) -> None:
        self._postings = postings
        if postings.weighted:
            raise corrupt(postings.part, "facts.json", "says weighted, but its representation counts terms")
        lengths = postings.lengths
        self.table, self.norms = bm25_table(
            lengths, mean, k1, b, 1 << (8 if postings.compact else postings.bits)
        )
        self.width = max(1, len(lengths))
        high, self._low = bound_scales(lengths, postings.mean, mean, k1, b)
        self.bound_scale = np.float32(high / 255)

    @cached_property
    def codes(self) -> Array:
        """What the kernel reads; a copy, unless the segment ends with a chunk, so made where it is needed."""
        return self._postings.padded_codes

    @cached_property
    def _codes_by_ordinal(self) -> Array:
        order, codes = self._postings.order, self._postings.codes
        if not len(order):
            return codes
        moved = np.empty_like(codes)
        moved[order] = codes
        return moved

    def contributions(
        self, weight: float, values: NDArray[np.int64], docs: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """As the kernel: float32 quotient, float32 product, truncated."""
        tf = values.astype(np.float32)
        share = tf / (tf + self.norms[self._codes_by_ordinal[docs]])
        parts: NDArray[np.int32] = (np.float32(weight) * share).astype(np.int32)
        return parts

    def sure(
        self, q: NDArray[np.float32], q_int: NDArray[np.int32], kth: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """Lower bounds: the stored share, rounded down, at the reference parameters."""
        low: NDArray[np.int64] = (q * (kth * (self._low / 255))).astype(np.int64) - 1
        return low


class ImpactScoring:
    """Stored impacts: query weight times value, whole numbers both."""

    def __init__(self, postings: Postings) -> None:
        if not postings.weighted:
            raise corrupt(
                postings.part, "facts.json", "says not weighted, but its representation has weights"
            )
        self.table = self.norms = np.empty(0, np.float32)
        self.codes = np.empty(0, np.uint16)
        self.width = 0
        self.bound_scale = np.float32(1)

    def contributions(
        self, weight: float, values: NDArray[np.int64], docs: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Integer product."""
        parts: NDArray[np.int32] = (int(weight) * values).astype(np.int32)
        return parts

    def sure(
        self, q: NDArray[np.float32], q_int: NDArray[np.int32], kth: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """The stored value itself."""
        low: NDArray[np.int64] = q_int.astype(np.int64) * kth - ROUNDING
        return low
