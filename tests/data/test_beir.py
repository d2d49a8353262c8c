"""BEIR folders: splits, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.data import beir
from retrieval.errors import UnknownName, UserError


def test_split_source(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f@x").mkdir()
    (tmp_path / "file").touch()
    assert beir.split_source(tmp_path / "f@dev") == (str(tmp_path / "f"), "dev")
    assert beir.split_source(tmp_path / "f") == (str(tmp_path / "f"), None)
    assert beir.split_source(tmp_path / "f@x") == (str(tmp_path / "f@x"), None)  # it exists under that name
    assert beir.split_source(tmp_path / "f@x@dev") == (str(tmp_path / "f@x"), "dev")
    assert beir.split_source(tmp_path / "file@dev") == (str(tmp_path / "file@dev"), None)
    assert beir.split_source("a@b/c") == ("a@b/c", None)


def test_files_and_splits(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    with pytest.raises(UnknownName, match=r"unknown split of .* 'test'\. It holds no qrels"):
        beir.qrels_file(tmp_path)
    (tmp_path / "qrels/train.tsv").touch()
    (tmp_path / "qrels/dev.tsv.gz").touch()
    (tmp_path / "queries.jsonl.gz").touch()
    assert beir.splits(tmp_path) == ["dev", "train"]
    assert beir.qrels_file(tmp_path, "dev").name == "dev.tsv.gz"
    assert beir.queries_file(tmp_path).name == "queries.jsonl.gz"
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        beir.qrels_file(tmp_path, "trian")
    with pytest.raises(UnknownName, match="known: dev, train"):
        beir.qrels_file(tmp_path)
    with pytest.raises(UserError, match=r"is a folder without a corpus: no corpus\.jsonl, plain or \.gz"):
        beir.corpus_file(tmp_path)
