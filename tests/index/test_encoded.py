"""The journal of encodings: what was put is found again, whatever the kill left; nothing else ever is."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Index, StorageError, UserError, registry
from retrieval.artefact import Store
from retrieval.check import check
from retrieval.index import encoded
from retrieval.index.encoded import MAGIC, Cache, text_key

ROOT = Path(__file__).resolve().parent.parent.parent


def key(number: int) -> bytes:
    return text_key("m", str(number))


def filled(path: Path, values: Sequence[bytes]) -> list[int]:
    """Puts values under key(0), key(1) ...; returns the file's size after each."""
    sizes = []
    cache = Cache(str(path))
    for number, value in enumerate(values):
        cache.put([key(number)], [value])
        sizes.append(path.stat().st_size)
    cache.close()
    return sizes


def test_what_was_put_is_found_by_whoever_opens_it_next(tmp_path: Path) -> None:
    path = tmp_path / "c"
    values = [random.Random(n).randbytes(n * 700) for n in range(12)]  # none, some, more than one read
    cache = Cache(str(path))
    cache.put([key(n) for n in range(12)], values)
    cache.put([key(3), key(50), key(50)], [b"another", b"x", b"x"])  # known; twice in a batch
    asked = [key(n) for n in (11, 0, 99, 3, 50, 3)]
    wanted = [values[11], values[0], None, values[3], b"x", values[3]]
    assert cache.get(asked) == wanted
    assert (len(cache), cache.made, cache.found) == (13, 13, 5)
    cache.close()
    again = Cache(str(path))
    assert again.get(asked) == wanted
    assert again.get([]) == []
    assert (len(again), again.made) == (13, 0)


def test_a_tail_that_is_cut_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "c"
    values = [b"", b"one", b"two " * 9, b"", b"last"]
    sizes = filled(path, values)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        cache = Cache(str(path))
        good = sum(end <= size for end in sizes)
        found = cache.get([key(n) for n in range(len(values))])
        assert found == [*values[:good], *[None] * (len(values) - good)], size
        cache.put([key(77)], [b"after"])  # and what comes next stands behind the good part
        cache.close()
        again = Cache(str(path))
        assert again.get([key(77)]) == [b"after"]
        assert len(again) == good + 1


def test_a_flipped_bit_or_zeros_end_what_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "c"
    values = [b"one", b"", b"two" * 9]
    sizes = filled(path, values)
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        path.write_bytes(damaged)
        good = 0 if at < len(MAGIC) else sum(end <= at for end in sizes)
        cache = Cache(str(path))
        assert cache.get([key(n) for n in range(3)]) == [*values[:good], *[None] * (3 - good)], at
    path.write_bytes(whole[: sizes[0]] + bytes(4096))  # pages that a power loss left empty
    assert len(Cache(str(path))) == 1
    assert path.stat().st_size == sizes[0]


def test_damage_after_the_opening_is_no_value(tmp_path: Path) -> None:
    path = tmp_path / "c"
    filled(path, [b"one", b"two" * 3000])
    whole = path.read_bytes()
    cache = Cache(str(path))
    for at in range(len(MAGIC), len(whole), 97):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([whole[at] ^ 255]))
        for n, value in enumerate(cache.get([key(0), key(1)])):
            assert value in (None, [b"one", b"two" * 3000][n])
        with open(path, "r+b") as file:
            file.write(whole)
    assert cache.get([key(1)]) == [b"two" * 3000]
    os.truncate(path, len(whole) - 1)
    assert cache.get([key(1)]) == [None]


def test_records_longer_than_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "_READ", 64)
    path = tmp_path / "c"
    values = [random.Random(n).randbytes(size) for n, size in enumerate([0, 1, 30, 36, 64, 100, 1000, 5])]
    filled(path, values)
    assert Cache(str(path)).get([key(n) for n in range(8)]) == values


