"""Indexes of each released format stay readable: tests/index/frozen/format-<n>.tar.gz and their answers."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from retrieval import Index, registry
from retrieval.artefact import Store
from retrieval.check import check
from retrieval.index.bm25 import Bm25
from tests.index.hashing_encoder import install, model, remove

FROZEN = Path(__file__).parent / "frozen"
QUERIES = ["red green", "blue", "w7 w8 w9", "Straße über", "nothing"]


class Carrier(Bm25):
    """BM25 that carries files about, as methods with a model do from format 2 on."""

    kind = "carrier"

    def __init__(self, inner: Bm25, assets: Mapping[str, bytes]) -> None:
        super().__init__({**inner.settings, "kind": self.kind}, inner.analyzer)
        self.assets = assets

    @classmethod
    def create(cls, model: str, analyzer_name: str, options: Mapping[str, Any]) -> Carrier:
        return cls(Bm25.create("", analyzer_name, options), {"vocab.txt": b"a piece\n" * 9, "empty": b""})

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> Carrier:  # type: ignore[override]
        return cls(Bm25.restore(settings), assets)


@pytest.fixture(autouse=True)
def carrier() -> Iterator[None]:
    """The method, registered for the time of a test."""
    registry.register("carrier", kind="sparse method")(Carrier)
    install()
    yield
    remove()
    del registry._FACTORIES["sparse method", "carrier"]


def documents() -> list[dict[str, Any]]:
    """The corpus of the frozen indexes; never changed."""
    rng = random.Random(1969)
    found = []
    for number in range(17_500):
        words = ["red"] * rng.choice([1, 1, 1, 2, 20]) + rng.choices(
            [f"w{i}" for i in range(40)], k=rng.randint(0, 2)
        )
        found.append({"id": f"d{number}", "text": " ".join(words), "number": number})
    found[3] = {"id": "long", "title": "Green", "text": "green blue " * 300, "tags": ["a", "b"]}
    found[4] = {"id": "umlaut", "text": "Die Straße führt über den Berg", "tags": ["b"]}
    return found


def answers(index: Index) -> dict[str, Any]:
    """What an index of this corpus answers, in JSON."""
    found: dict[str, Any] = {}
    choices: list[dict[str, Any]] = [{}, {"k1": 1.2, "b": 0.75}]
    for name, settings in index.representations.items():
        for params in choices if settings["kind"] != "dense" else choices[:1]:
            run = (index.stage(name, **params) % 5)(QUERIES)
            label = f"{name} {sorted(params.items())}"
            found[label] = [[(hit.doc_id, hit.score) for hit in run[query]] for query in run]
    carried = getattr(index._methods.get("carrier"), "assets", {})
    if carried:
        found["assets"] = {name: carried[name].decode() for name in carried}
    found["filter"] = [
        (hit.doc_id, hit.score) for hit in index.search("red", 3, pipeline="bm25", filter="number < 9")
    ]
    made: dict[str, Any] = json.loads(json.dumps(found))
    return made


def freeze(path: Path) -> None:
    """Writes this build's format-<n>.tar.gz and answers into path: python tests/index/test_frozen.py DIR."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        registry.register("carrier", kind="sparse method")(Carrier)
        install()
        dense = [f"vec={model(Path(scratch))}(dim=3)"]
        sparse = ["bm25", "carrier", "parts=bm25(blocks=windows, tokens=4, overlap=1)"]
        index = Index.create(Path(scratch) / "index", sparse, dense, analyzer="german")
        every = documents()
        index.add(every[:17_000])
        index.commit()
        index.add(every[17_000:])
        index.delete(["d5", "d17"])
        index.commit()
        number = Store.open(index.path).commit["format"]
        with tarfile.open(path / f"format-{number}.tar.gz", "w:gz") as tar:
            tar.add(index.path, "index")
        (path / f"format-{number}.json").write_text(json.dumps(answers(index)) + "\n", encoding="utf-8")


@pytest.mark.parametrize("archive", sorted(FROZEN.glob("format-*.tar.gz")), ids=lambda path: path.name)
def test_old_formats_answer_as_they_did(tmp_path: Path, archive: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    wanted = json.loads((FROZEN / archive.name.replace(".tar.gz", ".json")).read_text(encoding="utf-8"))
    index = Index.open(tmp_path / "index")
    for method in index._methods.values():
        if method.kind == "dense":  # its model lay elsewhere
            settings = dict(method.settings)
            settings["source"] = model(tmp_path).partition(":")[2]
            method.settings = settings
    assert answers(index) == wanted
    assert check(tmp_path / "index")["docs"] == len(index) == 17_498
    index.merge(reorder=True)
    assert answers(index) == wanted
    index.add(["a new document"])
    index.commit()
    assert len(index) == 17_499


def test_there_is_one_for_this_format(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index")
    index.add(["x"])
    index.commit()
    number = Store.open(tmp_path / "index").commit["format"]
    assert (FROZEN / f"format-{number}.tar.gz").exists()


if __name__ == "__main__":
    import sys

    freeze(Path(sys.argv[1]))
