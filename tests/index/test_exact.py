"""Exact vector search equals brute force to the last bit: ties, masks, duplicates, batches, both scorers."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index import exact

Found = tuple[list[int], list[float]]


def score(vector: Any, query: Any) -> float:
    """The definition, one product after the other."""
    lanes = [0.0] * 16
    whole = len(query) // 16 * 16
    for i in range(whole):
        lanes[i % 16] += float(vector[i]) * float(query[i])
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = [a + b for a, b in zip(lanes[:half], lanes[half:])]
    total = lanes[0]
    for i in range(whole, len(query)):
        total += float(vector[i]) * float(query[i])
    return float(np.float32(total))


def brute(vectors: Any, query: Any, k: int, alive: Any, rank: Any) -> Found:
    rows = [i for i in range(len(vectors)) if not len(alive) or alive[i]]
    scores = {i: score(vectors[i], query) for i in rows}
    rows.sort(key=lambda i: (scores[i], rank[i] if len(rank) else i), reverse=True)
    return rows[:k], [scores[i] for i in rows[:k]]


def same(found: list[exact.Found], wanted: list[Found]) -> bool:
    return [(rows.tolist(), scores.tolist()) for rows, scores in found] == wanted


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    n, d = draw(st.integers(1, 150)), draw(st.sampled_from([1, 2, 7, 16, 17, 33, 64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    if draw(st.booleans()):
        vectors = vectors[rng.integers(0, min(n, 3), n)]  # duplicates
    if draw(st.booleans()):
        vectors = np.round(vectors)  # zero vectors and ties
    queries = rng.standard_normal((draw(st.integers(1, 11)), d)).astype(np.float32)
    if draw(st.booleans()):
        queries[0] = 0
    alive = (rng.random(n) < 0.4).astype(np.uint8) if draw(st.booleans()) else np.empty(0, np.uint8)
    rank = rng.permutation(n).astype(np.int32) if draw(st.booleans()) else np.empty(0, np.int32)
    return {
        "vectors": vectors, "queries": queries, "k": draw(st.integers(1, 60)), "alive": alive, "rank": rank,
    }  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(cases(), st.integers(1, 3))
def test_equals_brute_force(case: dict[str, Any], threads: int) -> None:
    wanted = [
        brute(case["vectors"], query, case["k"], case["alive"], case["rank"]) for query in case["queries"]
    ]
    for compiled in (True, False):
        assert same(exact.search(**case, threads=threads, compiled=compiled), wanted)
    alone = [
        exact.search(**{**case, "queries": case["queries"][i : i + 1]}, compiled=True)[0]
        for i in range(len(wanted))
    ]
    assert same(alone, wanted)


@pytest.mark.parametrize("block", [1, 700, 4096 * 20])
@pytest.mark.parametrize("queries", [1, 9, 12])
def test_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch, block: int, queries: int) -> None:
    monkeypatch.setattr(exact, "_BLOCK", block)
    monkeypatch.setattr(exact, "_CACHED", block)
    monkeypatch.setattr(exact, "_TILE", block)
    monkeypatch.setattr(exact, "_GROUP", 5)
    rng = np.random.default_rng(block + queries)
    vectors = rng.standard_normal((1003, 20)).astype(np.float32)
    vectors[200:900] = vectors[7]  # more ties than there is room for
    asked = rng.standard_normal((queries, 20)).astype(np.float32)
    asked[0] = vectors[7]
    wanted = [brute(vectors, query, 15, (), ()) for query in asked]
    for compiled in (True, False):
        assert same(exact.search(vectors, asked, 15, compiled=compiled), wanted)
    norm = exact.largest_norm_of(vectors)
    assert same(exact.search(vectors, asked, 15, compiled=True, norm=norm), wanted)


def test_norms_that_grow_widen_the_bound() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((9000, 48)).astype(np.float32)
    vectors[8000:] *= 1000
    asked = rng.standard_normal((10, 48)).astype(np.float32)
    singly = [exact.search(vectors, asked[i : i + 1], 40, compiled=True)[0] for i in range(10)]
    assert same(
        exact.search(vectors, asked, 40, compiled=True), [(r.tolist(), s.tolist()) for r, s in singly]
    )


def test_bound_holds_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for d in (1, 3, 100, 2000):
        vectors = rng.standard_normal((40, d)).astype(np.float32) * 10 ** rng.uniform(-9, 9, (40, 1)).astype(
            "f4"
        )
        query = rng.standard_normal(d).astype(np.float32)
        slow = np.zeros(40, np.float32)
        for i in range(d):  # the worst of orders
            slow += vectors[:, i] * query[i]
        true = np.array([math.fsum(float(a) * float(b) for a, b in zip(v, query)) for v in vectors])
        for i, vector in enumerate(vectors):
            bound = exact.error_bound(d, float(np.linalg.norm(query)), exact.largest_norm(vector[None]))
            assert abs(float(slow[i]) - true[i]) <= bound
            assert abs(score(vector, query) - true[i]) <= bound


def test_read_only_map(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).standard_normal((300, 12)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    for asked in (vectors[:2], vectors[:12]):
        found = exact.search(mapped, asked, 5, compiled=True)
        assert same(found, [brute(vectors, query, 5, (), ()) for query in asked])


def test_rescore_is_what_search_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    vectors, query = (
        rng.standard_normal((50, 19)).astype(np.float32),
        rng.standard_normal(19).astype(np.float32),
    )
    rows, scores = exact.search(vectors, query[None], 50, compiled=True)[0]
    assert exact.rescore(vectors, query, rows).tolist() == scores.tolist()
    monkeypatch.delitem(sys.modules, "numba")
    assert exact.rescore(vectors, query, rows).tolist() == scores.tolist()
    for wrong in ([50], [-1]):
        with pytest.raises(UserError, match="of 50 vectors"):
            exact.rescore(vectors, query, np.array(wrong))
    monkeypatch.undo()
    with pytest.raises(UserError, match="of 50 vectors"):
        exact.rescore(vectors, query, np.array([3, 50]))


def test_nothing_to_find() -> None:
    vectors = np.ones((4, 2), np.float32)
    empty = exact.search(vectors, vectors[:1], 3, alive=np.zeros(4, np.uint8))
    assert [len(rows) for rows, _ in empty] == [0]
    assert exact.search(vectors, np.empty((0, 2), np.float32), 3) == []
    assert [len(r) for r, _ in exact.search(np.empty((0, 2), np.float32), vectors[:1], 3)] == [0]


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        (np.array([[1, np.nan]]), "row 0 holds values that are not finite"),
        (np.array([[1, 2], [np.inf, 1]]), "row 1"),
        (np.array([[1, 1e30]]), "row 0"),
        (np.ones((2, 3)), "3 dimensions instead of 2"),
        (np.ones((2, 2, 2)), "shape"),
        (np.array([["a", "b"]]), "type"),
        (np.ones((2, 0)), "0 dimensions"),
    ],
)
def test_refused_vectors(vectors: NDArray[Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        exact.checked(vectors, 2, "query vectors")


def test_checked_gives_float32_rows() -> None:
    given = exact.checked(np.arange(4, dtype=np.float64)[::2], 2, "x")
    assert given.dtype == np.float32
    assert given.tolist() == [[0.0, 2.0]]
    assert given.flags.c_contiguous


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"k": 0}, "k and threads"),
        ({"threads": 0}, "k and threads"),
        ({"alive": np.ones(3, np.uint8)}, "alive has 3 entries"),
        ({"rank": np.zeros(3, np.int32)}, "rank has 3 entries"),
        ({"queries": np.ones((1, 5), np.float32)}, "queries"),
        ({"vectors": np.ones((4, 2))}, "contiguous float32"),
    ],
)
def test_what_does_not_fit(change: dict[str, Any], problem: str) -> None:
    vectors = np.ones((4, 2), np.float32)
    given: dict[str, Any] = {"vectors": vectors, "queries": vectors[:1], "k": 1, **change}
    with pytest.raises(UserError, match=problem):
        exact.search(**given)


def _on_device(device: str) -> None:
    from retrieval.index.exact_gpu import ExactGpu

    rng = np.random.default_rng(9)
    vectors = rng.standard_normal((2000, 33)).astype(np.float32)
    vectors[500:900] = vectors[3]
    asked = rng.standard_normal((70, 33)).astype(np.float32)
    asked[0] = vectors[3]
    alive, rank = (rng.random(2000) < 0.5).astype(np.uint8), rng.permutation(2000).astype(np.int32)
    held = ExactGpu(vectors, device)
    masks: list[dict[str, Any]] = [{}, {"alive": alive, "rank": rank}]
    for mask in masks:
        wanted = exact.search(vectors, asked, 20, **mask)
        assert same(held.search(asked, 20, **mask), [(r.tolist(), s.tolist()) for r, s in wanted])


def test_torch_path_gives_the_same() -> None:
    pytest.importorskip("torch")
    _on_device("cpu")


def test_no_device_is_said() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UserError, match="no CUDA device"):
        exact.search(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32), 1, device="cuda")


@pytest.mark.gpu
def test_cuda_gives_the_same() -> None:
    _on_device("cuda")
