"""TREC text: <DOC> <DOCNO>id</DOCNO> ... </DOC>, read without a parser that could be led astray."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from retrieval.data.fields import make_document
from retrieval.data.lines import Blocks, Reject
from retrieval.types import Document

_TITLES = ("title", "headline", "head", "hl", "ttl", "ti", "h3")
_TEXTS = frozenset(("text", "body", "leadpara", "lp", "abstract", "summary", "contents"))
_HIDDEN = frozenset(("docno", "dochdr", "script", "style"))
_EDGE = re.compile(rb"<(/?)doc>", re.IGNORECASE)
_TAG = re.compile(r"(/?)([a-z][a-z0-9_:-]{0,40})(?=[\s/]|\Z)", re.IGNORECASE)
_OUTSIDE = (b"<?", b"<!", b"<root", b"</root", b"<add", b"</add")  # what wraps the documents of some files
_LARGEST = 16 << 20  # bytes of one document


def parse(blocks: Blocks, reject: Reject, largest: int = _LARGEST) -> Iterator[list[tuple[int, Document]]]:
    """(line of its <DOC>, Document) for every good document, block by block.

    The title is that of the first of TITLE, HEADLINE, HEAD, HL, TTL, TI, H3; the text is what TEXT, BODY,
    LEADPARA and the like hold, or all the rest where there is none of them. Tags are dropped, entities
    resolved.
    """
    pieces: list[bytes] | None = None  # of the document that is open
    start = size = 0
    for number, lines in blocks:
        found: list[tuple[int, Document]] = []
        for at, line in enumerate(lines, number):
            position = 0
            for edge in _EDGE.finditer(line):
                before = line[position : edge.start()]
                position = edge.end()
                closing = bool(edge[1])
                if pieces is None:
                    if before.strip() and not before.lstrip().startswith(_OUTSIDE):
                        reject(at, "text outside <DOC>")
                    if closing:
                        reject(at, "</DOC> without <DOC>")
                    else:
                        pieces, start, size = [], at, 0
                    continue
                if not closing:
                    reject(start, "<DOC> without </DOC>")
                    pieces, start, size = [], at, 0
                    continue
                size += len(before)
                pieces.append(before)
                document = _too_large(largest) if size > largest else _document(b"\n".join(pieces))
                pieces = None
                if isinstance(document, Document):
                    found.append((start, document))
                else:
                    reject(start, document)
            rest = line[position:]
            if pieces is not None:
                size += len(rest) + 1
                if size > largest:
                    pieces.clear()  # go on to its end, holding nothing
                else:
                    pieces.append(rest)
            elif rest.strip() and not rest.lstrip().startswith(_OUTSIDE):
                reject(at, "text outside <DOC>")
        yield found
    if pieces is not None:
        reject(start, "<DOC> without </DOC>")


def _too_large(largest: int) -> str:
    return f"the document is longer than {largest:,} bytes"


def _document(raw: bytes) -> Document | str:
    """The document between <DOC> and </DOC>, or what is wrong with it. Linear in its length."""
    try:
        body = raw.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    open_tags: list[str] = []
    parts: dict[str, list[str]] = {}
    loose: list[str] = []
    first, *pieces = body.split("<")
    loose.append(first)
    for piece in pieces:
        inside, mark, text = piece.partition(">")
        tag = _TAG.match(inside) if mark else None
        if tag is None:
            # No tag: a comment or declaration goes, any other "<" is text.
            text = text if mark and inside[:1] in "!?" and inside else "<" + piece
        elif tag[1]:
            name = tag[2].lower()
            if name in open_tags[-50:]:
                while open_tags.pop() != name:
                    pass
        elif not inside.endswith("/"):
            name = tag[2].lower()
            if name in _TEXTS or name in _TITLES or name in _HIDDEN:
                open_tags.append(name)
                parts.setdefault(name, []).append("\n")
        (parts[open_tags[-1]] if open_tags else loose).append(text)
    doc_id = "".join(parts.get("docno", [])).strip()
    if "docno" not in parts:
        return "no <DOCNO>"
    title = next((held for name in _TITLES if (held := _plain(parts.get(name, [])))), "")
    text = _plain([part for name, held in parts.items() if name in _TEXTS for part in held])
    return make_document(doc_id, text or _plain(loose), title)


def _plain(parts: list[str]) -> str:
    text = "".join(parts).strip()
    try:
        return html.unescape(text).replace("\r\n", "\n") if "&" in text else text.replace("\r\n", "\n")
    except ValueError:  # a character number of thousands of digits
        return text
