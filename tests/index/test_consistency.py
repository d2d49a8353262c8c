"""Indexes with right checksums and wrong numbers: CorruptIndex at the first use, never a crash."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from retrieval import CorruptIndex, Index
from retrieval.manifest import decode, encode

WORDS = [f"w{i}" for i in range(30)]
QUERY = " ".join(WORDS)
Change = Callable[["Forger"], None]


class Forger:
    """Changes one file of an index and puts its size and hash into COMMIT."""

    def __init__(self, path: Path, representation: str) -> None:
        self.path = path
        self.commit = decode((path / "COMMIT").read_bytes(), "COMMIT")
        self.segment = self.commit["segments"][0]
        self.part = self.segment["parts"][representation]

    def put(self, file: str, data: bytes) -> None:
        target = self.path / self.part / file
        target.unlink()  # never written in place
        target.write_bytes(data)
        facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        self.commit["files"][f"{self.part}/{file}"] = facts

    def drop(self, file: str) -> None:
        del self.commit["files"][f"{self.part}/{file}"]

    def array(self, name: str, change: Callable[[Any], Any]) -> None:
        old = np.load(self.path / self.part / f"{name}.npy")
        made = change(old.copy())
        assert made.dtype != old.dtype or not np.array_equal(made, old)
        file = io.BytesIO()
        np.save(file, made)
        self.put(f"{name}.npy", file.getvalue())

    def facts(self, **changes: Any) -> None:
        facts = orjson.loads((self.path / self.part / "facts.json").read_bytes())
        self.put("facts.json", orjson.dumps({**facts, **changes}))

    def close(self) -> None:
        (self.path / "COMMIT").write_bytes(encode(self.commit))


def build(path: Path, kind: str) -> None:
    rng = random.Random(2)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(200)]
    texts[9] += " w3" * 20
    texts[7] += " w2" * 300
    if kind == "impacts":
        index = Index.create(path, ["impacts"])
        index.add(
            {"id": str(i), "text": "t", "vector": {word: rng.randint(1, 255) for word in set(text.split())}}
            for i, text in enumerate(texts)
        )
    elif kind == "dense":
        index = Index.create(path, analyzer="words")
        index.add("w1 w2" if i % 2 else "w1" for i in range(18_000))
    else:
        index = Index.create(path, analyzer="words", compact=kind == "compact")
        index.add(texts)
    index.commit()
    if kind == "deleted":
        index.delete(["3", "5"])
        index.commit()
    if kind == "reordered":
        index.merge(reorder=True)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("consistency") / kind
            build(made[kind], kind)
        return made[kind]

    return get


def full(name: str, value: int) -> Change:
    return lambda forger: forger.array(name, lambda old: np.full_like(old, value))


def shorter(name: str) -> Change:
    return lambda forger: forger.array(name, lambda old: old[:-1])


def typed(name: str, dtype: str) -> Change:
    return lambda forger: forger.array(name, lambda old: old.astype(dtype))


def entry(name: str, place: int, value: int) -> Change:
    def change(old: Any) -> Any:
        old[place] = value
        return old

    return lambda forger: forger.array(name, change)


def facts(**changes: Any) -> Change:
    return lambda forger: forger.facts(**changes)


def dropped(file: str) -> Change:
    return lambda forger: forger.drop(file)


def swapped(name: str, a: int, b: int) -> Change:
    def change(old: Any) -> Any:
        old[[a, b]] = old[[b, a]]
        return old

    return lambda forger: forger.array(name, change)


def moved(name: str, a: int, b: int) -> Change:
    """One less at a, one more at b: the sum stays."""

    def change(old: Any) -> Any:
        old[a] -= 1
        old[b] += 1
        return old

    return lambda forger: forger.array(name, change)


def recounted(forger: Forger) -> None:
    forger.segment["deleted"] += 1
    forger.commit["docs"] -= 1


ARRAYS = [
    "df", "terms_ptr", "terms_sorted", "kth", "peak", "lengths", "codes", "dir_ptr", "dir_chunk", "dir_count",
    "dir_bound", "docs", "values", "big_place", "big_tf",
]  # fmt: skip
CASES: list[tuple[str, str, str, Change]] = [
    # kind of index, label, file that the error names, change
    *(("plain", f"{name} of another type", name, typed(name, "float64")) for name in ARRAYS),
    *(
        ("plain", f"{name} in two dimensions", name, lambda f, n=name: f.array(n, lambda old: old[None]))
        for name in ARRAYS
        if name != "kth"
    ),
    *(
        ("plain", f"{name} too short", name[:4] if name[:4] in ("dir_", "big_") else name, shorter(name))
        for name in ARRAYS
        if name not in ("lengths",)
    ),
    ("plain", "documents", "facts.json", facts(documents=10**12)),
    ("plain", "another segment's documents", "facts.json", facts(documents=199)),
    ("plain", "bits 3", "facts.json", facts(bits=3)),
    ("plain", "bits 8 where they are 4", "big_tf", facts(bits=8)),
    ("plain", "a flag that is no flag", "facts.json", facts(compact=1)),
    ("plain", "compact with half bytes", "facts.json", facts(compact=True)),
    ("plain", "weighted with half bytes", "facts.json", facts(weighted=True)),
    ("plain", "a mean that is none", "facts.json", facts(mean="12")),
    ("plain", "a negative count", "facts.json", facts(tokens=-1)),
    ("plain", "no object", "facts.json", lambda f: f.put("facts.json", b"[]")),
    ("plain", "more terms", "terms_ptr", facts(terms=31)),
    ("plain", "fewer postings", "df", facts(postings=5)),
    ("plain", "df beyond the documents", "df", full("df", 2**32 - 1)),
    ("plain", "df of two terms", "dir_count", moved("df", 0, 1)),
    ("plain", "terms_ptr falls", "terms_ptr", entry("terms_ptr", 3, 2**31)),
    ("plain", "terms_sorted beyond the terms", "terms_sorted", full("terms_sorted", 2**31)),
    ("plain", "terms_sorted twice the same", "terms_sorted", full("terms_sorted", 0)),
    ("plain", "codes beyond the lengths", "codes", full("codes", 65535)),
    ("plain", "lengths fall", "lengths", swapped("lengths", 0, 1)),
    ("plain", "negative length", "lengths", entry("lengths", 0, -5)),
    ("plain", "lengths too short", "codes", shorter("lengths")),
    ("plain", "no codes", "codes", dropped("codes.npy")),
    ("plain", "dir_ptr beyond the directory", "dir_ptr", full("dir_ptr", 2**31)),
    ("plain", "dir_ptr falls", "dir_ptr", swapped("dir_ptr", 4, 5)),
    ("plain", "dir_ptr begins late", "dir_ptr", entry("dir_ptr", 0, 1)),
    ("plain", "dir_ptr gives an entry away", "dir_c", entry("dir_ptr", 4, 5)),
    ("plain", "dir_chunk beyond the documents", "dir_chunk", full("dir_chunk", 40000)),
    ("plain", "dir_count", "dir_count", full("dir_count", 16000)),
    ("plain", "dir_count of two terms", "dir_count", moved("dir_count", 0, 1)),
    ("plain", "big_place falls", "big_place", swapped("big_place", 0, 1)),
    ("plain", "big_place below 0", "big_place", entry("big_place", 0, -1)),
    ("plain", "big_tf small", "big_tf", entry("big_tf", 0, 3)),
    ("plain", "no big_tf", "big_tf", dropped("big_tf.npy")),
    ("plain", "docs beyond the segment", "docs", full("docs", 65535)),
    ("plain", "docs fall", "docs", full("docs", 7)),
    ("plain", "values 0", "values", full("values", 0)),
    ("plain", "no parts", "bm25", lambda f: f.segment.pop("parts")),
    ("plain", "no part", "bm25", lambda f: f.segment["parts"].pop("bm25")),
    ("plain", "a part that is no name", "bm25", lambda f: f.segment["parts"].update(bm25=[1])),
    ("plain", "live documents", "COMMIT", lambda f: f.commit.update(docs=7)),
    ("dense", "dense too short", "dense", shorter("dense")),
    ("dense", "dense without documents", "dense", full("dense", 0)),
    ("dense", "dense beyond the segment", "docs", lambda f: f.array("dense", lambda old: old[::-1].copy())),
    ("compact", "packed of another type", "packed", typed("packed", "int8")),
    ("compact", "packed all ones", "packed", full("packed", 0xFF)),
    ("compact", "packed with the widest blocks", "packed", full("packed", 27 * 9 + 8)),
    ("compact", "packed with wide gaps", "packed", full("packed", 20 * 9)),
    ("compact", "packed_ptr beyond packed", "packed_ptr", full("packed_ptr", 2**40)),
    ("compact", "packed_ptr falls", "packed_ptr", swapped("packed_ptr", 4, 5)),
    ("compact", "packed_ptr leaves no room", "packed_ptr", full("packed_ptr", 0)),
    ("compact", "df beyond the documents", "df", full("df", 2**32 - 1)),
    ("compact", "df of two terms", "packed", moved("df", 0, 1)),
    ("compact", "packed too short", "packed", shorter("packed")),
    ("reordered", "order beyond the documents", "order", full("order", 2**30)),
    ("reordered", "order below 0", "order", entry("order", 0, -1)),
    ("reordered", "order twice the same", "order", full("order", 0)),
    ("reordered", "order too short", "order", shorter("order")),
    ("impacts", "row_ends beyond the rows", "row_ends", full("row_ends", 2**40)),
    ("impacts", "row_ends fall", "row_ends", swapped("row_ends", 4, 5)),
    ("impacts", "row_ends too short", "row_ends", shorter("row_ends")),
    ("impacts", "row_terms beyond the terms", "row_terms", full("row_terms", 2**31)),
    ("impacts", "row_values too short", "row_values", shorter("row_values")),
    ("impacts", "values 0", "values", full("values", 0)),
    ("impacts", "not weighted", "lengths", facts(weighted=False)),
    ("deleted", "no deletes", "file", lambda f: f.segment.pop("deletes")),
    ("deleted", "more deleted", "deleted.npy", recounted),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "label", "file", "change"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES])
def test_a_forged_file_is_corrupt(
    tmp_path: Path, indexes: Callable[[str], Path], kind: str, label: str, file: str, change: Change
) -> None:
    shutil.copytree(indexes(kind), tmp_path / "index")
    forger = Forger(tmp_path / "index", "impacts" if kind == "impacts" else "bm25")
    change(forger)
    forger.close()
    with pytest.raises(CorruptIndex, match=file):
        use(Index.open(tmp_path / "index"))


@pytest.mark.parametrize("kind", ["plain", "dense", "compact", "reordered", "impacts", "deleted"])
def test_what_was_written_passes(indexes: Callable[[str], Path], kind: str) -> None:
    assert use(Index.open(indexes(kind))) > 0


def use(index: Index) -> int:
    """Searches and re-scores with the interpreter and compiled; returns the number of documents found."""
    name = next(iter(index.representations))
    found = 0
    for algorithm in ("portable", "maxscore", "exhaustive"):
        stage = index.stage(name, algorithm=algorithm)
        run = (stage % 50)([QUERY])
        found += len(stage([QUERY], run).docs)
    return found


def test_documents_beyond_the_segment_are_not_returned(
    tmp_path: Path, indexes: Callable[[str], Path]
) -> None:
    """The compiled search does not look at every posting first, and stays within its arrays all the same."""
    shutil.copytree(indexes("plain"), tmp_path / "index")
    forger = Forger(tmp_path / "index", "bm25")
    forger.array("docs", lambda old: np.full_like(old, 65535))
    forger.close()
    stage = Index.open(tmp_path / "index").stage("bm25", algorithm="maxscore")
    assert len((stage % 50)([QUERY]).docs) == 0


def test_merging_does_not_spread_forged_lists(tmp_path: Path, indexes: Callable[[str], Path]) -> None:
    for number, (kind, change) in enumerate([
        ("plain", full("docs", 7)),
        ("plain", full("values", 0)),
        ("compact", full("packed", 8)),
        ("impacts", full("docs", 65535)),
    ]):  # fmt: skip
        path = tmp_path / str(number)
        shutil.copytree(indexes(kind), path)
        forger = Forger(path, "impacts" if kind == "impacts" else "bm25")
        change(forger)
        forger.close()
        with pytest.raises(CorruptIndex):
            Index.open(path).merge(reorder=True)
