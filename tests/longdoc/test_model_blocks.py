"""Blocks that an encoder cuts itself: SMITH's block vectors in an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from retrieval import Index
from retrieval.errors import UserError
from retrieval.index.dense_spec import open_encoder
from retrieval.types import Document
from tests.longdoc.smith_models import TEXT, encoder

DOCUMENTS = [
    Document("long", TEXT * 3),
    Document("titled", "The cost of a meeting.", "The remote control"),
    Document("title", "", "The remote control"),
    Document("marks", "?! ... --- "),
]


@pytest.fixture
def smith(tmp_path: Path) -> str:
    path = str(tmp_path / "smith")
    encoder().save(path)
    return path


def made(path: Path, spec: str, **options: Any) -> Index:
    index = Index.create(path, sparse=["bm25"], dense=[spec], **options)
    index.add(DOCUMENTS[:2])
    index.commit()
    index.add(DOCUMENTS[2:])
    index.commit()
    return index


def test_scores_are_of_the_blocks_in_their_documents(tmp_path: Path, smith: str) -> None:
    index = made(tmp_path / "i", f"s={smith}(blocks=model)")
    opened: Any = open_encoder(smith)
    for query in ("the cost", "remote control of a meeting"):
        asked = opened.encode([query], "query").rows[0]
        wanted = {}
        for document in DOCUMENTS:
            rows = opened.encode_blocks([document.full_text()]).rows
            wanted[document.doc_id] = pytest.approx(float((rows @ asked).max()), abs=1e-5)
        found = {hit.doc_id: hit.score for hit in index.search(query, pipeline="s")}
        assert found == wanted


def test_spans_are_of_the_text_without_the_title(tmp_path: Path, smith: str) -> None:
    index = made(tmp_path / "i", f"s={smith}(blocks=model)")
    for document, passage in zip(
        DOCUMENTS, index.passages("cost", [d.doc_id for d in DOCUMENTS], pipeline="s"), strict=True
    ):
        assert passage is not None
        assert 0 <= passage.start <= passage.end <= len(document.text)
    rows, offsets = index.blocks("s").blocks_of(["long", "titled"])
    opened: Any = open_encoder(smith)
    blocks = opened.encode_blocks([DOCUMENTS[0].text])
    assert offsets[1] == len(blocks.blocks) > 3
    assert np.allclose(rows[: offsets[1]], blocks.rows, atol=1e-5)
    best = index.passages("cost", ["long"], pipeline="s")[0]
    assert best is not None
    assert (best.start, best.end) == (blocks.blocks[best.number].start, blocks.blocks[best.number].end)


def test_merge_deletes_and_later_documents(tmp_path: Path, smith: str) -> None:
    index = made(tmp_path / "i", f"s={smith}(blocks=model)")
    index.delete(["titled"])
    index.commit()
    before = index.search("the cost", pipeline="s")
    index.merge()
    assert index.search("the cost", pipeline="s") == before
    later = Index.create(tmp_path / "later", sparse=["bm25"])
    later.add([document for document in DOCUMENTS if document.doc_id != "titled"])
    later.commit()
    later.add_representation(f"s={smith}(blocks=model)", dense=True)
    assert [hit.doc_id for hit in later.search("the cost", pipeline="s")] == [hit.doc_id for hit in before]


def test_what_it_does_not_read_is_counted_or_refused(tmp_path: Path, smith: str) -> None:
    index = made(tmp_path / "i", f"s={smith}(max_blocks=2)")
    assert index.encoding("s")["dropped"] > 0
    with pytest.raises(UserError, match="document 'long' has"):
        made(tmp_path / "j", f"s={smith}(max_blocks=2)", strict_length=True)


def test_only_for_encoders_that_cut(tmp_path: Path, smith: str) -> None:
    with pytest.raises(UserError, match="the model's own settings count"):
        made(tmp_path / "i", f"s={smith}(blocks=model, tokens=9)")
