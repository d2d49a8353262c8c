"""Interpolation that stops early gives the first k of the full evaluation, and reads less."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import Index, UserError
from retrieval.errors import CompositionError
from retrieval.rerank.interpolate import Interpolate
from retrieval.stage import Given
from retrieval.testing import check_stage
from retrieval.types import Query, Run
from tests.rerank.cascade_stages import Fixed, Scored, ids

small = st.integers(-4, 4).map(float)  # few values, so that there are ties


def brute(run: Run, scores: list[float], weight: float, low: float, high: float) -> dict[str, list[str]]:
    """Every candidate scored, then sorted."""
    found = {}
    for query, hits in run.items():
        values = [hit.score for hit in hits]
        spread = max(values) - min(values)
        total = {
            hit.doc_id: np.float32(
                (1 - weight) * ((hit.score - min(values)) / spread if spread else 1.0)
                + weight * min(1.0, max(0.0, (scores[int(hit.doc_id)] - low) / (high - low)))
            )
            for hit in hits
        }
        found[query] = sorted(total, key=lambda doc: (total[doc], doc), reverse=True)
    return found


@settings(max_examples=150)
@given(
    st.lists(st.lists(small, min_size=1, max_size=60), min_size=1, max_size=3),
    st.lists(small, min_size=60, max_size=60),
    st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]),
    st.sampled_from([1, 3, 10, 1000]),
)
def test_first_k_are_those_of_the_full_evaluation(
    priors: list[list[float]], scores: list[float], weight: float, k: int
) -> None:
    run = Run.from_dict({
        str(at): {f"{doc}": score for doc, score in enumerate(each)} for at, each in enumerate(priors)
    })  # fmt: skip
    places = [int(name) for name in run.doc_ids]
    inner = Scored(scores=[scores[place] for place in places])
    stage = Interpolate("scored", weight, -2.0, 3.0).with_stage(inner)
    found = (Given(run) >> stage % k)(run.queries)
    wanted = brute(run, scores, weight, -2.0, 3.0)
    assert {query: ids(found, query) for query in found} == {q: docs[:k] for q, docs in wanted.items()}


def test_it_stops_when_the_order_is_certain() -> None:
    inner = Scored(scores=[0.0] * 500)
    stage = Fixed(500) >> Interpolate("scored", 0.1).with_stage(inner) % 5
    run = stage(["q"])
    assert ids(run) == [f"d{at:03d}" for at in range(5)]
    assert 16 <= sum(inner.read) < 150  # the first tenth of 500, a batch more
    assert sum(step.candidates_in for step in run.trace if step.stage == "scored") == sum(inner.read)


def test_a_candidate_that_can_only_tie_is_read() -> None:
    run = Run.from_dict({"1": {**{f"a{at:02d}": 1.0 for at in range(16)}, "z1": 0.0, "z0": 0.0}})
    scores = [float(name == "z1") for name in run.doc_ids]
    stage = Interpolate("scored", 0.5).with_stage(Scored(scores=scores))
    assert ids((Given(run) >> stage % 1)(run.queries)) == ["z1"]  # 0.5 each, and the largest id


@pytest.mark.parametrize(
    "params", [{"weight": 1.1}, {"weight": "a"}, {"low": 1.0}, {"high": float("inf")}, {"low": True}]
)
def test_bad_parameters(params: dict[str, float]) -> None:
    with pytest.raises(UserError, match="interpolate cannot take"):
        Interpolate("a", **params)


def test_in_an_index(tmp_path: object) -> None:
    index = Index.create(f"{tmp_path}/i")
    index.add([{"_id": f"d{at}", "text": "sun " * at + "wind"} for at in range(1, 9)])
    index.commit()
    text = 'bm25 >> interpolate("bm25(b=0.9)", weight=0.4, low=0, high=2)'
    stage = index.pipeline(text)
    assert repr(index.pipeline(repr(stage))) == repr(stage)
    queries = [Query("1", "sun wind"), Query("2", "sun")]
    check_stage(stage, queries)
    check_stage(index.pipeline(text, budget="5pairs"), queries)
    inner = stage.parts[1]
    check_stage(inner, queries, index.pipeline("bm25")(queries))
    with pytest.raises(CompositionError, match="finds others"):
        index.pipeline('bm25 >> interpolate("neighbours(bm25)")')
    with pytest.raises(UserError, match="unknown stage 'bm26'"):
        index.pipeline('bm25 >> interpolate("bm26")')
    with pytest.raises(UserError, match="bm26"):
        Index.create(f"{tmp_path}/j", pipeline='bm25 >> interpolate("bm26")')
    with pytest.raises(CompositionError, match="pipeline of an index"):
        Interpolate("cross(x)")(queries, index.pipeline("bm25")(queries))
