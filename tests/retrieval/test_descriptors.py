"""The store and the index: many small commits do not use up the file descriptors."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from retrieval import snapshot
from retrieval.artefact import Snapshot, Store

# 40 commits of two dozen files each were 1,000 descriptors and more; the writer holds two generations.
_MANY_COMMITS = """
import resource, sys
from retrieval.check import check
from retrieval.index.index import Index
from retrieval.types import Document

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
path = sys.argv[1]
index = Index.create(path)
for number in range(40):
    index.add([Document(f"d{number}", f"alpha word{number}")])
    index.commit()
for merged in (False, True):
    index = Index.open(path)
    assert len(index.search("alpha", 100)) == 40
    assert [hit.doc_id for hit in index.search("word7", 10)] == ["d7"]
    assert check(path)["docs"] == 40
    if not merged:
        index.merge()
"""


def test_many_small_commits_under_a_low_limit(tmp_path: Path) -> None:
    """Written, searched, checked and merged with 128 descriptors."""
    done = subprocess.run(
        [sys.executable, "-c", _MANY_COMMITS, str(tmp_path / "index")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def descriptors(under: Path) -> int:
    """How many descriptors of this process lead to files below a directory."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            count += os.readlink(f"/proc/self/fd/{fd}").startswith(f"{under}/seg-")
    return count


_NEVER_CLOSED = """
import os, sys
from retrieval.artefact import Store

opened = Store.open(sys.argv[1])
print(len(opened._descriptors))
os.close = None  # as the interpreter leaves it when what held the snapshot was let go of last
"""


def make(path: Path) -> list[str]:
    """An index of a small and two large files."""
    with Store.writer(path, create=True) as writer:
        part = writer.part()
        part.bytes("small.bin", b"s" * (snapshot.SMALL - 1))
        for name in ("large.bin", "other.bin"):
            part.bytes(name, b"l" * snapshot.SMALL)
        writer.commit({"segments": [{"name": part.name, "docs": 1}]})
        return [f"{part.name}/{name}.bin" for name in ("small", "large", "other")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_one_descriptor_a_large_file(tmp_path: Path) -> None:
    small, large, other = make(tmp_path)
    opened = Store.open(tmp_path)
    assert descriptors(tmp_path) == 2
    held = [opened.bytes(name) for name in (small, large, other)]
    assert descriptors(tmp_path) == 2  # the maps' own
    opened.close()
    assert [bytes(each[:1]) for each in held] == [b"s", b"l", b"l"]
    del held
    assert descriptors(tmp_path) == 0


def test_threads_map_a_file_once(tmp_path: Path) -> None:
    """The descriptor is closed by the first; nobody may use its number after that."""
    _, large, _ = make(tmp_path)
    for _ in range(50):
        with Store.open(tmp_path) as opened:
            barrier = threading.Barrier(8)

            def read(_: int, opened: Snapshot = opened, barrier: threading.Barrier = barrier) -> memoryview:
                barrier.wait()
                return opened.bytes(large)

            with ThreadPoolExecutor(8) as pool:  # passes on what a thread raises
                seen = list(pool.map(read, range(8)))
            assert len({id(each.obj) for each in seen}) == 1


def test_a_snapshot_that_outlives_the_modules_ends_in_silence(tmp_path: Path) -> None:
    make(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", _NEVER_CLOSED, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert (ended.stdout, ended.stderr) == ("2\n", "")
