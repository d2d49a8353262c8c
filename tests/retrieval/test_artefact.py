"""The store: commits, snapshots, the lock, places that are refused, litter."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from retrieval.artefact import Part, Snapshot, Store, Transaction
from retrieval.errors import CorruptIndex, Locked, RetrievalError, UserError

DTYPES = hnp.integer_dtypes() | hnp.unsigned_integer_dtypes() | hnp.floating_dtypes() | hnp.boolean_dtypes()


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


def test_commit_and_open(tmp_path: Path) -> None:
    part = make(tmp_path / "a" / "b" / "index")
    with Store.open(tmp_path / "a" / "b" / "index") as snapshot:
        assert (snapshot.generation, snapshot.commit["docs"]) == (1, 3)
        assert snapshot.files() == [f"{part}/data.bin"]
        assert bytes(snapshot.bytes(f"{part}/data.bin")) == b"payload"
        assert f"{part}/data.bin" in snapshot
        assert f"{part}/other.bin" not in snapshot
    assert names(tmp_path / "a" / "b" / "index") == {"LOCK", "COMMIT", "old", "seg-"}


@settings(deadline=None, max_examples=40)
@given(array=hnp.arrays(DTYPES, hnp.array_shapes(min_side=0, max_side=9)))
def test_arrays_round_trip(tmp_path_factory: pytest.TempPathFactory, array: Any) -> None:
    path = tmp_path_factory.mktemp("index")
    flat = array.reshape(-1)
    with Store.writer(path, create=True) as writer:
        part = writer.part()
        part.array("a.npy", array)
        with part.array_stream("known.npy", flat.dtype, len(flat)) as known:
            known.write(flat)
        with part.array_stream("unknown.npy", flat.dtype) as unknown:
            unknown.write(flat[:2])
            unknown.write(flat[2:])
        writer.commit({"segments": [{"name": part.name, "docs": 1}]})
    with Store.open(path) as snapshot:
        for file, expected in (("a.npy", array), ("known.npy", flat), ("unknown.npy", flat)):
            found = snapshot.array(f"{part.name}/{file}")
            assert found.dtype == expected.dtype.newbyteorder("<")
            assert not found.flags.writeable
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(np.load(path / part.name / file, allow_pickle=False), expected)


@settings(deadline=None, max_examples=30)
@given(pieces=st.lists(st.binary(max_size=300_000), max_size=5))
def test_streams_hash_what_they_write(tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("index")
    with Store.writer(path, create=True) as writer:
        part = writer.part()
        with part.stream("data.bin") as file:
            for piece in pieces:
                assert file.write(piece) == len(piece)
        writer.commit({"segments": [{"name": part.name, "docs": 1}]})
    with Store.open(path) as snapshot:  # hashed again here
        assert bytes(snapshot.bytes(f"{part.name}/data.bin")) == b"".join(pieces)


def test_parts_refuse_what_is_not_safe(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "i", create=True) as writer:
        part = writer.part()
        for name in ("../x.bin", "x/y", "", "A.bin", "x" * 41, "..", "."):
            with pytest.raises(ValueError, match="file name"):
                part.bytes(name, b"")
        for odd in (np.array([{}], dtype=object), np.array(["x"]), np.array([1j]), np.zeros(2, "i4,f4")):
            with pytest.raises(TypeError, match="cannot be stored"):
                part.array("o.npy", odd)
            with pytest.raises(TypeError, match="cannot be stored"):
                part.array_stream("o.npy", odd.dtype)
        part.bytes("x.bin", b"")
        with pytest.raises(ValueError, match="already"):
            part.bytes("x.bin", b"")
        part.stream("open.bin")
        with pytest.raises(ValueError, match="still open"):
            writer.commit({"segments": [{"name": part.name, "docs": 1}]})


def test_leaving_without_a_commit_discards(tmp_path: Path) -> None:
    make(tmp_path)
    before = Store.open(tmp_path).commit
    with pytest.raises(ValueError, match="file name"), Store.writer(tmp_path) as writer:
        writer.part().bytes("/", bytes(len(writer.scratch())))
    with Store.writer(tmp_path) as writer:
        writer.part().bytes("x.bin", b"1")
    assert Store.open(tmp_path).commit == before
    assert names(tmp_path) == {"LOCK", "COMMIT", "old", "seg-"}


def test_a_second_writer_is_locked_out(tmp_path: Path) -> None:
    make(tmp_path)
    with Store.writer(tmp_path), pytest.raises(Locked, match="another process"):
        Store.writer(tmp_path)
    with Store.writer(tmp_path, create=True, overwrite=True), pytest.raises(Locked):
        Store.writer(tmp_path, create=True)
    Store.writer(tmp_path).close()


def test_a_lock_left_behind_does_not_lock(tmp_path: Path) -> None:
    make(tmp_path)
    fd = os.open(tmp_path / "LOCK", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.close(fd)  # what a kill does
    Store.writer(tmp_path).close()


def test_create_refuses_other_directories(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"notes\.txt"):
            Store.create(tmp_path, overwrite=overwrite)
    assert os.listdir(tmp_path) == ["notes.txt"]
    with pytest.raises(UserError):
        Store.create(tmp_path / "notes.txt")
    with pytest.raises(UserError, match="no index"):
        Store.writer(tmp_path)
    with pytest.raises(UserError, match="no index"):
        Store.open(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Store.open(tmp_path / "absent")


def test_create_takes_a_directory_without_a_committed_document(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    (tmp_path / f"tmp-{'0' * 32}").mkdir()
    (tmp_path / f"tmp-{'0' * 32}" / "x").touch()
    first = Store.create(tmp_path)
    assert names(tmp_path) == {"LOCK", "COMMIT"}
    Store.create(tmp_path)
    with first.begin() as writer:
        add(writer)
    with pytest.raises(UserError, match="already holds an index of 1 documents"):
        Store.create(tmp_path)


def test_overwrite_is_one_commit(tmp_path: Path) -> None:
    old = make(tmp_path)
    before = Store.open(tmp_path)
    with Store.writer(tmp_path, create=True, overwrite=True) as writer:
        assert writer.base["segments"] == []
        assert Store.open(tmp_path).commit == before.commit
        add(writer, docs=5)
    after = Store.open(tmp_path)
    assert (after.commit["docs"], after.generation) == (5, 2)
    assert after.uuid != before.uuid
    assert old not in set(after.parts())
    assert bytes(before.bytes(f"{old}/data.bin")) == b"payload"


def test_create_then_begin_notices_another_writer(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with Store.writer(tmp_path) as writer:
        add(writer)
    with pytest.raises(UserError, match="meanwhile"):
        store.begin()


def test_scratch_outlives_commits_and_goes_with_the_writer(tmp_path: Path) -> None:
    with Store.writer(tmp_path, create=True) as writer:
        scratch = Path(writer.scratch())
        (scratch / "spill").touch()
        add(writer)
        assert (scratch / "spill").exists()
    assert names(tmp_path) == {"LOCK", "COMMIT", "old", "seg-"}


def test_two_generations_are_kept(tmp_path: Path) -> None:
    first = make(tmp_path)
    with Store.writer(tmp_path) as writer:
        second = writer.part()
        second.bytes("x.bin", b"2")
        writer.commit({"segments": [{"name": second.name, "docs": 1}]})
        assert {first, second.name} <= set(os.listdir(tmp_path))
        assert os.listdir(tmp_path / "old") == ["commit-1"]
        writer.commit({"options": {"k": 1}})
        assert first not in os.listdir(tmp_path)
        assert os.listdir(tmp_path / "old") == ["commit-2"]
    assert Store.open(tmp_path).commit["options"] == {"k": 1}


def test_a_snapshot_outlives_its_generation(tmp_path: Path) -> None:
    part = make(tmp_path)
    held = Store.open(tmp_path)  # nothing is mapped yet
    for _ in range(3):
        with Store.writer(tmp_path) as writer:
            writer.commit({"segments": []})
    assert part not in os.listdir(tmp_path)
    assert bytes(held.bytes(f"{part}/data.bin")) == b"payload"


def test_a_reader_that_loses_the_race_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    verify = Snapshot._verify
    raced: list[int] = []

    def race(self: Snapshot, full: bool) -> None:
        if len(raced) < 3:
            raced.append(self.generation)
            for _ in range(2):
                with Store.writer(tmp_path) as writer:
                    part = writer.part()
                    part.bytes("x.bin", b"")
                    writer.commit({"segments": [{"name": part.name, "docs": 1}]})
        verify(self, full)

    monkeypatch.setattr(Snapshot, "_verify", race)
    assert Store.open(tmp_path).generation == 7
    assert raced == [1, 3, 5]


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    """Each opening sees one generation whole, and never an older one than before."""
    make(tmp_path)
    problems: list[str] = []
    stop = threading.Event()

    def read() -> None:
        last = 0
        while not stop.is_set():
            try:
                with Store.open(tmp_path) as snapshot:
                    (file,) = snapshot.files()
                    number = int(bytes(snapshot.bytes(file)) or b"0")
            except (RetrievalError, ValueError) as error:
                problems.append(repr(error))
                return
            if number != snapshot.generation or number < last:
                problems.append(f"generation {snapshot.generation} holds {number} after {last}")
            last = number

    with Store.writer(tmp_path) as writer:
        replace_all(writer)
        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for _ in range(60):
            replace_all(writer)
        stop.set()
        for reader in readers:
            reader.join()
    assert problems == []


def replace_all(writer: Transaction) -> None:
    """Commit one part, which says the generation, in the place of all."""
    part = writer.part()
    part.bytes("data.bin", b"%d" % (writer.generation + 1))
    writer.commit({"segments": [{"name": part.name, "docs": 1}]})


def test_a_missing_file_is_no_race(tmp_path: Path) -> None:
    part = make(tmp_path)
    (tmp_path / part / "data.bin").unlink()
    with pytest.raises(CorruptIndex, match=r"data\.bin is missing"):
        Store.open(tmp_path)


def test_litter_is_collected_and_foreign_files_are_not(tmp_path: Path) -> None:
    part = make(tmp_path)
    (tmp_path / f"tmp-{'a' * 32}").mkdir()
    (tmp_path / f"tmp-{'b' * 32}").touch()
    (tmp_path / f"seg-{'c' * 16}").mkdir()
    (tmp_path / "old" / "commit-77").touch()
    (tmp_path / "README").touch()
    Store.writer(tmp_path).close()
    assert set(os.listdir(tmp_path)) == {"LOCK", "COMMIT", "old", "README", part}
    assert os.listdir(tmp_path / "old") == ["commit-0"]
