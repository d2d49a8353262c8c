"""A cross-encoder over the best blocks: equal to the plain one on these as documents; what is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import Index
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.registry import make
from retrieval.stage import Given
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run
from tests.index import hashing_encoder
from tests.longdoc.block_corpus import WORDS, documents

pytest.importorskip("torch")

from retrieval.rerank.cross import Cross
from retrieval.rerank.cross_passages import CrossPassages

Maker = Callable[..., Path]
CUT = "blocks=windows, tokens=6, overlap=2"
ASKED = [Query("1", "w1 w2"), Query("2", "w4 w5 w1"), Query("3", "unknown"), Query("4", "")]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    hashing_encoder.install()
    yield
    hashing_encoder.remove()


@pytest.fixture
def model(tiny_model: Maker) -> str:
    return str(tiny_model("cross", words=WORDS))


def build(path: Path, kept: list[Document]) -> Index:
    """Two segments, bm25 of documents and of blocks, vectors of blocks; every ninth document is deleted."""
    path.mkdir()
    dense = [f"vec={hashing_encoder.model(path)}({CUT})"]
    index = Index.create(path / "index", sparse=["bm25", f"parts=bm25({CUT})"], dense=dense)
    half = len(kept) // 2
    for some in (kept[:half], kept[half:]):
        index.add(some)
        index.commit()
    index.delete([document.doc_id for document in kept[::9]])
    index.commit()
    return index


def live(index: Index, kept: list[Document]) -> list[str]:
    return [document.doc_id for document in kept if document.doc_id in index]


def run_of(ids: list[str], queries: list[Query] = ASKED) -> Run:
    return Run.from_dict({query.query_id: dict.fromkeys(ids, 1.0) for query in queries})


def plain(model: str, query: str, small: list[Document]) -> dict[str, float]:
    """The scores of small documents, by the plain stage."""
    known = {document.doc_id: document for document in small}
    stage = Cross(model).with_documents(lambda ids: [known[doc_id] for doc_id in ids])
    asked = Query("1", query)
    return stage([asked], run_of(list(known), [asked])).to_dict()["1"]


def stage_of(index: Index, text: str) -> Any:
    """The last stage of a pipeline."""
    return index.pipeline(text).parts[-1]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.sampled_from(["parts", "vec"]))
def test_equals_the_plain_stage_on_the_best_blocks(
    model: str, tmp_path_factory: pytest.TempPathFactory, seed: int, name: str
) -> None:
    kept = documents(20, seed)
    index = build(tmp_path_factory.mktemp("any") / "a", kept)
    ids = live(index, kept)
    found = stage_of(index, f"bm25 >> cross({model}, passages={name})")(ASKED, run_of(ids)).to_dict()
    for query in ASKED:
        small = []
        for passage in index.passages(query.text, ids, pipeline=name):
            assert passage is not None
            whole = index.document(passage.doc_id)
            small.append(Document(whole.doc_id, whole.text[passage.start : passage.end], whole.title))
        wanted = plain(model, query.text, small)
        assert found[query.query_id] == pytest.approx(wanted, abs=1e-5)
        assert query.text or len(set(wanted.values())) > 5  # else the test tells nothing


@pytest.mark.parametrize("name", ["parts", "vec"])
def test_several_blocks_are_pooled_by_their_maximum(model: str, tmp_path: Path, name: str) -> None:
    kept = [Document("long", "w1 w2. " * 9 + "w3 w4 w5. " * 5, "w2"), *documents(20, 3)]
    index = build(tmp_path / "a", [documents(1, 9)[0]._replace(doc_id="gone"), *kept])
    ids = live(index, kept)
    stage = stage_of(index, f"bm25 >> cross({model}, passages={name}, best=3)")
    inner: Any = index.stage(name)
    best = stage(ASKED, run_of(ids)).to_dict()
    shown = {query.query_id: stage.passages(query.text, ids) for query in ASKED}
    several = 0
    for query in ASKED:
        small = []
        for doc_id in ids:
            whole = index.document(doc_id)
            ordinal = index._need_view().find(doc_id)
            assert ordinal is not None
            first, end = inner.blocks.offsets[ordinal : ordinal + 2].tolist()
            blocks = np.arange(first, end, dtype=np.int32)
            scores, _ = inner.inner.scores([query], np.array([0, len(blocks)]), blocks)
            ranked = sorted(zip((-scores).tolist(), blocks.tolist(), strict=True))[:3]
            several += len(ranked) == 3
            for _, block in ranked:
                start, stop = inner.blocks.span(block)
                small.append(Document(f"{doc_id}#{block - first}", whole.text[start:stop], whole.title))
        every = plain(model, query.text, small)
        wanted = {doc_id: max(every[s.doc_id] for s in small if s.doc_id.startswith(f"{doc_id}#"))
                  for doc_id in ids}  # fmt: skip
        assert best[query.query_id] == pytest.approx(wanted, abs=1e-5)
        for passage in shown[query.query_id]:
            assert passage.score == pytest.approx(wanted[passage.doc_id], abs=1e-5)
            assert every[f"{passage.doc_id}#{passage.number}"] == pytest.approx(passage.score, abs=1e-5)
        assert [passage.doc_id for passage in shown[query.query_id]] == ids
    assert several > 8
    check_stage(stage, ASKED, run_of(ids))


def test_what_stands_behind_the_first_2000_words_is_read(model: str, tmp_path: Path) -> None:
    filler = "w7 w8 w9 " * 1000
    answer = "w1 w2 w3 w10."
    index = build(
        tmp_path / "a",
        [Document("gone", "w0"), Document("far", filler + answer + " w8" * 3000), Document("near", "w5 w2")],
    )
    text = f"bm25 % 10 + parts % 10 >> cross({model}, passages=parts)"
    (hit,) = [hit for hit in index.search("w1 w10", pipeline=text) if hit.doc_id == "far"]
    (passage,) = index.passages("w1 w10", ["far"], pipeline=text)
    assert passage is not None
    assert passage.start > 8000
    assert passage.end - passage.start < 30
    block = index.document("far").text[passage.start : passage.end]
    assert "w1 w2 w3 w10" in block
    assert hit.score == pytest.approx(plain(model, "w1 w10", [Document("x", block)])["x"], abs=1e-5)
    start = plain(model, "w1 w10", [Document("x", filler)])["x"]
    assert hit.score != pytest.approx(start, abs=1e-3)  # what the plain stage reads


def test_without_a_match_the_first_block(model: str, tmp_path: Path) -> None:
    index = build(tmp_path / "a", [Document("gone", "w0"), Document("d", "w1 w2 w3 w4 w5 w6 " * 9, "w9")])
    stage = stage_of(index, f"bm25 >> cross({model}, passages=parts)")
    (passage,) = stage.passages("w11 unknown", ["d"])
    assert (passage.number, passage.start) == (0, 0)
    found = stage("w11 unknown", run_of(["d"], [Query("1", "w11 unknown")])).to_dict()["1"]["d"]
    text = index.document("d").text[: passage.end]
    assert found == pytest.approx(plain(model, "w11 unknown", [Document("d", text, "w9")])["d"], abs=1e-5)


def test_only_what_of_the_block_does_not_fit_is_lost(model: str, tmp_path: Path) -> None:
    index = build(tmp_path / "a", [Document("gone", "w0"), Document("d", "w1 w2 w3 w4 w5 w6. " * 90)])
    run = run_of(["d"], [Query("1", "w1 w2")])
    for length in (64, 9):
        stage = stage_of(index, f"bm25 >> cross({model}, passages=parts, length={length})")
        (passage,) = stage.passages("w1 w2", ["d"])
        text = index.document("d").text[passage.start : passage.end]
        tokens = len(stage._reader.encode([text])[0])
        assert 6 <= tokens < 9
        dropped = stage(["w1 w2"], run).trace[-1].tokens_dropped
        assert dropped == max(0, tokens + 2 + 3 - length)
        assert (dropped > 0) == (length == 9)


def test_the_block_that_was_read_is_shown(model: str, tmp_path: Path) -> None:
    kept = documents(20, 5)
    index = build(tmp_path / "a", kept)
    ids = live(index, kept)
    read = index.passages("w1 w3", ids, pipeline="parts")
    assert read != index.passages("w1 w3", ids, pipeline="vec")
    text = f"0.5 * vec % 100 + 0.5 * bm25 % 100 >> 0.5 * cross({model}, passages=parts) + 0.5 * vec"
    assert index.passages("w1 w3", ids, pipeline=text) == read
    assert index.passages("w1 w3", ids, pipeline="vec % 9 >> parts") != read  # else the first that has blocks


def test_repr_and_composition(model: str, tmp_path: Path) -> None:
    kept = documents(20, 6)
    index = build(tmp_path / "a", kept)
    for settings_ in ("passages=parts", "length=40, passages=vec, best=2"):
        text = f"bm25 % 10 + parts % 10 >> cross({model}, {settings_}) % 5"
        assert repr(index.pipeline(text)) == text
    stage = stage_of(index, f"bm25 >> cross({model}, passages=parts)")
    check_stage(stage, ASKED, run_of(live(index, kept)))
    made = CrossPassages(model, passages="parts").with_representation(index.stage("parts"))
    run = (index.bm25() % 10)("w1 w2")
    assert (Given(run) >> made)("w1 w2").to_dict() == stage("w1 w2", run).to_dict()
    assert len((index.bm25() % 10 >> made)("nothing known")["1"]) == 0
    other = build(tmp_path / "b", kept)
    with pytest.raises(CompositionError, match="one index"):
        other.bm25() >> made


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ("passages=bm25", "bm25 is not of blocks; name a representation that is, such as --sparse"),
        (
            "passages=pars",
            "unknown representation 'pars'; did you mean 'parts'.* add one: retrieve add DIR --sparse",
        ),
        ("passages=parts, best=0", "best=0"),
        ("passages=parts, best=true", "best=True"),
        ("passages=7", "passages=7; name a representation"),
        ("passages=parts, tokens=9", "cannot take tokens= with passages="),
        ("blocks=windows, passages=parts", "no setting 'passages'"),
        ("best=2", "cannot take best=; .*passages=NAME"),
    ],
)
def test_errors(model: str, tmp_path: Path, settings_: str, message: str) -> None:
    index = build(tmp_path / "a", documents(4))
    with pytest.raises((UserError, UnknownName), match=message):
        index.pipeline(f"bm25 % 10 >> cross({model}, {settings_})")


def test_without_an_index_or_its_text(model: str, tmp_path: Path) -> None:
    stage: Any = make("cross", {"model": model, "passages": "parts"})
    for work in (lambda: stage("w1", run_of(["d"], [Query("1", "w1")])), lambda: stage.passages("w1", ["d"])):
        with pytest.raises(CompositionError, match="reads blocks of an index; use it in a pipeline of one"):
            work()
    index = Index.create(tmp_path / "index", sparse=["bm25", f"parts=bm25({CUT})"], store_text=False)
    index.add(documents(4))
    index.commit()
    with pytest.raises(UserError, match="built without text"):
        index.pipeline(f"bm25 % 10 >> cross({model}, passages=parts)")
