"""Written files: whole or not at all, the same bytes every time."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.data.output import atomic, json_line
from retrieval.errors import StorageError, UserError


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as write:
            write(b"half")
            assert path.read_text() == "old"
            raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        fail()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("x", "old")]


@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_success_replaces(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b"one", b"two"):
        with atomic(path) as write:
            write(content)
    raw = path.read_bytes()
    assert (gzip.decompress(raw) if name.endswith("gz") else raw) == b"two"
    assert [each.name for each in tmp_path.iterdir()] == [name]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_gzip_bytes_do_not_depend_on_time_or_name(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with atomic(tmp_path / name) as write:
            write(b"content")
    raw = (tmp_path / "a.gz").read_bytes()
    assert raw == (tmp_path / "b.gz").read_bytes()
    assert raw[3:8] == bytes(5)  # no flags (no name), no time


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with atomic(tmp_path / "link") as write:
        write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"x"


def test_a_device_is_written_to_and_stays() -> None:
    with atomic("/dev/null") as write:
        write(b"x")
    assert Path("/dev/null").is_char_device()


def test_standard_output_may_be_a_pipe(root: Path) -> None:
    code = "from retrieval.data.output import atomic\nwith atomic('/dev/stdout') as write: write(b'x' * 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert done.stdout == b"x" * 9


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    def put(path: Path | str) -> None:
        with atomic(path) as write:
            write(b"x" * 100_000)

    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="it is a directory"):
        put(tmp_path / "folder")
    with pytest.raises(UserError, match="does not exist"):
        put(tmp_path / "absent" / "x")
    with pytest.raises(UserError, match="no file can have that name"):
        put("a\0b")
    if Path("/dev/full").exists():
        with pytest.raises(StorageError, match="ENOSPC"):
            put("/dev/full")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


def test_json_lines() -> None:
    assert json_line({"a": [1, "é"]}) == '{"a":[1,"é"]}\n'.encode()
    with pytest.raises(UserError, match="cannot be written as JSON"):
        json_line({"a": "\ud800"})
