"""Representations of blocks: what is refused, odd documents, hostile files, ids, stages that read vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index, registry
from retrieval.artefact import Store
from retrieval.errors import CompositionError, CorruptIndex, UnknownName, UnsupportedFormat, UserError
from retrieval.index.view import View
from retrieval.longdoc.block_table import BlockTable
from retrieval.longdoc.block_view import block_view
from retrieval.snapshot import open_snapshot
from retrieval.stage import Stage
from retrieval.types import Document, Query, Run
from tests.index.hashing_encoder import Hashing, install, model, remove
from tests.longdoc.block_corpus import SPLIT, documents, split


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


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
        ("x=bm25(tokens=9)", r"write bm25\(blocks=sentences\)"),
        ("x=bm25(blocks=sentences", "how documents are cut"),
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
