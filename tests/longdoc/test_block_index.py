"""Representations of blocks equal an index whose documents are the blocks, pooled in plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import Index
from retrieval.check import check
from retrieval.errors import UserError
from retrieval.index.export import export
from retrieval.index.vector_part import check_vectors
from retrieval.stage import Given
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run
from tests.index.hashing_encoder import install, model, remove
from tests.longdoc.block_corpus import QUERIES, SPLIT, WORDS, documents, split

Scores = dict[str, list[float]]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


def block_scores(path: Path, kept: list[Document], spec: str, query: str) -> Scores:
    """Every document's blocks' scores, from an index of the blocks."""
    dense = "hashing" in spec
    index = Index.create(path, sparse=[] if dense else [f"x={spec}"], dense=[f"x={spec}"] if dense else [])
    blocks = split(kept)
    index.add(blocks)
    index.commit()
    run = Run.from_dict({"1": {block.doc_id: 0.0 for block in blocks}}, {"1": query})
    found = (Given(run) >> index.stage("x"))([Query("1", query)]).to_dict()["1"]
    scores: Scores = {}
    for block in blocks:
        scores.setdefault(block.doc_id.rpartition("#")[0], []).append(found[block.doc_id])
    return scores


def pooled(scores: list[float], how: str, best: int) -> float:
    if how == "mean":
        top = sorted(scores, reverse=True)[:best]
        return sum(top) / len(top)
    return {"max": max, "first": lambda s: s[0], "sum": sum}[how](scores)  # type: ignore[operator, no-any-return]


def expected(scores: Scores, how: str, best: int, *, sparse: bool, k: int) -> list[tuple[str, float]]:
    """The k best documents; of a sparse representation those with a match."""
    rows = [(pooled(each, how, best), doc) for doc, each in scores.items()
            if not sparse or (each[0] if how == "first" else max(each)) > 0]  # fmt: skip
    return [(doc, score) for score, doc in sorted(rows, reverse=True)[:k]]


def approx(hits: list[tuple[str, float]]) -> Any:
    return [(doc, pytest.approx(score, rel=1e-5, abs=1e-6)) for doc, score in hits]


@pytest.mark.parametrize("spec", ["bm25", "hashing"])
@pytest.mark.parametrize("how", ["max", "first", "sum", "mean"])
def test_search_equals_pooled_blocks(tmp_path: Path, spec: str, how: str) -> None:
    made = model(tmp_path) if spec == "hashing" else spec
    kept = documents(40)
    options = {"dense": [f"x={made}({SPLIT})"]} if spec == "hashing" else {"sparse": [f"x={made}({SPLIT})"]}
    index = Index.create(tmp_path / "index", **options)  # type: ignore[arg-type]
    index.add(kept[:25])
    index.commit()
    index.add(kept[25:])
    index.delete(["d2", "d30"])
    index.commit()
    kept = [document for document in kept if document.doc_id not in ("d2", "d30")]
    for at, query in enumerate(QUERIES):
        scores = block_scores(tmp_path / f"blocks{at}", kept, made, query)
        for k in (1, 5, 40):
            found = index.search(query, k, pipeline=f"x(aggregate={how}, best=2)")
            wanted = expected(scores, how, 2, sparse=spec != "hashing", k=k)
            # Sums over blocks may tie, or differ in the last digit.
            if how in ("max", "first"):
                assert [(hit.doc_id, hit.score) for hit in found] == approx(wanted)
            else:
                assert [hit.score for hit in found] == approx([("", s) for _, s in wanted]) or [
                    hit.score for hit in found
                ] == pytest.approx([score for _, score in wanted], rel=1e-5)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_maxp_is_exact_at_every_depth(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Many blocks a document, few of them asked for at first."""
    folder = tmp_path_factory.mktemp("many")
    texts = data.draw(
        st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=40), min_size=1, max_size=12)
    )
    kept = [Document(f"d{i}", " ".join(words)) for i, words in enumerate(texts)]
    spec = "bm25(blocks=windows, tokens=2)"
    index = Index.create(folder / "index", sparse=[f"x={spec}"])
    index.add(kept)
    index.commit()
    stage = index.stage("x")
    everything = (stage % 100)(["w1 w2", "w3"])
    for k in (1, 2, 3):
        assert (stage % k)(["w1 w2", "w3"]).to_dict() == everything.cut(k).to_dict()


def test_asks_for_more_blocks_until_documents_are_certain(tmp_path: Path) -> None:
    """One document holds all the best blocks, so that the first blocks asked for are its own."""
    kept = [Document("all", "w1 w1. " * 900), *(Document(f"d{i}", "w1 w2. w3 w4.") for i in range(40))]
    index = Index.create(tmp_path / "index", sparse=["x=bm25(blocks=sentences, tokens=2)"])
    index.add(kept)
    index.commit()
    hits = [hit.doc_id for hit in index.search("w1", 5, pipeline="x")]
    assert hits == ["all", *sorted((f"d{i}" for i in range(40)), reverse=True)[:4]]


