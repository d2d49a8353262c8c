"""BM25's saturation table, and what bounds stored for one (k1, b, mean length) are worth for another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

# The reference parameters: stored bounds are computed with them and the segment's mean length.
K1, B = 0.9, 0.4


def length_norms(
    lengths: NDArray[np.int32], mean: float, k1: float = K1, b: float = B
) -> NDArray[np.float32]:
    """k1 * (1 - b + b * length / mean) of each length, float32."""
    share = lengths / mean if mean > 0 else np.zeros(len(lengths))
    norms: NDArray[np.float32] = (k1 * (1 - b + b * share)).astype(np.float32)
    return norms


def bm25_table(
    lengths: NDArray[np.int32], mean: float, k1: float = K1, b: float = B, rows: int = 256
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(tf / (tf + norm) as float32[rows * width], row tf, column length code; norms float32[width])."""
    norms = length_norms(lengths, mean, k1, b)
    tf = np.arange(rows, dtype=np.float32)[:, None]
    table = np.zeros((rows, len(norms)), np.float32)
    np.divide(tf[1:], tf[1:] + norms, out=table[1:])
    return table.reshape(-1), norms


def bound_scales(
    lengths: NDArray[np.int32], reference_mean: float, mean: float, k1: float, b: float
) -> tuple[float, float]:
    """(upper, lower) factors that turn reference shares into valid bounds for (mean, k1, b).

    tf / (tf + n') over tf / (tf + n) is at most max(1, n / n') and at least min(1, n / n'); n / n' is a
    quotient of two straight lines in the length, so its extremes lie at the shortest and the longest
    document.
    """
    ends = np.array([lengths.min(initial=0), lengths.max(initial=0)], np.int32) if len(lengths) else lengths
    reference = length_norms(ends, reference_mean).astype(np.float64)
    actual = length_norms(ends, mean, k1, b).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(actual > 0, reference / actual, math.inf)
    margin = 1e-5  # float32 rounding of both tables
    high = max(1.0, float(ratio.max(initial=1.0))) * (1 + margin)
    low = min(1.0, float(ratio.min(initial=1.0))) * (1 - margin)
    return high, low
