"""Structures of faiss in an index: the scores of the truth, built per segment, read only where trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval import Index
from retrieval.check import check
from retrieval.errors import UserError
from tests.index.hashing_encoder import brute, corpus, hits, install, made, model, remove


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq", "sq8"])
def test_structures_give_the_scores_of_the_truth(tmp_path: Path, home: Path, kind: str) -> None:
    pytest.importorskip("faiss")
    documents = corpus(600)
    index = made(tmp_path, documents[:500], f"{model(tmp_path)}(ann={kind}, dim=16)")
    index.add(documents[500:])
    index.delete(["d7"])
    index.commit()
    kept = [d for d in documents if d["id"] != "d7"]
    facts = check(index.path)["structures"]["vec"]
    assert [each["kind"] for each in facts] == [kind, kind]
    assert facts[0]["ladder"][-1]["recall10"] > 0.9
    exact = brute(kept, "w1 w2", 30, dim=16)
    assert hits(index, "w1 w2", 30, pipeline="vec(exact=true)") == exact
    scores = dict(brute(kept, "w1 w2", 600, dim=16))
    for pipeline in ("vec", "vec(recall=1.0)"):
        found = hits(index, "w1 w2", 30, pipeline=pipeline)
        assert len(found) == 30
        assert all(scores[doc] == score for doc, score in found)
        assert len(set(found) & set(exact)) >= 20
    some = [d for d in kept if d["year"] % 2 == 0 and d["year"] < 100]
    assert hits(index, "w1", 5, pipeline="vec", filter="year < 100") == brute(
        [d for d in kept if d["year"] < 100], "w1", 5, dim=16
    )
    assert some
    with pytest.raises(UserError, match="effort"):
        index.search("w1", pipeline="vec(nprobe=1, ef=1)")
    index.merge()
    assert len(check(index.path)["structures"]["vec"]) == 1
    assert hits(index, "w1 w2", 30, pipeline="vec(exact=true)") == exact


def test_a_structure_of_a_stranger_is_not_read(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    from retrieval.cli import main

    index = made(tmp_path, corpus(300), f"{model(tmp_path)}(ann=hnsw)")
    path = str(index.path)
    assert index.stage("vec").unread == ""  # type: ignore[attr-defined]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    stranger = Index.open(path)
    assert stranger.stage("vec").unread == "was built by another account"  # type: ignore[attr-defined]
    assert hits(stranger, "w1 w2", 20) == brute(corpus(300), "w1 w2", 20)
    assert Index.open(path, trust=True).stage("vec").unread == ""  # type: ignore[attr-defined]
    assert main(["search", path, "w1"]) == 0
    assert "built by another account" in capsys.readouterr().err
    assert main(["search", path, "w1", "--trust"]) == 0
    assert "another account" not in capsys.readouterr().err
    assert main(["check", path]) == 0
    assert "hnsw, recall of the best 10 when it was built" in capsys.readouterr().out
    stranger.merge()
    assert stranger.stage("vec").unread == ""  # type: ignore[attr-defined]


def test_without_faiss_the_search_is_exact(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    index = made(tmp_path, corpus(300), f"{model(tmp_path)}(ann=ivf)")
    monkeypatch.setattr("retrieval.index.vector_part.find_spec", lambda name: None)
    again = Index.open(index.path)
    assert "not installed" in again.stage("vec").unread  # type: ignore[attr-defined]
    assert hits(again, "w1 w2", 20) == brute(corpus(300), "w1 w2", 20)
