"""Budgets: what each stage may read, what stays behind, what is said about it, and what cannot be met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Index, UserError
from retrieval.errors import CompositionError
from retrieval.path import path
from retrieval.rerank.cascade import Budgeted, read_budget, shares
from retrieval.rerank.costs import Cost, depths, shared
from retrieval.testing import check_stage
from retrieval.types import Query
from tests.rerank.cascade_stages import Fixed, Scored, ids

QUERIES = [Query("1", "a"), Query("2", "b")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("50ms", "50 ms"), ("0.2s", "200 ms"), (" 200 pairs ", "200 pairs"), ("1pair", "1 pairs")],
)
def test_budgets_are_read(text: str, shown: str) -> None:
    assert str(read_budget(text)) == shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((text, "50ms, 0.2s or 200pairs") for text in ("", "50", "1.5pairs", "5 apples", "nan ms", "1e3ms")),
        *((text, "above 0 and below 1,000,000,000") for text in ("0ms", "-1ms", "0pairs", "1e9ms", "0.0s")),
    ],
)
def test_what_is_no_budget(text: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        read_budget(text)


def test_pairs_are_shared_and_the_rest_stays_behind() -> None:
    cheap, dear = Scored("cheap"), Scored("dear", scores=[-float(at) for at in range(100)])
    stage = Budgeted(Fixed(100) >> cheap % 20 >> dear, "30pairs")
    run = stage(QUERIES)
    # 100 and 20 are wanted: 15 each is an equal share
    assert (cheap.read, dear.read) == ([15, 15], [15, 15])
    first = [f"d{at:03d}" for at in range(15)]
    assert ids(run) == first + [f"d{at:03d}" for at in range(15, 20)]  # dear turns them round again
    assert [tuple(share) for share in shares(run.trace)] == [("cheap", 200, 30), ("dear", 40, 30)]
    assert sum(step.stage == "cheap" for step in run.trace) == 1


def test_what_a_stage_does_not_need_goes_to_the_others() -> None:
    cheap, dear = Scored("cheap"), Scored("dear")
    Budgeted(Fixed(100) % 50 >> cheap % 5 >> dear, "35pairs")(QUERIES[:1])
    assert (cheap.read, dear.read) == ([30], [5])


@pytest.mark.parametrize("budget", ["1000pairs", "5s"])
def test_a_budget_that_is_large_enough_changes_nothing(budget: str) -> None:
    plain = Fixed(40) >> Scored("a") % 20 >> Scored("b", [0.5] * 40) % 7
    with_budget = Budgeted(plain, budget)
    assert with_budget(QUERIES).to_dict() == plain(QUERIES).to_dict()
    assert repr(with_budget) == repr(plain)
    assert not shares(with_budget(QUERIES).trace)


def test_last_stages_are_left_out_first() -> None:
    a, b = Scored("a"), Scored("b")
    run = Budgeted(Fixed(10) >> a >> b % 3, "1pairs")(QUERIES[:1])
    assert (a.read, b.read) == ([1], [])
    assert ids(run) == ["d000", "d001", "d002"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.floats(0, 200))
def test_shares_are_fair_and_spend_what_is_wanted(wants: list[int], room: float) -> None:
    got = shared(wants, room)
    assert sum(got) == pytest.approx(min(room, sum(wants)))
    assert all(0 <= part <= want for part, want in zip(got, wants, strict=True))
    least = min([part for part, want in zip(got, wants, strict=True) if part < want - 1e-9], default=None)
    assert least is None or max(got) <= least + 1e-9  # who wants more has no less than anyone


@given(
    st.lists(st.tuples(st.integers(1, 100), st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=4),
    st.floats(0, 100),
)
def test_depths_keep_within_the_room(stages: list[tuple[int, float, float]], room: float) -> None:
    wanted = [stage[0] for stage in stages]
    lines = [(fixed, each) for _, fixed, each in stages]
    found = depths(wanted, lines, room)
    spent = sum(fixed + each * count for count, (fixed, each) in zip(found, lines, strict=True) if count)
    assert spent <= room * (1 + 1e-6) + 1e-9
    assert all(0 <= count <= want for count, want in zip(found, wanted, strict=True))


def test_costs_are_lines() -> None:
    cost = Cost()
    for size in (4, 32, 10, 20):
        cost.add(size, 0.01 + 0.002 * size)
    assert cost.line == pytest.approx((0.01, 0.002))
    same = Cost()
    for _ in range(20):
        same.add(50, 0.1)
    same.add(50, 60.0)  # the machine was asleep
    assert same.of(50) < 0.2


def test_a_stage_that_was_slow_once_is_tried_again() -> None:
    quick = Scored("quick")
    stage = Budgeted(Fixed(10) >> quick, "5ms")
    stage(QUERIES[:1])
    for _ in range(20):
        stage._costs[1].add(4, 1.0)  # the machine was asleep
    before = len(quick.read)
    for _ in range(400):
        stage(QUERIES[:1])
    assert len(quick.read) - before > 10


def test_milliseconds_cut_depth_by_what_stages_cost() -> None:
    slow = Scored("slow", seconds=0.002)
    stage = Budgeted(Fixed(200) >> slow % 10, "100ms")
    for at in range(4):
        run = stage([Query(str(at), "q")])
    assert 5 <= slow.read[-1] <= 50  # of 200, which would take 400 ms
    assert [share.stage for share in shares(run.trace)] == ["slow"]
    assert len(run["3"]) == 10


def test_a_budget_that_the_first_stage_does_not_meet() -> None:
    stage = Budgeted(Fixed(5, seconds=0.01) >> Scored(), "5ms")
    for _ in range(2):
        with pytest.raises(CompositionError, match=r"first stage alone, fixed, takes \d+\.?\d* ms"):
            stage(QUERIES)
    Budgeted(Fixed(5, seconds=0.01) >> Scored(), "5pairs")(QUERIES)


def test_conformance_and_explain(tmp_path: object) -> None:
    index = Index.create(f"{tmp_path}/i")
    index.add([{"_id": f"d{at}", "text": "sun " * at + "wind"} for at in range(1, 9)])
    index.commit()
    stage = index.pipeline("bm25 >> bm25(b=0.9) % 4", budget="3pairs")
    check_stage(stage, {"1": "sun wind", "2": "sun"})
    order = ids(index.pipeline("bm25")(["sun"]))
    facts = index.explain("sun", order[5], pipeline="bm25 >> bm25(b=0.9) % 4", budget="3pairs")
    assert facts["lost"]["whole"] == 6
    assert "bm25(b=0.9) % 4 (read 3 of 8, not this one; budget 3 pairs)" in facts["lost"]["reason"]
    assert [step["documents"] for step in facts["path"]] == [8, 4]  # one row a stage
    steps = path(stage, "sun", order[3], 8)
    assert steps[-1].rank == 4
    assert "read 3 of 8, this one too;" in path(stage, "sun", order[2], 8)[-1].stage
    left_out = path(index.pipeline("bm25 >> bm25 >> bm25 % 2", budget="1pairs"), "sun", order[4], 8)
    assert left_out[-1].stage == "bm25 % 2 (read 0 of 8, not this one; budget 1 pairs)"
    assert left_out[-1].whole == 5
