"""Training data of long documents, and M2-BERT's speed next to BERT's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from retrieval.bench import m2bert_data, m2bert_speed

WORDS = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
]


def test_windows_cover_a_text_once() -> None:
    text = " ".join(str(n) for n in range(107))
    made = m2bert_data.windows(text, 20)
    assert " ".join(made) == text
    assert [len(piece.split()) for piece in made] == [20, 20, 20, 20, 27]
    assert m2bert_data.windows("one two", 20) == ["one two"]


def test_the_nearest_window_shares_the_rarest_words() -> None:
    pieces = ["the cat sat", "the dog ran", "the cat and the rare bird"]
    weights = m2bert_data.weights_of(pieces)
    assert weights["the"] == 0
    assert m2bert_data.nearest("The rare BIRD", pieces, weights, 1) == [2]
    assert m2bert_data.nearest("a dog", pieces, weights, 2)[0] == 1


def test_a_span_comes_from_its_piece_and_is_taken_out() -> None:
    words = [str(n) for n in range(160)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        query, rest = m2bert_data.span(" ".join(words), rng, 1.0)
        assert query in " ".join(words)
        assert 20 <= len(query.split()) <= 60
        assert sorted(map(int, query.split() + rest.split())) == list(range(160))
    assert m2bert_data.span("a b c d", rng, 0.0)[1] == "a b c d"


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "corpus.jsonl").open("w") as file:
        for name in "abc":
            text = " ".join([name * 3, *rng.choice(WORDS, 90)])
            file.write(json.dumps({"_id": name, "title": "", "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        for name in "abc":
            file.write(json.dumps({"_id": f"q{name}", "text": f"{name * 3} alpha"}) + "\n")
    for split, names in (("train", "ab"), ("test", "c")):
        rows = "".join(f"q{name}\t{name}\t1\n" for name in names)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_reads_the_training_split_alone(
    collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    m2bert_data.main([str(collection), "--out", str(out), "--words", "30", "--near", "1", "--spans", "2"])
    assert json.loads(capsys.readouterr().out) == {"documents": 2, "queries": 2, "windows": 6}
    texts: list[dict[str, Any]] = read(out / "texts.jsonl")
    assert [text["_id"] for text in texts] == ["a", "b"]
    pairs = read(out / "windows.jsonl")
    assert all("ccc" not in pair["query"] + pair["positive"] for pair in pairs)
    assert all("aaa" in pair["positive"] for pair in pairs if pair["query"].startswith("aaa alpha"))


def test_speed_is_measured_of_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(m2bert_speed.SHAPES, "small", (1, 16, 2, 8))
    m2bert_speed.main(
        ["--shapes", "small", "--lengths", "64", "--rounds", "1", "--json", str(tmp_path / "j")]
    )
    assert "| small, 1 x 16 | 64 |" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "j").read_text())
    assert row["m2"] > 0
    assert row["bert"] > 0
