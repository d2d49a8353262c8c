"""Run files as stages: forms, ties, depth, queries that they do not hold, what cannot be."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from retrieval import Index, pipeline
from retrieval.cli import main
from retrieval.errors import BadLine, CompositionError, UserError
from retrieval.types import Query

LINES = "q1 Q0 a 1 2.0 x\nq1 Q0 b 2 2.0 x\nq1 Q0 c 3 1.0 x\nq2 Q0 a 1 1.0 x\n"
QUERIES = [Query("q2", ""), Query("q1", ""), Query("q3", "")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "first.trec.gz"
    path.write_bytes(gzip.compress(LINES.encode()))
    return path


def test_a_run_file_is_a_stage_whose_text_reads_back(file: Path) -> None:
    stage = pipeline.parse(f"run({file}) % 2")
    assert repr(stage) == f"run({file}) % 2"
    run = pipeline.parse(repr(stage))(QUERIES)
    assert {query: [hit.doc_id for hit in hits] for query, hits in run.items()} == {
        "q2": ["a"],
        "q1": ["b", "a"],  # a tie: ids descending, whatever the order of the lines
        "q3": [],
    }
    assert [step.candidates_out for step in run.trace] == [3]


def test_run_files_add_up_whatever_their_form(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tsv"
    other.write_text("q1\tc\t1\nq1\td\t2\n")
    run = pipeline.parse(f"run({file}) + run({other})")([Query("q1", "")])
    expected = {"c": 1 / 63 + 1 / 61, "b": 1 / 61, "a": 1 / 62, "d": 1 / 62}
    assert {hit.doc_id: hit.score for hit in run["q1"]} == pytest.approx(expected, rel=1e-6)
    assert [hit.doc_id for hit in run["q1"]] == ["c", "b", "d", "a"]


def test_what_cannot_be_is_said(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run file '.*absent.trec'"):
        pipeline.parse(f"run({tmp_path}/absent.trec)")
    with pytest.raises(CompositionError, match="cannot re-score"):
        pipeline.parse(f"run({file}) >> run({file})")(QUERIES)
    for word in ("nan", "inf", "1e999"):
        bad = tmp_path / "bad.trec"
        bad.write_text(f"q1 Q0 a 1 2.0 x\nq1 Q0 b 2 {word} x\n")
        with pytest.raises(BadLine, match=rf"bad.trec:2: the score '{word}' is not a finite number"):
            pipeline.parse(f"run({bad})")(QUERIES)


def test_one_query_of_the_command_line_has_no_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = Index.create(tmp_path / "index")
    index.add(["sun", "moon"])
    index.commit()
    run = tmp_path / "of.trec"
    run.write_text("1 Q0 2 1 1.0 x\n")  # a query typed in would count as 1
    assert main(["search", str(tmp_path / "index"), "sun", "--pipeline", f"run({run}) % 2"]) == 2
    assert "ask with them: --queries FILE" in capsys.readouterr().err
