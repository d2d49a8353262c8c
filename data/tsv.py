"""TSV corpora: id, text (MS MARCO's passages); id, title, text; id, url, title, body (its documents)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from retrieval.data.fields import make_document
from retrieval.data.lines import Blocks, Reject
from retrieval.types import Document

_COLUMNS = {
    2: ("id", "text"),
    3: ("id", "title", "text"),
    4: ("id", "url", "title", "text"),
}
_ALIASES = {
    "_id": "id",
    "docid": "id",
    "doc_id": "id",
    "pid": "id",
    "body": "text",
    "contents": "text",
    "passage": "text",
}
_FORMS = "id, text; or id, title, text; or id, url, title, body"


def parse(blocks: Blocks, reject: Reject) -> Iterator[list[tuple[int, Document]]]:
    """(line, Document) for every good line, block by block; empty lines are passed over.

    The first line settles the columns: by its names if it is a header (`id`, `text`, `title`, `url`), else by
    their number. Columns other than id, title and text are metadata. There is no quoting.
    """
    columns: tuple[str, ...] | None = None
    for number, lines in blocks:
        found: list[tuple[int, Document]] = []
        for at, line in enumerate(lines, number):
            if not line.strip():
                continue
            try:
                cells = line.removesuffix(b"\r").decode().split("\t")
            except UnicodeDecodeError:
                reject(at, "invalid UTF-8")
                continue
            if columns is None:
                header = _header(cells)
                if header is not None:
                    columns = header
                    continue
                columns = _COLUMNS.get(len(cells))
                if columns is None:
                    reject(at, f"{_count(len(cells))}; a corpus has {_FORMS}")
                    continue
            if len(cells) != len(columns):
                reject(at, f"{_count(len(cells))}, where the first line has {len(columns)}")
                continue
            document = _document(columns, cells)
            if isinstance(document, Document):
                found.append((at, document))
            else:
                reject(at, document)
        yield found


def _header(cells: list[str]) -> tuple[str, ...] | None:
    """The columns that a header names, or None for a line of data."""
    names = [_ALIASES.get(cell.strip().lower(), cell.strip().lower()) for cell in cells]
    if {"id", "text"} <= set(names) <= {"id", "text", "title", "url"} and len(set(names)) == len(names):
        return tuple(names)
    return None


def _document(columns: tuple[str, ...], cells: list[str]) -> Document | str:
    if columns == ("id", "text"):
        return make_document(cells[0], cells[1], "")
    record = dict(zip(columns, cells))
    rest = (record.pop("id"), record.pop("text"), record.pop("title", ""))
    return make_document(*rest, record)


def _count(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"


_TWICE = re.compile("[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


def repair(text: str) -> str:
    """Undo the double encoding of MS MARCO's collection: UTF-8 read as Latin-1 and encoded once more.

    Only runs of characters that are the bytes of one UTF-8 character are replaced, so that text which is
    right already stays, even within one passage. Gives what ir_datasets gives for its msmarco-passage.
    """
    return text if text.isascii() else _TWICE.sub(_decoded, text)


def _decoded(found: re.Match[str]) -> str:
    try:
        return found[0].encode("latin-1").decode()
    except UnicodeDecodeError:  # overlong, a surrogate, past the last character
        return found[0]
