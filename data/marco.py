"""MS MARCO's own training files: ids, whose texts are looked up without all being held."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.data.fields import shown
from retrieval.data.lines import Source, text_lines
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import BadLine, UserError

COLLECTION = "collection.tsv"
_CHUNK = 64 << 20


def is_marco(folder: str) -> bool:
    """Whether a folder looks like MS MARCO's: collection.tsv (or its .gz) is in it."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (COLLECTION, f"{COLLECTION}.gz"))


def marco_examples(folder: Path) -> Iterator[tuple[str, str, str | None]]:
    """(query, positive, negative) of qidpidtriples.train*.tsv, else (query, positive, None) of the qrels.

    Raises BadLine, and UserError for a file that is missing or an id without text.
    """
    triples = sorted(folder.glob("qidpidtriples.train*.tsv")) or sorted(
        folder.glob("qidpidtriples.train*.gz")
    )
    queries = dict(read_queries(_first(folder, "queries.train.tsv")))
    passages = Passages(_unpacked(folder))
    if not triples:
        for query_id, judged in read_qrels(_first(folder, "qrels.train.tsv")).items():
            if query_id not in queries:
                raise UserError(f"{folder}: the judged query {shown(query_id)} is not in queries.train.tsv")
            for passage_id, grade in judged.items():
                if grade > 0:
                    yield queries[query_id], passages.text(passage_id, str(folder), 0), None
        return
    for path in triples:
        name = str(path)
        with Source(name) as file:
            for at, line in text_lines(file):
                cells = line.split()
                if len(cells) != 3:
                    raise BadLine(
                        name, at, f"{len(cells)} columns; a line is: query id, passage id, passage id"
                    )
                if cells[0] not in queries:
                    raise BadLine(name, at, f"the query {shown(cells[0])} is not in queries.train.tsv")
                yield queries[cells[0]], passages.text(cells[1], name, at), passages.text(cells[2], name, at)


def _first(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder} holds {COLLECTION} but no {name}; put MS MARCO's files side by side")


def _unpacked(folder: Path) -> Path:
    path = folder / COLLECTION
    if not path.is_file():
        raise UserError(f"{path}.gz is compressed, and passages are looked up by place; unpack it: gunzip -k")
    return path


class Passages:
    """Texts of a collection.tsv (numeric id, tab, text) by id; holds 16 bytes a passage, not the texts."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError(f"{self.name} is empty; copy it again")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        starts = self._line_starts()
        self._starts = starts
        ids = np.empty(len(starts), np.int64)
        for at, start in enumerate(starts.tolist()):
            tab = self._map.find(b"\t", start, start + 24)
            number = self._map[start:tab] if tab > 0 else b""
            if not number.isdigit() or len(number) > 18:
                raise BadLine(self.name, at + 1, "a line is: number of the passage, tab, text")
            ids[at] = int(number)
        self._plain = bool((ids == np.arange(len(ids))).all())  # as in MS MARCO: line n holds passage n
        self._order: NDArray[np.int64] = np.arange(0) if self._plain else np.argsort(ids, kind="stable")
        self._ids = ids if self._plain else ids[self._order]

    def _line_starts(self) -> NDArray[np.int64]:
        found = [np.zeros(1, np.int64)]
        for start in range(0, len(self._map), _CHUNK):
            chunk = np.frombuffer(self._map[start : start + _CHUNK], np.uint8)
            found.append(np.flatnonzero(chunk == 10) + (start + 1))
        starts = np.concatenate(found)
        return starts[starts < len(self._map)]

    def text(self, passage_id: str, name: str, line: int) -> str:
        """The text of a passage. Raises BadLine (with the place that asked) for one that is not there."""
        number = int(passage_id) if passage_id.isascii() and passage_id.isdigit() else -1
        if self._plain:
            at = number if 0 <= number < len(self._ids) else -1
        else:
            place = int(np.searchsorted(self._ids, number))
            at = int(self._order[place]) if place < len(self._ids) and self._ids[place] == number else -1
        if at < 0:
            raise BadLine(name, line, f"the passage {shown(passage_id)} is not in {self.name}")
        start = int(self._starts[at])
        end = self._map.find(b"\n", start)
        row = self._map[start : end if end >= 0 else len(self._map)].removesuffix(b"\r")
        try:
            return row[row.index(b"\t") + 1 :].decode()
        except UnicodeDecodeError:
            raise BadLine(self.name, at + 1, "invalid UTF-8") from None
