"""A representation written for other search engines: CIFF, or Anserini's JSON lines with term vectors.

What is written are the stored values: term frequencies of BM25, 8-bit weights of learned methods; deleted
documents are left out, and the others numbered anew in their order. Lists are streamed from the index, a term
at a time; of the forward view that JSON needs, a segment is held in memory (5 bytes a posting).
"""

from __future__ import annotations

import contextlib
import heapq
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.data import ciff
from retrieval.data.output import atomic, json_line
from retrieval.diskio import disk_errors
from retrieval.errors import UnknownName, UserError
from retrieval.index.forward import document_rows

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.index.method import SparseMethod
    from retrieval.index.postings import Postings
    from retrieval.index.view import SegmentView

CIFF = (".ciff", ".ciff.gz")
VECTORS = ".npy"
JSON = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_FILE = 100_000  # documents a file of a folder
_GROUP = 1 << 16  # documents whose values are summed at a time
_STEP = 1000  # documents between two reports

Progress = Callable[[int], None]


class Exported(NamedTuple):
    """What was written: documents that are alive, and postings of theirs (none where it is dense)."""

    documents: int
    postings: int


def export(index: Index, name: str, path: str, progress: Progress | None = None) -> Exported:
    """Writes a representation to FILE.ciff[.gz], FILE.jsonl[.gz] or a folder of these, whole or not at all;
    a dense one to FILE.npy, with the ids in FILE.ids.

    progress: called with the number of lists (CIFF) or documents (JSON) of each step. Raises UnknownName for
    the representation, UserError for a path whose form is not known or that cannot be written, StorageError.
    """
    if name not in index._methods:
        raise UnknownName("representation", name, list(index._methods))
    report = progress or _silent
    method: Any
    method, view = index._seen(name)
    if not method.has_lists:
        if not path.lower().endswith(VECTORS):
            raise UserError(f"{name} is dense, and {path!r} cannot hold vectors; name a file .npy")
        from retrieval.index.export_vectors import export_vectors

        return Exported(export_vectors(view, name, path, report), 0)
    segments = [_Segment(segment, name) for segment in view.segments]
    if path.lower().endswith(CIFF):
        with atomic(path) as write:
            return _write_ciff(segments, _description(name, method), write, report)
    if path.lower().endswith(JSON):
        with atomic(path) as write:
            return _write_json(segments, write, report)
    if os.path.splitext(path)[1] and not os.path.isdir(path):
        raise UserError(
            f"{path!r}: cannot tell what form is wanted; name a file .ciff or .jsonl (either may end in "
            ".gz), or a folder"
        )
    return _write_folder(segments, path, report)


def _silent(count: int) -> None:
    return None


def _description(name: str, method: SparseMethod) -> str:
    from retrieval import __version__

    values = "term frequencies" if method.kind == "bm25" else "weights of 8 bits"
    return f"{method.kind} ({name}): {values}; written by retrieval {__version__}"


