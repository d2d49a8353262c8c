"""The two benchmarks of dense encoders on a tiny model: equal vectors, and what is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from tests.index.text_models import write_layout, write_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "m", "bert", {})
    write_layout(
        tmp_path / "m", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}, length=32
    )
    (tmp_path / "tiny" / "qrels").mkdir(parents=True)
    texts = ["the wind of the sun", "a ship", "sea", "x y x"]
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": t}) for i, t in enumerate(texts)]
    (tmp_path / "tiny" / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": f"q{i}", "text": t}) for i, t in enumerate(texts[:2])]
    (tmp_path / "tiny" / "queries.jsonl").write_text("\n".join(lines) + "\n")
    judged = "query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t1\n"
    (tmp_path / "tiny" / "qrels" / "test.tsv").write_text(judged)
    return tmp_path


def test_quality(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retrieval.bench.dense_quality import main

    model = f"m={folder / 'm'}(precision=float32)"
    main(
        ["--model", model, "--collections", str(folder), "--collection", "tiny", "--json", str(folder / "j")]
    )
    found = json.loads((folder / "j").read_text())
    for way in found["ways"].values():
        assert way["nDCG@10"] == 1  # a text finds itself
    assert found["cosine"]["min"] > 0.99999
    table = capsys.readouterr().out
    assert "m on tiny: 4 documents, 2 queries; ours: torch, float32." in table
    assert "| sentence-transformers | 1.0000 | 1.0000 |" in table


def test_speed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from retrieval.bench.dense_speed import main

    given = [
        "--model",
        str(folder / "m"),
        "--collections",
        str(folder),
        "--collection",
        "tiny",
        "--rounds",
        "2",
    ]
    main([*given, "--ways", "torch float32", "--json", str(folder / "j")])
    found = json.loads((folder / "j").read_text())
    assert list(found["ways"]) == ["sentence-transformers, torch float32", "ours, torch float32"]
    ours = found["ways"]["ours, torch float32"]
    assert ours["cosine_min"] > 0.99999
    assert np.isclose(
        ours["times"], np.median(np.divide(found["ways"][next(iter(found["ways"]))]["cpu"], ours["cpu"]))
    )
    assert "| ours, torch float32 |" in capsys.readouterr().out
