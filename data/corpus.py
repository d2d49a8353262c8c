"""Corpora of every form behind one iterator of Documents: streaming, with the place of each bad line."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import PurePath

from retrieval.data import beir, irds, jsonl, trec, tsv
from retrieval.data.ciff import CiffReader
from retrieval.data.lines import STDIN, Limits, Parser, Source
from retrieval.diskio import disk_errors, storage_error
from retrieval.errors import BadLine, UserError
from retrieval.types import Document

Numbered = tuple[int, Document]

_KEPT = 20  # bad lines that are remembered; all are counted
_CIFF_BATCH = 1000
_BATCH_BYTES = 8 << 20  # of lines, after which a batch is complete whatever its length
_PARSERS = {"jsonl": jsonl.parse, "tsv": tsv.parse, "trec": trec.parse}
_END: list[Numbered] = []  # after the last documents of a source
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tsv": "tsv",
    ".trec": "trec",
    ".trectext": "trec",
    ".sgml": "trec",
}


def open_corpus(
    source: str | os.PathLike[str],
    *,
    skip_bad: bool = False,
    repair_encoding: bool = False,
    limits: Limits | None = None,
) -> Corpus:
    """A corpus: JSON lines, TSV or TREC text (each plain or gzip), a BEIR folder, an ir_datasets id, or "-".

    A folder of JSON lines files is one too, as Anserini's collections are published; and a CIFF file: of ids,
    without text, for representations that it holds itself (impacts:FILE).

    skip_bad         count bad lines and go on, instead of raising the first
    repair_encoding  undo the double encoding of MS MARCO's collection.tsv (see tsv.repair)
    limits           bytes a line, and in all once decompressed

    The form is told by the suffix, else by the first character; standard input is JSON lines. Raises
    UserError for what does not exist, cannot be read, is binary or has no known form; UnknownName and
    MissingExtra for ir_datasets ids. Iterating raises BadLine, and UserError where no document is found at
    all.
    """
    name = os.fspath(source)
    form = "" if name == STDIN else _form(name, named=isinstance(source, PurePath))
    files: list[str] = []
    if form == "folder":
        files = [] if beir.has_corpus(name) else jsonl.json_files(name)
        name = files[0] if files else str(beir.corpus_file(name))
    elif form == "id":
        irds.load(name, "docs")
    elif form == "file" and is_ciff(name):
        form = "ciff"
    corpus = Corpus(files or [name], form, skip_bad=skip_bad, repair_encoding=repair_encoding, limits=limits)
    if form in ("file", "folder"):
        with Source(
            name, limits
        ) as first:  # what cannot be read is said now, not after an hour of other work
            corpus.bytes_total = first.bytes_total
            _parser(first)
    return corpus


def _form(name: str, named: bool) -> str:
    """file, folder, pipe or id."""
    try:
        mode = os.stat(name).st_mode
    except ValueError:  # a NUL in the path
        raise UserError(f"cannot read {name!r}: no file can have that name") from None
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise storage_error(error, "read", name) from error
        if not named and irds.looks_like_id(name):
            return "id"
        raise UserError(f"no such file or folder: {name!r}; check the path") from None
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "pipe"


class Corpus:
    """Documents of one source, one at a time or in batches; each iteration begins at the start.

    source         the file (or id) that line numbers refer to; of several, the one being read
    line           line of the document that was yielded last (iteration only; batches carry theirs)
    skipped        the first 20 bad lines, with skip_bad; skipped_count counts all of them
    bytes_read     bytes of the file read so far; bytes_total its size, None where unknown
    """

    def __init__(
        self, sources: list[str], form: str, *, skip_bad: bool, repair_encoding: bool, limits: Limits | None
    ) -> None:
        self.source = sources[0]
        self.skip_bad = skip_bad
        self.repair_encoding = repair_encoding
        self.limits = limits
        self.bytes_total: int | None = None
        self._sources = sources
        self._form = form
        self._before = self._taken_before = 0  # bytes of the sources that have been gone through
        self._text: Source | CiffReader | None = None
        self._begun = False
        self._reset()

    def _reset(self) -> None:
        self.line = 0
        self.skipped: list[BadLine] = []
        self.skipped_count = 0
        self._before = self._taken_before = 0

    def __repr__(self) -> str:
        return f"<Corpus: {self.source}>"

    @property
    def bytes_read(self) -> int:
        """Bytes of the file read so far (compressed ones, if it is compressed)."""
        return self._before + (0 if self._text is None else self._text.bytes_read)

    @property
    def has_text(self) -> bool:
        """Whether documents may have a text: those of a CIFF file have none."""
        return self._form != "ciff"

    def reject(self, line: int, problem: str) -> None:
        """Report a bad line, as readers do and callers may: raises BadLine, or counts it with skip_bad."""
        bad = BadLine(self.source, line, problem)
        if not self.skip_bad:
            raise bad
        self.skipped_count += 1
        if len(self.skipped) < _KEPT:
            self.skipped.append(bad)

    def __iter__(self) -> Iterator[Document]:
        for batch in self.batches():
            for self.line, document in batch:
                yield document

    def batches(self, size: int = 1000) -> Iterator[list[Numbered]]:
        """Lists of (line, Document), each of `size` but for the last; fewer where documents are long."""
        held: list[Numbered] = []
        empty, done = True, 0
        for chunk in self._chunks():
            held += chunk
            at = 0
            while len(held) - at >= size:
                yield held[at : at + size]
                at += size
            if chunk is _END and at < len(held):  # lines are told by source and number, so a batch has one
                yield held[at:]
                held, empty, done = [], False, self._taken()
            elif at:
                held, empty, done = held[at:], False, self._taken()
            elif held and self._taken() - done > _BATCH_BYTES:
                yield held
                held, empty, done = [], False, self._taken()
        if held:
            yield held
        elif empty:
            raise UserError(self._no_documents())

    def _ciff_records(self) -> Iterator[list[Numbered]]:
        """The documents of a CIFF file in the order of their numbers; the line is the number, from 1."""
        reader = CiffReader(self.source)
        self._text = reader
        self.bytes_total = reader.bytes_total
        held: list[Numbered] = []
        for at, record in enumerate(reader.documents()):
            if record.number != at:
                raise UserError(
                    f"{self.source}: document {at:,} has the number {record.number:,}; only files whose "
                    "documents stand in order can be a corpus"
                )
            held.append((at + 1, Document(record.doc_id, "")))
            if len(held) == _CIFF_BATCH:
                yield held
                held = []
        yield held

    def _taken(self) -> int:
        return self._taken_before + (0 if self._text is None else self._text.bytes_decompressed)

    def _no_documents(self) -> str:
        if self.skipped:
            bad = f"{self.skipped_count:,} lines are bad, first {self.skipped[0]}"
            return f"{self.source} holds no document: {bad}"
        return f"{self.source} holds no document; check that it is the file you mean"

    def _chunks(self) -> Iterator[list[Numbered]]:
        self._reset()
        if self._form == "ciff":
            yield from self._ciff_records()
            return
        if self._form == "id":
            chunks = irds.documents(self.source, self.reject)
            yield from map(_repaired, chunks) if self.repair_encoding else chunks
            return
        if self._begun and self.source == STDIN:
            raise UserError("standard input can be read only once; save it in a file")
        self._begun = True
        if len(self._sources) > 1:
            with disk_errors("read", self.source):
                self.bytes_total = sum(os.path.getsize(each) for each in self._sources)
        for source in self._sources:
            self.source = source
            with Source(source, self.limits) as text:
                self._text = text
                if len(self._sources) == 1:
                    self.bytes_total = text.bytes_total
                chunks = _parser(text)(text.blocks(self.reject), self.reject)
                yield from map(_repaired, chunks) if self.repair_encoding else chunks
                yield _END
                self._text = None
                self._before += text.bytes_read
                self._taken_before += text.bytes_decompressed


def is_ciff(name: str) -> bool:
    """Whether a file is named as CIFF, plain or gzip."""
    return name.lower().removesuffix(".gz").endswith(".ciff")


def _parser(text: Source) -> Parser:
    """The parser for a source, by its suffix or its first character."""
    head = text.head.lstrip()[:4096]
    suffix = PurePath(text.name.removesuffix(".gz")).suffix.lower()
    form = "jsonl" if text.name == STDIN else _SUFFIXES.get(suffix)
    if form == "jsonl" and (
        head.split(b"\n", 1)[0].strip() == b"[" or (suffix == ".json" and head[:1] == b"[")
    ):
        raise UserError(
            f"{text.name} is one JSON array; write one object a line: jq -c '.[]' FILE > FILE.jsonl"
        )
    if form is None and head:
        first = head.split(b"\n", 1)[0]
        form = (
            "jsonl" if head[:1] == b"{" else "trec" if head[:1] == b"<" else "tsv" if b"\t" in first else None
        )
        if form is None:
            raise UserError(
                f"cannot tell what form {text.name} has; name it .jsonl, .tsv or .trec (each may end in .gz)"
            )
    return _PARSERS[form or "jsonl"]


def _repaired(batch: list[Numbered]) -> list[Numbered]:
    return [
        (line, document._replace(text=tsv.repair(document.text), title=tsv.repair(document.title)))
        for line, document in batch
    ]
