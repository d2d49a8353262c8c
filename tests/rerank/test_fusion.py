"""Both fusions against ten lines of plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.rerank.fusion import minmax, rrf
from retrieval.types import Query, Run, StageTrace

QUERIES = [Query("q1", "one"), Query("q2", "two"), Query("q3", "")]
HITS = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([-3.0, 0.0, 0.1, 2.0, 7.25]), max_size=8)
ONE = st.tuples(HITS, HITS, HITS).map(lambda hits: dict(zip(["q1", "q2", "q3"], hits)))
RUNS = st.lists(ONE, min_size=1, max_size=4)
WEIGHTS = st.sampled_from([0.0, 0.3, 1.0, 2.5])


def ranked(hits: dict[str, float]) -> list[str]:
    return sorted(hits, key=lambda doc: (hits[doc], doc), reverse=True)


def sums(parts: list[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for doc, score in part.items():
            total[doc] = total.get(doc, 0.0) + score
    return {doc: float(np.float32(score)) for doc, score in total.items()}


def scaled(hits: dict[str, float], weight: float) -> dict[str, float]:
    stored = {doc: float(np.float32(score)) for doc, score in hits.items()}
    low, high = min(stored.values(), default=0.0), max(stored.values(), default=0.0)
    return {d: weight * ((score - low) / (high - low) if high > low else 1.0) for d, score in stored.items()}


def columns(run: Run) -> list[tuple[str, str, float]]:
    return [(query, hit.doc_id, hit.score) for query, hits in run.items() for hit in hits]


def expected(totals: dict[str, dict[str, float]]) -> list[tuple[str, str, float]]:
    return [(query, doc, hits[doc]) for query, hits in totals.items() for doc in ranked(hits)]


@given(RUNS)
def test_rrf_is_the_sum_of_reciprocal_ranks(dicts: list[dict[str, dict[str, float]]]) -> None:
    fused = rrf([Run.from_dict(one) for one in dicts])
    by_hand = {
        query.query_id: sums(
            [
                {doc: 1 / (60 + rank) for rank, doc in enumerate(ranked(one[query.query_id]), 1)}
                for one in dicts
            ]
        )
        for query in QUERIES
    }
    assert columns(fused) == expected(by_hand)


@given(st.data())
def test_minmax_is_the_weighted_sum_of_scaled_scores(data: st.DataObject) -> None:
    dicts = data.draw(RUNS)
    weights = data.draw(st.lists(WEIGHTS, min_size=len(dicts), max_size=len(dicts)))
    fused = minmax([Run.from_dict(one) for one in dicts], weights)
    by_hand = {
        query.query_id: sums([scaled(one[query.query_id], w) for one, w in zip(dicts, weights)])
        for query in QUERIES
    }
    assert columns(fused) == expected(by_hand)


@given(RUNS)
def test_one_table_of_ids_fuses_as_many_do(dicts: list[dict[str, dict[str, float]]]) -> None:
    table = list("hgfedcba")
    shared = []
    for one in dicts:
        docs = [table.index(doc) for query in QUERIES for doc in one[query.query_id]]
        scores = [score for query in QUERIES for score in one[query.query_id].values()]
        offsets = np.cumsum([0, *(len(one[query.query_id]) for query in QUERIES)])
        shared.append(Run(QUERIES, offsets, docs, scores, table))
    fused = rrf(shared)
    assert fused.doc_ids is table
    assert columns(fused) == columns(rrf([Run.from_dict(one) for one in dicts]))


def test_scores_that_are_all_equal_count_as_one() -> None:
    fused = minmax(
        [Run.from_dict({"q": {"a": 5.0, "b": 5.0}}), Run.from_dict({"q": {"c": 0.0}})], [0.5, 0.25]
    )
    assert fused.to_dict() == {"q": {"a": 0.5, "b": 0.5, "c": 0.25}}


def test_queries_texts_and_history_are_kept() -> None:
    step = StageTrace("bm25", 0.1, 0, 1, 0)
    run = Run.from_dict({"q": {"a": 1.0}}, {"q": "text"}).with_trace([step])
    fused = rrf([run, run])
    assert fused.queries == [Query("q", "text")]
    assert fused.trace == [step, step]


def test_what_does_not_fit_is_refused() -> None:
    one, other = Run.from_dict({"q": {"a": 1.0}}), Run.from_dict({"r": {"a": 1.0}})
    with pytest.raises(UserError, match="different queries"):
        rrf([one, other])
    with pytest.raises(UserError, match="no run"):
        rrf([])
    with pytest.raises(UserError, match="2 runs and 1 weights"):
        minmax([one, one], [1.0])
