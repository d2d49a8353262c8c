"""TSV corpora: columns, headers, bad lines, and the repair of MS MARCO's double encoding."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data.corpus import open_corpus
from retrieval.data.tsv import repair
from retrieval.errors import BadLine
from retrieval.types import Document


def read(tmp_path: Path, text: str | bytes, **options: bool) -> list[Document]:
    path = tmp_path / "c.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(open_corpus(path, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0\tfirst\r\n1\tsecond\n", [Document("0", "first"), Document("1", "second")]),
        ("0\ttitle\ttext\n1\t\ttext", [Document("0", "text", "title"), Document("1", "text")]),
        ("D1\thttp://x\ttitle\tbody\n", [Document("D1", "body", "title", {"url": "http://x"})]),
        ("id\ttext\ttitle\n7\tt\th\n", [Document("7", "t", "h")]),
        ("_id\tcontents\n7\tt\n", [Document("7", "t")]),
        ('0\ta "quoted text\n', [Document("0", 'a "quoted text')]),
        ("0\ta\x85b\u2028c\n", [Document("0", "a\x85b\u2028c")]),
    ],
)
def test_columns(tmp_path: Path, text: str, expected: list[Document]) -> None:
    assert read(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"only", "1 column, where the first line has 2"),
        (b"1\ta\tb", "3 columns, where the first line has 2"),
        (b"1\t\xff", "invalid UTF-8"),
        (b"\ttext", "the id is empty"),
        (b"a b\ttext", "the id 'a b' holds white space"),
        (b"1\t ", "title and text are both empty"),
    ],
)
def test_bad_lines(tmp_path: Path, line: bytes, problem: str) -> None:
    with pytest.raises(BadLine, match=f":2: {problem}"):
        read(tmp_path, b"0\tgood\n" + line)


def test_unknown_columns(tmp_path: Path) -> None:
    with pytest.raises(BadLine, match=":1: 5 columns; a corpus has id, text"):
        read(tmp_path, "1\t2\t3\t4\t5\n")


def test_repair_is_an_option(tmp_path: Path) -> None:
    twice = "caf\u00e9 \u2019 \U0001f600".encode().decode("latin-1")
    assert read(tmp_path, f"0\t{twice}\n")[0].text == twice
    assert read(tmp_path, f"0\t{twice}\n", repair_encoding=True)[0].text == "caf\u00e9 \u2019 \U0001f600"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")))
def test_repair_undoes_double_encoding_of_marked_text(text: str) -> None:
    once_more = text.encode().decode("latin-1")
    assert repair(once_more) == text


def test_repair_knows_every_character() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert repair(every.encode().decode("latin-1")) == every


LATIN = st.text(
    st.characters(max_codepoint=0xFF, exclude_characters="\n") | st.sampled_from("\u2019é\U0001f600")
)
TWICE = st.text(st.characters(exclude_categories=["Cs"])).map(
    lambda t: t.encode().decode("latin-1").replace("\n", "")
)


@settings(deadline=None)
@given(st.lists(LATIN | TWICE, max_size=6).map("".join))
def test_repair_is_that_of_ir_datasets(text: str) -> None:
    passages = pytest.importorskip("ir_datasets.datasets.msmarco_passage")

    class Text:
        def stream(self) -> io.BytesIO:
            return io.BytesIO(text.encode())

    assert repair(text).encode() == b"".join(passages.FixEncoding(Text()))
