"""The store: damage of any kind is found when an index is opened, and named; what is remembered of files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import diskio, manifest, snapshot, verified
from retrieval.artefact import Store
from retrieval.errors import CorruptIndex, StorageError, UnsupportedFormat
from retrieval.part import npy_header


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of two segments with arrays and raw files, at its second generation."""
    path = tmp_path / "index"
    rng = np.random.default_rng(1)
    for _ in range(2):
        with Store.writer(path, create=not path.exists()) as writer:
            part = writer.part()
            part.array("a.npy", rng.integers(0, 99, 500))
            part.array("b.npy", rng.random((20, 5)))
            part.bytes("c.bin", rng.bytes(1000))
            part.bytes("empty.bin", b"")
            part.json("d.json", {"some": ["facts", 1]})
            writer.commit({"segments": [*writer.base["segments"], {"name": part.name, "docs": 1}]})
    return path


def files(index: Path) -> list[Path]:
    """The files that a reader of the newest generation relies on."""
    return [index / "COMMIT", *(index / name for name in Store.open(index).files())]


def refused(index: Path, file: Path) -> None:
    """Opening must fail, naming the file."""
    with pytest.raises(CorruptIndex) as caught:
        Store.open(index)
    assert str(file) in str(caught.value)


@pytest.mark.usefixtures("size_class")
def test_flipped_bits(index: Path) -> None:
    targets = [file for file in files(index) if file.stat().st_size]
    rng = random.Random(7)
    sizes = [file.stat().st_size for file in targets]
    for _ in range(300):
        file = rng.choices(targets, sizes)[0]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        refused(index, file)
        file.write_bytes(whole)
    Store.open(index)


def test_every_byte_of_the_header_is_covered(index: Path) -> None:
    file = index / "COMMIT"
    whole = file.read_bytes()
    for place in range(whole.index(b"\n") + 2):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            refused(index, file)


def test_truncated_extended_missing(index: Path) -> None:
    for file in files(index):
        whole = file.read_bytes()
        for size in {0, 1, len(whole) // 2, len(whole) - 1} & set(range(len(whole))):
            file.write_bytes(whole[:size])
            refused(index, file)
        for tail in (b"\0", b"\n", whole or b"x"):
            file.write_bytes(whole + tail)
            refused(index, file)
        file.unlink()
        refused(index, file)
        file.mkdir()
        refused(index, file)
        file.rmdir()
        file.symlink_to(index / "LOCK")
        refused(index, file)
        file.unlink()
        os.mkfifo(file)  # opening must not wait for a writer
        refused(index, file)
        file.unlink()
        file.write_bytes(whole)
    Store.open(index)


def test_swapped_files(index: Path) -> None:
    targets = files(index)[1:]
    for one, two in zip(targets, targets[5:] + targets[:5], strict=True):
        first, second = one.read_bytes(), two.read_bytes()
        if first == second:
            continue
        one.write_bytes(second)
        refused(index, one)
        one.write_bytes(first)


def test_a_missing_segment_and_a_missing_commit(index: Path) -> None:
    shutil.copytree(index, index.parent / "copy")
    segment = sorted(name for name in os.listdir(index) if name.startswith("seg-"))[0]
    shutil.rmtree(index / segment)
    with pytest.raises(CorruptIndex, match=segment):
        Store.open(index)
    (index / segment).write_text("no folder")
    with pytest.raises(CorruptIndex, match=segment):
        Store.open(index)
    copy = index.parent / "copy"
    (copy / "COMMIT").unlink()
    for _ in range(2):
        for action in (
            Store.open,
            Store.writer,
            lambda path: Store.writer(path, create=True, overwrite=True),
        ):
            with pytest.raises(CorruptIndex, match="COMMIT is missing"):
                action(copy)
        shutil.rmtree(copy / "old", ignore_errors=True)  # the segments alone give it away
    shutil.rmtree(copy)
    shutil.copytree(index / "old", copy / "old")  # and so does old/
    with pytest.raises(CorruptIndex, match="COMMIT is missing"):
        Store.open(copy)


def rewrite(index: Path, change: dict[str, Any], *, version: int | None = None) -> None:
    """A COMMIT whose checksum fits, with other content."""
    _, body = (index / "COMMIT").read_bytes().split(b"\n", 1)
    commit = {**json.loads(body), **change}
    body = json.dumps(commit).encode()
    head = f"retrieve-index {version or commit['format']} {hashlib.sha256(body).hexdigest()}\n"
    (index / "COMMIT").write_bytes(head.encode() + body)


def test_formats_of_other_versions(index: Path) -> None:
    newest = manifest.FORMAT
    rewrite(index, {"format": 7, "min_reader": newest})
    Store.open(index)  # written later, but made to be read by this one
    rewrite(index, {"format": 7, "min_reader": 7})
    for action in (Store.open, Store.writer):
        with pytest.raises(
            UnsupportedFormat, match=f"format 7, this build reads {manifest.OLDEST}..{newest}"
        ):
            action(index)
    (index / "COMMIT").write_bytes(
        f"retrieve-index 9 {hashlib.sha256(b'no json').hexdigest()}\nno json".encode()
    )
    with pytest.raises(UnsupportedFormat, match="format 9"):
        Store.open(index)


def facts(size: Any = 1, sha256: Any = "0" * 64) -> dict[str, Any]:
    """An entry of "files"."""
    return {"size": size, "sha256": sha256}


NAME = "seg-" + "0" * 16


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"min_reader": 0},
        {"min_reader": "1"},
        {"generation": -1},
        {"generation": True},
        {"docs": 1 << 70},
        {"index_uuid": "../x"},
        {"files": []},
        {"segments": [], "files": {"../../etc/passwd": facts()}},
        {"segments": [], "files": {f"{NAME}/../x": facts()}},
        {"segments": [], "files": {f"{NAME}/x\n": facts()}},
        {"segments": [], "files": {f"{NAME}/x": facts(size=-1)}},
        {"segments": [], "files": {f"{NAME}/x": facts(sha256="0" * 63)}},
        {"segments": [3]},
        {"segments": [{"name": "/etc", "docs": 1}]},
        {"segments": [{"name": NAME, "docs": 1}]},
        {"segments": [], "representations": {"x": {"part": NAME}}},
        {"representations": None},
    ],
)
def test_a_commit_that_fits_its_checksum_and_nothing_else(index: Path, change: dict[str, Any]) -> None:
    rewrite(index, change, version=1)
    refused(index, index / "COMMIT")


