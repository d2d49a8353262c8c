"""CIFF files (Common Index File Format): inverted lists that search engines exchange, read and written here.

A file is a Header, then as many PostingsList and then as many DocRecord messages as the Header says, each a
protocol buffer (proto3) with its length before it as a varint. Within a list document numbers are gaps: the
first is the number itself, each later one the distance from the one before. Plain, or compressed with gzip.

Lin, Mackenzie, Kamphuis, Macdonald, Mallia, Siedlaczek, Trotman, de Vries: Supporting Interoperability
Between Open-Source Search Engines with the Common Index File Format. arXiv 2003.08276, 2020. Schema:
github.com/osirrc/ciff, src/main/protobuf/CommonIndexFileFormat.proto; its wire form is in protobuf.py.

    Header        version 1, num_postings_lists 2, num_doc_records 3, total_postings_lists 4, total_docs 5,
                  total_terms_in_collection 6, average_doclength 7 (double), description 8
    PostingsList  term 1, df 2, cf 3, repeated Posting 4 {docid 1, tf 2}
    DocRecord     docid 1, collection_docid 2, doclength 3
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, NoReturn

import numpy as np

from retrieval.data.fields import id_problem, shown
from retrieval.data.protobuf import (
    Numbers,
    any_postings,
    encode_postings,
    fields,
    number_field,
    plain_postings,
    sized,
    varint_bytes,
)
from retrieval.diskio import disk_errors
from retrieval.errors import UserError

VERSION = 1
_MOST = 2**31 - 1  # of an int32, and of a message's bytes
_PIECE = 1 << 24  # bytes read at a time: a length that a damaged file claims allocates nothing
_FEW = 256  # bytes of postings below which numpy costs more than it saves


class Header(NamedTuple):
    """What a CIFF file says of itself."""

    lists: int
    documents: int
    total_lists: int
    total_documents: int
    total_terms: int
    average_length: float
    description: str
    version: int = VERSION


class PostingsList(NamedTuple):
    """A term, and int64 arrays of equal length: its documents, ascending, and how often it stands in each."""

    term: str
    docs: Numbers
    values: Numbers


class DocRecord(NamedTuple):
    """A document's number in the lists, its id in the collection, its length."""

    number: int
    doc_id: str
    length: int


