"""--budget and pipelines from files on the command line; run files in memory that does not grow."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from retrieval import Index, cli, cli_batch
from retrieval.data.runs import read_run

PIPELINE = "bm25 >> bm25(b=0.9) >> bm25(k1=2) % 3"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "i"
    index = Index.create(folder)
    index.add({"_id": f"d{at:03d}", "text": "sun " * (at % 7 + 1) + f"wind w{at}"} for at in range(200))
    index.commit()
    return folder


def test_cuts_are_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", str(path), "sun", "--pipeline", PIPELINE, "--budget", "20pairs"]
    assert cli.main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["budget"] == {
        "limit": "20pairs",
        "cuts": [
            {"stage": "bm25(b=0.9)", "candidates": 200, "read": 10},
            {"stage": "bm25(k1=2)", "candidates": 200, "read": 10},
        ],
    }
    assert len(facts["results"]) == 3
    assert cli.main(arguments) == 0
    assert "budget: bm25(k1=2) read 10 of 200 candidates" in capsys.readouterr().err
    assert cli.main(["search", str(path), "sun", "--json"]) == 0
    assert "budget" not in json.loads(capsys.readouterr().out)


def test_many_queries(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.tsv").write_text("1\tsun\n2\tw7 sun\n3\tzebra\n")
    run = tmp_path / "run.trec"
    arguments = ["search", str(path), "--queries", str(tmp_path / "q.tsv"), "--run", str(run)]
    more = ["--pipeline", PIPELINE, "--budget", "20pairs", "--json"]
    assert cli.main([*arguments, *more]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["budget"]["cuts"][0] == {"stage": "bm25(b=0.9)", "candidates": 400, "read": 20}
    assert {query: len(hits) for query, hits in read_run(run).items()} == {"1": 3, "2": 3}


def test_explained(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["explain", str(path), "sun", "--pipeline", PIPELINE, "--budget", "20pairs"]
    assert cli.main([*arguments, "--doc", "d000"]) == 0
    assert "bm25(b=0.9) (read 10 of 200, not this one; budget 20 pairs)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget", "soon"], "write milliseconds, seconds or whole pairs a query"),
        (["--budget", "0ms", "--pipeline", "bm25 >> cross(absent)"], "has to be above 0"),
        (["--budget", "0.000001ms", "--pipeline", PIPELINE], "the first stage alone, bm25, takes"),
        (["--pipeline", "absent.toml"], "absent.toml"),
        (["--pipeline", " "], "--pipeline is empty"),
    ],
)
def test_refusals(path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["search", str(path), "sun", *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["search"], ["explain", "--doc", "d000"]])
def test_a_budget_is_read_before_a_model(
    verb: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "open", None)
    assert cli.main([verb[0], str(path), "sun", *verb[1:], "--budget", "0ms"]) == 2


def test_a_pipeline_from_a_file(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = tmp_path / "p.toml"
    toml.write_text('# made by hand\npipeline = "bm25 % 5 >> bm25 % 2"\n[stages.bm25]\nb = 0.9\n')
    assert cli.main(["search", str(path), "sun", "--pipeline", str(toml), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["timing_ms"]) == ["bm25(b=0.9)", "total"]
    assert len(facts["results"]) == 2
    toml.write_text("pipeline = 3")
    assert cli.main(["explain", str(path), "sun", "--doc", "d001", "--pipeline", str(toml)]) == 2
    assert "the pipeline file has no text" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_queries(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_batch, "_GROUP", 32)
    peaks = []
    for count in (100, 100, 1000):  # the first warms up
        queries = tmp_path / f"{count}.tsv"
        queries.write_text("".join(f"q{at}\tsun w{at % 200}\n" for at in range(count)))
        run = tmp_path / "run.trec"
        arguments = ["search", str(path), "--queries", str(queries), "--run", str(run), "--threads", "1"]
        tracemalloc.start()
        assert cli.main([*arguments, "--pipeline", "bm25 >> bm25(b=0.9) % 150 >> bm25(k1=2)"]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(run.read_text().splitlines()) == 150 * count
    assert peaks[2] < peaks[1] + 500_000  # 1,000 queries' columns alone are 1.2 MB, their lines 4 MB
