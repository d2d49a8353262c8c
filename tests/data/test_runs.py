"""Runs: three forms both ways, scores that fall strictly in every reading, and lines that are none."""

from __future__ import annotations

import gzip
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrieval.data.runs import falling, read_run, read_scores, write_run
from retrieval.errors import BadLine, RetrievalError, UserError
from retrieval.types import Query, Run

IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\ufeff{"), min_size=1, max_size=8
)
SCORES = st.floats(width=32, min_value=-(2.0**120), max_value=2.0**120) | st.sampled_from(
    [0.0, -0.0, 1.0, 1e-45, -1e-45, 1e-38, -1.17e-38, 7.25]
)
RUNS = st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=6), min_size=1, max_size=4)
FORMS: list[Literal["trec", "msmarco", "beir"]] = ["trec", "msmarco", "beir"]


def order(run: Run) -> dict[str, list[str]]:
    return {query_id: [hit.doc_id for hit in hits] for query_id, hits in run.items()}


@settings(deadline=None)
@given(RUNS, st.sampled_from(FORMS), st.sampled_from(["r", "r.gz"]))
def test_what_is_written_is_read_back_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    scores: dict[str, dict[str, float]],
    form: Literal["trec", "msmarco", "beir"],
    name: str,
) -> None:
    path = tmp_path_factory.mktemp("runs") / name
    run = Run.from_dict(scores)
    write_run(run, path, form=form)
    again = read_run(path)
    assert order(again) == order(run)
    for hits in read_scores(path).values():  # as float64 and as float32, whatever a scorer works with
        written = list(hits.values())
        assert all(a > b for a, b in pairwise(written))
        narrow = np.array(written, np.float32)
        assert (narrow[:-1] > narrow[1:]).all()
    if form != "msmarco":
        for start, end in zip(run.offsets, run.offsets[1:]):
            assert again.scores[start:end].tolist() == falling(run.scores[start:end]).tolist()


@settings(deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=40))
@example([0.0] * 5)
@example([1.1754944e-38] * 3)
def test_falling_is_the_least_change(values: list[float]) -> None:
    scores = np.sort(np.array(values, np.float32))[::-1]
    found = falling(scores)
    tiny = np.finfo(np.float32).tiny
    previous = math.inf
    for score, lowered in zip(scores, found):  # one at a time, as anybody would write it
        if abs(score) < tiny:
            score = np.float32(0)
        if score >= previous:
            score = np.nextafter(np.float32(previous), np.float32(-np.inf))
            if abs(score) < tiny:
                score = np.float32(0) if previous > 0 else -tiny
        assert lowered == score
        previous = lowered


def test_scores_without_ties_are_kept() -> None:
    scores = np.sort(np.random.default_rng(0).normal(size=1000).astype(np.float32))[::-1]
    assert falling(scores).tolist() == scores.tolist()


@pytest.mark.parametrize("values", [[math.nan], [math.inf], [1.0, -math.inf], [np.finfo(np.float32).min] * 2])
def test_scores_that_cannot_fall(values: list[float]) -> None:
    with pytest.raises(UserError, match=r"not finite|too low"):
        falling(np.array(values, np.float32))


def test_text_of_each_form(tmp_path: Path) -> None:
    run = Run.from_dict({"q1": {"a": 1.5, "b": 1.5, "c": 0.1}, "q2": {"a": -2.0}})
    write_run(run, tmp_path / "t", tag="mine")
    assert (tmp_path / "t").read_text() == (
        "q1 Q0 b 1 1.5 mine\nq1 Q0 a 2 1.4999999 mine\nq1 Q0 c 3 0.1 mine\nq2 Q0 a 1 -2.0 mine\n"
    )
    write_run(run, tmp_path / "m", form="msmarco")
    assert (tmp_path / "m").read_text() == "q1\tb\t1\nq1\ta\t2\nq1\tc\t3\nq2\ta\t1\n"
    assert read_scores(tmp_path / "m") == {"q1": {"b": -1, "a": -2, "c": -3}, "q2": {"a": -1}}
    write_run(run, tmp_path / "b", form="beir")
    assert json.loads((tmp_path / "b").read_text()) == {
        "q1": {"b": 1.5, "a": 1.4999999, "c": 0.1},
        "q2": {"a": -2.0},
    }


