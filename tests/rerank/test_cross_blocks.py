"""A cross-encoder over blocks: pooled scores are those of the blocks alone, losses, the best block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import Index
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.longdoc.splitter import Splitter, take_settings
from retrieval.registry import make
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run

pytest.importorskip("torch")

from retrieval.rerank.cross import Cross, open_reader
from retrieval.rerank.cross_blocks import CrossBlocks

Maker = Callable[..., Path]
WORDS = ["fox", "zoo", "bad", "cab"]
QUERIES = [Query("1", "bad fox"), Query("2", "zoo?"), Query("3", "")]
DOCUMENTS = [
    Document("d0", "fox " * 30 + "zoo " * 30, "cab"),
    Document("d1", "bad fox. " * 9 + "the end."),
    Document("d2", "q"),
    Document("d3", "", "zoo"),
    Document("d4", "a zoo. " * 40),
]


@pytest.fixture
def model(tiny_model: Maker) -> str:
    return str(tiny_model("cross", words=WORDS))


def run_of(documents: list[Document], queries: list[Query] = QUERIES) -> Run:
    return Run.from_dict({query.query_id: {d.doc_id: 1.0 for d in documents} for query in queries})


def look(documents: list[Document]) -> Callable[[Any], list[Document]]:
    known = {document.doc_id: document for document in documents}
    return lambda names: [known[name] for name in names]


def one_by_one(
    model: str, documents: list[Document], cut: dict[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """query id -> document id -> the score of each block, as a document of its own, of the plain stage."""
    splitter = Splitter(take_settings("x", cut), open_reader(model).offsets)
    parts = {
        d.doc_id: list(splitter.documents(d, blocks))
        for d, blocks in zip(documents, splitter.blocks(documents), strict=True)
    }
    every = [part for each in parts.values() for part in each]
    found = Cross(model).with_documents(look(every))(QUERIES, run_of(every)).to_dict()
    return {
        query.query_id: {
            doc_id: [found[query.query_id][part.doc_id] for part in each] for doc_id, each in parts.items()
        }
        for query in QUERIES
    }


def pooled(scores: list[float], how: str) -> float:
    """By hand; mean is of the best two."""
    best = sorted(scores, reverse=True)[:2]
    return {"max": max(scores), "first": scores[0], "sum": sum(scores), "mean": sum(best) / len(best)}[how]


@pytest.mark.parametrize("how", ["max", "first", "sum", "mean"])
def test_blocks_are_scored_and_pooled(model: str, how: str) -> None:
    cut = {"blocks": "windows", "tokens": 20, "overlap": 4}
    params = {"model": model, **cut, "aggregate": how, "best": 2}
    stage = make("cross", params).with_documents(look(DOCUMENTS))
    found = stage(QUERIES, run_of(DOCUMENTS))
    for query_id, wanted in one_by_one(model, DOCUMENTS, cut).items():
        by_hand = {doc_id: pooled(scores, how) for doc_id, scores in wanted.items()}
        assert found.to_dict()[query_id] == pytest.approx(by_hand, abs=1e-5)
    assert found.trace[-1].tokens_dropped == 0
    check_stage(stage, QUERIES, run_of(DOCUMENTS))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.sampled_from([*WORDS, "."]), max_size=60), min_size=1, max_size=4),
    st.integers(3, 25),
    st.data(),
)
def test_max_is_the_best_block_by_itself(
    model: str, texts: list[list[str]], tokens: int, data: st.DataObject
) -> None:
    documents = [Document(f"d{i}", " ".join(words)) for i, words in enumerate(texts)]
    cut = {"blocks": "windows", "tokens": tokens, "overlap": data.draw(st.integers(0, tokens - 1))}
    stage = make("cross", {"model": model, **cut}).with_documents(look(documents))
    found = stage(QUERIES, run_of(documents)).to_dict()
    for query_id, wanted in one_by_one(model, documents, cut).items():
        best = {doc_id: max(scores) for doc_id, scores in wanted.items()}
        assert found[query_id] == pytest.approx(best, abs=1e-5)


def test_losses_are_the_splitters_alone(model: str) -> None:
    documents, queries = DOCUMENTS[:1], QUERIES[:2]
    params = {"model": model, "blocks": "windows", "tokens": 20, "max_blocks": 2, "title": False}
    stage = make("cross", params).with_documents(look(documents))
    assert stage(queries, run_of(documents, queries)).trace[-1].tokens_dropped == 2 * (60 - 2 * 20)
    plain = Cross(model).with_documents(look(documents))
    assert plain(queries[:1], run_of(documents, queries[:1])).trace[-1].tokens_dropped == 61 - (64 - 3 - 2)
    wide = make("cross", {"model": model, "blocks": "windows", "tokens": 60, "title": False})
    cut = wide.with_documents(look(documents))  # query and block together do not fit
    assert cut(queries[:1], run_of(documents, queries[:1])).trace[-1].tokens_dropped == 60 - (64 - 3 - 2)


def test_the_best_block_goes_with_the_hit(model: str, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([*DOCUMENTS, Document("d5", "cab " * 30 + "fox")])
    index.commit()
    text = f"bm25 % 10 >> cross({model}, blocks=windows, tokens=20)"
    hits = index.search("fox", pipeline=text)
    passages = index.passages("fox", [hit.doc_id for hit in hits], pipeline=text)
    assert {hit.doc_id for hit in hits} == {"d0", "d1", "d5"}
    cut: dict[str, Any] = {"blocks": "windows", "tokens": 20}
    splitter = Splitter(take_settings("x", cut), open_reader(model).offsets)
    for hit, passage in zip(hits, passages, strict=True):
        assert passage is not None
        document = index.document(hit.doc_id)
        (blocks,) = splitter.blocks([document])
        assert (passage.start, passage.end) == blocks[passage.number][:2]
        assert passage.score == pytest.approx(hit.score, abs=1e-5)
    assert index.passages("fox", ["d5"], pipeline=f"bm25 % 10 >> cross({model})") == [None]
    assert repr(index.pipeline(text)) == text


def test_blocks_by_default_leave_room_for_query_and_title(model: str, tiny_model: Maker) -> None:
    found = make("cross", {"model": model, "blocks": "windows"})
    assert isinstance(found, CrossBlocks)
    assert found._splitter.settings["tokens"] == 8  # of 64: too few remain
    with pytest.raises(CompositionError, match="reads documents' texts"):
        found.passages("fox", ["d0"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"aggregate": "kernel", "blocks": "windows"}, "aggregate='kernel'"),
        ({"best": 0, "blocks": "windows"}, "best=0"),
        ({"blocks": "pages"}, "pages"),
        ({"tokens": 3}, "cannot take tokens=; .*blocks=sentences"),
        ({"blocks": "windows", "colour": 1}, "no setting 'colour'"),
        ({"blocks": "windows", "language": "en"}, "no language"),
        ({"blocks": "windows", "tokens": "many"}, "tokens='many'"),
    ],
)
def test_wrong_settings(model: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, UnknownName), match=message):
        make("cross", {"model": model, **params})


def test_sentences(model: str) -> None:
    pytest.importorskip("sentencex")
    cut = {"blocks": "sentences", "tokens": 12}
    found = make("cross", {"model": model, **cut}).with_documents(look(DOCUMENTS))
    scores = found(QUERIES, run_of(DOCUMENTS)).to_dict()
    wanted = one_by_one(model, DOCUMENTS, cut)
    assert scores["1"] == pytest.approx({d: max(s) for d, s in wanted["1"].items()}, abs=1e-5)
    assert len(wanted["1"]["d4"]) > 5
    assert np.isfinite(list(scores["3"].values())).all()
