"""Collections that the package ir_datasets knows by name; it is imported only when one is asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from retrieval.data.fields import make_document, text_problem
from retrieval.data.lines import Reject
from retrieval.diskio import disk_errors
from retrieval.errors import MissingExtra, RetrievalError, UnknownName, UserError, suggest
from retrieval.types import Document, Query

_ID = re.compile(r"[a-z0-9][a-z0-9_.+-]*(/[A-Za-z0-9_.+-]+)*")
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$|\.7z$")  # of a file; an id may end in ".0"
_TEXTS = ("text", "body", "contents", "abstract", "detailed_description")


def looks_like_id(name: str) -> bool:
    """Whether a name that is no file could be an ir_datasets id, rather than a mistyped path."""
    return _ID.fullmatch(name) is not None and not _SUFFIX.search(name)


def load(name: str, part: str) -> Any:
    """The dataset behind an id, made sure to have `part` (docs, queries, qrels).

    Raises MissingExtra without ir_datasets, UnknownName for an id that it does not know, UserError for one
    that lacks the part.
    """
    try:
        import ir_datasets
    except ImportError:
        raise MissingExtra(
            "bench", f"no such file or folder: {name!r}; ir_datasets, to look it up as an id"
        ) from None
    with _errors(name):
        try:
            dataset = ir_datasets.load(name)
        except KeyError:
            near = get_close_matches(name, list(ir_datasets.registry), n=5)
            raise _Absent(name, near) from None
        if not getattr(dataset, f"has_{part}")():
            raise UserError(f"the ir_datasets collection {name!r} has no {part}; name one that has")
    return dataset


class _Absent(UnknownName):
    """Neither a path nor an ir_datasets id; near: ids like it."""

    def __init__(self, name: str, near: list[str]) -> None:
        super().__init__("ir_datasets id", name, near)
        advice = suggest(name, near)
        advice = advice or "check the path."
        self.args = (f"no such file or folder: {name!r}; {advice} The ir_datasets ids: retrieve data list",)

    def __reduce__(self) -> Any:
        return type(self), (self.name, self.known)


def documents(name: str, reject: Reject) -> Iterator[list[tuple[int, Document]]]:
    """(number of the document, Document), in lists of one."""
    with _errors(name):
        for at, record in enumerate(load(name, "docs").docs_iter(), 1):
            document = _document(record)
            if isinstance(document, Document):
                yield [(at, document)]
            else:
                reject(at, document)


def queries(name: str) -> Iterator[Query]:
    """The queries of a dataset."""
    with _errors(name):
        for record in load(name, "queries").queries_iter():
            yield Query(record.query_id, _text(record, ("text", "query", "title")))


def qrels(name: str) -> Iterator[tuple[str, str, int]]:
    """(query id, document id, relevance) of a dataset."""
    with _errors(name):
        for record in load(name, "qrels").qrels_iter():
            yield record.query_id, record.doc_id, record.relevance


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """What ir_datasets raises when a download or a file of its cache fails, as errors of the tree."""
    with disk_errors("read the ir_datasets collection", name):
        try:
            yield
        except RetrievalError:
            raise
        except (RuntimeError, ValueError, LookupError, AttributeError, EOFError, ImportError) as error:
            raise UserError(
                f"ir_datasets could not give {name!r}: {error or type(error).__name__}"
            ) from error


def _text(record: Any, fields: tuple[str, ...]) -> str:
    for field in fields:
        value = getattr(record, field, None)
        if isinstance(value, str):
            return value
    return str(record.default_text())


def _document(record: Any) -> Document | str:
    fields = record._asdict()
    doc_id, title = fields.pop("doc_id"), fields.pop("title", "")
    text = _text(record, _TEXTS)
    for field in _TEXTS:
        if isinstance(fields.get(field), str):
            del fields[field]
            break
    inner = fields.pop("metadata", None)
    if isinstance(inner, dict):
        fields = inner | fields
    metadata = {field: plain for field, value in fields.items() if (plain := _plain(value)) is not None}
    return make_document(doc_id, text, title if isinstance(title, str) else "", metadata)


def _plain(value: Any) -> Any:
    """A metadata value as JSON has it, or None for what JSON has no word for (bytes, nested records)."""
    if isinstance(value, str):
        return None if text_problem(value, "field") else value
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, str | int | float) for each in value):
        return list(value)
    return None
