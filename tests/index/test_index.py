"""The life of an index: add, update, delete, merge give what a fresh index of the live documents gives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from retrieval import BadLine, Document, Index, Locked, UnknownName, UserError
from retrieval.data.corpus import open_corpus
from retrieval.index.statistics import Statistics
from retrieval.testing import check_index, check_stage

WORDS = [f"w{i}" for i in range(60)]
QUERIES = ["w1 w2 w3", "w40 w41 w40", "w59", "nothing known", ""]


def make(number: int, rng: random.Random, long: bool = False) -> Document:
    text = " ".join(rng.choices(WORDS, k=rng.randint(1, 25))) + (" w1" * 400 if long else "")
    return Document(f"d{number}", text, metadata={"number": number, "kind": rng.choice(["a", "b"])})


def build(path: Path, documents: Sequence[Document], batches: int = 1, **options: Any) -> Index:
    index = Index.create(path, analyzer="words", **options)
    size = -(-len(documents) // batches)
    for start in range(0, len(documents), size):
        index.add(documents[start : start + size])
        index.commit()
    return index


def results(index: Index, name: str = "bm25", **params: Any) -> list[list[Any]]:
    run = (index.stage(name, **params) % 15)(QUERIES)
    return [[(hit.doc_id, hit.score) for hit in run[query]] for query in run]


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    rng = random.Random(3)
    return [make(number, rng, long=number % 50 == 0) for number in range(300)]


@pytest.mark.parametrize("compact", [False, True])
def test_segments_deletes_merges_and_reordering_change_no_result(
    tmp_path: Path, documents: list[Document], compact: bool
) -> None:
    whole = build(tmp_path / "whole", documents)
    wanted = results(whole)
    assert [bool(hits) for hits in wanted] == [True, True, True, False, False]
    index = build(tmp_path / "parts", documents, batches=4, compact=compact)
    assert results(index) == wanted
    index.merge(reorder=True)
    assert results(index) == wanted == results(index, algorithm="portable")
    gone = {document.doc_id for document in documents[::3]}
    live = [document for document in documents if document.doc_id not in gone]
    wanted = results(build(tmp_path / "live", live))
    index.delete(gone)
    index.commit()
    assert len(index) == len(live)
    assert results(index) == wanted == results(index, algorithm="portable")
    index.merge(compact=not compact)
    assert results(index) == wanted
    assert index.representations["bm25"]["compact"] is not compact


def test_updates_keep_the_last_version(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents[:100], batches=3)
    changed = [document._replace(text=document.text + " w7 w7") for document in documents[40:60]]
    twice = [changed[0]._replace(text="an early version"), *changed]
    index.add([*twice, documents[120]], update=True)
    index.add([documents[120]._replace(text="w5")], update=True)
    index.commit()
    live = [*documents[:40], *documents[60:100], *changed, documents[120]._replace(text="w5")]
    assert len(index) == len(live)
    assert results(index) == results(build(tmp_path / "fresh", live))
    assert index.document(changed[0].doc_id) == changed[0]


def test_everything_deleted(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents[:10])
    index.delete([document.doc_id for document in documents[:10]])
    index.commit()
    assert len(index) == 0
    assert results(index) == [[]] * len(QUERIES)
    index.merge()
    index.add(documents[5:8])
    index.commit()
    assert results(index) == results(build(tmp_path / "fresh", documents[5:8]))


def test_shards_rank_as_one_with_merged_statistics(tmp_path: Path, documents: list[Document]) -> None:
    whole = build(tmp_path / "whole", documents)
    shards = [build(tmp_path / "one", documents[:90]), build(tmp_path / "two", documents[90:])]
    statistics = Statistics.merged([shard.statistics() for shard in shards])
    sent = statistics.taken(WORDS)  # as it would travel to another machine
    for query in QUERIES:
        hits = []
        for shard in shards:
            run = (shard.bm25(statistics=sent) % 15)([query])
            hits += [(hit.score, hit.doc_id) for hit in run["1"]]
        wanted = [(hit.score, hit.doc_id) for hit in whole.search(query, 15)]
        assert sorted(hits, reverse=True)[:15] == wanted


def test_filters(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents, batches=2)
    every = index.search("w1 w2 w3", 300)
    kinds = {document.doc_id: document.metadata for document in documents}
    found = index.search("w1 w2 w3", 300, filter='kind = "a" and number < 100')
    wanted = [hit for hit in every if kinds[hit.doc_id]["kind"] == "a" and kinds[hit.doc_id]["number"] < 100]
    assert [(hit.doc_id, hit.score) for hit in found] == [(hit.doc_id, hit.score) for hit in wanted]
    assert 0 < len(found) < len(every)
    with pytest.raises(UnknownName, match="kind"):
        index.search("w1", filter='kinds = "a"')


def test_further_representations_and_pipelines(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents, batches=2)
    index.delete(["d4"])
    index.commit()
    index.add_representation("second=bm25")
    assert list(index.representations) == ["bm25", "second"]
    assert results(index) == results(index, "second")
    pipeline = index.pipeline("bm25 % 20 >> second(k1=2.0) % 5 + 0.5 * bm25")
    assert index.pipeline(repr(pipeline))
    assert len(pipeline("w1 w2")["1"]) > 0
    with pytest.raises(UserError, match="bm25, second"):
        index.search("w1")
    with pytest.raises(UnknownName, match="did you mean 'second'"):
        index.pipeline("secnd")


def test_rescoring_gives_the_scores_of_the_search(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents, batches=3)
    stage = index.bm25()
    run = (stage % 40)(QUERIES)
    assert stage(QUERIES, run).to_dict() == run.to_dict()
    other = build(tmp_path / "other", documents[:50])
    with pytest.raises(UserError, match="not in the index"):
        other.bm25()(QUERIES, run)


def test_explanation_adds_up(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents, batches=2)
    for hit in index.search("w1 w2 w2 w9", 5):
        found = index.explain("w1 w2 w2 w9", hit.doc_id)
        (stage,) = found["stages"]
        assert found["rank"] == stage["rank"] == hit.rank
        assert stage["score"] == hit.score
        assert sum(term["contribution"] for term in stage["terms"]) == pytest.approx(hit.score, abs=1e-6)
        assert {term["term"]: term["query_weight"] for term in stage["terms"]} == {"w1": 1, "w2": 2, "w9": 1}


def test_known_ids_are_refused_and_nothing_is_lost(tmp_path: Path, documents: list[Document]) -> None:
    index = build(tmp_path / "index", documents[:20])
    with pytest.raises(UserError, match="'d3' is known already"):
        index.add([documents[30], documents[3]])
    with pytest.raises(UserError, match="'d30' is known already"):
        index.add([documents[30], documents[30]])
    assert index.commit() == 1
    assert len(index) == 20
    corpus = tmp_path / "more.jsonl"
    corpus.write_text('{"_id": "new", "text": "w1"}\n{"_id": "d3", "text": "w2"}\n')
    with pytest.raises(BadLine, match=r"more\.jsonl:2: .*'d3' is known already"):
        index.add(open_corpus(corpus))
    skipping = open_corpus(corpus, skip_bad=True)
    index.add(skipping)
    index.commit()
    assert skipping.skipped_count == 1
    assert len(index) == 21
    assert "new" in index


def test_bad_documents_and_parameters(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    for bad in (
        {"id": "a b", "text": "x"},
        {"id": "a", "text": ""},
        {"text": "x"},
        {"id": 3, "text": "x"},
        5,
    ):
        with pytest.raises(UserError, match="document 1"):
            index.add([bad])  # type: ignore[list-item]
    index.add(["solar wind"])
    index.commit()
    assert index.search("wind")[0].doc_id == "1"
    for params in ({"k1": -1}, {"b": 2}, {"k1": float("nan")}, {"c": 1}, {"k1": "x"}):
        with pytest.raises(UserError, match="bm25"):
            index.bm25(**params)
    with pytest.raises(UserError, match="no document 'x'"):
        index.delete("x")
    with pytest.raises(UserError, match=r"did you mean .bm25"):
        Index.create(tmp_path / "other", ["bm26x"])


def test_two_writers(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add(["one"])
    index.commit()
    other = Index.open(tmp_path / "index")
    index.add(["two"])
    with pytest.raises(Locked):
        other.add(["three"])
    index.commit()
    other.add(["three"])  # sees the newest commit now
    assert other.commit() == 3
    assert len(other) == 3


def test_a_small_budget_spills_and_changes_nothing(tmp_path: Path, documents: list[Document]) -> None:
    wanted = results(build(tmp_path / "whole", documents))
    for compact in (False, True):
        index = build(tmp_path / f"small-{compact}", documents, memory=1000, compact=compact)
        assert results(index) == wanted


def test_the_same_input_gives_the_same_files(tmp_path: Path, documents: list[Document]) -> None:
    found = []
    for name in ("one", "two"):
        index = build(tmp_path / name, documents, batches=2)
        commit = index._view.snapshot.commit if index._view else {}
        found.append(sorted((path[20:], facts["sha256"]) for path, facts in commit["files"].items()))
    assert found[0] == found[1]


def test_impacts(tmp_path: Path) -> None:
    rng = random.Random(1)
    vectors = [{word: rng.randint(1, 255) for word in rng.sample(WORDS, 9)} for _ in range(50)]
    documents = [{"id": f"d{i}", "text": "x", "vector": vector} for i, vector in enumerate(vectors)]
    index = Index.create(tmp_path / "index", ["impacts"])
    index.add(documents)
    index.commit()
    exact = {
        f"d{i}": 2 * vector.get("w1", 0) + vector.get("w2", 0) + vector.get("w3", 0)
        for i, vector in enumerate(vectors)
    }
    wanted = sorted(((float(score), doc) for doc, score in exact.items() if score), reverse=True)
    assert [(hit.score, hit.doc_id) for hit in index.search("w1 w2 w1 w3", 50)] == wanted
    with pytest.raises(UserError, match="has no vector"):
        index.add([{"id": "z", "text": "x"}])
    with pytest.raises(UserError, match="whole numbers of 1 to 255"):
        index.add([{"id": "z", "text": "x", "vector": {"a": 0.5}}])


def test_impacts_of_a_file_are_quantised_and_none_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "vectors.jsonl"
    file.write_text('{"id": "b", "vector": {"x": 0.001, "y": 2.0}}\n{"id": "a", "vector": {"x": 1.0}}\n')
    index = Index.create(tmp_path / "index", [f"unicoil=impacts:{file}"])
    index.add([{"id": "a", "text": "first"}, {"id": "b", "text": "second"}])
    index.commit()
    assert [(hit.doc_id, hit.score) for hit in index.search("x")] == [("a", 128.0), ("b", 1.0)]
    assert index.representations["unicoil"]["quantiser"] == {"bits": 8, "maximum": 2.0, "rounding": "ceil"}
    file.write_text('{"id": "b"}\n')
    with pytest.raises(BadLine, match=r"vectors\.jsonl:1"):
        Index.create(tmp_path / "bad", [f"impacts:{file}"])


def test_conformance(tmp_path: Path, documents: list[Document]) -> None:
    check_index(lambda path: Index.create(path))
    index = build(tmp_path / "index", documents, batches=3)
    check_stage(index.bm25(), QUERIES)
    check_stage(index.bm25(k1=2.0, b=0.9), QUERIES, (index.bm25() % 30)(QUERIES))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scifact", 0.676),
        ("squad-dev", 0.869),
        ("debtags", 0.319),
        ("wordnet-types", 0.362),
        ("qmsum", 0.384),
    ],
)
def test_bm25_on_real_collections(tmp_path: Path, collections: Path, name: str, expected: float) -> None:
    from retrieval.bench.evaluate import evaluate
    from retrieval.data.qrels import read_qrels
    from retrieval.data.queries import read_queries

    index = Index.create(tmp_path / "index", store_text=False)
    index.add(open_corpus(collections / name))
    index.commit()
    source = f"{collections / name}@test"
    run = (index.bm25() % 1000)(read_queries(source))
    found = evaluate(run, read_qrels(source), ["nDCG@10"])
    assert found.means["nDCG@10"] == pytest.approx(expected, abs=0.01)


def test_many_versions_of_an_id_in_one_transaction(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    for version in range(5):
        index.add(
            [{"id": "x", "text": f"version v{version}"}, {"id": f"y{version}", "text": "other"}], update=True
        )
    index.delete("x")
    index.add([{"id": "x", "text": "the last one"}])
    index.commit()
    assert len(index) == 6
    assert [hit.doc_id for hit in index.search("last version")] == ["x"]
    assert index.document("x").text == "the last one"


def test_what_another_process_committed_is_kept(tmp_path: Path) -> None:
    index = build(tmp_path / "index", [Document("a", "one"), Document("b", "two")])
    other = Index.open(tmp_path / "index")
    other.add_representation("second=bm25")
    index.merge()
    assert list(index.representations) == ["bm25", "second"]
    with pytest.raises(UserError, match="'second' already"):
        Index.open(tmp_path / "index").add_representation("second=bm25")


def test_refused_changes_leave_nothing_behind(tmp_path: Path) -> None:
    index = build(tmp_path / "index", [Document("a", "one")])
    with pytest.raises(UserError):
        index.delete("nope")
    other = Index.open(tmp_path / "index")
    other.add([Document("b", "two")])  # the lock is free
    with pytest.raises(UserError, match="commit"):
        other.merge(compact=True)
    other.commit()
    assert not other.representations["bm25"]["compact"]
    assert other.search("two", 10**30)[0].doc_id == "b"


def test_texts_are_numbered_on(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add(["first"])
    index.add(["second"])
    index.commit()
    index.delete("1")
    index.commit()
    index.merge()
    index.add(["third"])
    index.commit()
    assert [index.search(word)[0].doc_id for word in ("second", "third")] == ["2", "3"]
    for wrong in ("solar wind", {"id": "a", "text": "x"}, Document("a", "x"), 5, None):
        with pytest.raises(UserError, match="list"):
            index.add(wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="metadata"):
        index.add([{"id": "a", "text": "x", "metadata": 5}])
