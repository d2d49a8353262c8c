"""Stages that read texts get them from the index: in a pipeline's text, in Python, however it is composed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index, UserError, registry
from retrieval.stage import Given, Lookup, Stage
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run

TEXTS = {"a": "wind", "b": "wind wind wind", "c": "wind and rain and wind", "d": "rain", "e": "wind and sun"}


class Longest(Stage):
    """Re-ranks by the length of the text."""

    name = "longest"
    needs_run = True

    def __init__(self, model: str = "") -> None:
        self.params = {"model": model} if model else {}
        self._lookup: Lookup | None = None

    def with_documents(self, lookup: Lookup) -> Longest:
        twin = Longest(**dict(self.params))  # type: ignore[arg-type]
        twin._lookup = lookup
        return twin

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None
        if self._lookup is None:
            raise UserError("longest reads texts")
        documents = self._lookup([run.doc_ids[int(doc)] for doc in run.docs])
        scores = np.array([len(document.full_text()) for document in documents], np.float32)
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids)


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    registry.register("longest")(Longest)
    yield
    del registry._FACTORIES["stage", "longest"]


def built(path: Path, **options: Any) -> Index:
    index = Index.create(path, **options)
    for part in (["a", "b"], ["c", "d", "e"]):  # two segments
        index.add([{"id": each, "text": TEXTS[each]} for each in part])
        index.commit()
    return index


def ids(found: Run | Mapping[str, Any]) -> list[str]:
    return [hit.doc_id for hit in found["1"]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bm25 >> longest", "cbea"),
        ("bm25 % 2 >> longest(x)", "cb"),
        ("bm25 >> longest % 2", "cb"),
        ("(bm25 >> longest % 3) % 2", "cb"),
        ("bm25 >> (longest + longest(x)) % 3", "cbe"),
        ("bm25 >> (0.0 * bm25 + 2.0 * longest) % 3", "cbe"),
        ("bm25 >> bm25 % 3 >> (bm25 >> longest) % 9", "cba"),
    ],
)
def test_pipelines(tmp_path: Path, text: str, found: str) -> None:
    index = built(tmp_path / "i")
    stage = index.pipeline(text)
    assert ids(stage(["wind"])) == list(found)
    assert repr(index.pipeline(repr(stage))) == repr(stage)
    # the same, composed in Python, from stages that nobody has given any text
    names: dict[str, Any] = {"bm25": index.bm25(), "longest": Longest()}
    again = eval(text.replace("longest(x)", "Longest('x')"), {"Longest": Longest}, names)  # noqa: S307
    assert ids(again(["wind"])) == list(found)
    assert repr(again) == repr(stage)
    assert ids(index.pipeline(again)(["wind"])) == list(found)
    assert names["longest"]._lookup is None  # its owner's stage is as it was


def test_conformance(tmp_path: Path) -> None:
    index = built(tmp_path / "i")
    check_stage(index.pipeline("bm25 >> longest"), ["wind", "rain"])
    check_stage(index.bm25() >> (Longest() + index.bm25()), ["wind", "rain"])


def test_a_run_from_elsewhere(tmp_path: Path) -> None:
    index = built(tmp_path / "i")
    run = Run.from_dict({"1": {"a": 2.0, "d": 1.0, "b": 0.5}})
    assert ids(index.pipeline(Given(run) >> Longest())({"1": "wind"})) == ["b", "d", "a"]
    with pytest.raises(UserError, match="no document 'x' in the index"):
        index.pipeline(Given(Run.from_dict({"1": {"x": 1.0}})) >> Longest())({"1": "wind"})
    assert [hit.doc_id for hit in index.search("rain", 1, pipeline=index.bm25() >> Longest())] == ["c"]


def test_whoever_has_texts_keeps_them(tmp_path: Path) -> None:
    index = built(tmp_path / "i")

    def own(wanted: Sequence[str]) -> list[Document]:
        return [Document(each, "x" * (9 if each == "a" else 1)) for each in wanted]

    stage = Longest().with_documents(own)
    stage.documents = own
    assert ids((index.bm25() >> stage)(["wind"]))[0] == "a"
    assert ids(index.pipeline(index.bm25() >> stage)(["wind"]))[0] == "a"


def test_an_index_without_text(tmp_path: Path) -> None:
    index = built(tmp_path / "i", store_text=False)
    with pytest.raises(UserError, match=r"built without text.*index the corpus again"):
        index.pipeline("bm25 >> longest")
    with pytest.raises(UserError, match="built without text"):
        index.bm25() % 10 >> Longest() % 2
    assert ids((index.bm25() >> index.bm25())(["rain"])) == ["d", "c"]


def test_lookup_of_many(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "i")
    index.add([{"id": f"d{n}", "text": f"{n} " * 400} for n in range(500)])
    index.commit()
    index.delete("d7")
    index.commit()
    lookup: Callable[[list[str]], list[Document]] = index.bm25().documents
    wanted = [f"d{n}" for n in (499, 0, 250, 0, 13)]
    assert [document.text.split()[0] for document in lookup(wanted)] == ["499", "0", "250", "0", "13"]
    assert lookup([]) == []
    with pytest.raises(UserError, match="no document 'd7'"):
        lookup(["d3", "d7"])
