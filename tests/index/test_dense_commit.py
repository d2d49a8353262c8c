"""A commit whose dense representation is described in a way that this build cannot have written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from retrieval import Index, manifest
from retrieval.errors import CorruptIndex
from tests.index.hashing_encoder import corpus, install, made, model, remove


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


@pytest.mark.parametrize("name", ["source", "method", "params", "identity", "runtime", "structure"])
@pytest.mark.parametrize("value", [None, 5, []])
def test_odd_settings(tmp_path: Path, name: str, value: Any) -> None:
    index = made(tmp_path, corpus(5))
    file = Path(index.path) / "COMMIT"
    commit = orjson.loads(file.read_bytes().partition(b"\n")[2])
    file.write_bytes(manifest.encode(commit))
    assert len(Index.open(index.path)) == 5
    commit["representations"]["vec"][name] = value
    file.write_bytes(manifest.encode(commit))
    with pytest.raises(CorruptIndex, match=name):
        Index.open(index.path)


def test_an_index_without_documents(tmp_path: Path) -> None:
    index = Index.create(tmp_path / "index", dense=[f"vec={model(tmp_path)}"])
    index.commit()
    index.merge()
    index.add_representation(f"more={model(tmp_path, 'more')}", dense=True)
    assert index.search("w1", pipeline="more") == []
    index.add(corpus(3))
    index.commit()
    index.delete(["d0", "d1", "d2"])
    index.commit()
    index.merge()
    assert index.search("w1", pipeline="vec") == []
