"""Selection and sorting against sorted()."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.topk import make_key, select, sort_descending

keys = st.lists(st.integers(0, 60), min_size=1, max_size=200)


@settings(max_examples=200, deadline=None)
@given(keys, st.data())
def test_select_moves_the_largest_to_the_front(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    array, docs = np.array(values, np.int64), np.arange(len(values), dtype=np.int32)
    smallest = select(array, docs, len(values), k)
    assert sorted(array[:k].tolist(), reverse=True) == sorted(values, reverse=True)[:k]
    assert smallest == sorted(values, reverse=True)[k - 1]
    assert [values[doc] for doc in docs] == array.tolist()


@settings(max_examples=200, deadline=None)
@given(keys)
def test_sort_descending(values: list[int]) -> None:
    array, docs = np.array(values, np.int64), np.arange(len(values), dtype=np.int32)
    sort_descending(array, docs, len(values))
    assert array.tolist() == sorted(values, reverse=True)
    assert [values[doc] for doc in docs] == array.tolist()


@given(
    st.tuples(st.floats(0, 1e9, width=32), st.integers(0, 2**31 - 1)),
    st.tuples(st.floats(0, 1e9, width=32), st.integers(0, 2**31 - 1)),
)
def test_keys_order_as_score_then_rank(a: tuple[float, int], b: tuple[float, int]) -> None:
    one, other = make_key(np.float32(a[0]), a[1]), make_key(np.float32(b[0]), b[1])
    assert (one < other) == (a < b)
    assert (one == other) == (a == b)
