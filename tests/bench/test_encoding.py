"""The encoding benchmark on a model of a few numbers: every way gives the same states, and is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_every_way_computes_the_same(
    tiny_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from retrieval.bench.encoding import main

    corpus = tmp_path / "corpus.jsonl"
    texts = ["wind of the sun", "a", "solar wind and more of it, and then a long end " * 3]
    corpus.write_text("".join(json.dumps({"_id": str(i), "text": t}) + "\n" for i, t in enumerate(texts)))
    out = tmp_path / "figures.json"
    arguments = [
        "--model",
        tiny_model("tilde"),
        "--corpus",
        corpus,
        "--batch",
        2,
        "--rounds",
        1,
        "--json",
        out,
    ]
    main([str(argument) for argument in arguments])
    table = capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["documents"] == 3
    assert figures["tokens"]["max"] == figures["tokens"]["cut_to"] == 64
    assert len(figures["ways"]) == 6
    for way, found in figures["ways"].items():
        assert found["least_cosine"] > (0.99 if "bfloat16" in way else 0.99999), way
        assert f"| {way} | {found['documents_per_second']:.1f} | " in table
