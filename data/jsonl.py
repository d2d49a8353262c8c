"""JSON lines: one document an object, `_id` or `id`, `title`, `text` or `contents`, the rest metadata."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from retrieval.data.fields import make_document, metadata_problem
from retrieval.data.lines import Blocks, Reject
from retrieval.data.output import atomic, json_line
from retrieval.diskio import disk_errors
from retrieval.errors import BadLine
from retrieval.types import Document

_FILES = (".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")
_new = tuple.__new__  # a third of a NamedTuple's own constructor
_NOTHING: dict[str, Any] = Document._field_defaults["metadata"]


def parse(blocks: Blocks, reject: Reject) -> Iterator[list[tuple[int, Document]]]:
    """(line, Document) for every good line, block by block; empty lines are passed over."""
    loads, build = orjson.loads, _document
    for number, lines in blocks:
        found: list[tuple[int, Document]] = []
        add = found.append
        for at, line in enumerate(lines, number):
            try:
                record = loads(line)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    reject(at, json_problem(error))
                continue
            document = build(record)
            if document.__class__ is Document:
                add((at, document))  # type: ignore[arg-type]
            else:
                reject(at, document)  # type: ignore[arg-type]
        yield found


def json_problem(error: orjson.JSONDecodeError) -> str:
    """What is wrong with a line that is not JSON, in a few words."""
    if "UTF-8" in error.msg and "BOM" not in error.msg:
        return "invalid UTF-8"
    return f"not JSON: {error.msg} at column {error.colno}"


def json_objects(name: str, lines: Iterable[tuple[int, str | bytes]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of files that must be right throughout. Raises BadLine for what is no JSON object."""
    for at, line in lines:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise BadLine(name, at, json_problem(error)) from None
        if not isinstance(record, dict):
            raise BadLine(name, at, "not a JSON object")
        yield at, record


def _document(record: Any) -> Document | str:
    """The document that an object holds, or what is wrong with it. Takes the record apart."""
    if record.__class__ is not dict:
        return "not a JSON object"
    take = record.pop
    doc_id = take("_id", None)
    if doc_id is None:
        doc_id = take("id", None)
    text = take("text", None)
    if text is None:
        text = take("contents", "")
    title = take("title", "")
    if record:
        inner = take("metadata", None)
        if inner is not None:
            if inner.__class__ is not dict:
                return "metadata is not an object"
            record = inner | record if record else inner  # what stands outside wins
        for value in record.values():
            if value.__class__ is dict or value.__class__ is list:
                problem = metadata_problem(record)
                if problem is not None:
                    return problem
                break
    # Nearly every line: an id without surprises and a text. The rest is looked at in turn.
    if (
        doc_id.__class__ is str
        and text.__class__ is str
        and title.__class__ is str
        and doc_id.isprintable()
        and " " not in doc_id
        and doc_id
        and text
        and not text.isspace()
    ):
        return _new(Document, (doc_id, text, title, record or _NOTHING))
    return make_document(doc_id, "" if text is None else text, "" if title is None else title, record)


def json_files(folder: str) -> list[str]:
    """The files of JSON lines in a folder, plain or .gz, in the order of their names. Raises StorageError."""
    with disk_errors("read", folder):
        names = sorted(
            name for name in os.listdir(folder) if name[0] != "." and name.lower().endswith(_FILES)
        )
    return [os.path.join(folder, name) for name in names]


def write_corpus(documents: Iterable[Document], path: str | os.PathLike[str]) -> int:
    """Write documents as JSON lines (.gz by the suffix), metadata as an object; returns their number.

    The file appears whole or not at all. Raises UserError for a value that JSON has no word for or a place
    that cannot be written, StorageError where the disk fails.
    """
    count = 0
    with atomic(path) as write:
        for count, document in enumerate(documents, 1):  # noqa: B007
            record: dict[str, Any] = {"_id": document.doc_id, "title": document.title, "text": document.text}
            if document.metadata:
                record["metadata"] = dict(document.metadata)
            write(json_line(record))
    return count
