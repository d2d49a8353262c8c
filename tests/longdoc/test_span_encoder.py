"""Vectors of spans: means of token states, the best span of a document, deletes and merges, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from retrieval import Index
from retrieval.errors import UnknownName, UserError
from retrieval.index.dense_spec import open_encoder
from retrieval.testing import check_encoder
from retrieval.types import Document

LONG = " ".join(f"some words about Lake Corin, number {at}." for at in range(12))  # beyond 64 tokens
DOCUMENTS = [
    Document("a", "the Amber Stone fell into Lake Corin last year"),
    Document("b", "nothing is named here"),
    Document("c", LONG),
    Document("d", "a text of Basil Hill", "Titled"),
    Document("e", "?!"),
]


def spans(model: Path, **params: Any) -> Any:
    return open_encoder(str(model), "spans", {"precision": "float32", **params})


def made(path: Path, spec: str) -> Index:
    index = Index.create(path, dense=[spec])
    index.add(DOCUMENTS[:2])
    index.commit()
    index.add(DOCUMENTS[2:])
    index.commit()
    return index


def test_a_span_is_the_mean_of_its_tokens_states(tiny_text_model: Path) -> None:
    encoder = spans(tiny_text_model, spans="names")
    text = DOCUMENTS[0].text
    found = encoder.encode_blocks([text])
    assert [text[block.start : block.end] for block in found.blocks] == [text, "Amber Stone", "Lake Corin"]
    whole = open_encoder(str(tiny_text_model), "bert", {"pooling": "mean", "precision": "float32"})
    assert found.rows[0] == pytest.approx(whole.encode([text]).rows[0], abs=1e-5)
    hidden, _ = whole.states(whole.prepare([text]))  # type: ignore[attr-defined]
    offsets = whole.offsets([text])[0]  # type: ignore[attr-defined]
    for block, row in zip(found.blocks[1:], found.rows[1:], strict=True):
        inside = np.flatnonzero((offsets[:, 1] > block.start) & (offsets[:, 0] < block.end)) + 1  # [CLS]
        mean = hidden[inside].mean(0).numpy()
        length = np.linalg.norm(mean) if whole.normalise else 1  # type: ignore[attr-defined]
        assert row == pytest.approx(mean / length, abs=1e-5)


@pytest.mark.parametrize("params", [{}, {"spans": "names"}, {"whole": False}])
def test_vectors_do_not_depend_on_what_stands_beside(tiny_text_model: Path, params: dict[str, Any]) -> None:
    encoder = spans(tiny_text_model, **params)
    texts = [document.full_text() for document in DOCUMENTS] + [""]
    together = encoder.encode_blocks(texts)
    assert (np.diff(together.offsets) > 0).all()
    for at, text in enumerate(texts):
        alone = encoder.encode_blocks([text])
        own = slice(int(together.offsets[at]), int(together.offsets[at + 1]))
        assert together.blocks[own] == alone.blocks
        assert together.rows[own] == pytest.approx(alone.rows, abs=1e-5)
    assert encoder.encode_blocks([]).rows.shape == (0, encoder.dim)


def test_long_texts_are_read_to_their_end(tiny_text_model: Path) -> None:
    found = spans(tiny_text_model, spans="names").encode_blocks([LONG])
    named = [LONG[block.start : block.end] for block in found.blocks]
    assert named.count("Lake Corin") == 12
    assert sum(block.dropped for block in found.blocks) == 0
    plain = open_encoder(str(tiny_text_model)).encode([LONG])
    assert int(plain.dropped[0]) > 0


def test_a_document_scores_as_its_best_span(tmp_path: Path, tiny_text_model: Path) -> None:
    index = made(tmp_path / "i", f"spans=spans:{tiny_text_model}(spans=names, precision=float32)")
    encoder = spans(tiny_text_model, spans="names")
    queries = ["amber stone", "lake", "a hill"]
    for step in ("as added", "deleted", "merged"):
        if step == "deleted":
            index.delete(["b"])
            index.commit()
        if step == "merged":
            index.merge()
        live = [document for document in DOCUMENTS if step == "as added" or document.doc_id != "b"]
        for query in queries:
            asked = encoder.encode([query], "query").rows[0]
            wanted, best = {}, {}
            for document in live:
                blocks = encoder.encode_blocks([document.full_text()])
                scores = blocks.rows @ asked
                wanted[document.doc_id] = pytest.approx(float(scores.max()), abs=1e-5)
                best[document.doc_id] = blocks.blocks[int(scores.argmax())]
            found = {hit.doc_id: hit.score for hit in index.search(query, pipeline="spans")}
            assert found == wanted, step
            passages = index.passages(query, [document.doc_id for document in live], pipeline="spans")
            for document, passage in zip(live, passages, strict=True):
                assert passage is not None
                shift = len(document.title) + 1 if document.title else 0
                block = best[document.doc_id]
                assert (passage.start, passage.end) == (max(0, block.start - shift), block.end - shift)


def test_encoder_and_index_conform(tmp_path: Path, tiny_text_model: Path) -> None:
    check_encoder(lambda: spans(tiny_text_model))
    with made(tmp_path / "i", f"s=spans:{tiny_text_model}"):
        pass
    again = Index.open(tmp_path / "i")
    again.add([Document("f", "the Amber Stone")])
    again.commit()
    assert {hit.doc_id for hit in again.search("amber", pipeline="s")} == {*"abcdef"}
    facts = again.encoding("s")
    assert (facts["documents"], facts["dropped"]) == (6, 0)


def test_what_cannot_be_is_refused(tiny_text_model: Path) -> None:
    with pytest.raises(UnknownName, match="names"):
        spans(tiny_text_model, spans="name")
    with pytest.raises(UserError, match="whole='no'"):
        spans(tiny_text_model, whole="no")
    with pytest.raises(UserError, match="backend=onnx"):
        spans(tiny_text_model, backend="onnx")
    with pytest.raises(UserError, match="pooling=cls"):
        spans(tiny_text_model, pooling="cls")
    with pytest.raises(UserError, match="no model directory"):
        spans(tiny_text_model / "nowhere")
