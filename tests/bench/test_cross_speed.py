"""The benchmark of cross-encoders on a tiny model: equal scores, what is reported, what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval.bench.cross_speed import main
from tests.rerank.cross_models import write_cross


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    write_cross(tmp_path / "m", "xlm-roberta")
    (tmp_path / "tiny" / "qrels").mkdir(parents=True)
    texts = ["the wind of the sun", "a ship", "sea ship", "x y x ship", "the wind blows over the sea " * 12]
    lines = [json.dumps({"_id": f"d{i}", "title": "", "text": t}) for i, t in enumerate(texts)]
    (tmp_path / "tiny" / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    lines = [json.dumps({"_id": f"q{i}", "text": t}) for i, t in enumerate(["ship", "wind", "nobody"])]
    (tmp_path / "tiny" / "queries.jsonl").write_text("\n".join(lines) + "\n")
    judged = "query-id\tcorpus-id\tscore\nq0\td1\t1\nq1\td0\t1\nq2\td0\t1\n"
    (tmp_path / "tiny" / "qrels" / "test.tsv").write_text(judged)
    work = ["--work", str(tmp_path), "--rounds", "2", "--json", str(tmp_path / "j")]
    return ["--model", str(tmp_path / "m"), "--collection", str(tmp_path / "tiny"), *work]


def test_both_score_alike(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    main([*given, "--depth", "2"])
    found = json.loads((tmp_path / "j").read_text())
    assert found["queries"] == 2  # "nobody" has no documents
    same = found["ways"]["ours, float32"]
    assert same["largest_difference"] < 1e-4
    assert same["same_top_10"] == 1
    assert [len(one) for one in same["queries"]] == [2, 2]
    assert found["tokens"]["cut"] == 0.25  # one pair of four
    table = capsys.readouterr().out
    assert "m, 2 queries of tiny, BM25's first 2 of each, 2 rounds, 1 thread(s)" in table
    assert "| sentence-transformers, float32 |" in table


def test_what_is_missing_is_one_sentence(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SystemExit) as left:
        main(given)
    assert left.value.code == 2
    said = "sentence-transformers is not installed; install it with: pip install sentence-transformers\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr("retrieval.bench.cross_speed.peer", lambda model, length: None)
    with pytest.raises(SystemExit):
        main([*given, "--depth", "50"])
    assert "no query of" in capsys.readouterr().err
