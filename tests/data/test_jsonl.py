"""JSON lines: what a document is, and each way in which a line can be none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data.corpus import open_corpus
from retrieval.data.jsonl import write_corpus
from retrieval.errors import BadLine, UserError
from retrieval.types import Document

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
IDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=12).filter(
    lambda name: not any(c.isspace() for c in name)
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.builds(Document, IDS, TEXT, TEXT, st.dictionaries(TEXT, VALUES, max_size=4)).filter(
    lambda document: bool(document.text.strip() or document.title.strip())
)


def one(tmp_path: Path, line: str | bytes) -> Document:
    path = tmp_path / "c.jsonl"
    path.write_bytes(line if isinstance(line, bytes) else line.encode())
    (document,) = open_corpus(path)
    return document


@settings(deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=8), st.sampled_from([".jsonl", ".jsonl.gz"]))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[Document], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / f"c{suffix}"
    assert write_corpus(documents, path) == len(documents)
    assert list(open_corpus(path)) == documents


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"_id": "1", "text": "t"}, Document("1", "t")),
        ({"id": "1", "contents": "t"}, Document("1", "t")),
        (
            {"_id": "1", "id": "2", "text": "t", "contents": "c"},
            Document("1", "t", "", {"id": "2", "contents": "c"}),
        ),
        ({"_id": "1", "title": "only"}, Document("1", "", "only")),
        ({"_id": "1", "title": None, "text": "t", "metadata": None}, Document("1", "t")),
        ({"_id": "1", "text": "t", "year": 3}, Document("1", "t", "", {"year": 3})),
        (
            {"_id": "1", "text": "t", "year": 3, "metadata": {"year": 1, "tags": ["a"]}},
            Document("1", "t", "", {"year": 3, "tags": ["a"]}),
        ),
        ({"_id": "häuser/1:ok#\u200b", "text": "a\0b"}, Document("häuser/1:ok#\u200b", "a\0b")),
    ],
)
def test_fields(tmp_path: Path, record: dict[str, Any], expected: Document) -> None:
    assert one(tmp_path, json.dumps(record)) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"_id": "1", "text": "t"', "not JSON"),
        ('{"_id": "1", "text": NaN}', "not JSON"),
        (b'{"_id": "1", "text": "\xff"}', "invalid UTF-8"),
        (b'{"_id": "1", "text": "\xed\xa0\x80"}', "invalid UTF-8"),
        (r'{"_id": "1", "text": "\ud800"}', "surrogate"),
        ('{"text": "t"}', "no id"),
        ('{"_id": 1, "text": "t"}', "the id 1 is a number, not a string"),
        ('{"_id": true, "text": "t"}', "the id True is true, not a string"),
        ('{"_id": "", "text": "t"}', "the id is empty"),
        ('{"_id": "a b", "text": "t"}', "the id 'a b' holds white space"),
        ('{"_id": "a\\u3000b", "text": "t"}', "holds white space"),
        ('{"_id": "a\\u2028b", "text": "t"}', "holds white space"),
        ('{"_id": "a\\u0000b", "text": "t"}', r"the id 'a\\x00b' holds a control character"),
        ('{"_id": "\\u001b[31m", "text": "t"}', r"the id '\\x1b\[31m' holds a control character"),
        ('{"_id": "1", "text": 3}', "the text is a number, not a string"),
        ('{"_id": "1", "text": ["t"]}', "the text is a list, not a string"),
        ('{"_id": "1", "text": "t", "title": {}}', "the title is an object, not a string"),
        ('{"_id": "1", "text": "", "title": ""}', "title and text are both empty"),
        ('{"_id": "1", "text": " \\t\\n"}', "title and text are both empty"),
        ('{"_id": "1"}', "title and text are both empty"),
        ('{"_id": "1", "text": "t", "metadata": 3}', "metadata is not an object"),
        ('{"_id": "1", "text": "t", "deep": ' + "[" * 40 + "]" * 40 + "}", "nested more than 32 levels deep"),
        ("[" * 100_000, "not JSON: depth limit"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str | bytes, problem: str) -> None:
    raw = line if isinstance(line, bytes) else line.encode()
    with pytest.raises(BadLine, match=problem) as caught:
        one(tmp_path, b'{"_id": "0", "text": "good"}\n\n' + raw)
    assert caught.value.line == 3
    assert str(caught.value).startswith(f"{tmp_path}/c.jsonl:3: ")
    assert len(str(caught.value)) < 400


def test_a_long_id_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(BadLine) as caught:
        one(tmp_path, json.dumps({"_id": "x y" * 100_000, "text": "t"}))
    assert len(caught.value.problem) < 150


def test_crlf_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"_id": "1", "text": "a"}\r\n\r\n  \r\n{"_id": "2", "text": "b"}')
    corpus = open_corpus(path)
    assert [(document.doc_id, corpus.line) for document in corpus] == [("1", 1), ("2", 4)]


def test_a_json_array_is_explained(tmp_path: Path) -> None:
    for name, text in (("c.json", '[{"_id": "1"}]'), ("c.jsonl", '[\n{"_id": "1"}\n]')):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="one JSON array; write one object a line"):
            open_corpus(tmp_path / name)


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written as JSON"):
        write_corpus([Document("1", "t"), Document("2", "t", "", {"x": object()})], tmp_path / "c.jsonl")
    assert list(tmp_path.iterdir()) == []