@given(batches=st.lists(st.lists(st.integers(0, 40), max_size=12), max_size=12), recent=st.integers(1, 9))
def test_as_a_dict(tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], recent: int) -> None:
    path = tmp_path_factory.mktemp("c") / "c"
    before, encoded._RECENT = encoded._RECENT, recent  # many runs, merged often
    try:
        held: dict[int, bytes] = {}
        cache = Cache(str(path))
        for turn, batch in enumerate(batches):
            if turn % 3 == 2:
                cache.close()
                cache = Cache(str(path))
            wanted = [held.get(number) for number in batch]
            assert cache.get([key(number) for number in batch]) == wanted
            cache.put([key(number) for number in batch], [b"%d" % number for number in batch])
            held.update((number, b"%d" % number) for number in batch)
            assert len(cache) == len(held)
        assert cache.get([key(n) for n in range(41)]) == [held.get(n) for n in range(41)]
    finally:
        encoded._RECENT = before


def test_keys_that_share_their_first_half_are_told_apart(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path / "c"))
    one, other = b"a" * 8 + b"b" * 8, b"a" * 8 + b"c" * 8
    cache.put([one], [b"one"])
    assert cache.get([other, one]) == [None, b"one"]
    with pytest.raises(ValueError, match="16 bytes"):
        cache.put([b"short"], [b""])


@pytest.mark.parametrize("what", ["link", "folder", "text"])
def test_what_stands_there_and_is_no_journal(tmp_path: Path, what: str) -> None:
    path, other = tmp_path / "c", tmp_path / "other"
    other.write_bytes(b"a file of the user's")
    if what == "link":
        path.symlink_to(other)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"something else entirely, longer than the first line")
    if what == "folder":
        with pytest.raises((StorageError, UserError), match="cannot open"):
            Cache(str(path))
        return
    cache = Cache(str(path))
    cache.put([key(1)], [b"x"])
    assert cache.get([key(1)]) == [b"x"]
    assert other.read_bytes() == b"a file of the user's"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(str(tmp_path / "c"))
    cache.put([key(1)], [b"one"])

    def half(fd: int, data: bytes) -> None:
        os.write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(encoded, "write_all", half)
        with pytest.raises(StorageError, match="ENOSPC"):
            cache.put([key(2)], [b"two" * 99])
    assert cache.get([key(1), key(2)]) == [b"one", None]
    cache.put([key(3)], [b"three"])  # over what is left of the other
    for each in (cache, Cache(str(tmp_path / "c"))):
        assert each.get([key(1), key(2), key(3)]) == [b"one", None, b"three"]


# --- in an index --------------------------------------------------------------------------------------------

COUNTING = Path(__file__).with_name("counting_method.py")


def load() -> None:
    """Registers the method in this process."""
    spec = importlib.util.spec_from_file_location("counting_method", COUNTING)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture
def counting() -> Iterator[Callable[[Path], list[str]]]:
    """Registers the method; gives what reads a log of it."""
    load()
    yield lambda log: log.read_text().splitlines() if log.exists() else []
    del registry._FACTORIES["sparse method", "counting"]


def documents(count: int) -> list[dict[str, Any]]:
    return [{"id": f"d{n}", "text": f"a b{n % 7} c{n}"} for n in range(count)]


def journals(path: Path) -> list[str]:
    return sorted(each.name for each in path.glob("cache-*"))


def test_a_commit_removes_it_and_an_error_does_not(
    tmp_path: Path, counting: Callable[[Path], list[str]]
) -> None:
    path, log = tmp_path / "i", tmp_path / "log"
    index = Index.create(path, [f"counting:{log}"])
    with pytest.raises(UserError, match="is known already"):
        index.add([*documents(5000), {"id": "d3", "text": "again"}])
    assert len(journals(path)) == 1
    assert len(counting(log)) >= 4096
    for _ in range(2):  # again, and then as an appended one
        index = Index.open(path) if len(counting(log)) == 5001 else Index.create(path, [f"counting:{log}"])
        index.add(documents(5000) if not len(index) else [{"id": "x", "text": "another"}])
        index.commit()
        assert journals(path) == []
        if not log.read_text().endswith("another\n"):
            with open(log, "a") as file:
                file.write("\n")
    texts = [line for line in counting(log) if line]
    assert Counter(texts).most_common(1)[0][1] == 1
    assert len(texts) == 5001
    assert [hit.doc_id for hit in Index.open(path).search("another c77")] == ["x", "d77"]
    check(path)


