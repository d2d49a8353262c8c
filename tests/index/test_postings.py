"""Building and reading lists: scratch files that fail, what reading a whole part takes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.errors import StorageError
from retrieval.index.postings import Postings
from retrieval.index.postings_writer import PostingsWriter

N = 140_000  # three chunks


def frequencies() -> np.ndarray[Any, np.dtype[np.int64]]:
    """tf int[N, 3]: a term in every document, one in the middle chunk alone, one in every fifth."""
    rng = np.random.default_rng(5)
    tf = np.ones((N, 3), np.int64)
    tf[: 1 << 16, 1] = tf[1 << 17 :, 1] = 0
    tf[np.arange(N) % 5 != 0, 2] = 0
    large = rng.random((N, 3)) < 0.0005
    return np.where(large & (tf > 0), rng.choice([14, 15, 16, 254, 255, 256, 999], (N, 3)), tf)


def write(tf: Any, scratch: Path, tools: Any, **options: Any) -> Postings:
    writer = PostingsWriter(str(scratch))
    tokens = np.repeat(np.tile(np.arange(3, dtype=np.int32), len(tf)), tf.ravel())
    writer.add(np.r_[0, np.cumsum(tf.sum(axis=1))].astype(np.int64), tokens)
    part = tools.MemoryPart()
    writer.finish(part, ["every", "middle", "fifth"], **options)
    return Postings(part, "p")


@pytest.mark.parametrize("extra", [0, 20])
def test_whole_lists_are_exact_and_small(tmp_path: Path, tools: Any, extra: int) -> None:
    tf = frequencies()
    tf[::50, 0] += extra  # more than one in a hundred larger than half a byte: whole bytes
    postings = write(tf, tmp_path, tools)
    assert postings.bits == (8 if extra else 4)
    for number in range(3):
        docs, values = postings.listed(number)
        assert np.array_equal(docs, np.flatnonzero(tf[:, number]))
        assert np.array_equal(values, tf[docs, number])
    tracemalloc.start()
    try:
        lists, _ = postings.whole()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(lists.values, np.minimum(tf.T[tf.T > 0], 255))
    assert peak < 4 * len(lists.docs) + (1 << 20)  # beside what is made for one dense block at a time


def test_a_full_disk_while_spilling(tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to("/dev/full")
    writer = PostingsWriter(str(tmp_path), budget=100)
    with pytest.raises(StorageError, match="no space left"):
        writer.add(np.array([0, 1000]), np.arange(1000, dtype=np.int32))


def test_scratch_files_that_cannot_be_mapped(tmp_path: Path, monkeypatch: Any, tools: Any) -> None:
    def fail(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    writer = PostingsWriter(str(tmp_path), budget=100)
    writer.add(np.array([0, 1000]), np.arange(1000, dtype=np.int32))
    monkeypatch.setattr(np, "memmap", fail)
    with pytest.raises(StorageError, match="out of memory"):
        writer.finish(tools.MemoryPart(), [f"t{i}" for i in range(1000)])
