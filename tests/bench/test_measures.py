"""Every measure equals ir-measures, ties, negative grades and missing queries included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.bench.evaluate import evaluate
from retrieval.bench.measures import KINDS, UNJUDGED, Ranking, parse, parse_all
from retrieval.errors import UnknownName, UserError
from retrieval.types import Run

MEASURES = [
    *("nDCG", "nDCG@1", "nDCG@3", "nDCG@10", "nDCG(judged_only=True)@2", "nDCG(gains={1:5,2:0,3:1})@4"),
    *("AP", "AP@2", "AP(rel=2)", "AP(rel=2)@3", "AP(judged_only=True)", "MAP@100"),
    *("RR", "RR(rel=2)", "RR(judged_only=True)", "RR@1", "RR@2", "RR@10", "RR(rel=2)@3"),
    *(
        "P@1",
        "P@5",
        "P(rel=2)@3",
        "P(judged_only=True)@3",
        "R@1",
        "R@4",
        "R(rel=3)@2",
        "R(judged_only=True)@2",
    ),
    *("Rprec", "Rprec(rel=2)", "Success@1", "Success(rel=2)@3", "Judged", "Judged@2", "Judged@10"),
    *("Bpref", "Bpref(rel=2)", "IPrec@0.0", "IPrec@0.1", "IPrec@0.5", "IPrec@0.7", "IPrec(rel=2)@1.0"),
    *(
        "SetP",
        "SetP(rel=2)",
        "SetRelP",
        "SetP(judged_only=True)",
        "SetR",
        "SetR(rel=2)",
        "SetF",
        "SetF(beta=2.5)",
    ),
    *("SetAP", "SetAP(rel=2)", "NumQ", "NumRel", "NumRet", "NumRelRet", "NumRet(rel=2)"),
]
# Ids whose order by code point differs from a naive one, and scores that differ only in float64.
IDS = ["a", "b", "B", "c", "d10", "d9", "d", "ä", "\U0001f600", "\uff21", "z", "zz"]
scores = st.sampled_from([-2.5, -1.0, 0.0, 0.1, 0.1 + 1e-9, 1.0, 1.0 + 1e-12, 2.0, 16777216.0, 16777217.0])
runs = st.dictionaries(
    st.sampled_from(["1", "2", "3", "x"]),
    st.dictionaries(st.sampled_from(IDS), scores, min_size=1),
    min_size=1,
)
qrels = st.dictionaries(
    st.sampled_from(["1", "2", "3", "y"]),
    # trec_eval reads outside its memory for a query with negative grades only.
    st.dictionaries(st.sampled_from(IDS), st.integers(-2, 4), min_size=1).filter(
        lambda g: max(g.values()) >= 0
    ),
    min_size=1,
)


def overlap(run: dict[str, dict[str, float]], judged: dict[str, dict[str, int]]) -> bool:
    """Whether `evaluate` takes the pair (it refuses one without anything in common)."""
    both = run.keys() & judged.keys()
    return bool({d for q in both for d in run[q]} & {d for q in both for d in judged[q]})


@settings(max_examples=100, deadline=None)
@given(runs, qrels)
def test_equals_ir_measures(run: dict[str, dict[str, float]], judged: dict[str, dict[str, int]]) -> None:
    theirs = pytest.importorskip("ir_measures")
    if not overlap(run, judged):
        with pytest.raises(UserError, match="share no"):
            evaluate(run, judged)
        return
    # Apart, since ir-measures mixes what comes in one call: NumRet without the documents not judged, or, by
    # the order of a set, plain nDCG with the gains of another nDCG.
    apart = ("judged_only", "gains")
    alone = [[t for t in MEASURES if word in t] for word in apart]
    alone.append([t for t in MEASURES if not any(word in t for word in apart)])
    for given_run in (run, Run.from_dict(run)):
        ours = evaluate(given_run, judged, MEASURES)
        same = given_run.to_dict() if isinstance(given_run, Run) else given_run
        means: dict[str, float] = {}
        expected: dict[tuple[str, str], float] = {}
        for texts in alone:
            totals, values = theirs.calc([theirs.parse_measure(text) for text in texts], judged, same)
            means |= {str(measure): value for measure, value in totals.items()}
            expected |= {(str(metric.measure), metric.query_id): metric.value for metric in values}
        found = {(name, query_id): row[name] for query_id, row in ours.per_query.items() for name in row}
        assert found == pytest.approx(expected, abs=1e-9)
        assert ours.means == pytest.approx(means, abs=1e-9)


def test_every_kind_is_compared() -> None:
    assert {parse(text).name for text in MEASURES} == set(KINDS) - {"Rmult"}  # which ir-measures lacks


def test_recall_at_multiples_of_the_relevant_documents() -> None:
    ranking = Ranking(np.array([1, 0, 1, 1, 0, 0, 1, 0]), np.array([1, 1, 1, 1, 1, 0]))
    found = {multiple: parse(f"Rmult@{multiple}").value(ranking) for multiple in (0.2, 0.4, 0.6, 1, 1.4, 2)}
    assert found == {0.2: 1 / 5, 0.4: 1 / 5, 0.6: 2 / 5, 1: 3 / 5, 1.4: 4 / 5, 2: 4 / 5}
    assert found[1] == parse("Rprec").value(ranking)
    with pytest.raises(UserError, match=r"needs a multiple: write Rmult@0\.5"):
        parse("Rmult")
    with pytest.raises(UserError, match="a number above 0"):
        parse("Rmult@0")


@pytest.mark.parametrize("text", MEASURES)
def test_text_form_is_that_of_ir_measures(text: str) -> None:
    theirs = pytest.importorskip("ir_measures")
    assert str(parse(text)) == str(theirs.parse_measure(text))
    assert parse(str(parse(text))) == parse(text)


def test_tie_rules() -> None:
    run, judged = {"q": {"a": 1.0, "z": 1.0}}, {"q": {"a": 1}}
    means = evaluate(run, judged, ["RR@10", "RR", "nDCG@1"]).means
    assert means == {"RR@10": 1.0, "RR": 0.5, "nDCG@1": 0.0}


def test_ndcg_by_hand() -> None:
    grades = np.array([0, 1, 3, 2])
    assert parse("nDCG").value(Ranking(grades, grades)) == pytest.approx(0.62839, abs=1e-5)
    # 2**grade - 1: 1/log2(3) + 7/2 + 3/log2(5) over 7 + 3/log2(3) + 1/2
    expected = (1 / np.log2(3) + 3.5 + 3 / np.log2(5)) / (7 + 3 / np.log2(3) + 0.5)
    assert parse("nDCG(dcg='exp-log2')").value(Ranking(grades, grades)) == pytest.approx(expected)


def test_bpref_by_hand() -> None:
    """With one relevant document only the first of the others counts against it."""
    judged = np.array([1, 0, 0, 0])
    values = [
        parse("Bpref").value(Ranking(np.array(ranked), judged)) for ranked in ([0, 0, 0, 1], [UNJUDGED, 1, 0])
    ]
    assert values == [0.0, 1.0]


def test_empty_ranking_is_zero() -> None:
    nothing, judged = np.zeros(0, np.int64), np.array([1, 2, 0, UNJUDGED])
    for text in MEASURES:
        if not text.startswith(("NumQ", "NumRel")) or text == "NumRelRet":
            assert parse(text).value(Ranking(nothing, judged)) == 0.0, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ndgc@10", "did you mean 'nDCG'"),
        ("ndcg_cut_10", "is written nDCG@10"),
        ("P", "write P@10"),
        ("IPrec", "write IPrec@0.5"),
        ("P@0", "whole number"),
        ("P(rel=0)@3", "whole number"),
        ("R(k=3)@3", "no parameter 'k'"),
        ("NumQ@3", "takes no @"),
        ("nDCG(gains=3)", "a mapping"),
        ("IPrec@2.0", "from 0 to 1"),
        ("AP(", "cannot be read"),
        ("AP(2)", "cannot be read"),
        ("nDCG@10@10", "cannot be read"),
        ("(" * 190, "cannot be read"),
        ("x" * 300, "cannot be read"),
        ("1+1", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(text)


def test_unknown_name_and_repeats() -> None:
    with pytest.raises(UnknownName):
        parse("nothing")
    assert [str(measure) for measure in parse_all(["MAP", "AP", "RR@10"])] == ["AP", "RR@10"]
