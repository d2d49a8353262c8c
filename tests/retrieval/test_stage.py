"""Operators, composition checks, texts, traces and cuts, on stages that count common words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from retrieval import registry
from retrieval.errors import CompositionError
from retrieval.stage import Cut, Fuse, Given, Stage, Then, Weighted
from retrieval.types import Query, Run

DOCS = {
    "d1": "solar wind",
    "d2": "solar solar flare",
    "d3": "wind over the sea",
    "d4": "sea and wind and wind",
    "d5": "the moon",
}


class Overlap(Stage):
    """Counts the query's words in each document; `boost` adds to every score."""

    def __init__(self, name: str = "overlap", corpus: str | None = None, **params: Any) -> None:
        self.name = name
        self.params = params
        self.corpus = corpus
        self.asked_for: list[int] = []

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        self.asked_for.append(self.depth)
        found: dict[str, dict[str, float]] = {}
        for query_id, text in queries:
            pool = DOCS if run is None else [hit.doc_id for hit in run[query_id]]
            counts = {doc: sum(DOCS[doc].split().count(word) for word in text.split()) for doc in pool}
            hits = {doc: float(count) for doc, count in counts.items() if count or run is not None}
            best = sorted(hits, key=lambda doc: (hits[doc], doc), reverse=True)
            found[query_id] = {doc: hits[doc] for doc in (best[: self.depth] if run is None else best)}
        return Run.from_dict(found, {query.query_id: query.text for query in queries})


class Length(Overlap):
    """Re-ranks by length of the document and says that it cut off two tokens."""

    needs_run = True

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None
        found = {
            query: {hit.doc_id: float(len(DOCS[hit.doc_id])) for hit in hits} for query, hits in run.items()
        }
        made = Run.from_dict(found)
        made.dropped = 2
        return made


a, b, c = (Overlap(name) for name in "abc")
r = Length("r")


def ids(run: Run, query: str = "1") -> list[str]:
    return [hit.doc_id for hit in run[query]]


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        (a, "a"),
        (a % 3, "a % 3"),
        (a % 3 % 2, "a % 3 % 2"),
        (a >> b >> c, "a >> b >> c"),
        (a >> (b >> c), "a >> b >> c"),
        ((a >> b) % 3, "(a >> b) % 3"),
        (a >> b % 3, "a >> b % 3"),
        (a + b + c, "a + b + c"),
        (a + (b + c), "a + b + c"),
        ((a + b) % 3 + c, "(a + b) % 3 + c"),
        (0.3 * a + b, "0.3 * a + b"),
        (a * 0.3 + 2 * b, "0.3 * a + 2.0 * b"),
        (0.3 * a % 10 + b, "0.3 * a % 10 + b"),
        (0.3 * (a % 10) + b, "0.3 * a % 10 + b"),
        (0.5 * (0.5 * a) + b, "0.25 * a + b"),
        (0.3 * (a + b) + c, "0.3 * (a + b) + c"),
        (0.3 * (a >> b) + c, "0.3 * (a >> b) + c"),
        ((a >> b) + c, "(a >> b) + c"),
        (a >> b + c, "a >> b + c"),
        ((a + b) >> c, "a + b >> c"),
        (a % 2 >> (b + r) % 1, "a % 2 >> (b + r) % 1"),
        (Overlap("bm25", k1=0.9, b=0.4), "bm25(k1=0.9, b=0.4)"),
        (Overlap("x", deep=True, n=3, model="./m/x-y"), "x(./m/x-y, deep=true, n=3)"),
        (Overlap("x", p="two words", v="3", w="true", e=""), 'x(p="two words", v="3", w="true", e="")'),
        (Overlap("x", k=np.float64(0.5), n=np.int64(2)), "x(k=0.5, n=2.0)"),
    ],
)
def test_repr_is_the_shortest_text(stage: Stage, text: str) -> None:
    assert repr(stage) == text


def test_operators_build_flat_trees() -> None:
    pipeline = a >> (b + c) % 5 >> r
    assert isinstance(pipeline, Then)
    assert len(pipeline.parts) == 3
    assert isinstance(pipeline.parts[1], Cut)
    assert isinstance((a + b) + (b + c), Fuse)
    assert len(((a + b) + (b + c)).parts) == 4
    assert isinstance(np.float64(0.3) * a, Weighted)


def test_a_head_retrieves_and_after_then_the_run_is_rescored() -> None:
    assert ids(a("solar")) == ["d2", "d1"]
    assert ids((a >> b)("solar")) == ["d2", "d1"]
    assert ids((a % 1 >> b)("solar")) == ["d2"]
    wind = (a % 2 >> r)("wind")
    assert ids(wind) == ["d4", "d3"]
    assert [hit.score for hit in wind["1"]] == [21.0, 17.0]


