"""Scores of blocks to scores of documents. (TASK B helper: this file is yours; extend it. Keep these names:
HOW, Weights, pool, read_weights are imported by longdoc/block_stage.py. Remove this bracket.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

HOW = ("max", "first", "sum", "mean", "kernel", "learned")
Weights = dict[str, Any]


def pool(
    scores: NDArray[np.float32],
    offsets: NDArray[np.int64],
    how: str = "max",
    k: int = 3,
    weights: Weights | None = None,
) -> NDArray[np.float32]:
    """float32[documents] of float32[blocks]; every document has one block or more."""
    if not len(offsets) - 1:
        return np.empty(0, np.float32)
    starts = offsets[:-1]
    if how == "first":
        return scores[starts]
    if how == "max":
        return np.maximum.reduceat(scores, starts)
    if how == "sum":
        return np.add.reduceat(scores.astype(np.float64), starts).astype(np.float32)
    return np.array(
        [np.sort(scores[a:b])[::-1][:k].astype(np.float64).mean() for a, b in zip(starts, offsets[1:])],
        np.float32,
    )


def read_weights(path: str) -> Weights:
    """The weights that fit() wrote. Raises UserError."""
    raise NotImplementedError
