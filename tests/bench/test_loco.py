"""The LoCo suites: rules, buckets, duplicates, hand-computed figures, and the order of the corpus."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from retrieval.bench.evaluate import evaluate
from retrieval.bench.loco import DUPLICATES, LENGTHS, MEASURES, by_length, loco_v0, loco_v1, missing, survey
from retrieval.bench.run_suite import RunSettings, run_suite
from retrieval.bench.suite import SuiteSettings, tasks_of
from retrieval.bench.system import read_systems
from retrieval.data.loco import PART, TASKS, V0
from retrieval.errors import UnknownName
from retrieval.index.index import Index
from retrieval.types import Document
from tests.bench import loco_files


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(loco_files.write(tmp_path / "loco"))


def test_both_suites_have_their_tasks(folder: str) -> None:
    assert [task.name for task in tasks_of("loco-v1", SuiteSettings(folder, PART))] == list(TASKS)
    assert [task.name for task in tasks_of("loco-v0", SuiteSettings(folder, PART))] == list(V0)
    (task,) = loco_v1(SuiteSettings(folder, PART, ("2wikimqa",), queries=2))
    assert (len(task.queries), task.of, task.same_id, task.depth) == (2, 3, True, 1000)
    assert "trained on" in task.note
    with pytest.raises(UnknownName, match="2wikimqa"):
        list(loco_v0(SuiteSettings(folder, PART, ("2wikimqa",))))


def test_figures_are_those_computed_by_hand(folder: str) -> None:
    (task,) = loco_v1(SuiteSettings(folder, PART, ("qmsum",)))
    names = [f"qmsum_test_Passage_{at}" for at in range(3)]
    ranked = [names, names, names]  # the answer is first, second and third
    run = {
        query.query_id: {name: float(-rank) for rank, name in enumerate(found)}
        for query, found in zip(task.queries, ranked, strict=True)
    }
    found = evaluate(run, task.judgements, MEASURES)
    assert found.means["nDCG@10"] == pytest.approx((1 + 1 / math.log2(3) + 1 / 2) / 3, abs=1e-12)
    assert found.means["nDCG@1"] == pytest.approx(1 / 3)
    del run[task.queries[2].query_id]  # a query without results counts 0 here; BEIR leaves it out
    assert evaluate(run, task.judgements, MEASURES).means["nDCG@10"] == pytest.approx(
        (1 + 1 / math.log2(3)) / 3
    )


def test_queries_without_results_count_0_and_beirs_mean_is_said(folder: str, tmp_path: Path) -> None:
    place = Path(folder) / "LoCoV1-Queries" / "documents" / "qmsum_test.jsonl"
    made = loco_files.queries("qmsum")
    made[1]["query"] = "nothing of the sort"
    loco_files.lines(place, made)
    system = tmp_path / "sums.toml"
    system.write_text('name = "BM25"\npipeline = "bm25 + bm25"\n')
    said: list[str] = []
    (tmp_path / "work").mkdir()
    tasks = tasks_of("loco-v0", SuiteSettings(folder, PART, ("qmsum",)))
    (row,) = run_suite(tasks, read_systems([str(system)]), RunSettings(tmp_path / "work", warn=said.append))
    assert row["measures"]["nDCG@10"]["values"] == [1, 0, 1]
    assert any("BEIR's mean, without queries that have no results: 1.00000" in text for text in said)
    assert any("also measure a system" in text for text in said)
    assert row["secondary"][DUPLICATES]["nDCG@10"]["mean"] == pytest.approx(2 / 3)


def test_bm25_and_a_hybrid_are_asked_for() -> None:
    assert missing(["bm25(k1=0.9) % 1000", "0.5 * bm25 + 0.5 * minilm"]) == ""
    assert missing(["bm25"]) == "also measure a system with the pipeline 0.5 * bm25 + 0.5 * NAME"
    assert "pipeline bm25 and one with 0.5" in missing(["minilm", "bm25 % 100 >> cross"])


def test_the_order_of_the_corpus_changes_nothing(folder: str, tmp_path: Path) -> None:
    (task,) = loco_v1(SuiteSettings(folder, PART, ("gov_report",)))
    assert task.documents is not None
    documents = list(task.documents())
    same = [document._replace(text="amber and what") for document in documents]  # all tie
    found = []
    for at, order in enumerate((same, same[::-1], same[1:] + same[:1])):
        with Index.create(tmp_path / str(at)) as index:
            index.add(order)
            index.commit()
            found.append(evaluate(index.bm25()(list(task.queries)), task.judgements, MEASURES).values)
    for other in found[1:]:
        assert all((other[name] == found[0][name]).all() for name in found[0])


def test_lengths_and_duplicates() -> None:
    body = "word " * 3000
    documents = [
        Document("a", f"what of it? {body}"),
        Document("b", f"and what of this one? {body}"),
        Document("c", f"{body * 2}"),  # ends alike, and is another text
        Document("d", "short."),
        Document("e", "short."),
        Document("f", "short"),
    ]
    tokens, groups = survey(iter(documents))
    assert tokens["d"] == 2
    assert tokens["a"] == 3004
    assert sorted(map(sorted, groups)) == [["a", "b"], ["d", "e"]]
    judged = {"1": {"a": 1}, "2": {"d": 1}, "3": {"d": 1, "c": 1}}
    assert by_length(judged, {**tokens, "c": 40_000}) == {"1": "2-8k", "2": "<2k", "3": ">32k"}
    assert by_length({"1": {"x": 1}}, {"x": 8192}) == {"1": "8-32k"}


def test_duplicates_are_answers_in_the_secondary_judgements(folder: str) -> None:
    place = Path(folder) / "LoCoV1-Documents" / "documents" / "qmsum_test.jsonl"
    made = loco_files.documents("qmsum")
    made[2]["passage"] = made[0]["passage"]
    loco_files.lines(place, made)
    (task,) = loco_v0(SuiteSettings(folder, PART, ("qmsum",)))
    first, second, third = (query.query_id for query in task.queries)
    twins = {"qmsum_test_Passage_0": 1, "qmsum_test_Passage_2": 1}
    assert task.secondary[DUPLICATES] == {first: twins, second: {"qmsum_test_Passage_1": 1}, third: twins}
    assert task.judgements[first] == {"qmsum_test_Passage_0": 1}
    assert set(task.buckets[LENGTHS].values()) == {"<2k"}
