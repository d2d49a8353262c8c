"""The terms of documents are those that were indexed: over segments, after deletes, merges and reordering."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from retrieval import Index
from retrieval.errors import UserError


def test_rows_of_every_segment(tmp_path: Path) -> None:
    rng = random.Random(4)
    words = [f"w{i}" for i in range(40)]
    vectors = {f"d{i}": {w: rng.randint(1, 255) for w in rng.sample(words, 6)} for i in range(90)}
    index = Index.create(tmp_path / "index", ["impacts"])
    for start in range(3):
        some = list(vectors.items())[start::3]
        index.add([{"id": doc_id, "text": "x", "vector": vector} for doc_id, vector in some])
        index.commit()

    def held() -> dict[str, dict[str, float]]:
        stage = index.stage("impacts")
        docs = np.array(rng.sample(range(len(stage.view.ids)), len(stage.view.ids)), np.int32)
        read = stage.term_vectors(docs)  # type: ignore[attr-defined]
        return {stage.view.ids[doc]: terms for doc, terms in zip(docs.tolist(), read, strict=True)}

    assert held() == vectors
    gone = [f"d{i}" for i in range(7)]
    index.delete(gone)
    index.commit()
    index.merge(reorder=True)
    assert held() == {doc_id: vector for doc_id, vector in vectors.items() if doc_id not in gone}
    (segment,) = index.stage("impacts").view.segments
    order = segment.postings("impacts").order
    assert len(order)
    assert (order != np.arange(len(order))).any()  # or nothing was tested


def test_weights_without_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index.create(tmp_path / "index", ["impacts"])
    index.add([{"id": "1", "text": "x", "vector": {"w": 3}}])
    index.commit()
    stage = index.stage("impacts")
    monkeypatch.setitem(stage.view.segments[0].postings("impacts").facts, "forward", False)
    with pytest.raises(UserError, match="keeps no forward view"):
        stage.term_vectors(np.zeros(1, np.int32))  # type: ignore[attr-defined]
