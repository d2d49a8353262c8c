"""Rocchio on vectors: the new query by hand, brute force over segments, what there is nothing to do for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index
from retrieval.errors import CompositionError, UserError
from retrieval.registry import make
from retrieval.testing import check_stage
from retrieval.types import Query, Run
from tests.index.hashing_encoder import Hashing, corpus, install, model, remove

QUERIES = [Query("1", "w1 w2 w3"), Query("2", "w4 w9"), Query("3", "w20")]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


def indexed(path: Path, documents: list[dict[str, Any]], spec: str = "") -> Index:
    """Three segments, two documents deleted."""
    index = Index.create(path / "index", ["bm25"], dense=[f"vec={spec or model(path)}"])
    for start in range(3):
        index.add([*documents[start::3], {"id": f"gone{start}", "text": "w1 w4 w20"}])
        index.commit()
    index.delete(["gone0", "gone2", "gone1"])
    index.commit()
    return index


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("first", ["vec", "bm25"])
def test_as_plain_python(tmp_path: Path, seed: int, first: str) -> None:
    rng = random.Random(seed)
    documents = corpus(40, seed)
    index = indexed(tmp_path, documents)
    fb_docs, alpha, beta = rng.choice([1, 3, 50]), rng.choice([0.9, 0.4]), rng.choice([0.1, 0.6])
    text = f"{first} % 8 >> vector_rocchio(vec, fb_docs={fb_docs}, alpha={alpha}, beta={beta}) % 12"
    run = index.pipeline(f"{first} % 8")(QUERIES)
    found = index.pipeline(text, threads=rng.choice([1, 2]))(QUERIES)
    encoder = Hashing("/dev/null", {})
    rows = dict(
        zip(
            (str(d["id"]) for d in documents),
            encoder.encode([d["text"] for d in documents]).rows,
            strict=True,
        )
    )
    for query in QUERIES:
        best = [rows[hit.doc_id].astype(float) for hit in run[query.query_id][:fb_docs]]
        asked = alpha * encoder.encode([query.text], "query").rows[0].astype(float)
        asked = asked + beta * np.mean(best, axis=0) if best else asked
        scores = {name: float(np.float32(row.astype(float) @ asked)) for name, row in rows.items()}
        hits = {hit.doc_id: hit.score for hit in found[query.query_id]}
        assert len(hits) == 12
        assert hits == pytest.approx({name: scores[name] for name in hits}, abs=1e-6)
        least = min(hits.values())
        assert all(name in hits or score <= least + 1e-6 for name, score in scores.items())


def test_feedback_leads_away_from_the_run(tmp_path: Path) -> None:
    documents: list[dict[str, Any]] = [
        {"id": "a", "text": "w1 w2"},
        {"id": "b", "text": "w2"},
        {"id": "c", "text": "w7 w8 w9"},
    ]
    index = indexed(tmp_path, documents)
    run = Run.from_dict({"1": {"a": 1.0}}, {"1": "w1"})
    stage = make("vector_rocchio", {"model": "vec", "alpha": 0, "beta": 1})
    found = stage.with_representation(index.stage("vec"))(run.queries, run)
    assert found["1"][0].doc_id == "a"
    assert found["1"][0].score == pytest.approx(1)  # the query is the document now
    assert {hit.doc_id for hit in found["1"]} == {"a", "b", "c"}


def test_little_to_learn_from(tmp_path: Path) -> None:
    index = indexed(tmp_path, corpus(9, seed=1))
    plain = index.stage("vec")
    stage = make("vector_rocchio", {"model": "vec", "alpha": 1}).with_representation(plain)
    queries = [*QUERIES, Query("4", "")]
    empty = Run.from_dict({query.query_id: {} for query in queries})
    assert stage(queries, empty).to_dict() == plain(queries).to_dict()
    given = Run.from_dict({query.query_id: {"d1": 2.0, "d2": 1.0} for query in queries})
    assert stage(queries, given)["4"] == []  # nothing was asked
    assert [len(hits) for hits in stage.within(2)(queries, given).values()] == [2, 2, 2, 0]
    check_stage(stage, queries, given)
    check_stage(index.pipeline("bm25 % 3 >> vector_rocchio(vec) % 5"), [query.text for query in QUERIES])
    assert len(stage([], given)) == 0


def test_filter_documents_as_queries_and_cut_tokens(tmp_path: Path) -> None:
    path = model(tmp_path)
    index = indexed(tmp_path, corpus(30, seed=2), f"{path}(length=2)")
    text = "vec % 3 >> vector_rocchio(vec) % 10"
    found = index.pipeline(text, filter="year >= 20")(QUERIES)
    assert {hit.doc_id for hits in found.values() for hit in hits} == {f"d{i}" for i in range(20, 30)}
    assert found.trace[-1].tokens_dropped == 1  # of "w1 w2 w3"
    Path(path.partition(":")[2]).write_text("")
    index.like("d5", pipeline=text)
    log = Path(path.partition(":")[2]).read_text().splitlines()
    assert {line.partition(" ")[0] for line in log} == {"passage"}


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    index = indexed(tmp_path, corpus(5))
    with pytest.raises(CompositionError, match="searches vectors of whole documents, and bm25 is none"):
        index.pipeline("vec % 3 >> vector_rocchio(bm25)")
    with pytest.raises(CompositionError, match="its parameters: model"):
        index.pipeline("vec % 3 >> vector_rocchio")
    with pytest.raises(UserError, match="vec has no parameter 'gama'"):
        index.pipeline("vec % 3 >> vector_rocchio(vec, gama=1)")
    for key, value in [("fb_docs", 0), ("alpha", -1), ("beta", "x")]:
        with pytest.raises(UserError, match=f"vector_rocchio cannot take {key}="):
            make("vector_rocchio", {"model": "vec", key: value})
    text = "bm25 % 3 >> vector_rocchio(vec, fb_docs=2, beta=0.5, exact=true)"
    assert repr(index.pipeline(text)) == text
