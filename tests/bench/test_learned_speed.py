"""The speed of learned sparse retrieval: the loops are right, what differs is counted, one small run."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.bench import engines_corpora, learned_rows, learned_speed
from retrieval.index.index import Index

ROWS = st.dictionaries(st.integers(0, 20), st.integers(1, 255), max_size=8)


@given(st.lists(ROWS, min_size=1, max_size=9), st.lists(st.integers(0, 20), max_size=6))
def test_loops_are_sums_of_postings(rows: list[dict[int, int]], query: list[int]) -> None:
    sums: dict[str, float] = defaultdict(float)
    for token in query:
        for i, row in enumerate(rows):
            sums[f"d{i}"] += row.get(token, 0)
    names = [f"d{i}" for i in range(len(rows))]
    wanted = sorted(((sums[name], name) for name in names), reverse=True)
    plain = {name: {t: float(w) for t, w in row.items()} for name, row in zip(names, rows)}
    numpy = {
        name: dict(zip(np.array(list(row), np.int16), np.array(list(row.values()), np.float16)))
        for name, row in zip(names, rows)
    }
    assert learned_rows.rerank_plain(plain, query, names) == wanted
    assert learned_rows.rerank_numpy(numpy, query, names) == wanted


def test_both_forms_hold_the_corpus(tmp_path: Path) -> None:
    corpus = engines_corpora.impacts(tmp_path, 30, 3)
    offsets, terms, weights = (np.load(corpus / f"{name}.npy") for name in ("offsets", "terms", "weights"))
    found = {form: learned_rows.direct_index(corpus, [4, 29], form) for form in learned_rows.FORMS}
    for document in (4, 29):
        span = slice(offsets[document], offsets[document + 1])
        wanted = dict(zip(terms[span].tolist(), weights[span].tolist()))
        assert found["plain"][f"d{document}"] == wanted
        row = found["numpy"][f"d{document}"]
        assert {int(term): float(weight) for term, weight in row.items()} == wanted
        assert {type(each) for pair in row.items() for each in pair} == {np.int16, np.float16}


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """What --json says."""
    out = tmp_path / "out.json"
    small = ["--docs", "1500", "--queries", "12", "--rescored", "4", "--rounds", "2"]
    learned_speed.main([*small, "--work", str(tmp_path / "work"), "--json", str(out), *arguments])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(tmp_path)
    assert capsys.readouterr().out == learned_speed.markdown(found)
    for name, tokens in (("short", (3, 9)), ("long", (5, 30))):
        rescoring = found["rescoring"][name]
        assert rescoring["different"] == 0
        assert tokens[0] <= rescoring["tokens"] <= tokens[1]
        assert 100 < rescoring["candidates"] <= 1000
        assert set(rescoring["times"]) == {"stage", "scores", "plain", "numpy"}
        assert found["retrieval"][name]["queries"] == 12
        assert found["retrieval"][name]["1000"]["cpu p50"] > 0
    again = run(tmp_path)
    assert again["build"] == {**found["build"], "reused": 1.0}


def test_a_wrong_score_is_counted(tmp_path: Path) -> None:
    corpus, path, _ = learned_speed.build(tmp_path, 300, 5)
    with Index.open(path) as index:
        rows: Any = index.stage("rows")
        ready = learned_speed.Rescoring(rows, corpus, learned_speed.short_queries(corpus, 5))
        assert ready.differences() == 0
        name, token = ready.candidates[2][0], ready.tokens[2][0]
        row = ready.indexes["numpy"][name]
        row[token] = np.float16(row.get(token, 0) + 1)
        assert 1 <= ready.differences() < 5
        ready.direct = ready.direct.cut(2)
        assert ready.differences() == 5


def test_candidates_come_in_no_order(tmp_path: Path) -> None:
    corpus, path, _ = learned_speed.build(tmp_path, 300, 5)
    with Index.open(path) as index:
        rows: Any = index.stage("rows")
        ready = learned_speed.Rescoring(rows, corpus, learned_speed.short_queries(corpus, 5))
        moved = 0
        for candidates, query in zip(ready.candidates, ready.queries):
            found = [hit.doc_id for hit in ready.direct[query.query_id]]
            assert sorted(candidates) == sorted(found)
            moved += candidates != found
        assert moved >= 3
