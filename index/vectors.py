"""Terms of documents, made elsewhere: Anserini's JSON lines or CIFF, laid out by document in scratch files.

A source is gone through twice: for the largest weight, which fixes the quantiser, and then to be laid out, so
that documents may come in any order, and many times as many as fit in memory. A document takes 28 bytes of
memory, and of disk 5 bytes (frequencies: 8) for each of its terms.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.data.ciff import CiffReader
from retrieval.data.fields import shown
from retrieval.data.jsonl import json_files
from retrieval.data.lines import Source
from retrieval.diskio import disk_errors
from retrieval.errors import BadLine, UserError
from retrieval.index.idset import IdSet

Quantise = Callable[[NDArray[np.float64]], NDArray[Any]]
"""Positive weights to what is stored, uint8 or int32; raises UserError for one that cannot be."""

_BATCH = 1000  # documents written at a time


class Range(NamedTuple):
    """The largest weight of a source, and whether all of them are whole numbers."""

    largest: float
    whole: bool


def read_range(path: str) -> Range:
    """Goes through a source and checks it. Raises UserError, BadLine."""
    if is_ciff(path):
        reader = CiffReader(path)
        largest = max((int(each.values.max()) for each in reader.lists() if len(each.values)), default=0)
        for _ in reader.documents():
            pass
        found = Range(float(largest), True)
    else:
        found = _json_range(path)
    if found.largest <= 0:
        raise UserError(f"{path!r} holds no positive weight")
    return found


def is_ciff(path: str) -> bool:
    """Whether a file is to be read as CIFF: it is called so, or holds bytes that no text has."""
    if not os.path.exists(path):
        raise UserError(
            f"no file of vectors at {path!r}; give impacts:FILE: JSON lines with id and vector, a folder of "
            "such files, or a CIFF file"
        )
    if os.path.isdir(path):
        return False
    name = path.lower().removesuffix(".gz")
    if name.endswith((".ciff", ".json", ".jsonl", ".ndjson")):
        return name.endswith(".ciff")
    with disk_errors("read", path), open(path, "rb") as file:
        head = file.read(64)
    return b"\x08\x01\x10" in head[:5]  # of a header: its length, version 1, the number of lists


def _json_files(path: str) -> list[str]:
    """The files of a folder in the order of their names, or the one file. Raises UserError."""
    if not os.path.isdir(path):
        return [path]
    files = json_files(path)
    if not files:
        raise UserError(f"the folder {path!r} holds no .jsonl or .json file, plain or .gz, with vectors")
    return files


def _json_records(path: str) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    """(file, line, id, vector) of each line. Raises UserError, BadLine."""
    for file in _json_files(path):

        def reject(line: int, problem: str, file: str = file) -> None:
            raise BadLine(file, line, problem)

        with Source(file) as source:
            for first, lines in source.blocks(reject):
                for number, line in enumerate(lines, first):
                    if not line.strip():
                        continue
                    try:
                        record = orjson.loads(line)
                    except orjson.JSONDecodeError as error:
                        raise BadLine(file, number, f"not JSON: {error.msg}") from None
                    vector = record.get("vector") if isinstance(record, dict) else None
                    doc_id = record.get("id", record.get("_id")) if isinstance(vector, dict) else None
                    if not isinstance(doc_id, str) or not isinstance(vector, dict):
                        raise BadLine(file, number, 'not {"id": ..., "vector": {term: weight}}')
                    yield file, number, doc_id, vector


def weight_problem(term: str, weight: object) -> str | None:
    """What is wrong with a weight, or None: it is a finite number."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight != weight:
        return f"the weight of {term!r} is {shown(weight)}, no number"
    if abs(weight) > sys.float_info.max:  # compared exactly, however long an int is
        return f"the weight of {term!r} is larger than any float"
    return None


def _json_range(path: str) -> Range:
    largest, whole = 0.0, True
    for file, number, _, vector in _json_records(path):
        for term, weight in vector.items():
            if problem := weight_problem(term, weight):
                raise BadLine(file, number, problem)
            largest = max(largest, weight)
            whole = whole and weight == int(weight)
    return Range(float(largest), whole)