def test_json_too_deep_or_too_large(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"[" * 100_000 + b"]" * 100_000
    (index / "COMMIT").write_bytes(
        b"retrieve-index 1 %s\n" % hashlib.sha256(body).hexdigest().encode() + body
    )
    refused(index, index / "COMMIT")
    monkeypatch.setattr(manifest, "MAX_COMMIT", 10)
    refused(index, index / "COMMIT")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no npy",
        npy_header(np.dtype("i8"), (3,)) + bytes(16),
        npy_header(np.dtype("i8"), (1 << 62, 1 << 62)),
        npy_header(np.dtype("i8"), (1,)).replace(b"<i8", b"|O8") + bytes(8),
        npy_header(np.dtype("i8"), (1,)).replace(b"\x01\x00", b"\x02\x00", 1) + bytes(8),
        npy_header(np.dtype("i8"), (1,)).replace(b"(1,)", b"(-1,") + bytes(8),
    ],
)
def test_arrays_that_lie(tmp_path: Path, content: bytes) -> None:
    with Store.writer(tmp_path, create=True) as writer:
        part = writer.part()
        part.bytes("a.npy", content)
        part.bytes("a.json", b"[" * 5000)
        writer.commit({"segments": [{"name": part.name, "docs": 1}]})
    opened = Store.open(tmp_path)
    with pytest.raises(CorruptIndex, match=r"a\.npy"):
        opened.array(f"{part.name}/a.npy")
    with pytest.raises(CorruptIndex, match=r"a\.json"):
        opened.json(f"{part.name}/a.json")
    with pytest.raises(CorruptIndex, match=r"b\.npy"):
        opened.array(f"{part.name}/b.npy")


