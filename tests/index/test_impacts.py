"""Impacts at their edges: what is quantised, what is refused, whence later vectors come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retrieval import BadLine, Index, UserError

Vectors = Mapping[str, Mapping[str, Any]]


def vector_file(path: Path, vectors: Vectors) -> Path:
    path.write_text("".join(json.dumps({"id": i, "vector": v}) + "\n" for i, v in vectors.items()))
    return path


def built(tmp_path: Path, vectors: Vectors, **options: Any) -> Index:
    file = vector_file(tmp_path / "vectors.jsonl", vectors)
    index = Index.create(tmp_path / "index", [f"impacts:{file}"], **options)
    index.add([{"id": doc_id, "text": "x"} for doc_id in vectors])
    index.commit()
    return index


def found(index: Index, query: str) -> dict[str, float]:
    return {hit.doc_id: hit.score for hit in index.search(query)}


def test_a_largest_weight_of_255_says_nothing_about_the_others(tmp_path: Path) -> None:
    index = built(tmp_path, {"a": {"x": 0.5}, "b": {"x": 255.0}, "c": {"x": 7.0}})
    assert index.representations["impacts"]["quantiser"]["rounding"] == "ceil"
    assert found(index, "x") == {"a": 1.0, "b": 255.0, "c": 7.0}


def test_whole_weights_of_a_file_are_stored_as_they_are(tmp_path: Path) -> None:
    index = built(tmp_path, {"a": {"x": 3}, "b": {"x": 200.0}})
    assert index.representations["impacts"]["quantiser"]["rounding"] == "none"
    assert found(index, "x") == {"a": 3.0, "b": 200.0}


@pytest.mark.parametrize("compact", [False, True])
def test_no_positive_weight_becomes_nothing(tmp_path: Path, compact: bool) -> None:
    index = built(tmp_path, {"a": {"x": 5e-324}, "b": {"x": 1000.0}, "c": {"x": 7.0}}, compact=compact)
    assert found(index, "x") == {"a": 1.0, "b": 255.0, "c": 2.0}


def test_weights_may_be_as_small_as_floats_get(tmp_path: Path) -> None:
    index = built(tmp_path, {"a": {"x": 5e-324}, "b": {"x": 1e-320}})
    assert found(index, "x") == {"a": 1.0, "b": 255.0}


@pytest.mark.parametrize("reopened", [False, True])
def test_later_documents_bring_their_vectors(tmp_path: Path, reopened: bool) -> None:
    index = built(tmp_path, {"a": {"x": 0.5}, "b": {"x": 2.5}})
    if reopened:
        index = Index.open(tmp_path / "index")
    with pytest.raises(UserError, match=r"'c' has no vector; .*\"vector\".* up to 2\.5, .* impacts:FILE"):
        index.add([{"id": "c", "text": "x"}])
    with pytest.raises(UserError, match=r"2\.6 is above 2\.5"):
        index.add([{"id": "c", "text": "x", "vector": {"x": 2.6}}])
    index.add([{"id": "c", "text": "x", "vector": {"x": 1.25}}])
    index.commit()
    assert found(index, "x") == {"a": 51.0, "b": 255.0, "c": 128.0}


def test_a_document_that_the_file_does_not_have(tmp_path: Path) -> None:
    file = vector_file(tmp_path / "vectors.jsonl", {"a": {"x": 0.5}})
    index = Index.create(tmp_path / "index", [f"impacts:{file}"])
    with pytest.raises(UserError, match=r"'b' has no vector in .*vectors\.jsonl"):
        index.add([{"id": "b", "text": "x"}])
    file.unlink()
    with pytest.raises(UserError, match="no file of vectors"):
        index.add([{"id": "a", "text": "x"}])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (True, "True, no number"),
        ("3", "'3', no number"),
        (None, "None, no number"),
        (float("nan"), "nan, no number"),
        (float("inf"), "larger than any float"),
        pytest.param(10**400, "larger than any float", id="beyond floats"),
        pytest.param(-(10**5000), "cannot be stored", id="longer than Python prints"),
        (256, "whole numbers of 1 to 255"),
        (0.5, "whole numbers of 1 to 255"),
    ],
)
def test_weights_that_are_refused(tmp_path: Path, weight: Any, message: str) -> None:
    index = Index.create(tmp_path / "index", ["impacts"])
    with pytest.raises(UserError, match=message):
        index.add([{"id": "a", "text": "x", "vector": {"x": weight}}])


@pytest.mark.parametrize("weight", ["true", '"3"', "null", "NaN", "1e400", "9" * 400])
def test_weights_that_are_refused_in_a_file(tmp_path: Path, weight: str) -> None:
    file = tmp_path / "vectors.jsonl"
    file.write_text('{"id": "a", "vector": {"x": 1}}\n{"id": "b", "vector": {"x": ' + weight + "}}\n")
    with pytest.raises(BadLine, match=r"vectors\.jsonl:2"):
        Index.create(tmp_path / "index", [f"impacts:{file}"])
