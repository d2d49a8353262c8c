"""Lines of a file, a .gz file or standard input, as blocks of bytes: constant memory, every damage named."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from retrieval.diskio import disk_errors
from retrieval.errors import BadLine, UserError
from retrieval.types import Document

Blocks: TypeAlias = Iterator[tuple[int, list[bytes]]]
"""(number of the first line, counted from 1; the lines that follow one another, without their newlines)."""

Reject: TypeAlias = Callable[[int, str], None]
"""Says that a line is bad and why: raises BadLine, or counts it and returns."""

Parser: TypeAlias = Callable[[Blocks, Reject], Iterator[list[tuple[int, Document]]]]
"""One form of corpus: lines to numbered documents, some for each block."""

STDIN = "-"
_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_ODD = {"\ufffd", *map(chr, range(32)), "\x7f"} - {*"\t\n\r\f\x1b"}  # what no text holds in number
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


class Limits(NamedTuple):
    """What one source may hold: bytes of a line, and bytes in all once decompressed (None: no limit)."""

    line_bytes: int = 16 << 20
    total_bytes: int | None = None


class Source:
    """One text source, open for reading: what its first bytes look like, then its blocks of lines, once.

    name         as the user gave it, for messages
    bytes_read   bytes taken from the file so far (compressed ones, if it is compressed)
    bytes_decompressed  bytes of lines that blocks() has gone through
    head         its first bytes, up to 1 MiB
    bytes_total  its size in bytes, or None for what is not a regular file
    Gzip is told by content, not by name; a byte-order mark is dropped. Raises UserError for what cannot be
    read, is empty or is no text; StorageError where the device fails.
    """

    def __init__(self, name: str, limits: Limits | None = None) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.bytes_read = self.bytes_decompressed = 0
        self.bytes_total: int | None = None
        self._number = 1
        self._stack = contextlib.ExitStack()
        try:
            self._file = self._open()
            self.head = self._read()
            _refuse_binary(self.head, name)
            self.head = self.head.removeprefix(_BOM)
        except BaseException:
            self.close()
            raise

    @property
    def is_json(self) -> bool:
        """Whether the content begins like a JSON object."""
        head = self.head[:4096].lstrip()
        return head[:1] == b"{" and head[1:].lstrip()[:1] in (b'"', b"}", b"")

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._stack.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> io.BufferedIOBase:
        raw: Any
        if self.name == STDIN:
            if sys.stdin is None:
                raise UserError("standard input is closed; pipe the lines in, or name a file")
            raw = sys.stdin.buffer
        else:
            with disk_errors("read", self.name):
                try:
                    raw = self._stack.enter_context(open(self.name, "rb"))  # noqa: SIM115
                except FileNotFoundError:
                    raise UserError(f"no such file: {self.name!r}; check the path") from None
                except ValueError:  # a NUL in the path
                    raise UserError(f"cannot read {self.name!r}: no file can have that name") from None
                status = os.fstat(raw.fileno())
            if stat.S_ISREG(status.st_mode):
                self.bytes_total = status.st_size
        with disk_errors("read", self.name):
            file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
            zipped = file.peek(2)[:2] == _GZIP
        self._raw = file
        return self._stack.enter_context(gzip.GzipFile(fileobj=file)) if zipped else file

    def _read(self) -> bytes:
        """The next bytes, empty at the end: never more than a block, nor more than a line may be long."""
        with disk_errors("read", self.name):
            try:
                block = self._file.read(max(len(_BOM), min(_BLOCK, self.limits.line_bytes)))
            except EOFError:
                raise BadLine(
                    self.name, self._number, "the compressed data end early; copy the file again"
                ) from None
            except (gzip.BadGzipFile, zlib.error) as error:
                problem = f"the compressed data are damaged ({error}); copy the file again"
                raise BadLine(self.name, self._number, problem) from None
            self.bytes_read = self.bytes_read + len(block) if self.bytes_total is None else self._raw.tell()
        return block

    def blocks(self, reject: Reject) -> Blocks:
        """The lines in blocks, up to a limit length; a longer one is rejected without being held in memory.

        Raises BadLine where compressed data are damaged or end early, whatever `reject` tolerates: what
        follows is lost. Raises UserError past the limit of bytes in all.
        """
        carry, size, cap = [b""], 0, self.limits.line_bytes
        too_long = f"the line is longer than {cap:,} bytes"
        block = self.head or self._read()
        while block:
            self.bytes_decompressed += len(block)
            if self.limits.total_bytes is not None and self.bytes_decompressed > self.limits.total_bytes:
                raise UserError(
                    f"{self.name} holds more than {self.limits.total_bytes:,} bytes once decompressed; "
                    "raise the limit if that is expected"
                )
            lines = block.split(b"\n")
            size += len(lines[0])
            if size <= cap:
                carry.append(lines[0])
            else:
                carry.clear()
            if len(lines) > 1:
                tail = lines.pop()
                if carry:
                    lines[0] = b"".join(carry)
                else:
                    reject(self._number, too_long)
                    self._number += 1
                    del lines[0]
                yield self._number, lines
                self._number += len(lines)
                carry, size = [tail], len(tail)
            block = self._read()
        if size > cap:
            reject(self._number, too_long)
        elif size:
            yield self._number, [b"".join(carry)]


def _refuse_binary(head: bytes, name: str) -> None:
    """Raises UserError where the first bytes of a source are no UTF-8 text at all."""
    if head[:2] in _UTF16:
        raise UserError(f"{name} is UTF-16 text; convert it first: iconv -f UTF-16 -t UTF-8")
    sample = head[:4096]
    if b"\0" not in sample:
        return
    text = sample.decode(errors="replace")
    # A few bad bytes are bad lines, to be named by line; a fifth of the file is another thing.
    if 5 * sum(char in _ODD for char in text) > len(text):
        raise UserError(f"{name} looks like a binary file; give UTF-8 text, plain or gzip-compressed")


def text_lines(source: Source) -> Iterator[tuple[int, str]]:
    """(line number, line) of every line that is not blank, decoded, for files that must be right throughout.

    Raises BadLine for a line that is not UTF-8 or too long.
    """

    def reject(line: int, problem: str) -> None:
        raise BadLine(source.name, line, problem)

    for number, lines in source.blocks(reject):
        for at, line in enumerate(lines, number):
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise BadLine(source.name, at, "invalid UTF-8") from None
            if text and not text.isspace():
                yield at, text.removesuffix("\r")