def test_two_encoders_have_two_and_one_encoder_has_one(
    tmp_path: Path, counting: Callable[[Path], list[str]]
) -> None:
    path = tmp_path / "i"
    logs = [tmp_path / "log1", tmp_path / "log2"]
    specs = [f"one=counting:{logs[0]}", f"two=counting:{logs[0]}", f"three=counting:{logs[1]}"]
    index = Index.create(path, specs)
    index.add(documents(20))
    assert len(journals(path)) == 2
    index.close()
    index = Index.create(path, specs)
    index.add(documents(20))
    index.commit()
    assert [len(counting(log)) for log in logs] == [20, 20]
    assert journals(path) == []
    for name in ("one", "two", "three"):
        assert [hit.doc_id for hit in index.search("c7", pipeline=name)] == ["d7"]


def test_other_commits_leave_it_alone_until_a_merge(
    tmp_path: Path, counting: Callable[[Path], list[str]]
) -> None:
    path, log = tmp_path / "i", tmp_path / "log"
    index = Index.create(path)
    index.add(documents(30))
    index.commit()

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.add_representation(f"counting:{log}", progress=stop)
    assert len(journals(path)) == 1
    index.delete("d4")
    index.commit()
    check(path)
    assert len(journals(path)) == 1
    index.add_representation(f"counting:{log}")
    assert len(counting(log)) == 30
    assert journals(path) == []
    (path / f"cache-{'0' * 32}").write_bytes(b"of a model that is gone")
    index.merge()
    assert journals(path) == []
    assert len(counting(log)) == 30  # a merge encodes nothing


def test_it_makes_no_directory_a_foreign_one(tmp_path: Path, counting: Callable[[Path], list[str]]) -> None:
    path = tmp_path / "i"
    index = Index.create(path, [f"counting:{tmp_path / 'log'}"])
    index.add(documents(3))
    index.close()
    assert len(journals(path)) == 1
    with Store.open(path) as snapshot:
        assert snapshot.commit["docs"] == 0
    (path / "COMMIT").unlink()
    Index.create(path).close()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["create", "append", "add"])
def test_killed_again_and_again_it_encodes_nothing_twice(tmp_path: Path, verb: str) -> None:
    path, log, corpus = tmp_path / "i", tmp_path / "log", tmp_path / "corpus.jsonl"
    everything = documents(1600)
    corpus.write_text("".join(json.dumps(each) + "\n" for each in everything))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*arguments: Any, kill_after: int | None = None) -> subprocess.CompletedProcess[str]:
        with subprocess.Popen(
            [sys.executable, str(COUNTING), *map(str, arguments)], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            begun = len(log.read_text().splitlines()) if log.exists() else 0
            while kill_after is not None and process.poll() is None:
                if log.exists() and len(log.read_text().splitlines()) - begun >= kill_after:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.002)
            out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    sparse = ["--sparse", f"counting:{log}"]
    arguments: list[Any] = ["index", corpus, "--out", path, *sparse]
    if verb == "append":
        first = tmp_path / "first.jsonl"
        first.write_text('{"id": "first", "text": "before all"}\n')
        assert run("index", first, "--out", path, *sparse).returncode == 0
        arguments = ["index", corpus, "--out", path, "--append"]
    elif verb == "add":
        assert run("index", corpus, "--out", path).returncode == 0
        arguments = ["add", path, *sparse]
    rng = random.Random(5)
    kills = 0
    for _ in range(6):
        done = run(*arguments, kill_after=rng.randrange(100, 350))
        if done.returncode == 0:
            break
        assert done.returncode == -9, done
        kills += 1
    else:
        done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert kills >= 3
    texts = Counter(log.read_text().splitlines())
    assert {text for text in texts if text.startswith("a b")} == {each["text"] for each in everything}
    twice = sum(count - 1 for count in texts.values())
    assert twice <= kills * 8  # a batch a kill
    assert journals(path) == []
    assert not list(path.glob("tmp-*"))
    assert check(path)["docs"] == 1600 + (verb == "append")
    load()
    try:
        index = Index.open(path)
        assert [hit.doc_id for hit in index.search("c1234", pipeline="counting")] == ["d1234"]
    finally:
        del registry._FACTORIES["sparse method", "counting"]