class _Segment:
    """One segment and what its live documents are called outside."""

    def __init__(self, segment: SegmentView, name: str) -> None:
        self.view = segment
        self.name = name
        self.postings: Postings = segment.postings(name)
        alive = segment.alive == 1 if segment.deleted else np.ones(segment.documents, bool)
        self.alive: NDArray[np.bool_] = alive
        self.live = int(alive.sum())
        self.target = np.where(alive, np.cumsum(alive) - 1, -1)  # ordinal -> number among the live ones

    def live_df(self) -> NDArray[np.int64]:
        """Live documents of each term, int64[V]."""
        df = self.postings.df.astype(np.int64)
        _, gone = self.view.deleted_terms(self.name)
        for number, count in gone.items():
            df[number] -= count
        return df

    def lengths(self) -> NDArray[np.int64]:
        """Each live document's tokens, or the sum of its weights, int64[live]."""
        postings = self.postings
        if postings.weighted:
            ends, _, values = self.rows()
            sums = np.zeros(self.view.documents, np.int64)
            for start in range(0, len(sums), _GROUP):
                part = ends[start : start + _GROUP + 1]
                running = np.append(0, np.cumsum(values[part[0] : part[-1]], dtype=np.int64))
                sums[start : start + _GROUP] = np.diff(running[part - part[0]])
        else:
            sums = postings.lengths[postings.codes].astype(np.int64)
        if len(postings.order):
            sums = sums[postings.places]
        return sums[self.alive]

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
        """The forward view by document number in the lists."""
        return self.postings.rows if self.postings.has("row_ends") else document_rows(self.postings)

    def terms(self) -> Iterator[tuple[bytes, int]]:
        """(term, number) of the terms that a live document holds, in byte order."""
        df = self.live_df()
        lexicon = self.postings.lexicon
        for number in self.postings.array("terms_sorted").tolist():
            if df[number]:
                yield _utf8(lexicon[number]), number

    def list_of(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A term's live documents, numbered among them, ascending, and their values."""
        docs, values = self.postings.posting(number)
        if len(self.postings.order):
            order = np.argsort(docs, kind="stable")
            docs, values = docs[order], values[order]
        docs = self.target[docs]
        kept = docs >= 0
        return docs[kept], values[kept]


def _utf8(term: str) -> bytes:
    try:
        return term.encode()
    except UnicodeEncodeError:
        raise UserError(f"the term {term!r} holds a lone surrogate, which no other format can hold") from None


def _merged(segments: list[_Segment]) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """(term, [(segment, number in it)]) of all live terms, in byte order."""

    def named(place: int) -> Iterator[tuple[bytes, int, int]]:
        return ((term, place, number) for term, number in segments[place].terms())

    merged = heapq.merge(*(named(place) for place in range(len(segments))))
    for term, group in groupby(merged, key=lambda each: each[0]):
        yield term, [(place, number) for _, place, number in group]


def _write_ciff(
    segments: list[_Segment], description: str, write: Callable[[bytes], object], report: Progress
) -> Exported:
    lengths = [segment.lengths() for segment in segments]
    documents = sum(segment.live for segment in segments)
    tokens = sum(int(each.sum()) for each in lengths)
    lists = sum(1 for _ in _merged(segments))
    mean = tokens / documents if documents else 0.0
    ciff.write_header(write, ciff.Header(lists, documents, lists, documents, tokens, mean, description))
    bases = np.append(0, np.cumsum([segment.live for segment in segments])).tolist()
    postings = done = 0
    for done, (term, places) in enumerate(_merged(segments), 1):
        found = [segments[place].list_of(number) for place, number in places]
        docs = np.concatenate(
            [part + bases[place] for (part, _), (place, _) in zip(found, places, strict=True)]
        )
        ciff.write_list(write, term, docs, np.concatenate([values for _, values in found]))
        postings += len(docs)
        if done % _STEP == 0:
            report(_STEP)
    report(done % _STEP)
    for segment, base, sums in zip(segments, bases, lengths, strict=False):
        ordinals = np.flatnonzero(segment.alive)
        for start in range(0, len(ordinals), _STEP):
            ids = segment.view.store.ids.take(ordinals[start : start + _STEP])
            for number, doc_id in enumerate(ids, start):
                ciff.write_document(write, ciff.DocRecord(base + number, doc_id, int(sums[number])))
            report(0)
    return Exported(documents, postings)


def _vectors(segment: _Segment) -> Iterator[dict[str, Any]]:
    """Anserini's record of each live document: id, contents, vector."""
    postings = segment.postings
    ends, numbers, values = segment.rows()
    names = list(postings.lexicon)
    exact = {} if postings.weighted else _large(postings, numbers, values)
    ordinal = 0
    for batch in segment.view.store.batches():
        for document in batch:
            row = int(postings.places[ordinal]) if len(postings.order) else ordinal
            if segment.alive[ordinal]:
                own = slice(int(ends[row]), int(ends[row + 1]))
                pairs = zip(numbers[own].tolist(), values[own].tolist(), strict=True)
                if exact:
                    vector = {names[term]: exact.get((term, row), value) for term, value in pairs}
                else:
                    vector = {names[term]: value for term, value in pairs}
                yield {"id": document.doc_id, "contents": document.full_text(), "vector": vector}
            ordinal += 1


def _large(postings: Postings, numbers: NDArray[Any], values: NDArray[Any]) -> dict[tuple[int, int], int]:
    """(term number, document number in the lists) -> frequency, where a byte does not hold it."""
    found: dict[tuple[int, int], int] = {}
    for term in np.unique(numbers[values == 255]).tolist():
        docs, exact = postings.listed(term)
        large = exact > 254
        found.update(zip(((term, doc) for doc in docs[large].tolist()), exact[large].tolist(), strict=True))
    return found


def _write_json(segments: list[_Segment], write: Callable[[bytes], object], report: Progress) -> Exported:
    return _write_lines((record for segment in segments for record in _vectors(segment)), write, report)


def _write_lines(
    records: Iterator[dict[str, Any]],
    write: Callable[[bytes], object],
    report: Progress,
    most: int | None = None,
) -> Exported:
    documents = postings = 0
    for record in records:
        write(json_line(record))
        documents += 1
        postings += len(record["vector"])
        if documents % _STEP == 0:
            report(_STEP)
        if documents == most:
            break
    report(documents % _STEP)
    return Exported(documents, postings)


def _write_folder(segments: list[_Segment], path: str, report: Progress) -> Exported:
    """Files docs-000.jsonl.gz ... in a folder that appears when all of them are there."""
    place = os.path.realpath(path)
    parent, name = os.path.split(place)
    made = os.path.join(parent, f".{name[:50]}.{secrets.token_hex(6)}.tmp")
    with disk_errors("write", path, placing=True):
        if os.path.lexists(place) and (not os.path.isdir(place) or os.listdir(place)):
            raise UserError(f"{path!r} is there already and not empty; choose a new folder")
        os.mkdir(made)
        try:
            records = (record for segment in segments for record in _vectors(segment))
            documents = postings = number = 0
            while True:
                with atomic(os.path.join(made, f"docs-{number:03}.jsonl.gz")) as write:
                    done = _write_lines(records, write, report, _FILE)
                documents, postings, number = documents + done.documents, postings + done.postings, number + 1
                if done.documents < _FILE:
                    break
            if os.path.isdir(place):
                os.rmdir(place)
            os.rename(made, place)
        except BaseException:
            with contextlib.suppress(OSError):
                shutil.rmtree(made)
            raise
    return Exported(documents, postings)