def test_a_cut_asks_the_retriever_for_as_many() -> None:
    stage = Overlap()
    asked = stage.asked_for  # a copy made by `within` shares this list
    (stage % 2000)("wind")
    (stage % 7 % 2)("wind")
    (stage % 2 % 7)("wind")
    ((stage >> r) % 5)("wind")
    (stage >> stage % 5)("wind")
    assert asked == [2000, 2, 2, 1000, 1000, 5]
    assert stage.depth == 1000
    assert len((stage % 2)("wind")["1"]) == 2


def test_plus_is_reciprocal_rank_and_weights_make_it_a_weighted_sum() -> None:
    run = (a + a)("solar")
    assert [hit.score for hit in run["1"]] == [np.float32(2 / 61), np.float32(2 / 62)]
    run = (0.25 * a + b)("solar")
    assert [tuple(hit) for hit in run["1"]] == [("d2", 1.25, 1), ("d1", 0.0, 2)]
    run = (a % 4 >> r + 0.5 * b)("wind")
    assert [tuple(hit) for hit in run["1"]] == [("d4", 1.5, 1), ("d3", np.float32(7 / 11), 2), ("d1", 0.0, 3)]


def test_weights_without_effect_on_others_default_to_one() -> None:
    assert (0.3 * a + b).weights == [0.3, 1.0]
    assert (a + b + 0.3 * c).weights == [1.0, 1.0, 0.3]
    assert (a + b).weights is None
    assert (0.5 * (0.3 * a + b) + c).weights == [0.5, 1.0]


def test_plus_goes_through_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", {("fusion", "rrf"): lambda runs: runs[-1]})
    assert ids((a + a % 1)("solar")) == ["d2"]


@pytest.mark.parametrize(
    "weight", [float("nan"), float("inf"), -0.5, True, "0.3", None, pytest.param(10**400, id="huge")]
)
def test_a_weight_is_a_finite_number_of_at_least_zero(weight: Any) -> None:
    with pytest.raises(CompositionError, match="finite number"):
        a * weight


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3", None])
def test_a_cut_is_a_whole_number_of_at_least_one(k: Any) -> None:
    with pytest.raises(CompositionError, match="whole number"):
        a % k


def test_a_reranker_at_the_head_is_refused_when_it_is_composed() -> None:
    for head in (r, r % 3, r + a, 0.5 * a + r):
        with pytest.raises(CompositionError, match=r"cannot stand at the head"):
            head >> a
    with pytest.raises(CompositionError, match=r"needs a run"):
        (r % 3)("solar")
    with pytest.raises(CompositionError, match=r"needs a run"):
        (r + a)("solar")
    assert not (a >> r + b).needs_run


def test_a_weight_outside_of_a_sum_is_refused_when_it_is_composed() -> None:
    weighted = 0.3 * a
    for compose in (lambda: weighted >> b, lambda: b >> weighted, lambda: weighted >> weighted):
        with pytest.raises(CompositionError, match="outside of a sum"):
            compose()


def test_what_is_no_stage_does_not_compose() -> None:
    strange: Any = 3
    for compose in (
        lambda: a >> strange,
        lambda: a + strange,
        lambda: strange + a,
        lambda: 0.3 * a + strange,
    ):
        with pytest.raises(TypeError):
            compose()


def test_stages_of_two_corpora_are_refused_when_composed() -> None:
    one, other, any_corpus = Overlap("one", "u1"), Overlap("other", "u2"), Overlap("any")
    for compose in (
        lambda: one >> other,
        lambda: one >> any_corpus >> other % 3,
        lambda: one + other,
        lambda: any_corpus >> 0.3 * one + (other >> any_corpus),
    ):
        with pytest.raises(CompositionError, match=r"documents of u1.*those of u2"):
            compose()
    assert (any_corpus >> one % 3).corpus == "u1"
    assert (any_corpus + any_corpus).corpus is None


def test_a_given_run_takes_the_head() -> None:
    run = Run.from_dict({"x": {"d5": 1.0}, "1": {"d1": 1.0, "d4": 0.5}})
    assert ids((Given(run) >> r % 1)("anything")) == ["d4"]
    assert ids(r([Query("x", ""), Query("new", "")], run), "x") == ["d5"]
    assert ids(r([Query("x", ""), Query("new", "")], run), "new") == []
    assert repr(Given(run) >> r) == "run >> r"


def test_each_leaf_leaves_a_trace_and_compositions_join_them() -> None:
    run = (a % 2 >> (r + b) % 1 >> c)(["wind", "solar"])
    steps = [(step.stage, step.candidates_in, step.candidates_out, step.tokens_dropped) for step in run.trace]
    assert steps == [("a", 0, 4, 0), ("r", 4, 4, 2), ("b", 4, 4, 0), ("c", 2, 2, 0)]
    assert all(step.seconds >= 0 for step in run.trace)


def test_a_stage_that_hands_its_run_on_does_not_write_in_it() -> None:
    class Pass(Stage):
        name = "pass"

        def _run(self, queries: list[Query], run: Run | None) -> Run:
            assert run is not None
            return run

    given = Run.from_dict({"1": {"d1": 1.0}})
    assert len(Pass()("x", given).trace) == 1
    assert given.trace == []