class CiffReader:
    """One CIFF file, to be gone through as often as wanted: `header`, then lists() and documents().

    bytes_read   of the file, in the pass that is under way; bytes_total its size
    Raises UserError, one sentence that names the file and the place, for a file that is cut short, damaged or
    no CIFF; StorageError where the device fails.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.bytes_read = self.bytes_decompressed = 0
        with self._opened() as stream:
            self.header = _header(stream)
            self.bytes_total = stream.size

    def lists(self) -> Iterator[PostingsList]:
        """The postings lists in the order of the file; documents ascend, values are 1 and more."""
        with self._opened() as stream:
            _header(stream)
            for number in range(1, self.header.lists + 1):
                stream.what = f"postings list {number:,} of {self.header.lists:,}"
                yield _postings_list(stream, self.header.documents)
                self.bytes_read = stream.bytes_read

    def documents(self) -> Iterator[DocRecord]:
        """The documents in the order of the file: each number once, ids without white space."""
        with self._opened() as stream:
            _header(stream)
            for number in range(1, self.header.lists + 1):
                stream.what = f"postings list {number:,} of {self.header.lists:,}"
                stream.skip(stream.length())
            seen = np.zeros(self.header.documents, np.bool_)
            for number in range(1, self.header.documents + 1):
                stream.what = f"document {number:,} of {self.header.documents:,}"
                record = _doc_record(stream)
                if not 0 <= record.number < len(seen):
                    stream.bad(f"it has the number {record.number}, not one of 0 to {len(seen) - 1}")
                if seen[record.number]:
                    stream.bad(f"the number {record.number} comes twice")
                seen[record.number] = True
                yield record
                self.bytes_read = stream.bytes_read
            stream.what = "what follows the last document"
            stream.end()

    def _opened(self) -> _Stream:
        return _Stream(self.path)


class _Stream:
    """Bytes of a file with messages for what is wrong with them; `what` is the message being read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.what = "the header"
        self._stack = ExitStack()
        with disk_errors("read", path):
            try:
                raw = self._stack.enter_context(open(path, "rb"))  # noqa: SIM115  (it is one)
            except FileNotFoundError:
                raise UserError(f"no such file: {path!r}; check the path") from None
            except IsADirectoryError:
                raise UserError(f"{path!r} is a folder, not a CIFF file") from None
            self._raw = raw
            self.size = os.fstat(raw.fileno()).st_size
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        self._file: Any = self._stack.enter_context(gzip.GzipFile(fileobj=raw)) if zipped else raw

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def bytes_read(self) -> int:
        return self._raw.tell()

    def bad(self, problem: str) -> NoReturn:
        raise UserError(f"{self.path}: {self.what}: {problem}; is it a CIFF file, and whole?")

    def take(self, count: int) -> bytes:
        """So many bytes."""
        pieces, missing = [], count
        with disk_errors("read", self.path):
            while missing:
                try:
                    piece = self._file.read(min(missing, _PIECE))
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    self.bad(f"the compressed data end early or are damaged ({error})")
                if not piece:
                    self.bad(f"the file ends {missing:,} bytes too early")
                pieces.append(piece)
                missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def skip(self, count: int) -> None:
        """Passes over bytes."""
        while count:
            count -= len(self.take(min(count, _PIECE)))

    def length(self) -> int:
        """The varint before a message."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if value > _MOST:
                    break
                return value
        self.bad("its length makes no sense")

    def message(self) -> bytes:
        """The next message."""
        return self.take(self.length())

    def end(self) -> None:
        """Nothing may follow."""
        with disk_errors("read", self.path):
            if self._file.read(1):
                self.bad("there should be nothing")


def _read(stream: _Stream, data: bytes, kinds: dict[int, type]) -> dict[int, Any]:
    """The fields whose numbers are in `kinds`, the last of each; what the schema knows not is passed over."""
    found: dict[int, Any] = {}
    try:
        for number, value, _ in fields(data):
            if number in kinds:
                if not isinstance(value, kinds[number]):
                    raise ValueError(f"field {number} is of another kind")
                found[number] = value
    except IndexError:
        stream.bad("it ends within a field")
    except ValueError as error:
        stream.bad(f"it holds {error}")
    return found


def _text(stream: _Stream, data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        stream.bad(f"the {what} is not UTF-8")


def _header(stream: _Stream) -> Header:
    found = _read(stream, stream.message(), {**dict.fromkeys(range(1, 7), int), 7: bytes, 8: bytes})
    version = found.get(1, 0)
    if version != VERSION:
        stream.bad(f"it is of version {version}, and only {VERSION} is known")
    lists, documents = found.get(2, 0), found.get(3, 0)
    if not (0 <= lists <= _MOST and 0 <= documents <= _MOST):
        stream.bad(f"it counts {lists} lists and {documents} documents")
    mean = found.get(7, bytes(8))
    return Header(
        lists, documents, found.get(4, 0), found.get(5, 0), found.get(6, 0),
        struct.unpack("<d", mean)[0] if len(mean) == 8 else 0.0, found.get(8, b"").decode(errors="replace"),
        version,
    )  # fmt: skip


def _doc_record(stream: _Stream) -> DocRecord:
    found = _read(stream, stream.message(), {1: int, 2: bytes, 3: int})
    doc_id = _text(stream, found.get(2, b""), "id")
    if problem := id_problem(doc_id):
        stream.bad(problem)
    return DocRecord(found.get(1, 0), doc_id, found.get(3, 0))


def _postings_list(stream: _Stream, documents: int) -> PostingsList:
    data = stream.message()
    term, df, gaps, values = b"", 0, np.empty(0, np.int64), np.empty(0, np.int64)
    try:
        for number, value, begin in fields(data):
            if number == 1 and isinstance(value, bytes):
                term = value
            elif number == 2 and isinstance(value, int):
                df = value
            elif number == 4:
                found = plain_postings(data[begin:]) if len(data) - begin >= _FEW and not len(gaps) else None
                if found is not None:  # what follows are postings and nothing else
                    gaps, values = found
                    break
                if not len(gaps):
                    gaps, values = any_postings(data)
    except IndexError:
        stream.bad("it ends within a field")
    except ValueError as error:
        stream.bad(f"it holds {error}")
    if not term:
        stream.bad("it has no term")
    shown_term = shown(_text(stream, term, "term"))
    if len(gaps) != df:
        stream.bad(f"{shown_term} has {len(gaps):,} postings and says that it has {df:,}")
    if len(gaps):
        if (gaps[1:] <= 0).any() or gaps[0] < 0 or int(gaps.max()) > _MOST:
            stream.bad(f"the document numbers of {shown_term} do not ascend from 0 on")
        if (last := int(gaps.sum())) >= documents:
            stream.bad(f"{shown_term} stands in document {last}, and there are {documents:,}")
        if int(values.min()) < 1 or int(values.max()) > _MOST:
            wrong = int(values[(values < 1) | (values > _MOST)][0])
            stream.bad(f"{shown_term} stands {wrong} times in a document; 1 and more are possible")
    return PostingsList(term.decode(), np.cumsum(gaps), values)


# --- writing ------------------------------------------------------------------------------------------------

Write = Callable[[bytes], object]


def write_header(write: Write, header: Header) -> None:
    """The first message of a file."""
    numbers = enumerate((header.version, *header[:5]), 1)
    body = b"".join(number_field(field, value) for field, value in numbers)
    body += b"\x39" + struct.pack("<d", header.average_length)
    write(sized(body + b"\x42" + sized(header.description.encode())))


def write_list(write: Write, term: bytes, docs: Numbers, values: Numbers) -> None:
    """One postings list. docs: ascending; values: 1 and more, below 2**31; term: UTF-8."""
    head = b"\x0a" + sized(term) + number_field(2, len(docs)) + number_field(3, int(values.sum()))
    postings = encode_postings(np.diff(docs, prepend=0), values)
    write(varint_bytes(len(head) + len(postings)))
    write(head)
    write(postings)


def write_document(write: Write, record: DocRecord) -> None:
    """One of the messages that follow the lists."""
    number, length = number_field(1, record.number), number_field(3, record.length)
    write(sized(number + b"\x12" + sized(record.doc_id.encode()) + length))
