"""Rows gathered into tables: order, tests of all pairs, states of the data, means over tasks, quoted rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.bench.leaderboard import write_leaderboard
from retrieval.bench.leaderboard_board import board
from retrieval.bench.leaderboard_columns import PAD, columns, fixed, signed
from retrieval.bench.leaderboard_pairs import all_pairs, front, significant
from retrieval.bench.leaderboard_quoted import quoted_rows
from retrieval.bench.row import row_path, write_row
from retrieval.bench.statistics import holm, randomisation
from retrieval.cli import main
from retrieval.errors import UnknownName, UserError

Make = Callable[..., Any]


def test_best_first_and_tested_against_bm25(rows: list[Any]) -> None:
    (section,) = board(rows).sections
    means = [entry.figures["nDCG@10"][0] for entry in section.entries]
    assert section.entries[0].name == "good"
    assert means == sorted(means, reverse=True)
    assert section.entries[section.baseline or 0].name == "BM25"
    names = {entry.name: place for place, entry in enumerate(section.entries)}
    base = names["BM25"]
    assert significant(section.pair(names["good"], base)) == 1
    assert significant(section.pair(base, names["good"])) == -1
    assert significant(section.pair(names["even"], base)) == 0
    assert significant(section.pair(names["slow"], base)) == -1
    assert section.pair(base, base) is None
    other = board(rows, baseline="slow").sections[0]
    assert other.entries[other.baseline or 0].name == "slow"


def test_all_pairs_are_corrected_together() -> None:
    random = np.random.default_rng(0)
    values = {place: random.random(25) + 0.08 * place for place in (0, 2, 5)}
    pairs, name = all_pairs(values)
    chosen = list(combinations((0, 2, 5), 2))
    found = [randomisation(values[i], values[j]) for i, j in chosen]
    assert list(pairs) == chosen
    assert [pair.corrected for pair in pairs.values()] == holm([each.p for each in found])
    assert [pair.difference for pair in pairs.values()] == [each.difference for each in found]
    assert "randomisation" in name
    assert all_pairs({0: random.random(5)}) == ({}, "")


def test_many_queries_are_tested_by_t(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.bench.leaderboard_pairs._WORK", 1000)
    assert "t-test" in all_pairs({0: np.arange(9.0), 1: np.arange(9.0) ** 2})[1]


points = st.lists(st.tuples(st.integers(1, 9).map(float), st.integers(0, 9).map(float)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(points)
def test_front_is_what_nothing_beats(found: list[tuple[float, float]]) -> None:
    numbered = [(time, quality, place) for place, (time, quality) in enumerate(found)]
    kept = front(numbered)
    for time, quality, place in numbered:
        beaten = any(
            t <= time and q >= quality and (t, q) != (time, quality)
            for t, q, other in numbered
            if other != place
        )
        twin = any((t, q) == (time, quality) and other < place for t, q, other in numbered)
        assert (place in kept) == (not beaten and not twin)
    assert [found[place][0] for place in kept] == sorted(found[place][0] for place in kept)


def test_rows_on_different_data_are_not_in_one_table(rows: list[Any], make_row: Make) -> None:
    values = rows[0]["measures"]["nDCG@10"]["values"]
    other = make_row("elsewhere", values, data={**rows[0]["data"], "qrels_sha256": "e" * 64})
    fewer = make_row("sample", values[:20], data={**rows[0]["data"], "of": 40})
    sections = board([*rows, other, fewer]).sections
    assert [len(section.entries) for section in sections] == [4, 1, 1]
    assert len({section.key for section in sections}) == 3
    for section in sections:
        assert "judgements" in section.warning
        assert "choice of queries" in section.warning
        assert "documents" not in section.warning
    assert not any(section.warning for section in board(rows).sections)


def test_runs_join_those_who_know_the_documents(rows: list[Any], make_row: Make) -> None:
    run = make_row("run", rows[0]["measures"]["nDCG@10"]["values"])
    run["data"] = {**run["data"], "corpus_sha256": None}
    assert len(board([*rows, run]).sections) == 1
    other = make_row("other", rows[0]["measures"]["nDCG@10"]["values"])
    other["data"] = {**other["data"], "corpus_sha256": "f" * 64}
    assert len(board([*rows, other, run]).sections) == 3


def test_mean_only_of_systems_with_all_tasks(rows: list[Any], make_row: Make) -> None:
    second = [make_row(name, [0.5, 0.7], task="two") for name in ("BM25", "good")]
    (over,) = board([*rows, *second]).overviews
    lines = {line.name: line for line in over.lines}
    expected = (np.mean(rows[0]["measures"]["nDCG@10"]["values"]) + 0.6) / 2
    assert lines["BM25"].mean == pytest.approx(expected)
    assert lines["slow"].mean is None
    assert lines["slow"].lacking == ["two"]
    assert [line.name for line in over.lines][:2] == ["good", "BM25"]


def test_no_mean_over_different_measures(rows: list[Any], make_row: Make) -> None:
    row = make_row("BM25", [0.5, 0.7], task="two")
    row["measures"] = {"RR@10": row["measures"]["RR@10"]}
    (over,) = board([*rows, row]).overviews
    assert not over.measure
    assert all(line.mean is None for line in over.lines)
    assert board([*rows, row], measure="RR@10").overviews[0].measure == "RR@10"


def test_quoted_rows_join_their_task_and_are_never_tested(rows: list[Any]) -> None:
    cited = {"quoted": "a paper, Table 1", "system": {"name": "Literature"}, "suite": "made", "split": "test"}
    here = {**cited, "task": "one", "measures": {"nDCG@10": {"mean": 0.99}}}
    elsewhere = {**cited, "task": "two", "measures": {"nDCG@10": {"mean": 0.99}}}
    (section,) = board(rows, [here, elsewhere]).sections  # type: ignore[list-item]
    assert section.entries[0].quoted == "a paper, Table 1"
    assert not any(0 in pair for pair in section.pairs)
    cells = {column.key: column.cells[0] for column in columns(section)}
    assert cells["nDCG@10"] == "0.990" + PAD
    assert cells["difference"] == "not tested"
    with pytest.raises(UserError, match="measured"):
        board([here])  # type: ignore[list-item]


def test_quoted_means_stand_where_all_their_tasks_do(make_row: Make) -> None:
    tasks = ["summ_screen_fd", "gov_report", "qmsum", "qasper_title", "qasper_abstract"]
    ours = [make_row("BM25", [0.8, 0.9], suite="loco-v0", task=task) for task in tasks]
    (over,) = board(ours, quoted_rows()).overviews
    means = {line.name: line.mean for line in over.lines}
    assert means["BM25 (Elasticsearch)"] == pytest.approx(0.898, abs=5e-4)
    assert means["gte-large-v1.5"] == pytest.approx(0.8671)
    (fewer,) = board(ours[:4], quoted_rows()).overviews
    assert "gte-large-v1.5" not in {line.name for line in fewer.lines}


def test_quoted_rows_are_those_of_the_literature() -> None:
    found = quoted_rows()
    assert all(row["quoted"] and set(row) <= {
        "quoted", "system", "suite", "task", "split", "tasks", "measures"
    } for row in found)  # fmt: skip
    m2 = [
        row["measures"]["nDCG@10"]["mean"]
        for row in found
        if row["system"]["name"] == "M2-BERT-32k" and row["suite"] == "loco-v1"
    ]
    assert len(m2) == 12
    assert np.mean(m2) == pytest.approx(0.911, abs=5e-4)
    bm25 = [row for row in found if row["suite"] == "msmarco-passage" and row["task"] == "dl19"]
    assert any(row["measures"].get("nDCG@10") == {"mean": 0.5058} for row in bm25)


def test_tokens_of_a_run_made_elsewhere_are_not_told(rows: list[Any], make_row: Make) -> None:
    run = make_row("run", rows[0]["measures"]["nDCG@10"]["values"], index=None)
    run["tokens_dropped"] = {"documents": 0, "searching": 0}
    (section,) = board([*rows, run]).sections
    dropped = {entry.name: entry.dropped for entry in section.entries}
    assert dropped["run"] == (None, None)
    assert dropped["BM25"] == (12, 3)


def test_equal_rows_equal_bytes(rows: list[Any], tmp_path: Path) -> None:
    for name, given_rows in (("a", rows), ("b", rows[::-1])):
        write_leaderboard(given_rows, tmp_path / name)
    for file in ("index.html", "leaderboard.md", "leaderboard.tex", "rows.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    written = json.loads((tmp_path / "a" / "rows.json").read_text())
    assert sorted(row["system"]["name"] for row in written) == sorted(row["system"]["name"] for row in rows)


def test_numbers() -> None:
    assert [fixed(0.5), fixed(-0.5), fixed(-0.00001), signed(0.01), signed(-0.01), signed(0.00001)] == [
        "0.5000", "\u22120.5000", "0.0000", "+0.0100", "\u22120.0100", "0.0000",
    ]  # fmt: skip


def test_the_command(rows: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in rows:
        write_row(row, row_path(row, tmp_path / "rows"))
    out = str(tmp_path / "site")
    command = ["leaderboard", str(tmp_path / "rows"), "-o", out]
    assert main([*command, "--baseline", "even", "--title", "Ours"]) == 0
    assert "4 systems, 6 tests\n" in capsys.readouterr().out
    assert "<title>Ours</title>" in (tmp_path / "site" / "index.html").read_text()
    cited = {"quoted": "Table 2", "system": {"name": "Theirs"}, "measures": {"nDCG@10": {"mean": 0.699}}}
    place = {"suite": "made", "task": "one", "split": "test"}
    (tmp_path / "theirs.json").write_text(json.dumps({**cited, **place}))
    assert main([*command, str(tmp_path / "theirs.json")]) == 0
    assert "6 tests, 1 quoted line\n" in capsys.readouterr().out
    assert main([*command, "--baseline", "evn"]) == 2
    assert "did you mean 'even'" in capsys.readouterr().err
    assert main(["leaderboard", "-o", out]) == 2
    with pytest.raises(UnknownName):
        board(rows, measure="nDCG@9")
