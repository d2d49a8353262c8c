"""evaluate: which queries count, what is refused, and the published figures of nine real runs."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from retrieval.bench.evaluate import evaluate
from retrieval.errors import UserError
from retrieval.types import Qrels, Query, Run

RUN = {"1": {"a": 3.0, "b": 2.0}, "2": {"c": 1.0}, "9": {"a": 1.0}}
JUDGED = {"1": {"b": 1}, "2": {"a": 2}, "3": {"a": 1}, "4": {}}


def test_every_judged_query_counts() -> None:
    found = evaluate(Run.from_dict(RUN), Qrels.from_dict(JUDGED), ["RR", "NumQ"])
    assert found.query_ids == ["1", "2", "3"]
    assert found.means == {"RR": pytest.approx(1 / 6), "NumQ": 2.0}
    assert found.per_query["1"] == {"RR": 0.5, "NumQ": 1.0}
    assert (found.unanswered, found.unjudged) == (1, 1)
    assert found.warning.startswith("1 of 3 judged queries have no hits and count 0")
    assert "1 queries of the run are not judged" in found.warning
    low, high = found.interval("RR")[1:]
    assert 0 <= low <= 1 / 6 <= high <= 0.5


def test_same_queries_give_no_warning() -> None:
    assert evaluate({"1": {"b": 1.0}}, {"1": {"b": 1}}).warning == ""


@pytest.mark.parametrize(
    ("run", "judged", "message"),
    [
        ({"a": {"d": 1.0}}, {"b": {"d": 1}}, "share no query: the run has 'a', the judgements 'b'"),
        (
            {"q": {"d1": 1.0}},
            {"q": {"MED-1": 1}},
            "share no document: the run has 'd1', the judgements 'MED-1'",
        ),
        ({}, {"q": {"d": 1}}, "share no query"),
        ({"q": {"d": float("nan")}}, {"q": {"d": 1}}, "cannot be ranked"),
    ],
)
def test_what_is_refused(
    run: dict[str, dict[str, float]], judged: dict[str, dict[str, int]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(run, judged)


def test_a_run_that_found_nothing_is_worth_nothing() -> None:
    assert evaluate({"q": {}}, {"q": {"d": 1}}, ["AP"]).means == {"AP": 0.0}


def test_columns_and_dict_agree_on_a_large_run() -> None:
    """Shared ordinals over many queries, with ties, against the plain dict."""
    random = np.random.default_rng(0)
    names = [f"d{i:04}" for i in random.permutation(3000)]
    queries = [Query(str(i), "") for i in range(40)]
    docs = np.concatenate([random.choice(3000, 200, replace=False) for _ in queries]).astype(np.int32)
    run = Run(queries, np.arange(41) * 200, docs, np.round(random.random(len(docs)), 2), names)
    judged = {
        q.query_id: {names[d]: int(random.integers(0, 4)) for d in random.choice(3000, 300)} for q in queries
    }
    measures = ["nDCG@10", "RR@10", "AP", "R@100", "Judged@10"]
    assert evaluate(run, judged, measures).per_query == evaluate(run.to_dict(), judged, measures).per_query


# nDCG@10 and AP(rel=2) of real runs of the Deep Learning track 2019, as ir-measures gives them.
DL19 = {
    "dl19.BM25": (0.4795, 0.2864),
    "dl19-passage.bm25.ielab-tilde": (0.4973, 0.2903),
    "dl19.BM25RM3": (0.5156, 0.3108),
    "dl19.BM25_deepct": (0.5599, 0.3169),
    "dl19.BM25_docT5q": (0.6308, 0.4044),
    "dl19.ANCE": (0.6537, 0.3715),
    "dl19.bm25_VBERT": (0.6855, 0.4441),
    "dl19.BM25_docT5q_ColBERT": (0.7143, 0.5012),
    "dl19.prf_rank_beta1": (0.7352, 0.5431),
}


@pytest.mark.parametrize("name", DL19)
def test_published_figures_of_real_runs(collections: Path, name: str) -> None:
    from retrieval.data.qrels import read_qrels
    from retrieval.data.runs import read_run

    run = read_run(collections / "msmarco" / "runs" / f"{name}.top1000.trec.gz")
    found = evaluate(
        run, read_qrels(collections / "msmarco/passage/dl19.qrels.trec"), ["nDCG@10", "AP(rel=2)"]
    )
    assert tuple(round(value, 4) for value in found.means.values()) == DL19[name]


def test_real_run_equals_ir_measures(collections: Path) -> None:
    """Every measure of one real run, read by each side's own reader."""
    theirs = pytest.importorskip("ir_measures")
    from retrieval.data.qrels import read_qrels
    from retrieval.data.runs import read_scores

    path = collections / "msmarco/runs/dl19.BM25.top1000.trec.gz"
    judged_path = collections / "msmarco/passage/dl19.qrels.trec"
    names = ["nDCG@10", "AP(rel=2)", "RR@10", "RR(rel=2)", "R(rel=2)@100", "Judged@10", "Bpref", "Rprec"]
    measures = [theirs.parse_measure(name) for name in names]
    with gzip.open(path, "rt") as run_lines, open(judged_path) as judged_lines:
        run = list(theirs.read_trec_run(run_lines))
        expected = theirs.calc_aggregate(measures, list(theirs.read_trec_qrels(judged_lines)), run)
    found = evaluate(read_scores(path), read_qrels(judged_path), names).means
    assert found == pytest.approx({str(measure): value for measure, value in expected.items()}, abs=1e-9)
