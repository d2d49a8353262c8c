"""Blocks of lines: numbering, limits, compression, and everything that is not text."""

from __future__ import annotations

import gzip
import io
import os
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data import lines
from retrieval.data.lines import Limits, Source, text_lines
from retrieval.errors import BadLine, StorageError, UserError


def read(
    path: Path | str, limits: Limits | None = None
) -> tuple[list[tuple[int, bytes]], list[tuple[int, str]]]:
    """All (number, line) of a source, and all (number, problem) rejected."""
    bad: list[tuple[int, str]] = []
    with Source(str(path), limits) as source:
        blocks = source.blocks(lambda line, problem: bad.append((line, problem)))
        return [(at, line) for number, found in blocks for at, line in enumerate(found, number)], bad


@settings(deadline=None)
@given(
    content=st.lists(st.binary(max_size=40).filter(lambda line: b"\0" not in line), max_size=30),
    cap=st.integers(4, 64),
    packed=st.booleans(),
)
def test_blocks_are_the_lines(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes], cap: int, packed: bool
) -> None:
    data = b"\n".join(content)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b") or data.startswith(b"\xef\xbb\xbf"):
        return
    path = tmp_path_factory.mktemp("lines") / "x"
    path.write_bytes(gzip.compress(data) if packed else data)
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()  # the end of the last line begins no other
    good, bad = read(path, Limits(line_bytes=cap))
    assert good == [(at, line) for at, line in enumerate(expected, 1) if len(line) <= cap]
    assert [at for at, _ in bad] == [at for at, line in enumerate(expected, 1) if len(line) > cap]


def test_lines_across_blocks_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK", 7)
    path = tmp_path / "x"
    path.write_bytes(b"a\n" + b"b" * 20 + b"\n\nccc\nlast")
    assert read(path) == ([(1, b"a"), (2, b"b" * 20), (3, b""), (4, b"ccc"), (5, b"last")], [])


@pytest.mark.parametrize("packed", [False, True])
def test_an_endless_line_takes_no_memory(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "x"
    data = b"first\n" + b"x" * (48 << 20) + b"\nlast"
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    del data
    tracemalloc.start()
    good, bad = read(path, Limits(line_bytes=2 << 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert good == [(1, b"first"), (3, b"last")]
    assert bad == [(2, "the line is longer than 2,097,152 bytes")]
    assert peak < 10 << 20


def test_default_line_limit_is_16_mib(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * (16 << 20) + b"\n" + b"y" * ((16 << 20) + 1))
    good, bad = read(path)
    assert [len(line) for _, line in good] == [16 << 20]
    assert bad == [(2, "the line is longer than 16,777,216 bytes")]


def test_decompressed_bytes_can_be_limited(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"0123456789\n" * 1000))
    assert len(read(path, Limits(total_bytes=11_000))[0]) == 1000
    with pytest.raises(UserError, match="more than 10,999 bytes once decompressed"):
        read(path, Limits(total_bytes=10_999))


def test_truncated_gzip_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    rng = os.urandom(60_000).hex().encode()
    whole = gzip.compress(b"\n".join(rng[i : i + 60] for i in range(0, len(rng), 60)))
    for size in (len(whole) // 2, len(whole) - 1, 12):
        path.write_bytes(whole[:size])
        with pytest.raises(BadLine, match=r"x\.gz:\d+: the compressed data end early"):
            read(path)


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    whole = bytearray(gzip.compress(os.urandom(20_000).hex().encode()))
    whole[len(whole) // 2] ^= 0x40
    path.write_bytes(whole)
    with pytest.raises(BadLine, match="the compressed data are damaged"):
        read(path)
    path.write_bytes(gzip.compress(b"a\n") + b"garbage")
    with pytest.raises(BadLine, match="the compressed data are damaged"):
        read(path)


def test_gzip_members_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "named-plainly"
    path.write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\n"))
    assert read(path)[0] == [(1, b"a"), (2, b"bc")]


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert read(path)[0] == [(1, b"a\r"), (2, b"b")]
    with Source(str(path)) as source:
        assert list(text_lines(source)) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0", "looks like a binary file"),
        (b"PK\x03\x04\x14\0\0\0\x08\0\x80\x81", "looks like a binary file"),
        ("text".encode("utf-16"), "is UTF-16 text; convert it first"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Source(str(path))


def test_one_nul_makes_no_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a line of text with a \0 in it, and more of it\n" * 3)
    assert len(read(path)[0]) == 3


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it is a directory"):
        Source(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        Source(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no file can have that name"):
        Source("a\0b")
    with pytest.raises(UserError, match="too long"):
        Source("a" * 5000)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs /proc")
def test_a_failing_device_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match="EIO"):
        Source("/proc/self/mem")  # its first page cannot be read: a real EIO


def test_stdin_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(b"a\nb\n"))))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read("-")[0] == [(1, b"a"), (2, b"b")]
    assert not stdin.buffer.closed
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        Source("-")


def test_bytes_read_count_what_lies_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"abc\n" * 5000))
    with Source(str(path)) as source:
        assert source.bytes_total == path.stat().st_size
        assert sum(len(found) for _, found in source.blocks(lambda line, problem: None)) == 5000
        assert source.bytes_read == source.bytes_total