def test_a_large_file_cut_short_after_the_opening(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SMALL", 1)
    opened = Store.open(index)
    name = next(name for name in opened.files() if name.endswith("a.npy"))
    os.truncate(index / name, 100)
    with pytest.raises(CorruptIndex, match="size has changed"):
        opened.array(name)


def test_a_small_file_is_what_was_verified(index: Path) -> None:
    """Whatever happens to the file after the opening, its bytes are those that were hashed."""
    opened = Store.open(index)
    name = next(name for name in opened.files() if name.endswith("c.bin"))
    whole = (index / name).read_bytes()
    (index / name).write_bytes(b"other" * 200)
    assert bytes(opened.bytes(name)) == whole


@pytest.mark.parametrize("cut", [False, True])
def test_a_change_between_stat_and_reading(
    index: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch, cut: bool
) -> None:
    """What is remembered of a file does not vouch for bytes that were read after its stat was taken."""
    Store.open(index)
    file = next(index.glob("seg-*/c.bin"))
    real = diskio.read_descriptor

    def late(fd: int, size: int) -> bytes:
        if size == 1000 and os.path.samestat(os.fstat(fd), file.stat()):
            file.write_bytes(b"x" * (999 if cut else 1000))
        return real(fd, size)

    monkeypatch.setattr(diskio, "read_descriptor", late)
    refused(index, file)


@pytest.fixture(params=["small", "large"])
def size_class(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index's files count as small ones, which are read, and as large ones, which are mapped."""
    if request.param == "large":
        monkeypatch.setattr(snapshot, "SMALL", 0)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The sizes of the files that are hashed; every index counts as large, and no file as young."""
    sizes: list[int] = []
    of_descriptor, of_bytes = diskio.hash_descriptor, diskio.hash_bytes

    def counting(fd: int, size: int) -> str:
        sizes.append(size)
        return of_descriptor(fd, size)

    def counting_bytes(data: bytes) -> str:
        sizes.append(len(data))
        return of_bytes(data)

    monkeypatch.setattr(diskio, "hash_descriptor", counting)
    monkeypatch.setattr(diskio, "hash_bytes", counting_bytes)
    monkeypatch.setattr(snapshot, "TINY", 0)
    monkeypatch.setattr(verified, "_YOUNG_NS", -1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return sizes


@pytest.mark.usefixtures("size_class")
def test_files_are_hashed_once(index: Path, hashed: list[int]) -> None:
    Store.open(index)
    assert len(hashed) == 10
    Store.open(index)
    assert len(hashed) == 10
    snapshot.open_snapshot(str(index), full=True)
    assert len(hashed) == 20
    os.utime(next(index.glob("seg-*/c.bin")))
    Store.open(index)
    assert len(hashed) == 21


@pytest.mark.usefixtures("size_class")
def test_a_change_behind_the_memory_is_seen(index: Path, hashed: list[int]) -> None:
    Store.open(index)
    for file in sorted(index.glob("seg-*/*.npy")):
        status = file.stat()
        whole = file.read_bytes()
        time.sleep(0.02)
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and mtime as before
        refused(index, file)
        file.write_bytes(whole)
    Store.open(index)


def test_young_files_are_not_remembered(
    index: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "_YOUNG_NS", 10**15)
    Store.open(index)
    Store.open(index)
    assert len(hashed) == 20


@pytest.mark.parametrize("content", [b"", b"no json", b"[]", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_memory_is_ignored(index: Path, hashed: list[int], tmp_path: Path, content: bytes) -> None:
    Store.open(index)
    memory = next((tmp_path / "cache" / "retrieval" / "verified").iterdir())
    memory.write_bytes(content)
    Store.open(index)
    assert len(hashed) == 20


def test_a_memory_that_others_can_write_is_ignored(index: Path, hashed: list[int], tmp_path: Path) -> None:
    Store.open(index)
    memory = next((tmp_path / "cache" / "retrieval" / "verified").iterdir())
    memory.chmod(0o666)
    Store.open(index)
    assert len(hashed) == 20


def test_a_cache_that_cannot_be_written(index: Path, hashed: list[int], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    Store.open(index)
    Store.open(index)
    assert len(hashed) == 20


def test_tiny_indices_are_always_hashed(
    index: Path, hashed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "TINY", 1 << 20)
    Store.open(index)
    Store.open(index)
    assert len(hashed) == 20
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("size_class")
def test_read_errors_are_the_disk_s(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> int:
        raise OSError(5, "injected")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(StorageError, match="input/output"):
        Store.open(index)
