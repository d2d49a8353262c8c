"""TREC text: titles, texts, entities, edges that lie anywhere, and documents that are broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data import trec
from retrieval.data.corpus import open_corpus
from retrieval.errors import BadLine, UserError
from retrieval.types import Document


def read(tmp_path: Path, text: str) -> list[Document]:
    (tmp_path / "c.trec").write_text(text)
    return list(open_corpus(tmp_path / "c.trec"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<DOCNO> FT-1 </DOCNO><TEXT>one\ntwo</TEXT>", Document("FT-1", "one\ntwo")),
        ("<docno>a</docno><title>T</title><text>x</text>", Document("a", "x", "T")),
        ("<DOCNO>a</DOCNO>\nplain &amp; <b>simple</b>\n", Document("a", "plain & simple")),
        (
            "<DOCNO>a</DOCNO><HL>Head</HL><LP>lead</LP><TEXT><P>rest</P></TEXT><DATE>9</DATE>",
            Document("a", "lead\nrest", "Head"),
        ),
        (
            "<DOCNO>a</DOCNO><TEXT>1 < 2 and 3 > 2 <!-- no --> <br/>x</TEXT>",
            Document("a", "1 < 2 and 3 > 2  x"),
        ),
        ("<DOCNO>a</DOCNO><TEXT>&#" + "9" * 5000 + ";</TEXT>", Document("a", "&#" + "9" * 5000 + ";")),
        ("<DOCNO>a</DOCNO><TEXT>open <HEAD>inner</HEAD> end", Document("a", "open  end", "inner")),
    ],
)
def test_documents(tmp_path: Path, body: str, expected: Document) -> None:
    assert read(tmp_path, f"<DOC>{body}</DOC>\n") == [expected]


def test_edges_may_lie_anywhere_in_a_line(tmp_path: Path) -> None:
    text = "<?xml?>\n<DOC><DOCNO>1</DOCNO>a</DOC>"
    text += "<doc><DOCNO>2</DOCNO>\nb\n</doc>\n\n<DOC>\n<DOCNO>3</DOCNO>c</DOC>"
    (tmp_path / "c.trec").write_text(text)
    corpus = open_corpus(tmp_path / "c.trec")
    assert [(document.doc_id, document.text, corpus.line) for document in corpus] == [
        ("1", "a", 2),
        ("2", "b", 2),
        ("3", "c", 6),
    ]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("<DOC><TEXT>x</TEXT></DOC>", 1, "no <DOCNO>"),
        ("\n<DOC><DOCNO>a b</DOCNO>x</DOC>", 2, "the id 'a b' holds white space"),
        ("<DOC>\n<DOCNO>1</DOCNO>\nx", 1, "<DOC> without </DOC>"),
        ("<DOC>\n<DOC><DOCNO>1</DOCNO>x</DOC>", 1, "<DOC> without </DOC>"),
        ("<DOC><DOCNO>1</DOCNO>x</DOC>\n</DOC>", 2, "</DOC> without <DOC>"),
        ("<DOC><DOCNO>1</DOCNO>x</DOC>\nstray", 2, "text outside <DOC>"),
        ("<DOC><DOCNO>1</DOCNO></DOC>", 1, "title and text are both empty"),
    ],
)
def test_bad_documents(tmp_path: Path, text: str, line: int, problem: str) -> None:
    with pytest.raises(BadLine) as caught:
        read(tmp_path, text)
    assert (caught.value.line, caught.value.problem) == (line, problem)


def test_no_documents(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no document"):
        read(tmp_path, "<?xml?>\n")


def test_a_document_has_a_limit() -> None:
    bad: list[tuple[int, str]] = []
    lines = [b"<DOC><DOCNO>1</DOCNO>", *[b"word"] * 100, b"</DOC>", b"<DOC><DOCNO>2</DOCNO>ok</DOC>"]
    found = [
        pair for batch in trec.parse(iter([(1, lines)]), lambda *at: bad.append(at), 300) for pair in batch
    ]
    assert found == [(103, Document("2", "ok"))]
    assert bad == [(1, "the document is longer than 300 bytes")]


@settings(deadline=None)
@given(st.text(st.sampled_from("<>/!?&;#aTEXTDOCNO \n-"), max_size=200))
def test_markup_soup_gives_a_document_or_a_reason(soup: str) -> None:
    found = trec._document(f"<DOCNO>1</DOCNO>{soup}".encode())
    assert isinstance(found, Document | str)


@pytest.mark.parametrize(
    "hostile", ["<" * 10**6, "<a" * 500_000, "<TEXT>" * 150_000, "&" * 10**6, "a" * 10**6, "<" + "a" * 10**6]
)
def test_hostile_text_is_linear(hostile: str) -> None:
    # A quadratic reader would need hours here.
    assert isinstance(trec._document(b"<DOCNO>1</DOCNO>" + hostile.encode() + b"x"), Document)
