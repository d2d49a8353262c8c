"""Aggregation of passages against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.longdoc.aggregate import aggregate, split_id
from retrieval.longdoc.pooling import Weights
from retrieval.types import Run

PASSAGES = [f"{document}#{number}" for document in ("a", "b#1", "c") for number in range(4)]
HITS = st.dictionaries(st.sampled_from(PASSAGES), st.sampled_from([-3.0, 0.0, 0.1, 2.0, 7.25]))
BEST_TWO = Weights("learned", np.array([0.75, 0.5]))
RUNS = st.fixed_dictionaries({"q1": HITS, "q2": HITS, "q3": HITS})


def by_hand(hits: dict[str, float], how: str, k: int) -> list[tuple[str, float, str]]:
    ranked = sorted(hits, key=lambda each: (hits[each], each), reverse=True)
    groups: dict[str, list[str]] = {}
    for each in ranked:
        document, _, number = each.rpartition("#")
        if how != "first" or number == "0":
            groups.setdefault(document, []).append(each)
    scores = {}
    for document, group in groups.items():
        values = [float(np.float32(hits[each])) for each in group]
        total = {"max": values[0], "first": values[0], "sum": sum(values)}
        total["mean"] = sum(values[:k]) / len(values[:k])
        total["learned"] = 0.75 * values[0] + 0.5 * values[:2][-1]
        scores[document] = float(np.float32(total[how]))
    order = sorted(scores, key=lambda each: (scores[each], each), reverse=True)
    return [(each, scores[each], groups[each][0]) for each in order]


@given(RUNS, st.sampled_from(["max", "first", "sum", "mean", "learned"]), st.integers(1, 5))
def test_against_plain_python(runs: dict[str, dict[str, float]], how: str, k: int) -> None:
    passages = Run.from_dict(runs)
    run, best = aggregate(passages, how, k=k, weights=BEST_TWO if how == "learned" else None)
    assert list(run) == list(runs)
    names = iter([passages.doc_ids[int(each)] for each in best])
    found = {name: [(hit.doc_id, hit.score, next(names)) for hit in hits] for name, hits in run.items()}
    for name, hits in runs.items():
        wanted = by_hand(hits, how, k)
        assert [(row[0], row[2]) for row in found[name]] == [(row[0], row[2]) for row in wanted]
        np.testing.assert_allclose([row[1] for row in found[name]], [row[1] for row in wanted], rtol=1e-6)


def test_passages_numbered_from_one() -> None:
    run, _ = aggregate(Run.from_dict({"q": {"a#1": 1.0, "a#2": 5.0, "b#2": 9.0}}), "first", first=1)
    assert run.to_dict() == {"q": {"a": 1.0}}


def test_nothing_found() -> None:
    run, best = aggregate(Run.from_dict({"q": {}}), "mean")
    assert (run.to_dict(), len(best)) == ({"q": {}}, 0)
    assert len(aggregate(Run.from_dict({}), "max").run) == 0


@pytest.mark.parametrize("name", ["D12", "D12#", "#3", "D#x", "D#²"])
def test_an_id_of_no_passage(name: str) -> None:
    with pytest.raises(UserError, match="is no passage id"):
        split_id(name)


def test_wrong_settings() -> None:
    run = Run.from_dict({"q": {"a#0": 1.0}})
    with pytest.raises(UserError, match="one of max, first, sum, mean"):
        aggregate(run, "maxp")
    with pytest.raises(UserError, match="1 or more"):
        aggregate(run, "mean", k=0)
