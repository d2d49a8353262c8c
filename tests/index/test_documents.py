"""The document store: what goes in comes out, by ordinal, by id and in a row; metadata columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import idtable
from retrieval.artefact import Store
from retrieval.errors import UserError
from retrieval.idtable import hash_ids
from retrieval.index import documents as module
from retrieval.index.documents import DocumentsReader, DocumentsWriter
from retrieval.types import Document

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
IDS = st.text(
    st.characters(min_codepoint=33, exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]),
    min_size=1,
    max_size=40,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.lists(
    st.builds(Document, IDS, TEXT, TEXT, st.dictionaries(TEXT, JSON, max_size=4)),
    unique_by=lambda document: document.doc_id,
    max_size=25,
)


def store(path: Path, documents: list[Document], batch: int = 1000, **options: Any) -> DocumentsReader:
    """Write documents as one part and read it."""
    with Store.writer(path, create=True, overwrite=True) as transaction:
        part = transaction.part()
        writer = DocumentsWriter(part, **options)
        for start in range(0, len(documents), batch):
            writer.add(documents[start : start + batch])
        assert writer.finish()["docs"] == len(documents)
        transaction.commit({"segments": [{"name": part.name, "docs": len(documents)}]})
    return DocumentsReader(Store.open(path), part.name)


@settings(deadline=None, max_examples=60)
@given(documents=DOCUMENTS, batch=st.integers(1, 10), block=st.integers(1, 200))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document], batch: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        reader = store(tmp_path_factory.mktemp("index"), documents, batch)
    assert list(reader) == documents
    assert [reader.get(ordinal) for ordinal in range(len(documents))] == documents
    ids = [document.doc_id for document in documents]
    assert len(reader) == len(reader.ids) == len(ids)
    assert list(reader.ids) == reader.ids[:] == [reader.id(ordinal) for ordinal in range(len(ids))] == ids
    assert reader.ids[1:3] == ids[1:3]
    assert reader.ids[::-2] == ids[::-2]
    assert reader.ids.take(np.arange(len(ids))[::-1]) == ids[::-1]
    assert [ids[ordinal] for ordinal in np.argsort(reader.rank)] == sorted(ids)
    assert [raw.decode() for _, raw in reader.ids.sorted_items()] == sorted(ids)
    assert [reader.lookup(each) for each in ids] == list(range(len(ids)))
    absent = [f"{each}\x00" for each in ids] + ["", "x" * 99]
    assert reader.lookup_many(ids[::-1] + absent).tolist() == [*reversed(range(len(ids)))] + [-1] * len(
        absent
    )
    for ordinal in (len(ids), -len(ids) - 1):
        with pytest.raises(IndexError):
            reader.get(ordinal)


@settings(deadline=None, max_examples=60)
@given(ids=st.lists(IDS, max_size=40), width=st.integers(0, 100), columns=st.integers(0, 3))
def test_order_and_hashes_of_ids(ids: list[str], width: int, columns: int) -> None:
    ids = list(dict.fromkeys("p" * width + each for each in ids))
    blob, lengths = idtable._pack(ids)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(idtable, "_MOST_COLUMNS", columns)
        order = idtable._ascending(idtable._padded(blob), np.cumsum(lengths) - lengths, lengths)
    assert [ids[ordinal] for ordinal in order] == sorted(ids)
    hashes = hash_ids(ids)
    assert len(set(hashes.tolist())) == len(ids)
    assert [int(hash_ids([each])[0]) for each in ids] == hashes.tolist()


def test_hashes_never_change() -> None:
    """They are on disk: another hash would need another format."""
    assert [f"{each:016x}" for each in hash_ids(["a", "doc12345", "é" * 20])] == FROZEN


FROZEN = ["ae1de9e7c3a5c9db", "ae475f78c151634f", "c80d056dadf54fdf"]


def test_ids_that_collide_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idtable, "_hashes", lambda data, starts, lengths: np.zeros(len(lengths), np.uint64))
    ids = [f"d{each}" for each in range(50)]
    reader = store(tmp_path, [Document(each, "x") for each in ids])
    assert reader.lookup_many([*ids, "e1"]).tolist() == [*range(50), -1]
    with pytest.raises(UserError, match="'d7' comes twice"):
        store(tmp_path, [Document(each, "x") for each in [*ids, "d7"]])


@pytest.mark.parametrize(
    ("document", "word"),
    [
        (Document("", "x"), "''"),
        (Document("a b", "x"), "'a b'"),
        (Document("a\u3000b", "x"), "white space"),
        (Document("a\x00", "x"), "control"),
        (Document("a\x85", "x"), "control"),
        (Document("a\ud800", "x"), "surrogate"),
        (Document("a", "x\udfff"), "document 'a' holds the lone surrogate"),
        (Document("a", "x", "\ud800"), "surrogate"),
        (Document("a", "x", "", {"f": "\ud800"}), "surrogate"),
        (Document("a", "x", "", {"f": object()}), "metadata of document 'a'"),
        (Document("a", "x", "", {"f": {1: 2}}), "metadata of document 'a'"),
        (Document("a", "x", "", {3: "f"}), "metadata of document 'a'"),  # type: ignore[dict-item]
        (Document("b", "x"), "'b' comes twice"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, document: Document, word: str) -> None:
    for batch in (1, 10):
        with pytest.raises(UserError) as caught:
            store(tmp_path, [Document("b", "fine"), document], batch)
        assert word in str(caught.value)


def test_numbers_that_json_would_lose(tmp_path: Path) -> None:
    big = {"n": 1 << 70, "deep": [{"x": [float("inf")]}], "none": None}
    reader = store(tmp_path, [Document("a", "x", "", big), Document("b", "x", "", {"n": float("nan")})])
    assert reader.get(0).metadata == big
    assert np.isnan(reader.get(1).metadata["n"])


def test_documents_without_stored_text(tmp_path: Path) -> None:
    reader = store(tmp_path, [Document("a", "text", "title", {"year": 1})], store_text=False)
    assert reader.get(0) == Document("a", "", "", {"year": 1})


def test_a_document_larger_than_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = Document("large", "é" * 300_000)
    assert store(tmp_path, [Document("a", "x"), large, Document("b", "y")], 1).get(1) == large
    monkeypatch.setattr(module, "LARGEST", 200_000)
    with pytest.raises(UserError, match="'large' holds 300000 characters"):
        store(tmp_path, [large])


def test_the_same_documents_make_the_same_bytes(tmp_path: Path) -> None:
    documents = [
        Document(f"d{n}", f"text {n} " * 20, "", {"n": n % 7, "s": [str(n % 5)]}) for n in range(900)
    ]
    kept = []
    for number, batch in enumerate((900, 7)):
        store(tmp_path / str(number), documents, batch)
        parts = list((tmp_path / str(number)).glob("seg-*"))
        kept.append({file.name: file.read_bytes() for file in parts[0].iterdir()})
    assert kept[0] == kept[1]


def test_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"year": 2001, "tags": ["b", "a", "b"], "mixed": 1, "open": True},
        {},
        {"year": 2.5, "tags": "c", "mixed": "one", "open": False, "nested": {"x": 1}},
        {"year": (1 << 53) + 1, "tags": [], "mixed": True, "other": [1, "x"], "none": None},
    ]
    for many in (False, True):
        filler = {f"field{n}": n for n in range(100)} if many else {}
        reader = store(
            tmp_path, [Document(f"d{n}", "", "t", {**row, **filler}) for n, row in enumerate(rows)]
        )
        fields = {name: kinds for name, kinds in reader.fields.items() if not name.startswith("field")}
        assert fields == {
            "year": {"numbers"},
            "tags": {"strings"},
            "mixed": {"numbers", "strings", "flags"},
            "open": {"flags"},
            "nested": {"other"},
            "other": {"other"},
            "none": set(),
        }
        year, tags, mixed = reader.column("year"), reader.column("tags"), reader.column("mixed")
        assert year is not None
        assert tags is not None
        assert mixed is not None
        assert (year.number_docs.tolist(), year.numbers.tolist()) == (
            [0, 2, 3],
            [2001.0, 2.5, float(1 << 53)],
        )
        assert tags.string_docs.tolist() == [0, 0, 2]
        assert [tags.values[code] for code in tags.codes] == ["b", "a", "c"]
        assert list(tags.values) == ["a", "b", "c"]
        assert mixed.kinds() == {"numbers", "strings", "flags"}
        assert reader.column("absent") is None


def test_too_many_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.index.metadata.MOST_FIELDS", 5)
    with pytest.raises(UserError, match="more than 5 different metadata fields"):
        store(tmp_path, [Document(f"d{n}", "x", "", {f"f{n}": 1}) for n in range(6)])


def test_an_empty_part(tmp_path: Path) -> None:
    reader = store(tmp_path, [])
    assert (len(reader), list(reader), list(reader.ids), reader.fields) == (0, [], [], {})
    assert reader.lookup("a") is None
    assert reader.lookup_many([]).tolist() == []
