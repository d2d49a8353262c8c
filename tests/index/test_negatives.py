"""Hard negatives: what BM25 finds beside the positive, without its document, the same every time."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.negatives import HardNegatives, choose

TEXTS = [
    "red apple pie recipe",
    "red apple orchard",
    " ",
    "green apple tart",
    "apple",
    "blue sky over the sea",
    "red brick house",
]


def test_what_bm25_finds_best_first(tmp_path: Path) -> None:
    with HardNegatives(str(tmp_path), iter(TEXTS)) as pool:
        first, second, nothing = pool.search(["red apple", "blue sea", "zzz"], 3)
        assert set(first.tolist()) <= {0, 1, 3, 4, 6}
        assert set(first[:2].tolist()) == {0, 1}
        assert second.tolist() == [5]
        assert nothing.tolist() == []
    assert os.listdir(tmp_path) == []


def test_many_queries_are_searched_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = ["red apple", "blue sea", "green", "house"] * 5
    with HardNegatives(str(tmp_path), iter(TEXTS)) as pool:
        whole = pool.search(queries, 4)
        monkeypatch.setattr("retrieval.index.negatives._QUERIES", 3)
        parts = pool.search(queries, 4)
    assert [one.tolist() for one in whole] == [one.tolist() for one in parts]


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    abandoned = HardNegatives(str(tmp_path), ["something else"])
    abandoned._index.close()
    with HardNegatives(str(tmp_path), iter(TEXTS)) as pool:
        assert pool.search(["blue"], 3)[0].tolist() == [5]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_chosen_are_no_relatives_of_the_positive(data: st.DataObject) -> None:
    group = np.array(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=20)))
    number = st.integers(0, len(group) - 1)
    found = [
        np.array(data.draw(st.lists(number, unique=True)), np.int64)
        for _ in range(data.draw(st.integers(1, 4)))
    ]
    excluded = [data.draw(st.lists(number, min_size=1, max_size=3)) for _ in found]
    wanted, seed = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 3))
    chosen = list(choose(found, excluded, group, wanted, seed))
    for numbers, relevant, taken in zip(found, excluded, chosen, strict=True):
        possible = [n for n in numbers.tolist() if group[n] not in {group[r] for r in relevant}]
        assert len(taken) == min(wanted, len(possible))
        assert taken.tolist() == [n for n in possible if n in set(taken.tolist())]  # in BM25's order
    # A query's draw does not depend on those beside it.
    for at in range(len(found)):
        (alone,) = choose(found[at : at + 1], excluded[at : at + 1], group, wanted, seed, at)
        assert alone.tolist() == chosen[at].tolist()


def test_draws_differ_by_seed_and_reach_everything() -> None:
    found, group = [np.arange(1, 30)], np.arange(30)
    draws = [tuple(next(choose(found, [[0]], group, 5, seed)).tolist()) for seed in range(60)]
    assert len(set(draws)) > 50
    assert {number for draw in draws for number in draw} == set(range(1, 30))