def test_merge_filter_statistics_and_check(tmp_path: Path) -> None:
    spec = model(tmp_path)
    index = Index.create(
        tmp_path / "index", sparse=["bm25", f"x=bm25({SPLIT})"], dense=[f"v={spec}({SPLIT})"]
    )
    kept = documents(30)
    for part in (kept[:7], kept[7:20], kept[20:]):
        index.add(part)
        index.commit()
    index.delete(["d3", "d12", "d29"])
    index.commit()
    before = {p: [index.search(q, 30, pipeline=p) for q in QUERIES] for p in ("x", "v", "x(aggregate=sum)")}
    passages = index.passages("w1 w2", ["d5", "d9"], pipeline="x")
    mean = index.statistics("x").mean
    assert all(
        2 <= int(hit.doc_id[1:]) < 9
        for hit in index.search("w1", 30, pipeline="x", filter="year >= 2 and year < 9")
    )
    index.merge(reorder=True)
    assert {p: [index.search(q, 30, pipeline=p) for q in QUERIES] for p in before} == before
    assert index.passages("w1 w2", ["d5", "d9"], pipeline="x") == passages
    assert index.statistics("x").mean == pytest.approx(mean)
    index.merge(compact=True)
    assert index.representations["x"]["of"]["compact"] is True
    assert {p: [index.search(q, 30, pipeline=p) for q in QUERIES] for p in before} == before
    assert check(index.path)["docs"] == 27
    check_vectors(index.path)
    twin = Index.open(index.path)
    assert [twin.search(q, 30, pipeline="x") for q in QUERIES] == before["x"]


def test_statistics_are_of_the_live_blocks(tmp_path: Path) -> None:
    kept = documents(20)
    index = Index.create(tmp_path / "index", sparse=[f"x=bm25({SPLIT})"])
    index.add(kept)
    index.commit()
    index.delete(["d1", "d2", "d5"])
    index.commit()
    live = [document for document in kept if document.doc_id not in ("d1", "d2", "d5")]
    plain = Index.create(tmp_path / "plain", sparse=["x=bm25"])
    plain.add(split(live))
    plain.commit()
    ours, theirs = index.statistics("x"), plain.statistics("x")
    assert ours.documents == theirs.documents == len(split(live))
    assert ours.mean == theirs.mean
    assert [ours.df(word) for word in WORDS] == [theirs.df(word) for word in WORDS]


def test_representation_added_later_equals_one_built_at_once(tmp_path: Path) -> None:
    kept = documents(25)
    first = Index.create(tmp_path / "first", sparse=["bm25", f"x=bm25({SPLIT})"])
    later = Index.create(tmp_path / "later", sparse=["bm25"])
    for index in (first, later):
        index.add(kept)
        index.commit()
        index.delete(["d4"])
        index.commit()
    later.add_representation(f"x=bm25({SPLIT})")
    for query in QUERIES:
        assert later.search(query, 25, pipeline="x") == first.search(query, 25, pipeline="x")


def test_rescoring_fusion_and_cascades(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", sparse=["bm25", f"x=bm25({SPLIT})"])
    kept = documents(25)
    index.add(kept)
    index.commit()
    given = Run.from_dict({str(at): {d.doc_id: 0.0 for d in kept} for at in range(1, 6)})
    for aggregate in ("max", "first", "sum", "mean"):
        check_stage(index.stage("x", aggregate=aggregate), QUERIES)
        check_stage(index.stage("x", aggregate=aggregate), QUERIES, given)
    alone = {hit.doc_id: hit.score for hit in index.search("w1 w2", 25, pipeline="x")}
    again = index.search("w1 w2", 25, pipeline="bm25 % 10 >> x")
    assert {hit.doc_id: hit.score for hit in again} == {
        hit.doc_id: alone.get(hit.doc_id, 0.0) for hit in again
    }
    assert index.search("w1 w2", 5, pipeline="0.5 * bm25 % 20 + 0.5 * x % 20")


def test_passages_are_where_they_say(tmp_path: Path) -> None:
    text = "Nothing is here. The w7 stands here, w7 again. And then nothing more at all."
    index = Index.create(
        tmp_path / "index", sparse=["x=bm25(blocks=sentences, tokens=8, title=false)", "bm25"]
    )
    index.add([Document("a", text, "w7 in the title"), Document("b", "w7"), Document("c", "", "Empty")])
    index.commit()
    passage, other, empty = index.passages("w7", ["a", "b", "c"], pipeline="bm25 % 5 >> x")
    assert passage is not None
    assert other is not None
    assert empty is not None
    assert text[passage.start : passage.end] == "The w7 stands here, w7 again."
    assert (passage.doc_id, passage.number, other.start, other.end) == ("a", 1, 0, 2)
    assert (empty.start, empty.end, empty.score) == (0, 0, 0.0)
    assert index.passages("w7", ["a"], pipeline="bm25") == [None]
    assert index.explain("w7", "a", pipeline="x")["stages"][0]["block"]["number"] == 1
    with pytest.raises(UserError, match="no document 'zz'"):
        index.passages("w7", ["zz"], pipeline="x")


def test_export_names_the_blocks(tmp_path: Path) -> None:
    kept = documents(12)
    index = Index.create(
        tmp_path / "index", sparse=[f"x=bm25({SPLIT})"], dense=[f"v={model(tmp_path)}({SPLIT})"]
    )
    index.add(kept)
    index.commit()
    index.delete(["d0"])
    index.commit()
    blocks = [block.doc_id for block in split(kept[1:])]
    export(index, "v", str(tmp_path / "v.npy"))
    assert (tmp_path / "v.ids").read_text().split() == blocks
    assert np.load(tmp_path / "v.npy").shape[0] == len(blocks)
    assert export(index, "x", str(tmp_path / "x.ciff")).documents == len(blocks)
