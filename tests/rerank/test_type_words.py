"""Queries of types, expanded by a file of words: looked up, weighed, searched; what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.errors import BadLine, CompositionError, UnknownName, UserError
from retrieval.index.index import Index
from retrieval.testing import check_stage

TEXTS = {
    "d1": "the Danube is a river of Europe",
    "d2": "a stream that feeds the sea",
    "d3": "a brook in the hills, a small stream",
    "d4": "Kubrick made films",
    "d5": "a mountain of Europe",
}


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.tsv"
    path.write_text("River\tstream, brook, mountain stream\nFilmDirector\tKubrick\n")
    return str(path)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = Index.create(tmp_path / "index")
    index.add([{"_id": name, "text": text} for name, text in TEXTS.items()])
    index.commit()
    return index


def found(index: Index, text: str, query: str) -> list[str]:
    return [hit.doc_id for hit in index.pipeline(text)([query])["1"]]


def test_words_of_the_type_are_searched_for(index: Index, words: str) -> None:
    assert found(index, "bm25", "river") == ["d1"]
    assert found(index, f"type_words({words})", "river") == ["d1", "d3", "d2", "d5"]
    assert found(index, f"type_words({words}, terms=1)", "river") == ["d1", "d2", "d3"]
    assert found(index, f"type_words({words}, weight=0)", "river") == ["d1"]
    assert set(found(index, f"type_words({words}, weight=1)", "river")) == {"d2", "d3", "d5"}


@pytest.mark.parametrize("query", ["film director", "Film directors", "FilmDirector", "film_director"])
def test_a_type_is_found_by_its_terms(index: Index, words: str, query: str) -> None:
    assert found(index, f"type_words({words})", query) == ["d4"]


def test_other_queries_are_asked_as_they_are(index: Index, words: str) -> None:
    for query in ("Europe", "river of Europe", "", "   "):
        same = index.pipeline("bm25")([query])["1"]
        assert [hit.doc_id for hit in same] == found(index, f"type_words({words})", query)


def test_weights_are_shares_before_collection_statistics(index: Index, words: str) -> None:
    stage = index.pipeline(f"type_words({words}, weight=0.25)")
    (weights,) = stage.expand(stage_queries("river"))  # type: ignore[attr-defined]
    assert weights == pytest.approx(
        {"river": 0.75, "stream": 0.25 * 2 / 4, "brook": 0.25 / 4, "mountain": 0.25 / 4}
    )


def stage_queries(text: str) -> list[object]:
    from retrieval.types import as_queries

    return list(as_queries(text))


def test_it_is_a_stage_like_others(index: Index, words: str) -> None:
    stage = index.pipeline(f"type_words({words}, terms=7, k1=0.5)")
    assert repr(stage) == f"type_words({words}, terms=7, k1=0.5)"
    check_stage(index.pipeline(f"type_words({words})"), {"q1": "river", "q2": "film director"})
    fused = index.pipeline(f"0.5 * bm25 % 10 + 0.5 * type_words({words}) % 10")
    assert fused(["river"])["1"][0].doc_id == "d1"


def test_what_cannot_be_is_refused(index: Index, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        index.pipeline(f"type_words({tmp_path}/nowhere.tsv)")
    with pytest.raises(UserError, match="weight=2"):
        index.pipeline(f"type_words({words}, weight=2)")
    with pytest.raises(UserError, match="terms=0"):
        index.pipeline(f"type_words({words}, terms=0)")
    with pytest.raises(UnknownName, match="bm26"):
        index.pipeline(f"type_words({words}, sparse=bm26)")
    from retrieval.rerank.type_words import TypeWords

    with pytest.raises(CompositionError, match="searches an index"):
        TypeWords(words)(["river"])
    (tmp_path / "bad.tsv").write_text("river\n")
    with pytest.raises(BadLine, match=r"bad\.tsv:1"):
        TypeWords(str(tmp_path / "bad.tsv"))
