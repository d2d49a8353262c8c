"""NERetrieve's retrieval files as published, streamed: paragraphs, and which types of entity each mentions.

`NERetrive_IR_corpus.jsonl`, `NERetrive_IR_train.jsonl` and `NERetrive_IR_test.jsonl` (the names are misspelt
so), compressed by bz2 or gzip or neither. A paragraph is {"id", "doc_id", "title", "page_id", "para_index",
"content"}, a label {"id", ..., "tagged_entities": {type: {entity: {surface: [[word, ...], ...]}}},
"tagged_entity_types": [...]}, where words are indices into content.split(" ").

Katz, Vetzler, Cohen, Goldberg: NERetrieve: Dataset for Next Generation Named Entity Recognition and
Retrieval. Findings of EMNLP 2023 (arXiv 2310.14282).
"""

from __future__ import annotations

import bz2
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.data.fields import id_problem, make_document, shown
from retrieval.data.jsonl import json_objects
from retrieval.data.lines import Source, text_lines
from retrieval.diskio import disk_errors
from retrieval.errors import BadLine, UserError
from retrieval.types import Document

SPLITS = ("train", "test")
_STEM = "NERetrive_IR_"
_ENDINGS = (".jsonl.bz2", ".jsonl", ".jsonl.gz", ".bz2")
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")
Tagged = Mapping[str, Mapping[str, Mapping[str, Any]]]


class Label(NamedTuple):
    """What a paragraph mentions. types: in the order of the file, each once; tagged: as in the file."""

    doc_id: str
    types: list[str]
    tagged: Tagged


class Mention(NamedTuple):
    """A mention of an entity: content[start:end]. exact: the surface, cleaned, is what stands there."""

    type: str
    entity: str
    surface: str
    start: int
    end: int
    exact: bool


def corpus_path(folder: str | os.PathLike[str]) -> Path:
    """The file of paragraphs. Raises UserError where there is none."""
    return _path(folder, "corpus")


def labels_path(folder: str | os.PathLike[str], split: str) -> Path:
    """The file of a split's labels, train or test. Raises UserError where there is none."""
    return _path(folder, split)


def paragraphs(path: str | os.PathLike[str]) -> Iterator[Document]:
    """Every paragraph: id, content as the text, title, and `doc_id`, `page_id`, `para_index` as metadata.

    Raises BadLine for a record that makes no document, UserError for a file that cannot be read.
    """
    for number, record in _records(path):
        about: dict[str, Any] = {
            key: record[key] for key in ("doc_id", "page_id", "para_index") if key in record
        }
        content, title = record.get("content"), record.get("title") or ""
        made = make_document(_plain(record.get("id")), content, title, about)
        if isinstance(made, str):
            raise BadLine(os.fspath(path), number, made)
        yield made


def labels(path: str | os.PathLike[str]) -> Iterator[Label]:
    """The label of every paragraph of a split. Raises BadLine, UserError."""
    name = os.fspath(path)
    for number, record in _records(path):
        doc_id = _plain(record.get("id"))
        if problem := id_problem(doc_id):
            raise BadLine(name, number, problem)
        tagged, listed = record.get("tagged_entities", {}), record.get("tagged_entity_types", [])
        sound = isinstance(tagged, dict) and all(
            isinstance(entities, dict) and all(isinstance(each, dict) for each in entities.values())
            for entities in tagged.values()
        )
        if not sound:
            raise BadLine(name, number, "tagged_entities is not {type: {entity: {surface: places}}}")
        if not isinstance(listed, list) or not all(isinstance(each, str) and each for each in listed):
            raise BadLine(name, number, f"tagged_entity_types is {shown(listed)}; it is a list of names")
        yield Label(doc_id, list(dict.fromkeys([*listed, *tagged])), tagged)


def mentions(label: Label, content: str) -> tuple[list[Mention], int]:
    """(the mentions of a paragraph, how many places lie outside of its words and were left out).

    A mention reaches from the start of its first word to the end of its last. Surfaces without any place,
    which occur, give nothing.
    """
    starts, at = [], 0
    words = content.split(" ")
    for word in words:
        starts.append(at)
        at += len(word) + 1
    found, outside = [], 0
    for kind, entities in label.tagged.items():
        for entity, surfaces in entities.items():
            for surface, places in surfaces.items():
                for place in places if isinstance(places, list) else ():
                    indices = place if isinstance(place, list) else [place]
                    if not indices:
                        continue
                    if not all(type(index) is int and 0 <= index < len(words) for index in indices):
                        outside += 1
                        continue
                    first, last = min(indices), max(indices)
                    start, end = starts[first], starts[last] + len(words[last])
                    exact = cleaned(content[start:end]) == cleaned(surface)
                    found.append(Mention(kind, entity, surface, start, end, exact))
    return found, outside


def cleaned(text: str) -> str:
    """A surface as it is compared: without punctuation and white space at its ends, one space a gap."""
    return " ".join(_EDGES.sub("", text).split()).casefold()


def _path(folder: str | os.PathLike[str], what: str) -> Path:
    place = Path(folder)
    for ending in _ENDINGS:
        if (place / f"{_STEM}{what}{ending}").is_file():
            return place / f"{_STEM}{what}{ending}"
    raise UserError(
        f"{os.fspath(folder)!r} holds no {_STEM}{what}.jsonl, plain, .bz2 or .gz; give NERetrieve's folder"
    )


def _plain(name: Any) -> Any:
    """An id as text: numbers occur."""
    return str(name) if type(name) is int else name


def _records(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    name = os.fspath(path)
    yield from json_objects(name, _bz2_lines(name) if name.endswith(".bz2") else _text_lines(name))


def _text_lines(path: str) -> Iterator[tuple[int, str]]:
    with Source(path) as file:
        yield from text_lines(file)


def _bz2_lines(path: str) -> Iterator[tuple[int, bytes]]:
    number = 0
    with disk_errors("read", path), open(path, "rb") as raw, bz2.BZ2File(raw) as file:
        lines = iter(file)
        while True:
            try:
                line = next(lines, None)
            except (EOFError, OSError) as error:
                problem = f"the compressed data are damaged ({error}); copy the file again"
                raise BadLine(path, number + 1, problem) from None
            if line is None:
                return
            number += 1
            if line.strip():
                yield number, line
