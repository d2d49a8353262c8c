"""The vector benchmark: its collection is the same for a seed, and one small run gives every figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrieval.bench import vector_search

pytest.importorskip("faiss")


def test_collection_is_clustered_of_norm_one_and_seeded() -> None:
    vectors, queries = vector_search.collection(600, 20, 96, 12, 1)
    again, _ = vector_search.collection(600, 20, 96, 12, 1)
    other, _ = vector_search.collection(600, 20, 96, 12, 2)
    assert vectors.shape == (600, 96)
    assert queries.shape == (20, 96)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, again)
    assert not np.array_equal(vectors, other)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    near = np.sort(vectors @ vectors.T, axis=1)[:, -20]  # others of its cluster, against any other
    assert np.median(near) > np.median(vectors @ vectors.T) + 0.3


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    small = ["--documents", "1500", "--dim", "24", "--queries", "12", "--rounds", "1", "--json", str(out)]
    vector_search.main(small)
    found = json.loads(out.read_text())
    assert [(row["what"], row["k"]) for row in found["exact"]] == [
        (what, k) for k in (10, 1000) for what in ("one query", "batch of 12")
    ]
    assert [row["kind"] for row in found["ann"]] == ["ivf", "sq8", "pq", "hnsw"]
    for row in found["ann"]:
        assert row["bytes"] > 0
        assert row["ladder"]
        for point in row["points"]:
            assert 0 < point["recall10"] <= 1
            assert point["ratio"] >= 0
            best = max(step["recall10"] for step in row["ladder"])
            assert point["reached"] == (best >= point["wanted"])
    printed = capsys.readouterr().out
    assert "| one query | 1000 |" in printed
    assert "| hnsw, 1,500 |" in printed
