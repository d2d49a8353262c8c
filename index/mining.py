"""Further queries for a passage: those made from other passages that a teacher finds close to it.

A query that was made from a passage mostly holds words of that passage. One that was made elsewhere and means
the same holds others: it is what an expansion model has to learn from, without any labels.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.data.output import atomic

MINED = "mined.jsonl"
_ROWS = 512  # passages compared with all queries at a time
_NEAREST = 64  # queries looked at for each passage


def mine(
    target: str,
    queries: NDArray[Any],
    passages: NDArray[Any],
    asked: NDArray[np.int32],
    origin: NDArray[np.int32],
    wanted: NDArray[np.bool_],
    most: int,
    least: float,
    progress: Callable[[int], None],
) -> int:
    """Writes {"query", "positive"} lines, by number, to `target`; returns how many.

    queries, passages  unit vectors [q, d] and [p, d]
    asked              int32[q], the passage that each query was made from
    origin             int32[p], the document of each passage; queries made from it are not taken
    wanted             bool[p], passages that get queries
    most, least        at most so many queries a passage, of at least this cosine
    """
    source = origin[asked]
    table = np.ascontiguousarray(queries, np.float32)
    numbers = np.flatnonzero(wanted)
    nearest = min(_NEAREST, len(table))
    found = 0
    with atomic(target) as write:
        for start in range(0, len(numbers), _ROWS):
            rows = numbers[start : start + _ROWS]
            scores = passages[rows].astype(np.float32) @ table.T
            scores[origin[rows][:, None] == source[None, :]] = -1.0
            top = np.argpartition(-scores, nearest - 1, axis=1)[:, :nearest]
            values = np.take_along_axis(scores, top, 1)
            order = np.lexsort((top, -values), axis=1)[:, :most]
            top, values = np.take_along_axis(top, order, 1), np.take_along_axis(values, order, 1)
            for row, near, score in zip(rows.tolist(), top.tolist(), values.tolist()):
                for query, value in zip(near, score):
                    if value < least:
                        break
                    found += 1
                    write(orjson.dumps({"query": query, "positive": row}, option=orjson.OPT_APPEND_NEWLINE))
            progress(len(rows))
    return found


def read_mined(folder: str) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(numbers of queries, numbers of passages) that mine() wrote; empty where it did not."""
    path = os.path.join(folder, MINED)
    if not os.path.exists(path):
        return np.empty(0, np.int64), np.empty(0, np.int32)
    with open(path, "rb") as file:
        records = [orjson.loads(line) for line in file]
    pairs = np.array([(r["query"], r["positive"]) for r in records], np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1].astype(np.int32)