class Vectors:
    """A source laid out by document, for a builder: take() gives what stands in the next documents.

    scratch  a directory, for its owner to remove
    budget   bytes of memory
    names    the terms that take() has met, by the numbers that it gives them
    Raises UserError, BadLine, StorageError.
    """

    def __init__(self, path: str, quantise: Quantise, scratch: str, budget: int) -> None:
        self.path = path
        self.names: list[str] = []
        self._descriptors: list[int] = []
        self._terms: list[str] = []
        self._values = quantise(np.empty(0)).dtype
        self._ids = IdSet()
        self._ends = [np.zeros(1, np.int64)]
        self._count = 0
        self._paths = [os.path.join(scratch, name) for name in ("vector_terms", "vector_values")]
        fill = self._from_ciff if is_ciff(path) else self._from_json
        with disk_errors("write", scratch), ExitStack() as stack:
            self._files = [stack.enter_context(open(each, "xb")) for each in self._paths]
            fill(quantise, budget)
        with disk_errors("read", scratch):
            self._descriptors = [os.open(each, os.O_RDONLY | os.O_CLOEXEC) for each in self._paths]
        self._starts = np.concatenate(self._ends)
        del self._ends, self._files
        self._listed = np.full(len(self._terms), -1, np.int32)  # number in the files -> place in names

    def close(self) -> None:
        """Close the scratch files."""
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()

    def take(self, ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
        """(ends int64[n + 1] beginning with 0, places in `names`, values); of an id twice there the last.

        Raises UserError for a document that is not in the source.
        """
        rows = self._ids.find(ids)
        if len(rows) and rows.min() < 0:
            missing = ids[int(np.argmin(rows))]
            raise UserError(
                f"document {missing!r} has no vector in {self.path!r}; add it there, or leave it out here"
            )
        ends, terms, values = self._rows(rows)
        fresh = np.unique(terms[self._listed[terms] < 0])
        self._listed[fresh] = np.arange(len(self.names), len(self.names) + len(fresh))
        self.names += [self._terms[term] for term in fresh.tolist()]
        return ends, self._listed[terms], values

    def _rows(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]:
        """Rows one after the other, with the files' term numbers."""
        starts, stops = self._starts[numbers], self._starts[numbers + 1]
        ends = np.append(0, np.cumsum(stops - starts))
        cuts = np.flatnonzero(np.append(True, starts[1:] != stops[:-1])[: len(numbers)])
        columns: list[list[bytes]] = [[], []]
        with disk_errors("read", self._paths[0]):
            for a, b in pairwise([*cuts.tolist(), len(numbers)]):  # rows that stand side by side at once
                begin, end = int(starts[a]), int(stops[b - 1])
                for column, descriptor, size in zip(
                    columns, self._descriptors, (4, self._values.itemsize), strict=True
                ):
                    column.append(os.pread(descriptor, size * (end - begin), size * begin))
        terms, values = (b"".join(column) for column in columns)
        return ends, np.frombuffer(terms, "<i4"), np.frombuffer(values, self._values)

    def _write(self, ends: NDArray[np.int64], terms: NDArray[Any], values: NDArray[Any]) -> None:
        """Appends rows; ends without the leading 0."""
        self._files[0].write(terms.astype("<i4", copy=False).tobytes())
        self._files[1].write(values.tobytes())
        self._ends.append(self._count + ends)
        self._count += len(values)

    def _from_json(self, quantise: Quantise, budget: int) -> None:
        numbers: dict[str, int] = {}
        ids: list[str] = []
        ends: list[int] = []
        terms: list[int] = []
        weights: list[float] = []

        def write() -> None:
            values = quantise(np.array(weights, np.float64))
            self._write(np.array(ends, np.int64), np.array(terms, np.int32), values)
            self._ids.add(ids)
            for column in (ids, ends, terms, weights):
                column.clear()  # type: ignore[attr-defined]

        for file, line, doc_id, vector in _json_records(self.path):
            for term, weight in vector.items():
                if problem := weight_problem(term, weight):
                    raise BadLine(file, line, problem)
                if weight > 0:
                    terms.append(numbers.setdefault(term, len(numbers)))
                    weights.append(weight)
            ids.append(doc_id)
            ends.append(len(terms))
            if len(ids) == _BATCH:
                write()
        write()
        self._terms = list(numbers)

    def _from_ciff(self, quantise: Quantise, budget: int) -> None:
        """Lists to rows: as many documents at a time as the budget holds, with a pass over the file each."""
        reader = CiffReader(self.path)
        ids = [""] * sum(1 for _ in reader.documents())  # counted before anything is made of that length
        for record in reader.documents():
            ids[record.number] = record.doc_id
        for start in range(0, len(ids), _BATCH):
            self._ids.add(ids[start : start + _BATCH])
        counts = np.zeros(len(ids), np.int64)
        del ids
        known: set[str] = set()
        for each in reader.lists():
            counts[each.docs] += 1
            known.add(each.term)
            self._terms.append(each.term)
            if len(known) < len(self._terms):
                raise UserError(f"{self.path}: there are two postings lists of {each.term!r}; write it again")
        del known
        ends = np.append(0, np.cumsum(counts))
        low = 0
        while low < len(counts):
            room = int(np.searchsorted(ends, ends[low] + max(1, budget // 8), side="right")) - 1
            high = max(low + 1, room)
            base, free = int(ends[low]), ends[low:high].copy()
            terms = np.empty(int(ends[high]) - base, np.int32)
            values = np.empty(len(terms), self._values)
            for number, each in enumerate(reader.lists()):
                a, b = np.searchsorted(each.docs, [low, high])
                at = free[each.docs[a:b] - low] - base
                terms[at] = number
                values[at] = quantise(each.values[a:b].astype(np.float64))
                free[each.docs[a:b] - low] += 1
            self._write(ends[low + 1 : high + 1] - base, terms, values)
            low = high
