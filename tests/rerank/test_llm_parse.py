"""Replies of models, whatever they hold, and the windows that go over a list."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.rerank.llm_parse import parse_order, slide, windows


@pytest.mark.parametrize(
    ("reply", "order"),
    [
        ("[2] > [3] > [1]", [1, 2, 0]),
        ("[3]", [2, 0, 1]),
        ("", [0, 1, 2]),
        ("I cannot rank these.", [0, 1, 2]),
        ("[2] > [2] > [2]", [1, 0, 2]),
        ("[9] > [0] > [3] > [-1]", [2, 0, 1]),
        ("Of the 3 passages, [2] is best, then [1].", [1, 0, 2]),
        ("2, 3, 1", [1, 2, 0]),
        ("3 is better than 21", [2, 0, 1]),
        ("[ 2 ] > [3", [1, 2, 0]),
        ("[" + "2" * 5000 + "] [3]", [2, 0, 1]),
        ("[２] > [３]", [0, 1, 2]),
    ],
)
def test_replies(reply: str, order: list[int]) -> None:
    assert parse_order(reply, 3) == order


@given(st.text(alphabet="[]0123456789 >,a２\n") | st.text(), st.integers(0, 12))
def test_any_reply_is_a_permutation(reply: str, n: int) -> None:
    assert sorted(parse_order(reply, n)) == list(range(n))


@given(st.permutations(range(8)))
def test_an_order_that_is_written_is_read(order: list[int]) -> None:
    assert parse_order(" > ".join(f"[{place + 1}]" for place in order), 8) == order


@given(st.integers(0, 60), st.integers(2, 25), st.integers(1, 25))
def test_windows_go_from_the_back_to_the_front_and_leave_nothing_out(n: int, window: int, step: int) -> None:
    step = min(step, window)
    found = list(windows(n, window, step))
    assert {place for start, end in found for place in range(start, end)} == set(range(n))
    assert all(0 < end - start <= window for start, end in found)
    for (start, end), (before, until) in itertools.pairwise(found):
        assert until == end - step
        assert before == max(0, start - step)


def test_windows_of_rankgpt() -> None:
    assert list(windows(40, 20, 10)) == [(20, 40), (10, 30), (0, 20)]
    assert list(windows(25, 20, 10)) == [(5, 25), (0, 15)]
    assert list(windows(20, 20, 10)) == [(0, 20)]


@given(st.data(), st.integers(0, 30), st.integers(2, 9), st.integers(1, 9))
def test_any_replies_give_a_permutation(data: st.DataObject, n: int, window: int, step: int) -> None:
    def ask(part: list[int]) -> str:
        assert 2 <= len(part) <= window
        return data.draw(st.text(alphabet="[]0123456789 >") | st.text())

    assert sorted(slide(n, window, min(step, window), ask)) == list(range(n))


@given(st.permutations(range(15)), st.integers(2, 8))
def test_a_perfect_judge_brings_the_best_to_the_front(relevance: list[int], window: int) -> None:
    """One pass carries the best `window - step` of all to the front, in order."""

    def ask(part: list[int]) -> str:
        best = sorted(range(len(part)), key=lambda place: -relevance[part[place]])
        return " > ".join(f"[{place + 1}]" for place in best)

    step = max(1, window // 2)
    found = slide(15, window, step, ask)
    best = sorted(range(15), key=lambda place: -relevance[place])
    assert found[: window - step] == best[: window - step]
