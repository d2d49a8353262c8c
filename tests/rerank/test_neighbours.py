"""Neighbours of the best documents, by terms and by vectors, against brute force; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import Index, UserError
from retrieval.errors import CompositionError
from retrieval.testing import check_stage
from retrieval.types import Query
from tests.rerank.cascade_stages import ids

TEXTS = {
    "sun1": "sun star light", "sun2": "star light heat", "sun3": "light heat glow", "sea1": "sea wave salt",
    "sea2": "wave salt tide", "odd": "lamp",
}  # fmt: skip


@pytest.fixture(params=[1, 2])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "i")
    documents = [{"_id": name, "text": text} for name, text in TEXTS.items()]
    for part in range(request.param):
        made.add(documents[part :: request.param])
        made.commit()
    return made


def test_neighbours_come_behind(index: Index) -> None:
    first = index.pipeline("bm25")(["sun"])
    assert ids(first) == ["sun1"]
    near = [hit.doc_id for hit in index.like("sun1", 2)]
    run = index.pipeline("bm25 >> neighbours(bm25, k=2)")(["sun"])
    assert ids(run) == ["sun1", *near]
    assert set(near) == {"sun2", "sun3"}
    assert ids(index.pipeline("bm25 >> neighbours(bm25, k=2) % 2")(["sun"])) == ["sun1", near[0]]
    both = index.pipeline("bm25 >> neighbours(bm25, k=1)")(["sun sea lamp", "lamp"])
    assert set(ids(both)) == {"sun1", "sun2", "sea1", "sea2", "odd"}
    assert ids(both, "2") == ["odd"]
    assert set(ids(index.pipeline("bm25 >> neighbours(bm25, docs=1, k=1)")(["sun sea"]))) == {
        "sun1", "sea1", *(hit.doc_id for hit in index.like(ids(index.pipeline("bm25")(["sun sea"]))[0], 1)),
    }  # fmt: skip


def test_what_follows_scores_them_all(index: Index) -> None:
    run = index.pipeline("bm25 >> neighbours(bm25) >> bm25")(["sun light"])
    assert run.to_dict() == index.pipeline("bm25")(["sun light"]).to_dict()
    found = index.pipeline("bm25 >> neighbours(bm25) % 3", filter=None)(["sun"])
    assert len(found["1"]) == 3


def test_conformance(index: Index) -> None:
    queries = [Query("1", "sun sea"), Query("2", "lamp")]
    stage = index.pipeline("bm25 >> neighbours(bm25, docs=3, k=2)")
    check_stage(stage, queries)
    check_stage(stage.parts[1], queries, index.pipeline("bm25")(queries))


def test_by_vectors(tiny_text_model: Path, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i", ["bm25"], dense=[f"tiny={tiny_text_model}"])
    index.add([{"_id": name, "text": text} for name, text in TEXTS.items()])
    index.commit()
    stage = index.pipeline("bm25 % 1 >> neighbours(tiny, k=2)")
    run = stage(["sun"])
    rows = index.stage("tiny").vectors(np.arange(len(TEXTS), dtype=np.int32))  # type: ignore[attr-defined]
    names = list(index._view.ids)  # type: ignore[union-attr]
    scores = rows @ rows[names.index("sun1")]
    others = sorted((name for name in names if name != "sun1"), key=lambda n: -scores[names.index(n)])
    assert ids(run) == ["sun1", *others[:2]]
    allowed = index.pipeline("bm25 % 1 >> neighbours(tiny, k=2)")
    assert repr(allowed) == "bm25 % 1 >> neighbours(tiny, k=2)"


def test_filters_hold_for_neighbours(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i")
    index.add([{"_id": name, "text": text, "old": int(name == "sun2")} for name, text in TEXTS.items()])
    index.commit()
    run = index.pipeline("bm25 >> neighbours(bm25)", filter="not old = 1")(["sun"])
    assert set(ids(run)) == {"sun1", "sun3"}


def test_refused(index: Index) -> None:
    with pytest.raises(UserError, match="did you mean 'bm25'"):
        index.pipeline("bm25 >> neighbours(bm26)")
    with pytest.raises(UserError, match="k=0"):
        index.pipeline("bm25 >> neighbours(bm25, k=0)")
    with pytest.raises(CompositionError, match="put a retriever"):
        index.pipeline("neighbours(bm25)")


def test_blocks_are_refused(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    index = Index.create(tmp_path / "i", ["parts=bm25(blocks=sentences)"])
    index.add(["one text. another."])
    index.commit()
    with pytest.raises(CompositionError, match="whole documents"):
        index.pipeline("parts >> neighbours(parts)")
