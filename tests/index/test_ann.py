"""Approximate search: exact scores and ties, masks, recall as measured, the same bytes for a seed, no GPU."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import MissingExtra, UnknownName, UserError
from retrieval.index import ann as ann_module
from retrieval.index import ann_kinds, exact
from retrieval.index.ann import Ann
from retrieval.index.ann_kinds import choose

faiss = pytest.importorskip("faiss")

N, D = 3000, 20
KINDS = [
    ("ivf", {"lists": 16}), ("hnsw", {}), ("pq", {"lists": 0}), ("pq", {"lists": 16}), ("sq8", {"lists": 0}),
    ("sq8", {"lists": 16}),
]  # fmt: skip
NAMES = [f"{kind}-{options.get('lists', 0)}" for kind, options in KINDS]


def collection(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((60, D))
    vectors = centres[rng.integers(0, 60, N + 30)] + 0.4 * rng.standard_normal((N + 30, D))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return vectors[:N], vectors[N:]


VECTORS, QUERIES = collection()
_built: dict[str, Ann] = {}


@pytest.fixture(params=KINDS, ids=NAMES)
def built(request: pytest.FixtureRequest) -> Ann:
    kind, options = request.param
    name = f"{kind}{options}"
    if name not in _built:
        found = Ann.build(VECTORS, kind, options=options, seed=3, queries=QUERIES, measured=20)
        assert found is not None
        _built[name] = found
    return _built[name]


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq", "sq8"])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17])
def test_few_vectors(kind: str, n: int) -> None:
    found = Ann.build(VECTORS[:n], kind)
    if kind == "pq" and n < 16:  # it has 16 code words
        assert found is None
        return
    assert found is not None
    again = Ann.load(found.to_bytes(), found.facts, VECTORS[:n])
    assert equal(again.search(VECTORS[:n], QUERIES, n), exact.search(VECTORS[:n], QUERIES, n))


def equal(a: list[exact.Found], b: list[exact.Found]) -> bool:
    return [(r.tolist(), s.tolist()) for r, s in a] == [(r.tolist(), s.tolist()) for r, s in b]


def test_scores_are_exact_and_in_order(built: Ann) -> None:
    rank = np.random.default_rng(1).permutation(N).astype(np.int32)
    for query in QUERIES[:10]:
        rows, scores = built.search(VECTORS, query[None], 10, rank=rank)[0]
        assert len(set(rows.tolist())) == 10
        assert scores.tolist() == exact.rescore(VECTORS, query, rows).tolist()
        assert [*zip(scores.tolist(), rank[rows].tolist())] == sorted(zip(scores, rank[rows]), reverse=True)


def test_finds_what_it_measured(built: Ann) -> None:
    facts = built.facts
    assert facts["queries"] == {"documents": 20, "given": 30}
    truth = exact.search(VECTORS, QUERIES, 10)
    for step in facts["ladder"][:: max(1, len(facts["ladder"]) // 3)]:
        found = built.search(VECTORS, QUERIES, 10, effort=step["effort"])
        share = np.mean([len(set(a[0]) & set(b[0])) / 10 for a, b in zip(truth, found)])
        assert abs(share - step["recall10"]) < 0.2
    assert max(step["recall10"] for step in facts["ladder"]) == facts["reached"] > 0.8


def test_full_effort_is_exact(built: Ann) -> None:
    effort = {"ef": N} if built.kind == "hnsw" else {"nprobe": 16, "refine": N}
    effort = {name: effort[name] for name in built.facts["ladder"][0]["effort"]}
    found = built.search(VECTORS, QUERIES, 10, effort=effort)
    wanted = exact.search(VECTORS, QUERIES, 10)
    if built.kind == "hnsw":  # a graph promises nothing; this one is connected
        assert np.mean([set(a[0]) == set(b[0]) for a, b in zip(found, wanted)]) > 0.9
    else:
        assert equal(found, wanted)


def test_all_but_one_list_is_exact_where_that_one_has_nothing() -> None:
    vectors = np.concatenate([VECTORS, -VECTORS[:200]])
    made = Ann.build(vectors, "ivf", options={"lists": 16}, measured=5)
    assert made is not None
    found = made.search(vectors, QUERIES, 10, effort={"nprobe": 15})
    assert equal(found, exact.search(vectors, QUERIES, 10))


def test_round_trip_and_determinism(built: Ann) -> None:
    data = built.to_bytes()
    assert built.facts["bytes"] == len(data)
    loaded = Ann.load(data, json.loads(json.dumps(built.facts)), VECTORS)
    assert loaded.to_bytes() == data
    again = Ann.build(
        VECTORS, built.kind, options=built.facts["options"], seed=3, queries=QUERIES, measured=20
    )
    assert again is not None
    assert again.to_bytes() == data
    assert {**again.facts, "seconds": 0} == {**built.facts, "seconds": 0}
    assert equal(loaded.search(VECTORS, QUERIES, 10), built.search(VECTORS, QUERIES, 10))


def test_batches_threads_and_cold_answers_agree(built: Ann, monkeypatch: pytest.MonkeyPatch) -> None:
    together = built.search(VECTORS, QUERIES, 7, threads=2)
    singly = [built.search(VECTORS, QUERIES[i : i + 1], 7)[0] for i in range(len(QUERIES))]
    assert equal(together, singly)
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setattr(built, "_asked", 0)
    monkeypatch.setattr(ann_module, "_COLD", 1000)
    assert equal(built.search(VECTORS, QUERIES, 7), together)


@pytest.mark.parametrize("share", [0.7, 0.3, 0.05])
def test_masks(built: Ann, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_module, "_FEW_ALIVE", 10)
    alive = (np.random.default_rng(2).random(N) < share).astype(np.uint8)
    wanted = exact.search(VECTORS, QUERIES, 10, alive=alive)
    found = built.search(VECTORS, QUERIES, 10, alive=alive, recall=1)
    for rows, _ in found:
        assert len(rows) == 10
        assert alive[rows].all()
    assert (
        np.mean([len(set(a[0]) & set(b[0])) / 10 for a, b in zip(wanted, found)])
        > built.facts["reached"] - 0.2
    )
    alive[:] = 0
    alive[[5, 9]] = 1
    assert equal(
        built.search(VECTORS, QUERIES, 10, alive=alive), exact.search(VECTORS, QUERIES, 10, alive=alive)
    )


def test_fewer_found_than_there_are_is_made_up(built: Ann) -> None:
    effort = built.facts["ladder"][0]["effort"]
    for rows, _ in built.search(VECTORS, QUERIES, 700, effort=effort):
        assert len(rows) == 700
    if built.kind == "ivf":
        assert (
            min(len(r) for r, _ in built.search(VECTORS, QUERIES, 700, effort=effort, complete=False)) < 700
        )


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_ties_go_by_document_id(kind: str) -> None:
    vectors = VECTORS.copy()
    # More alike than are asked for; a graph does not reach many, and which depends on the processor.
    vectors[100 : 160 if kind == "ivf" else 112] = vectors[0]
    made = Ann.build(vectors, kind, options={"lists": 8} if kind == "ivf" else {}, measured=5)
    assert made is not None
    rank = np.random.default_rng(4).permutation(N).astype(np.int32)
    effort = {"nprobe": 2} if kind == "ivf" else {"ef": 400}
    found = made.search(vectors, vectors[:1], 10, effort=effort, rank=rank)
    assert equal(found, exact.search(vectors, vectors[:1], 10, rank=rank))


def test_recall_asked_for_chooses_the_effort(built: Ann) -> None:
    steps = built.facts["ladder"]
    assert built.effort(10, 0.01) == steps[0]["effort"]
    wanted = next((s["effort"] for s in steps if s["recall10"] >= 0.9), steps[-1]["effort"])
    assert built.effort(10, 0.9) == wanted
    if max(step["recall100"] for step in steps) < 1:
        assert built.effort(11, 1) == steps[-1]["effort"]


def test_what_is_refused(built: Ann) -> None:
    cases: list[dict[str, Any]] = [{"effort": {}}, {"effort": {"speed": 3}}, {"recall": 0}, {"recall": 1.5}]
    for wrong in [*cases, {"threads": 0}]:
        with pytest.raises(UserError):
            built.search(VECTORS, QUERIES, 10, **wrong)
    with pytest.raises(UserError, match="build it again"):
        built.search(VECTORS[:50], QUERIES, 10)
    with pytest.raises(UserError, match="has no option"):
        Ann.build(VECTORS, built.kind, options={"speed": 3})
    broken = VECTORS.copy()
    broken[77, 3] = np.nan
    with pytest.raises(UserError, match="row 77"):
        Ann.build(broken, built.kind)


def test_choice_follows_size_and_memory() -> None:
    assert choose(10_000, 384) == ("exact", {})
    assert choose(1_000_000, 384, 1 << 40) == ("ivf", {"lists": 2048})
    assert choose(1_000_000, 384, 2 << 30)[0] == "sq8"
    assert choose(10_000_000, 384, 1 << 30) == ("pq", {"lists": 8192, "subvectors": 96})
    assert Ann.build(VECTORS) is None
    with pytest.raises(UnknownName, match="did you mean 'hnsw'"):
        Ann.build(VECTORS, "hsnw")


def test_progress_counts_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_kinds, "_BLOCK", 1300)
    seen: list[tuple[int, int]] = []
    Ann.build(VECTORS, "sq8", progress=lambda done, of: seen.append((done, of)), measured=2)
    assert seen == [(1300, N), (2600, N), (N, N)]


def test_without_faiss_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=r"retrieval\[faiss\]"):
        Ann.build(VECTORS, "ivf")


@pytest.mark.parametrize("state", ["absent", "none", "broken"])
def test_without_a_gpu_the_cpu_answers(state: str, built: Ann, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("CUDA driver version is insufficient")

    def never(*_: Any) -> Any:
        raise AssertionError("asked for a GPU")

    if state == "absent":
        monkeypatch.delattr(faiss, "get_num_gpus")
    else:
        monkeypatch.setattr(faiss, "get_num_gpus", broken if state == "broken" else lambda: 0)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", never, raising=False)
    again = Ann.build(
        VECTORS, built.kind, options=built.facts["options"], seed=3, queries=QUERIES, measured=20
    )
    assert again is not None
    assert again.to_bytes() == built.to_bytes()
    assert equal(again.search(VECTORS, QUERIES, 10), built.search(VECTORS, QUERIES, 10))


def test_with_a_gpu_it_assigns(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []

    def move(index: Any) -> Any:
        moved.append(index)
        return index

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", move, raising=False)
    made = Ann.build(VECTORS, "ivf", options={"lists": 16}, measured=5)
    assert made is not None
    assert moved
    assert equal(made.search(VECTORS, QUERIES, 10, effort={"nprobe": 16}), exact.search(VECTORS, QUERIES, 10))
