"""Gates: which queries go on, what becomes of the others, and what the run looks like."""

from __future__ import annotations

import math

import pytest

from retrieval import UserError
from retrieval.path import lost, path
from retrieval.pipeline import parse
from retrieval.rerank.cascade import Budgeted
from retrieval.rerank.gate import Gate, feature
from retrieval.stage import Given, Stage, Then
from retrieval.testing import check_stage
from retrieval.types import Run
from tests.rerank.cascade_stages import Scored, ids

CLEAR = {"a": 9.0, "b": 3.0, "c": 2.0, "d": 1.0}  # margin 6 / 8
CLOSE = {"a": 4.1, "b": 4.0, "c": 3.9, "d": 0.1}  # margin 0.1 / 4
RUN = Run.from_dict({"1": CLEAR, "2": CLOSE, "3": {"a": 1.0}, "4": {}, "5": {"a": 1.0, "b": 1.0}})


def pipeline(gate: Gate, *after: Stage) -> Then:
    return Then([Given(RUN), gate, *after])


def test_features() -> None:
    assert feature(RUN, "margin").tolist()[:2] == pytest.approx([6 / 8, 0.1 / 4])
    assert feature(RUN, "margin", 3).tolist()[0] == pytest.approx(6 / 7)
    shares = [8 / 11, 2 / 11, 1 / 11]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(3)
    assert feature(RUN, "entropy").tolist() == pytest.approx(
        [entropy, feature(RUN, "entropy")[1], 1.0, 1.0, 1.0]
    )
    assert feature(RUN, "entropy")[1] > 0.98
    assert feature(RUN, "margin").tolist()[2:] == [0.0, 0.0, 0.0]


def test_only_some_go_on_and_the_others_keep_their_run() -> None:
    last = Scored()
    run = pipeline(Gate(most=0.5), Scored("first"), last % 3)(RUN.queries)
    assert last.read == [4 + 2]  # 2 and 5; 3 and 4 have no order to improve
    assert ids(run, "1") == ["a", "b", "c"]  # as before, cut as the others are
    assert ids(run, "2") == ["d", "c", "b"]
    assert (ids(run, "3"), ids(run, "4"), ids(run, "5")) == (["a"], [], ["b", "a"])
    assert run.query_ids == RUN.query_ids
    assert [step.stage for step in run.trace] == ["run", "gate(feature=margin, most=0.5)", "first", "scored"]


def test_nobody_and_everybody() -> None:
    last = Scored()
    nobody = pipeline(Gate(least=2.0), last % 2)(RUN.queries)
    assert (last.read, ids(nobody, "2")) == ([], ["a", "b"])
    some = RUN.queries[:2]
    everybody = pipeline(Gate(), last)(some)
    assert everybody.to_dict() == (Given(RUN) >> Scored())(some).to_dict()
    assert pipeline(Gate(least=2.0))(some).to_dict() == RUN.aligned(some).to_dict()


def test_bounds_belong_to_what_passes() -> None:
    value = float(feature(RUN, "margin")[1])
    for gate in (Gate(most=value), Gate(least=value)):
        assert gate.passes(RUN)[1]


def test_two_gates() -> None:
    last = Scored()
    run = pipeline(Gate(most=0.5), Scored("first"), Gate("entropy", least=0.9), last)(RUN.queries)
    assert last.read == [4]  # only 2, which has 3, 2, 1, 0 by now; 5 has 1 and 0
    assert (ids(run, "2"), ids(run, "5")) == (["d", "c", "b", "a"], ["b", "a"])


def test_within_a_budget_and_explained() -> None:
    last = Scored()
    found = Budgeted(pipeline(Gate(most=0.5), last % 3), "2pairs")(RUN.queries)
    assert last.read == [2, 2]
    assert ids(found, "1") == ["a", "b", "c"]
    assert ids(found, "2") == ["b", "a", "c"]
    stage = Then([Given(RUN), Gate(most=0.5), last % 3])
    for one in (stage, Budgeted(stage, "2pairs")):
        loser = lost(path(one, "", "d", 4))
        assert loser is not None
        assert loser.stage == "gate(feature=margin, most=0.5) left out what follows"
        assert (loser.cut, loser.whole) == (3, 4)


def test_conformance_and_text() -> None:
    check_stage(Gate(), RUN.queries, RUN)
    assert (
        repr(parse("gate(feature=margin, most=0.5, k=5)", given=True))
        == "gate(feature=margin, most=0.5, k=5)"
    )


@pytest.mark.parametrize(
    "params", [{"feature": "hope"}, {"k": 2}, {"k": True}, {"least": "a"}, {"most": float("nan")}]
)
def test_bad_parameters(params: dict[str, float]) -> None:
    with pytest.raises(UserError, match="gate cannot take"):
        Gate(**params)  # type: ignore[arg-type]
