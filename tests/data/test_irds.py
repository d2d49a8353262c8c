"""ir_datasets ids, with small collections registered for the test: nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from retrieval.data.corpus import open_corpus
from retrieval.data.irds import looks_like_id
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import BadLine, StorageError, UnknownName, UserError
from retrieval.types import Document, Query


class Page(NamedTuple):
    doc_id: str
    url: str
    title: str
    body: str
    metadata: dict[str, Any]
    raw: bytes
    authors: tuple[str, ...]


class Two(NamedTuple):
    doc_id: str
    first: str
    second: str

    def default_text(self) -> str:
        return f"{self.first} {self.second}"


class Question(NamedTuple):
    query_id: str
    text: str


class Judgement(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int
    iteration: str


class Collection:
    """What ir_datasets' Dataset looks like from outside; a part that is an error is raised."""

    def __init__(self, docs: Any = None, queries: Any = None, qrels: Any = None) -> None:
        self.parts = {"docs": docs, "queries": queries, "qrels": qrels}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("has_"):
            return lambda: self.parts[name[4:]] is not None
        if not name.endswith("_iter"):
            raise AttributeError(name)
        return lambda: self._iterate(self.parts[name.removesuffix("_iter")])

    def _iterate(self, part: Any) -> Iterator[Any]:
        for each in part:
            if isinstance(each, Exception):
                raise each
            yield each


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    library = pytest.importorskip("ir_datasets")
    return lambda name, collection: monkeypatch.setitem(library.registry._registered, name, collection)


def test_documents(register: Any) -> None:
    page = Page("D1", "http://x", "Title", "Body", {"year": 3, "url": "inner"}, b"raw", ("A", "B"))
    register("tests/pages", Collection(docs=[page, Two("D2", "a", "b")]))
    corpus = open_corpus("tests/pages")
    assert [(corpus.line, document) for document in corpus] == [
        (1, Document("D1", "Body", "Title", {"year": 3, "url": "http://x", "authors": ["A", "B"]})),
        (2, Document("D2", "a b", "", {"first": "a", "second": "b"})),
    ]
    assert (corpus.source, corpus.bytes_total, corpus.bytes_read) == ("tests/pages", None, 0)


def test_bad_documents(register: Any) -> None:
    register("tests/bad", Collection(docs=[Two("a b", "x", "y"), Two("1", "x", "y"), Two("2", "\ud800", "")]))
    with pytest.raises(BadLine, match="tests/bad:1: the id 'a b' holds white space"):
        list(open_corpus("tests/bad"))
    corpus = open_corpus("tests/bad", skip_bad=True)
    assert [document.doc_id for document in corpus] == ["1"]
    assert [bad.problem for bad in corpus.skipped][1:] == ["the text holds a surrogate"]


def test_queries_and_qrels(register: Any) -> None:
    judged = [Judgement("1", "D1", 2, "0"), Judgement("1", "D2", 0, "0")]
    register("tests/all", Collection(queries=[Question("1", "what")], qrels=judged))
    assert read_queries("tests/all") == [Query("1", "what")]
    assert read_qrels("tests/all").to_dict() == {"1": {"D1": 2, "D2": 0}}
    with pytest.raises(UserError, match="'tests/all' has no docs"):
        open_corpus("tests/all")


def test_failures_are_errors_of_the_tree(register: Any) -> None:
    register(
        "tests/net",
        Collection(docs=[ConnectionError("no route")], queries=[RuntimeError("All sources failed")]),
    )
    with pytest.raises(StorageError, match="tests/net"):
        list(open_corpus("tests/net"))
    with pytest.raises(UserError, match="ir_datasets could not give 'tests/net': All sources failed"):
        read_queries("tests/net")
    with pytest.raises(UnknownName, match=r"^no such file or folder: 'nofile'; .* retrieve data list$"):
        read_qrels("nofile")
    with pytest.raises(UnknownName, match="tests/nett"):
        read_qrels("tests/nett")


def test_what_looks_like_an_id() -> None:
    assert all(
        map(
            looks_like_id,
            ["msmarco-passage", "argsme/1.0", "beir/scifact/test", "msmarco-passage/trec-dl-2019"],
        )
    )
    assert not any(
        map(
            looks_like_id,
            ["", "c.jsonl", "a/b.tsv.gz", "./x", "/x", "x/", "a b", "../x", "x@test", "a/notes.md"],
        )
    )
