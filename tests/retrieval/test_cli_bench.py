"""The verb bench: rows on disk, tables and JSON on stdout, one sentence and exit code 2 for bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.bench.row import read_rows
from retrieval.cli import main
from tests.bench.suite_files import write_beir, write_system


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with data/one and data/two, and two systems."""
    for seed, name in enumerate(("one", "two")):
        write_beir(tmp_path / "data" / name, seed)
    write_system(tmp_path, "BM25", "bm25", 'trained_on = "none"')
    write_system(tmp_path, "flat", "bm25(b=0)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rows_and_a_table(place: Path, capsys: Any) -> None:
    arguments = ["bench", "beir", "--system", "BM25.toml", "--system", "flat.toml", "--data", "data"]
    assert main([*arguments, "--out", "rows", "--queries", "6", "--seed", "3", "--work", "work"]) == 0
    printed, said = capsys.readouterr()
    assert printed.split()[:9] == ["|", "nDCG@10", "|", "one", "|", "two", "|", "mean", "|"]
    assert "6 of 13 queries, drawn with a seed" in printed
    assert "one, BM25: nDCG@10 0." in said
    rows = read_rows(["rows"])
    assert sorted(str(path) for path in Path("rows").rglob("*.json")) == [
        f"rows/beir/{task}/{name}.json" for task in ("one", "two") for name in ("bm25", "flat")
    ]
    command = rows[0]["command"].split()
    assert command[0] == "retrieve"
    assert main([*command[1:], "--json"]) == 0  # the row's command makes the same row
    again = json.loads(capsys.readouterr().out)["rows"]
    assert len(again) == 4
    for row, other in zip(rows, again):
        assert "query_ids" not in other
        assert "values" not in other["measures"]["AP"]
        assert other["measures"]["AP"]["mean"] == row["measures"]["AP"]["mean"]
        assert other["data"] == row["data"]
    assert rows == [
        {**row, "times_ms": old["times_ms"], "stages": old["stages"], "hardware": old["hardware"]}
        for row, old in zip(read_rows(["rows"]), rows)
    ]


def test_a_row_that_is_written_over_is_told(place: Path, capsys: Any) -> None:
    arguments = ["bench", "beir", "--system", "BM25.toml", "--data", "data/one", "--out", "rows"]
    assert main(arguments) == main(arguments) == 0
    assert "written over" not in capsys.readouterr().err
    write_system(place, "BM25", "bm25(b=0.7)")
    assert main(arguments) == 0
    assert "rows/beir/one/bm25.json was a row of 'bm25'; it is written over" in capsys.readouterr().err


def test_without_work_nothing_is_left(place: Path, capsys: Any) -> None:
    before = sorted(place.rglob("*"))
    assert main(["bench", "beir", "--system", "BM25.toml", "--data", "data/one"]) == 0
    assert sorted(place.rglob("*")) == before
    assert capsys.readouterr().out.split()[:5] == ["|", "nDCG@10", "|", "one", "|"]


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["beeir"], "unknown suite 'beeir'; did you mean 'beir'?"),
        (["beir", "--task", "oen"], "unknown task 'oen'; did you mean 'one'?"),
        (["beir", "--split", "tset"], "unknown split of data/one 'tset'; did you mean 'test'?"),
        (["beir", "-m", "nDGC@10"], "unknown measure 'nDGC'; did you mean 'nDCG'?"),
        (["beir", "--set", "a=b"], "unknown option of this suite 'a'. It has none."),
        (["beir", "--set", "a"], "--set 'a' has no value"),
        (["beir", "--work", "BM25.toml"], "--work 'BM25.toml' is a file"),
        (["beir", "--data", "absent"], "there is no folder 'absent'"),
        (["beir", "--data", "."], "looked for corpus.jsonl, queries.jsonl and qrels/test.tsv"),
        (["beir", "--system", "BM25.toml"], "BM25.toml and BM25.toml are both called 'BM25'"),
        (["beir", "--system", "no.toml"], "there is no system file 'no.toml'"),
        (["beir", "--queries", "0"], "'0' is no whole number"),
        (["beir", "--seed", "-1"], "'-1' is no whole number"),
    ],
)
def test_bad_input_is_one_sentence(more: list[str], problem: str, place: Path, capsys: Any) -> None:
    arguments = ["bench", *more, "--system", "BM25.toml"]
    if "--data" not in more:
        arguments += ["--data", "data"]
    assert main(arguments) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert problem in said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2


def test_a_system_has_to_be_named(place: Path, capsys: Any) -> None:
    assert main(["bench", "beir", "--data", "data"]) == 2
    assert "no system is given" in capsys.readouterr().err
