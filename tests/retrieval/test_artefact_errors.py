"""The store: the order of a commit, syncs that fail, and how errors of the disk are named."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from retrieval import diskio, publish, transaction
from retrieval import part as part_module
from retrieval.artefact import Part, Store, Transaction
from retrieval.errors import StorageError, UserError


def add(writer: Transaction, docs: int = 1, payload: bytes = b"payload") -> Part:
    """Commit one more segment."""
    part = writer.part()
    part.bytes("data.bin", payload)
    segment = {"name": part.name, "docs": docs, "deleted": 0}
    writer.commit({"segments": [*writer.base["segments"], segment]})
    return part


def make(path: Path, docs: int = 3) -> str:
    """An index of one segment; returns its part's name."""
    with Store.writer(path, create=True) as writer:
        return add(writer, docs).name


def names(path: Path) -> set[str]:
    """What lies in the directory, by kind."""
    return {name if name in ("LOCK", "COMMIT", "old") else name[:4] for name in os.listdir(path)}


def test_order_of_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, their directory, the index, COMMIT's successor, the link, the rename, the index again."""
    make(tmp_path)
    calls: list[str] = []

    def told(path: Any) -> str:
        target = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else str(path)
        kind = "index" if target == str(tmp_path) else os.path.relpath(target, tmp_path)
        return kind.split("/")[0][:4] + ("/" if "/" in kind else "")

    for name in ("fsync", "rename", "link", "unlink"):
        real = getattr(os, name)

        def watch(*args: Any, _real: Any = real, _name: str = name) -> Any:
            calls.append(f"{_name} {told(args[0])}")
            return _real(*args)

        monkeypatch.setattr(os, name, watch)
    writer = Store.writer(tmp_path)
    assert calls == ["fsync inde"]  # a rename that was withdrawn cannot come back
    calls.clear()
    add(writer)
    writer.close()
    expected = ["fsync tmp-/", "fsync tmp-", "rename tmp-", "fsync inde", "fsync tmp-", "link COMM"]
    expected += ["fsync old", "rename tmp-", "fsync inde", "unlink old/"]
    assert calls == expected


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_directory_sync_that_fails_withdraws_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The directories of the part, the index, old/, and the index after the rename."""
    part = make(tmp_path)
    before = (tmp_path / "COMMIT").read_bytes()
    writer = Store.writer(tmp_path)
    count = 0

    def failing(path: Any) -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(errno.EIO, "injected")

    for module in (part_module, publish, transaction):
        monkeypatch.setattr(module, "sync_directory", failing)
    with pytest.raises(StorageError, match="EIO"), writer:
        add(writer, docs=9)
    assert count == nth  # never retried
    monkeypatch.undo()
    assert (tmp_path / "COMMIT").read_bytes() == before
    assert Store.open(tmp_path).files() == [f"{part}/data.bin"]
    with Store.writer(tmp_path) as again:
        add(again)
    assert Store.open(tmp_path).commit["docs"] == 4
    assert names(tmp_path) == {"LOCK", "COMMIT", "old", "seg-"}


def test_the_first_commit_is_withdrawn_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Any) -> None:
        raise OSError(errno.EIO, "injected")

    monkeypatch.setattr(publish, "sync_directory", failing)
    with pytest.raises(StorageError):
        Store.create(tmp_path)
    assert "COMMIT" not in os.listdir(tmp_path)
    monkeypatch.undo()
    make(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        (errno.ENOSPC, StorageError, "no space left"),
        (errno.EDQUOT, StorageError, "quota"),
        (errno.EFBIG, StorageError, "ulimit -f"),
        (errno.EIO, StorageError, "input/output"),
        (errno.EROFS, StorageError, "read-only"),
        (errno.EACCES, UserError, "permission denied"),
    ],
)
def test_errors_of_the_disk_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], word: str
) -> None:
    make(tmp_path)

    def failing(*_: Any) -> int:
        raise OSError(code, "injected")

    with Store.writer(tmp_path) as writer:
        part = writer.part()
        monkeypatch.setattr(os, "write", failing)
        with pytest.raises(kind, match=word):
            part.bytes("x.bin", b"x")
        monkeypatch.undo()
    assert names(tmp_path) == {"LOCK", "COMMIT", "old", "seg-"}
    assert Store.open(tmp_path).generation == 1


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: max(1, len(data) // 2)]))
    part = make(tmp_path)
    assert bytes(Store.open(tmp_path).bytes(f"{part}/data.bin")) == b"payload"


def test_memory_and_unwritable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="out of memory"), diskio.disk_errors("read", "x"):
        raise MemoryError
    real = os.open

    def refusing(path: Any, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("LOCK"):
            raise OSError(errno.EROFS, "injected")
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(UserError, match="read-only"):
        Store.create(tmp_path)


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any) -> None:
        raise OSError(errno.EPERM, "injected")

    monkeypatch.setattr(os, "link", refusing)
    make(tmp_path)
    with Store.writer(tmp_path) as writer:
        add(writer)
    assert Store.open(tmp_path).generation == 2
    assert os.listdir(tmp_path / "old") == ["commit-1"]
