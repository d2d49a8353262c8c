"""Assets: stored once, given back to the method, kept while a commit names them, checked like all else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from retrieval import CorruptIndex, Index, registry
from retrieval.artefact import Store
from retrieval.check import check
from retrieval.errors import UnsupportedFormat
from retrieval.index.bm25 import Bm25
from retrieval.manifest import FORMAT

BIG = b"piece\n" * 20_000  # more than what is read whole at the opening


class Worded(Bm25):
    """BM25 that carries a file about."""

    kind = "worded"

    def __init__(self, inner: Bm25, assets: Mapping[str, bytes]) -> None:
        super().__init__({**inner.settings, "kind": self.kind}, inner.analyzer)
        self.assets = assets

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Worded:
        return cls(
            Bm25.create("", analyzer_name, options), {"vocab.txt": model.encode() or BIG, "empty": b""}
        )

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> Worded:  # type: ignore[override]
        return cls(Bm25.restore(settings), assets)


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """The method, registered for the time of a test."""
    registry.register("worded", kind="sparse method")(Worded)
    yield
    del registry._FACTORIES["sparse method", "worded"]


def built(path: Path, *sparse: str) -> Index:
    index = Index.create(path, sparse or ["worded"])
    index.add([{"id": "a", "text": "red green"}, {"id": "b", "text": "red blue"}])
    index.commit()
    return index


def assets_of(index: Index, name: str = "worded") -> dict[str, bytes]:
    method: Any = index._methods[name]
    return dict(getattr(method, "assets"))  # noqa: B009


def part_of(path: Path, name: str = "worded") -> str:
    with Store.open(path) as snapshot:
        return str(snapshot.commit["representations"][name]["assets"])


def parts(path: Path) -> set[str]:
    return {each.name for each in path.glob("seg-*")}


def test_they_come_back(tmp_path: Path) -> None:
    index = built(tmp_path / "i")
    assert assets_of(index) == assets_of(Index.open(tmp_path / "i")) == {"vocab.txt": BIG, "empty": b""}
    assert "assets" not in index.representations["worded"]
    assert [hit.doc_id for hit in Index.open(tmp_path / "i").search("green")] == ["a"]


def test_a_commit_that_leaves_them_alone_writes_them_no_second_time(tmp_path: Path) -> None:
    path = tmp_path / "i"
    index = built(path)
    first = part_of(path)
    index.add([{"id": "c", "text": "red"}])
    index.commit()
    again = Index.open(path)
    again.delete("a")
    again.commit()
    again.add_representation("bm25")
    again.merge(compact=True)
    assert again.representations["worded"]["compact"] is True
    assert part_of(path) == first
    assert assets_of(again)["vocab.txt"] == BIG
    with Store.open(path) as snapshot:
        assert len([name for name in snapshot.files() if name.endswith("vocab.txt")]) == 1
    assert len(list(path.glob("seg-*/vocab.txt"))) == 1


def test_equal_ones_are_shared_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "i"
    index = built(path, "one=worded:x", "two=worded:x", "three=worded:y", "bm25")
    assert part_of(path, "one") == part_of(path, "two") != part_of(path, "three")
    assert assets_of(index, "three")["vocab.txt"] == b"y"
    index.add_representation("four=worded:y")
    assert part_of(path, "four") == part_of(path, "three")
    assert assets_of(Index.open(path), "four")["vocab.txt"] == b"y"


def test_a_replacement_brings_its_own_and_the_old_ones_go_with_their_commits(tmp_path: Path) -> None:
    path = tmp_path / "i"
    built(path, "worded:x")
    first = part_of(path)
    for text in "yz":
        index = Index.create(path, [f"worded:{text}"], overwrite=True)
        index.add(["red"])
        index.commit()
        assert assets_of(Index.open(path))["vocab.txt"] == text.encode()
    assert first not in parts(path)
    assert part_of(path) in parts(path)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "swap"])
@pytest.mark.parametrize("text", ["", "small"])
def test_damage_is_found(tmp_path: Path, damage: str, text: str) -> None:
    path = tmp_path / "i"
    built(path, f"worded:{text}")
    file = path / part_of(path) / "vocab.txt"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
    elif damage == "truncate":
        del data[-1]
    elif damage == "swap":
        data = bytearray(reversed(data))
    file.unlink()
    if damage != "remove":
        file.write_bytes(data)
    with pytest.raises(CorruptIndex, match=r"vocab\.txt"):
        check(path)
    with pytest.raises(CorruptIndex, match=r"vocab\.txt"):
        Index.open(path)


def test_what_an_index_ought_to_hold_and_does_not(tmp_path: Path) -> None:
    path = tmp_path / "i"
    built(path)
    index = Index.open(path)
    assets: Any = index._methods["worded"]
    with pytest.raises(CorruptIndex, match=r"lacks 'merges\.txt' of representation 'worded'"):
        assets.assets["merges.txt"]
    assert assets.assets.get("merges.txt", b"none") == b"none"
    assert "merges.txt" not in assets.assets


def test_names_that_cannot_be_files(tmp_path: Path) -> None:
    index = built(tmp_path / "i")
    method: Any = index._methods["worded"]
    method.assets = {"../up": b"x"}
    index.add([{"id": "c", "text": "x"}])
    with pytest.raises(ValueError, match=r"'\.\./up' is no name for an asset"):
        index.commit()
    assert len(Index.open(tmp_path / "i")) == 2


@pytest.mark.parametrize(
    "entry", [{"kind": "worded", "assets": 3}, {"kind": "worded", "assets": "../up"}, {}, 3]
)
def test_an_entry_that_makes_no_sense(tmp_path: Path, entry: Any) -> None:
    from retrieval.manifest import encode

    path = tmp_path / "i"
    built(path)
    with Store.open(path) as snapshot:
        commit = {**snapshot.commit, "representations": {"worded": entry}}
    (path / "COMMIT").write_bytes(encode(commit))
    with pytest.raises(CorruptIndex, match="representation"):
        Index.open(path)


def test_only_indexes_with_assets_need_a_new_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path / "with")
    built(tmp_path / "without", "bm25")
    head = json.loads((tmp_path / "with" / "COMMIT").read_bytes().split(b"\n", 1)[1])
    assert (head["format"], head["min_reader"]) == (FORMAT, 2)
    monkeypatch.setattr("retrieval.manifest.FORMAT", 1)  # what a build of format 1 checks
    assert [hit.doc_id for hit in Index.open(tmp_path / "without").search("green")] == ["a"]
    with pytest.raises(UnsupportedFormat, match=rf"format {head['format']}, this build reads 1\.\.1"):
        Index.open(tmp_path / "with")
