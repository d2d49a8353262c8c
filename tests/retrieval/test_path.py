"""The way of a document through a pipeline, and the cut that would have kept it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Index, UserError
from retrieval.path import Step, as_json, lost, path, reason
from retrieval.stage import Stage
from retrieval.types import Document, Query
from tests.retrieval.test_stage import DOCS, Length, Overlap

QUERIES = ["wind", "solar wind sea", "moon", "nothing"]
retrievers = st.sampled_from([Overlap("a"), Overlap("b"), 0.3 * Overlap("a") + 0.7 * Overlap("b")])
cuts = st.one_of(st.none(), st.integers(1, 5))


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Stage, list[Stage]]:
    """A pipeline, and what it is up to each of its steps."""
    stage = draw(retrievers)
    prefixes = []
    for after in range(draw(st.integers(1, 3))):
        part: Stage = draw(st.sampled_from([Length("length"), Overlap("again")])) if after else stage
        cut = draw(cuts)
        part = part if cut is None else part % cut
        stage = stage >> part if after else part
        prefixes.append(stage)
    return stage, prefixes


def rank(stage: Stage, query: str, doc: str) -> int | None:
    return next((hit.rank for hit in stage([Query("1", query)])["1"] if hit.doc_id == doc), None)


@given(pipelines(), st.sampled_from(QUERIES), st.sampled_from(sorted(DOCS)))
def test_ranks_are_those_of_every_prefix(made: tuple[Stage, list[Stage]], query: str, doc: str) -> None:
    stage, prefixes = made
    steps = [step for step in path(stage, query, doc, len(DOCS)) if not step.depth]
    assert [step.rank for step in steps] == [rank(prefix, query, doc) for prefix in prefixes]
    assert [step.documents for step in steps] == [
        len(prefix([Query("1", query)])["1"]) for prefix in prefixes
    ]
    loser = lost(steps)
    assert (loser is None) == (rank(stage, query, doc) is not None)
    if loser is not None:
        at = steps.index(loser)
        assert all(step.rank is None for step in steps[at:])
        assert not at or steps[at - 1].rank is not None


@given(retrievers, st.integers(1, 4), st.sampled_from(QUERIES), st.sampled_from(sorted(DOCS)))
def test_the_cut_that_would_keep_it_is_the_least(stage: Stage, k: int, query: str, doc: str) -> None:
    def first(cut: int) -> Stage:
        return stage % cut

    def second(cut: int) -> Stage:
        return stage >> Length("length") % cut

    for make in (first, second):
        loser = lost(path(make(k), query, doc, len(DOCS)))
        if loser is None:
            assert rank(make(k), query, doc) is not None
        elif loser.whole is None:
            assert rank(make(len(DOCS)), query, doc) is None
        else:
            assert rank(make(loser.whole), query, doc) == loser.whole
            assert rank(make(loser.whole - 1), query, doc) is None


def test_operands_come_before_their_sum() -> None:
    steps = path(Overlap("a") % 1 + Overlap("b") % 3, "wind", "d1", len(DOCS))
    assert [(step.stage, step.depth, step.rank) for step in steps] == [
        ("a % 1", 1, None), ("b % 3", 1, 3), ("a % 1 + b % 3", 0, 3),
    ]  # fmt: skip
    assert steps[0].whole == 3
    assert lost(steps) is None


def test_sentences() -> None:
    step = Step("bm25 % 10", 0, 10, None, None, 10, 1234)
    assert reason(step) == "bm25 % 10 has it at rank 1,234: a cut of 1,234 would keep it"
    assert reason(step._replace(whole=None)) == "bm25 % 10 does not have it at any depth"
    assert as_json(step) == {
        "stage": "bm25 % 10",
        "depth": 0,
        "documents": 10,
        "rank": None,
        "cut": 10,
        "whole": 1234,
    }


def test_of_an_index(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([Document(doc, text) for doc, text in DOCS.items()])
    index.commit()
    facts = index.explain("wind", "d1", pipeline="bm25 % 1 >> bm25(b=0)")
    assert facts["rank"] is None
    assert facts["lost"]["stage"] == "bm25 % 1"
    keeps = facts["lost"]["whole"]
    assert index.explain("wind", "d1", pipeline=f"bm25 % {keeps} >> bm25(b=0)")["lost"] is None
    assert index.explain("wind", "d1", pipeline=f"bm25 % {keeps - 1} >> bm25(b=0)")["rank"] is None
    assert "at any depth" in index.explain("wind", "d5", pipeline="bm25")["lost"]["reason"]
    with pytest.raises(UserError, match="no document"):
        index.explain("wind", "d9")