def test_queries_without_hits(tmp_path: Path) -> None:
    run = Run([Query("1", ""), Query("2", "")], [0, 0, 1], [0], [1.0], ["d"])
    write_run(run, tmp_path / "b", form="beir")
    assert order(read_run(tmp_path / "b")) == {"1": [], "2": ["d"]}
    write_run(run, tmp_path / "t")
    assert order(read_run(tmp_path / "t")) == {"2": ["d"]}
    write_run(Run.from_dict({}), tmp_path / "e", form="beir")
    assert len(read_run(tmp_path / "e")) == 0


def test_foreign_runs_keep_their_scores(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(
        "1 Q0 a 2 12.34567890123 x y\r\n1 Q0 b 1 12.34567890124 x y\n1\tQ0\tc\t3\t1e-3\tx\n"
    )
    assert read_scores(tmp_path / "r") == {"1": {"a": 12.34567890123, "b": 12.34567890124, "c": 0.001}}
    assert order(read_run(tmp_path / "r")) == {"1": ["b", "a", "c"]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 Q0 a 1\n", "1: 4 columns; a line is"),
        ("1 Q0 a 1 2.0 x\n1 a 1\n", "2: 3 columns, where the first line has 6"),
        ("1 Q0 a 1 nan x\n", "1: the score 'nan' is not a finite number"),
        ("1 Q0 a 1 -inf x\n", "1: the score '-inf' is not a finite number"),
        ("1 Q0 a 1 1_0 x\n", "1: the score '1_0' is not a finite number"),
        ("1 Q0 a 1 1e999 x\n", "1: the score '1e999' is not a finite number"),
        ("1 Q0 a 1 2 x\n1 Q0 a 2 1 x\n", "2: query '1' has document 'a' twice"),
        ("1\ta\t1\n1\tb\t-2\n", "2: the rank '-2' is not a finite number"),
        ("1 Q0 a\x1b 1 2 x\n", r"1: the document id 'a\\x1b' holds a control character"),
        ('{"1": {"a": 1},\n', "not JSON"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(BadLine, match=problem):
        read_run(tmp_path / "r")


@pytest.mark.parametrize(
    "text", ["", '{"1": 3}', '{"1": {"a": "x"}}', '{"1": {"a": true}}', '{"a b": {}}', "1 Q0 a 1 1e300 x"]
)
def test_other_bad_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)
    with pytest.raises(UserError):
        read_run(tmp_path / "r")


def test_json_on_one_long_line(tmp_path: Path) -> None:
    scores = {f"q{q}": {f"document-{q}-{d}": 1 / (d + 1) for d in range(1000)} for q in range(500)}
    (tmp_path / "r.json.gz").write_bytes(gzip.compress(json.dumps(scores).encode(), 1))
    assert read_scores(tmp_path / "r.json.gz") == scores


def test_what_cannot_be_written(tmp_path: Path) -> None:
    run = Run.from_dict({"1": {"a b": 1.0}})
    with pytest.raises(UserError, match="the id 'a b' holds white space"):
        write_run(run, tmp_path / "r")
    with pytest.raises(UserError, match="the tag 'two words' holds white space; give a tag of one word"):
        write_run(Run.from_dict({}), tmp_path / "r", tag="two words")
    with pytest.raises(UserError, match="unknown form of run 'x'"):
        write_run(Run.from_dict({}), tmp_path / "r", form="x")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(st.binary(max_size=100) | st.text(st.sampled_from('{}":,1 a\t\n.e-'), max_size=40).map(str.encode))
def test_garbage_gives_a_run_or_errors_of_the_tree(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "r"
    path.write_bytes(content)
    try:
        read_run(path)
    except RetrievalError as error:
        assert error.exit_code == 2  # noqa: PT017


def test_real_runs(collections: Path) -> None:
    run = read_run(collections / "msmarco/runs/dl19.BM25.top1000.trec.gz")
    assert len(run) in (43, 200)
    assert all(len(hits) <= 1000 for hits in run.values())
