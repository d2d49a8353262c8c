"""The engine comparison: same corpora everywhere, honest agreement figures, and one small run of our side."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from retrieval.bench import engines, engines_corpora, engines_report
from retrieval.bench.engines_files import about, load_queries, load_texts


def test_words_differ() -> None:
    words = {engines_corpora.word(number) for number in range(20_000)}
    assert len(words) == 20_000
    assert all(word.isalpha() and len(word) >= 3 for word in words)


def test_passages_are_the_same_everywhere(tmp_path: Path) -> None:
    one = engines_corpora.passages(tmp_path / "one", 200, 20)
    two = engines_corpora.passages(tmp_path / "two", 200, 20)
    assert (one / "docs.tsv").read_bytes() == (two / "docs.tsv").read_bytes()
    assert (one / "queries.jsonl").read_bytes() == (two / "queries.jsonl").read_bytes()
    texts = [set(text.split()) for _, text in load_texts(one)]
    assert len(texts) == about(one)["docs"] == 200
    for query in load_queries(one):
        words = query.split()
        assert 2 <= len(words) == len(set(words)) <= 8
        assert any(set(words) <= text for text in texts)


def test_impacts_are_sorted_sets_of_terms(tmp_path: Path) -> None:
    folder = engines_corpora.impacts(tmp_path, 300, 10)
    offsets, terms = np.load(folder / "offsets.npy"), np.load(folder / "terms.npy")
    weights = np.load(folder / "weights.npy")
    assert len(offsets) == 301
    assert offsets[-1] == len(terms) == len(weights) == about(folder)["postings"]
    for start, end in pairwise(offsets):
        assert (np.diff(terms[start:end].astype(int)) > 0).all()
    assert weights.min() >= 1
    for query in load_queries(folder):
        assert 5 <= len(query) <= 30
        assert all(1 <= weight <= 100 for weight in query.values())
    part = engines_corpora.cut(folder, 100)
    assert (np.load(part / "terms.npy") == terms[: offsets[100]]).all()
    assert load_queries(part) == load_queries(folder)


def test_agreement_forgives_ties_at_the_cut_only() -> None:
    right = [("a", 3.0), ("b", 2.0), ("c", 1.0)]
    tied = engines_report.agreement([right], [[("a", 3.0), ("b", 2.0), ("d", 1.0)]])
    assert tied["same_documents"] == 1
    assert tied["overlap_10"] == pytest.approx(2 / 3)
    wrong = engines_report.agreement([right], [[("a", 3.3), ("x", 2.0), ("c", 1.0)]])
    assert wrong["same_documents"] == 0
    assert wrong["score_difference"] == pytest.approx(0.1)


def test_exponents() -> None:
    keys = ("wall", "cpu", "peak_bytes", "list_bytes", "query_cpu")
    points = [{"docs": n, **dict.fromkeys(keys, 3e-5 * n**1.5)} for n in (10, 100, 1000)]
    assert engines_report.exponents(points) == pytest.approx(dict.fromkeys(keys, 1.5))


def test_our_side_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    small = ["--docs", "400", "--queries", "12", "--rounds", "1", "--cold", "1"]
    small += ["--engines", "ours", "--corpora", "passages"]
    engines.main([*small, "--work", str(tmp_path), "--json", str(out)])
    found = json.loads(out.read_text())["corpora"]["passages-400-12"]
    assert found["failed"] == {}
    assert set(found["engines"]) == {"ours"}
    for engine in found["engines"].values():
        assert engine["build"]["plain"]["list_bytes"] > 0
        assert engine["modes"]["hits"]["search"]["10"]["queries"] == 12
    compared = found["agreement"]["modes"]["ours: hits"]
    assert (compared["same_documents"], compared["score_difference"]) == (12, 0.0)
    assert "ours: hits" in capsys.readouterr().out
