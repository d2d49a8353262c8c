"""Re-ranking with a dense encoder: scores by hand, blocks pooled, what was cut off, wrong settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.longdoc.splitter import Splitter, take_settings
from retrieval.registry import make
from retrieval.stage import Given
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run
from tests.index.hashing_encoder import Hashing, corpus, install, model, remove

QUERIES = [Query("1", "w1 w2 w3"), Query("2", "w4"), Query("3", "")]
DOCUMENTS = [Document(one["id"], one["text"]) for one in corpus(20, seed=3)]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that is opened as `hashing`, whatever its files say."""
    monkeypatch.setattr("retrieval.index.dense_spec.detect", lambda _: "hashing")
    return model(tmp_path).partition(":")[2]


def lookup(names: Any) -> list[Document]:
    known = {document.doc_id: document for document in DOCUMENTS}
    return [known[name] for name in names]


def everything() -> Run:
    return Run.from_dict({query.query_id: {d.doc_id: 1.0 for d in DOCUMENTS} for query in QUERIES})


def test_scores_are_inner_products(path: str) -> None:
    stage = make("biencoder", {"model": path}).with_documents(lookup)
    found = stage(QUERIES, everything())
    encoder = Hashing("/dev/null", {})
    rows = encoder.encode([document.text for document in DOCUMENTS]).rows
    for query in QUERIES:
        scores = rows @ encoder.encode([query.text]).rows[0]
        wanted = {d.doc_id: pytest.approx(s, abs=1e-6) for d, s in zip(DOCUMENTS, scores, strict=True)}
        assert found.to_dict()[query.query_id] == wanted
    check_stage(stage, QUERIES, everything())


@pytest.mark.parametrize("how", ["max", "first", "sum", "mean"])
def test_blocks_are_pooled(path: str, how: str) -> None:
    params = {"model": path, "blocks": "windows", "tokens": 3, "aggregate": how, "best": 2}
    found = make("biencoder", params).with_documents(lookup)(QUERIES, everything())
    splitter = Splitter(take_settings("x", {"blocks": "windows", "tokens": 3}))
    encoder = Hashing("/dev/null", {})
    for document, blocks in zip(DOCUMENTS, splitter.blocks(DOCUMENTS), strict=True):
        rows = encoder.encode([document.text[block.start : block.end] for block in blocks]).rows
        for query in QUERIES:
            scores = (rows @ encoder.encode([query.text]).rows[0]).tolist()
            top = sorted(scores, reverse=True)[:2]
            wanted = {"max": max(scores), "first": scores[0], "sum": sum(scores), "mean": np.mean(top)}[how]
            assert found.to_dict()[query.query_id][document.doc_id] == pytest.approx(wanted, abs=1e-5)


def test_each_candidate_is_read_once_and_losses_are_counted(path: str) -> None:
    stage = make("biencoder", {"model": path, "length": 4}).with_documents(lookup)
    found = stage(QUERIES, everything())
    log = Path(path).read_text().splitlines()
    assert sum(line.startswith("passage ") for line in log) == len(DOCUMENTS)
    lost = sum(max(0, len(document.text.split()) - 4) for document in DOCUMENTS)
    assert found.trace[-1].tokens_dropped == lost
    stage = make("biencoder", {"model": path, "reads": "passage"}).with_documents(lookup)
    stage(QUERIES[:1], everything())
    assert "passage w1 w2 w3" in Path(path).read_text()


def test_in_a_pipeline(path: str, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add(DOCUMENTS)
    index.commit()
    text = f'bm25 % 10 >> biencoder("{path}", blocks=windows, tokens=4) % 3'
    assert repr(index.pipeline(repr(index.pipeline(text)))) == repr(index.pipeline(text))
    assert len(index.search("w1 w2", 3, pipeline=text)) == 3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"reads": "text"}, "reads='text'"),
        ({"aggregate": "kernel"}, "aggregate='kernel'"),
        ({"best": 0}, "best=0"),
        ({"blocks": "pages"}, "pages"),
        ({"tokens": 3}, "no parameter 'tokens'"),
        ({"blocks": "sentences", "overlap": 2}, "no overlap"),
    ],
)
def test_wrong_settings(path: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, UnknownName), match=message):
        make("biencoder", {"model": path, **params})


def test_needs_texts(path: str) -> None:
    with pytest.raises(CompositionError, match="reads documents' texts"):
        (Given(everything()) >> make("biencoder", {"model": path}))(QUERIES)
