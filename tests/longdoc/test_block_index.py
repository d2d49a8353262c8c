"""Representations of blocks equal an index whose documents are the blocks, pooled in plain Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import Index, registry
from retrieval.artefact import Store
from retrieval.check import check
from retrieval.errors import CompositionError, CorruptIndex, UnknownName, UnsupportedFormat, UserError
from retrieval.index.export import export
from retrieval.index.vector_part import check_vectors
from retrieval.index.view import View
from retrieval.longdoc.block_table import BlockTable
from retrieval.longdoc.block_view import block_view
from retrieval.longdoc.splitter import Splitter, take_settings
from retrieval.snapshot import open_snapshot
from retrieval.stage import Given, Stage
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run
from tests.index.hashing_encoder import Hashing, install, model, remove

WORDS = [f"w{i}" for i in range(12)]
SPLIT = "blocks=sentences, tokens=6"
QUERIES = ["w1 w2", "w3", "w4 w5 w1", "w0 w0 w11", "unknown"]
Scores = dict[str, list[float]]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


def documents(n: int, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 9))).capitalize() + "."

    found = []
    for i in range(n):
        title = rng.choice(["", "w1", "Title w2"])
        text = " ".join(sentence() for _ in range(rng.randint(0 if title else 1, 5)))
        found.append(Document(f"d{i}", text, title, {"year": i}))
    return found


def split(kept: list[Document], **options: Any) -> list[Document]:
    """The blocks as documents."""
    splitter = Splitter(take_settings("x", {"blocks": "sentences", "tokens": 6, **options}))
    pairs = zip(kept, splitter.blocks(kept), strict=True)
    return [part for document, blocks in pairs for part in splitter.documents(document, blocks)]


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
    kept = [Document("all", "w1. " * 900), *(Document(f"d{i}", "w1 w2 w3 w4. " * 3) for i in range(40))]
    index = Index.create(tmp_path / "index", sparse=["x=bm25(blocks=sentences, tokens=1)"])
    index.add(kept)
    index.commit()
    hits = index.search("w1", 5, pipeline="x")
    assert [hit.doc_id for hit in hits] == sorted([d.doc_id for d in kept], reverse=True)[:5]
    hits = Index.open(index.path).search("w1 w2", 5)
    assert {hit.doc_id for hit in hits} < {f"d{i}" for i in range(40)}
    assert len(hits) == 5


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


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("x=bm25(blocks=paragraphs)", "sentences"),
        ("x=bm25(blocks=sentences, overlap=3)", "no overlap"),
        ("x=bm25(blocks=windows, tokens=0)", "capacity=0"),
        ("x=bm25(blocks=windows, tokens=big)", "whole number"),
        ("x=bm25(blocks=windows, tokens=4, overlap=4)", "overlap=4"),
        ("x=bm25(blocks=windows, stride=4)", "no setting of blocks"),
        ("x=bm25(blocks=model)", "cuts documents itself"),
    ],
)
def test_wrong_settings(tmp_path: Path, spec: str, message: str) -> None:
    with pytest.raises((UserError, UnknownName), match=message):
        Index.create(tmp_path / "index", sparse=[spec])


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("x(aggregate=min)", "one of max"),
        ("x(best=0)", "best=0"),
        ("x(candidates=many)", "candidates='many'"),
        ("x(aggregate=learned)", "needs weights=FILE"),
        ("x(weights=f)", "takes no weights"),
        ("x(k2=1)", "k2"),
    ],
)
def test_wrong_parameters(tmp_path: Path, pipeline: str, message: str) -> None:
    index = Index.create(tmp_path / "index", sparse=[f"x=bm25({SPLIT})"])
    index.add(documents(3))
    index.commit()
    with pytest.raises(UserError, match=message):
        index.search("w1", pipeline=pipeline)


def test_odd_documents(tmp_path: Path) -> None:
    """Only punctuation, one sentence of many words, mixed scripts: all found by what they hold."""
    odd = [
        Document("marks", "?!. ... --- ,,,, " * 50), Document("long", "w3 " * 5000 + "w4"),
        Document("mixed", "Привет мир. 你好世界。 مرحبا. w5 x"), Document("title", "", "w6 w6"),
        Document("one", "x" * 20_000),
    ]  # fmt: skip
    specs = [f"x=bm25({SPLIT})", "y=bm25(blocks=windows, tokens=7, overlap=3)", "z=bm25(blocks=structure)"]
    index = Index.create(tmp_path / "index", sparse=specs, dense=[f"v={model(tmp_path)}(blocks=windows)"])
    index.add(odd)
    index.commit()
    for name in "xyz":
        for query, doc in (("w4", "long"), ("w5", "mixed"), ("w6", "title"), ("мир", "mixed")):
            assert [hit.doc_id for hit in index.search(query, pipeline=name)] == [doc]
    assert len(index.search("w3", 10, pipeline="v")) == 5


def test_table_of_a_stranger(tmp_path: Path) -> None:
    """Right checksums, wrong numbers: CorruptIndex."""

    class Source:
        def __init__(self, **changed: Any) -> None:
            offsets, spans = np.array([0, 1, 3]), np.array([[0, 2], [0, 1], [1, 4]], np.int32)
            facts = {"documents": 2, "blocks": 3, "tokens": 9, "dropped": 0}
            self.held = {"offsets": offsets, "spans": spans, "facts": facts, **changed}

        def array(self, path: str) -> Any:
            return self.held["offsets" if "offsets" in path else "spans"]

        def json(self, path: str) -> Any:
            return self.held["facts"]

    assert len(BlockTable(Source(), "seg", 2)) == 3  # type: ignore[arg-type]
    bad: list[dict[str, Any]] = [
        {"offsets": np.array([0, 3])}, {"offsets": np.array([1, 2, 3])}, {"offsets": np.array([0, 0, 3])},
        {"offsets": np.array([0, 1, 4])}, {"spans": np.array([[0, 2], [0, 1], [4, 1]], np.int32)},
        {"spans": np.array([[-1, 2], [0, 1], [1, 4]], np.int32)}, {"facts": []}, {"facts": {"documents": -1}},
    ]  # fmt: skip
    for changed in bad:
        with pytest.raises(CorruptIndex, match="seg/block_"):
            BlockTable(Source(**changed), "seg", 2)  # type: ignore[arg-type]


def test_only_a_new_reader_may_open_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.create(tmp_path / "index", sparse=[f"x=bm25({SPLIT})"])
    index.add(documents(3))
    index.commit()
    assert Store.open(index.path).commit["min_reader"] == 4
    monkeypatch.setattr("retrieval.manifest.FORMAT", 3)
    with pytest.raises(UnsupportedFormat, match=r"this build reads 1\.\.3"):
        Index.open(index.path)


def test_block_ids(tmp_path: Path) -> None:
    kept = documents(15)
    index = Index.create(tmp_path / "index", sparse=[f"x=bm25({SPLIT})"])
    index.add(kept[:6])
    index.commit()
    index.add(kept[6:])
    index.commit()
    with open_snapshot(index.path) as snapshot:
        view = block_view(View(snapshot), "x")
        names = [block.doc_id for block in split(kept)]
        assert list(view.ids) == names
        assert (view.ids[-1], view.ids[1:3]) == (names[-1], names[1:3])
        assert view.find_many([names[7], "d0#99", "zz#0"]).tolist() == [7, -1, -1]
        for segment in view.segments:
            ranks = segment.store.rank
            order = sorted(range(len(ranks)), key=lambda i: ranks[i])
            mine = names[segment.base : segment.base + segment.documents]
            parts = [mine[i].split("#") for i in order]
            assert parts == sorted(parts, key=lambda part: (part[0], -int(part[1])))


def test_block_vectors_for_stages_that_read_them(tmp_path: Path) -> None:
    kept = documents(12)
    specs = [f"v={model(tmp_path)}({SPLIT})", f"plain={model(tmp_path)}"]
    index = Index.create(tmp_path / "index", sparse=["bm25"], dense=specs)
    index.add(kept[:5])
    index.commit()
    index.add(kept[5:])
    index.commit()
    source = index.blocks("v")
    rows, offsets = source.blocks_of(["d7", "d2"])
    texts = [block.full_text() for block in split([kept[7], kept[2]])]
    encoder = Hashing("/dev/null", {})
    assert np.allclose(rows, encoder.encode(texts).rows)
    assert offsets.tolist() == [0, len(split([kept[7]])), len(texts)]
    assert np.allclose(source.encode_query(["w1"]).rows, encoder.encode(["w1"]).rows)
    assert source.identity["encoder"] == "hashing"
    with pytest.raises(UserError, match="no document 'zz'"):
        source.blocks_of(["zz"])
    for name in ("plain", "bm25", "nothing"):
        with pytest.raises(UnknownName, match="dense representation of blocks"):
            index.blocks(name)


class Reading(Stage):
    """A stage that reads block vectors of an encoder of one width."""

    name = "reading"
    needs_run = True

    def __init__(self, dim: int) -> None:
        self.params = {"dim": dim}
        self.source: Any = None

    def with_blocks(self, source: Any) -> Reading:
        if source.identity["dim"] != self.params["dim"]:
            raise CompositionError("another width")
        twin = Reading(int(self.params["dim"]))
        twin.source = source
        return twin

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None
        rows, _ = self.source.blocks_of([run.doc_ids[int(doc)] for doc in run.docs])
        assert rows.shape[1] == self.params["dim"]
        return run


def test_a_pipeline_gives_a_stage_the_vectors_that_fit(tmp_path: Path) -> None:
    spec = model(tmp_path)
    specs = [f"a={spec}(dim=3, {SPLIT})", f"b={spec}(dim=5, {SPLIT})"]
    index = Index.create(tmp_path / "index", sparse=["bm25"], dense=specs)
    index.add(documents(6))
    index.commit()
    registry.register("reading")(Reading)
    try:
        for dim in (3, 5):
            assert index.search("w1", pipeline=f"bm25 % 5 >> reading(dim={dim})")
        with pytest.raises(CompositionError, match="another width"):
            index.pipeline("bm25 % 5 >> reading(dim=4)")
        plain = Index.create(tmp_path / "plain", sparse=["bm25"])
        plain.add(documents(3))
        plain.commit()
        with pytest.raises(CompositionError, match="the index has none"):
            plain.pipeline("bm25 % 5 >> reading(dim=3)")
    finally:
        del registry._FACTORIES["stage", "reading"]
