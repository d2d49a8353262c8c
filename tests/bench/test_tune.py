"""Tuning: tables give what pipelines give, choices are cross-validated, the verb and what it refuses."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Index, UserError, cli
from retrieval.bench.evaluate import evaluate
from retrieval.bench.measures import parse
from retrieval.bench.tune import judged_queries, tune
from retrieval.bench.tune_choice import Chooser, Family, Point, front, plainer, split
from retrieval.bench.tune_picture import picture
from retrieval.bench.tune_space import Costs, Space, first_stages
from retrieval.bench.tune_tables import Tables
from retrieval.errors import CompositionError
from tests.bench.tune_stages import make_index, make_queries


def quiet(label: str, total: int) -> Any:
    return lambda done: None


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "index"
    make_index(folder)
    return folder


@pytest.fixture
def index(path: Path) -> Index:
    return Index.open(path)


@pytest.mark.parametrize("measure", ["nDCG@10", "AP", "R@5"])
def test_what_tables_say_is_what_pipelines_give(index: Index, measure: str) -> None:
    queries, judged = make_queries(index)
    names = ["bm25", "short"]
    tables = Tables(index, queries, judged, names, lambda done: None)
    everything = tables.docs >= 0
    tables.scores["knowing"] = tables.score(
        index.pipeline("bm25 >> knowing").parts[1], everything, lambda n: None
    )
    costs = Costs(
        {first: 1.0 for first, _ in first_stages(names)},
        {"bm25": (0, 0.01), "short": (0, 0.01), "knowing": (0, 1)},
    )
    space = Space(tables, names, ["knowing"], [3, 7, 21], costs, parse(measure))
    families = [family for some in space.families() for family in some]
    texts = [text for family in families for text in family.texts]
    assert len(texts) == len(set(texts)) > 100
    assert any("gate" in text for text in texts)
    assert any("interpolate" in text for text in texts)
    assert any(text.count(">>") == 2 and "gate" not in text for text in texts)
    draw = np.random.default_rng(0)
    for family in [families[at] for at in draw.permutation(len(families))[:90]]:
        text, values = family.texts[-1], family.values[-1]
        found = evaluate(
            index.pipeline(text)(queries), {q.query_id: judged[q.query_id] for q in queries}, [measure]
        )
        assert values == pytest.approx(found.values[measure], abs=1e-6), text


@given(
    st.lists(
        st.lists(st.lists(st.floats(0, 1, width=32), min_size=12, max_size=12), min_size=1, max_size=3),
        min_size=1, max_size=4,
    ),
    st.integers(2, 4),
)  # fmt: skip
def test_choice_by_brute_force(values: list[list[list[float]]], folds: int) -> None:
    families = [
        Family([f"{at}.{w}" for w in range(len(rows))], float(at), np.array(rows, np.float32))
        for at, rows in enumerate(values)
    ]
    fold = split(12, folds, 0)
    chooser = Chooser(families, fold)

    def cross_validated(rows: Any, use: list[int]) -> float:
        total = 0.0
        for out in use:
            rest = np.isin(fold, [f for f in use if f != out])
            best = int(rows[:, rest].astype(np.float64).sum(axis=1).argmax())
            total += float(rows[best, fold == out].astype(np.float64).sum())
        return total

    for left_out in (None, 0):
        use = [f for f in range(folds) if f != left_out]
        found = chooser.choose(99.0, left_out)
        assert found is not None
        worths = [cross_validated(family.values, use) for family in families]
        assert worths[found[0]] == pytest.approx(max(worths))
    assert chooser.point(0).values.sum() == pytest.approx(
        cross_validated(families[0].values, list(range(folds)))
    )
    assert chooser.choose(-1.0) is None


def test_nested_does_not_see_the_fold() -> None:
    noise = np.random.default_rng(0).random((50, 200)).astype(np.float32)
    chooser = Chooser([Family(["x"], 1.0, row[None]) for row in noise], split(200, 5, 0))
    found = chooser.choose(1.0)
    assert found is not None
    assert chooser.point(found[0]).quality > 0.53  # the luckiest of fifty
    assert abs(float(chooser.nested(1.0).mean()) - 0.5) < 0.03


def test_what_nothing_was_tuned_in_wins_a_tie() -> None:
    slow, fast = (Point(text, ms, np.array([0.5, 0.7], np.float32)) for text, ms in (("a", 2), ("b", 1)))
    assert plainer(np.array([0.7, 0.5], np.float32), [slow, fast]) is fast
    assert plainer(np.array([0.7, 0.6], np.float32), [slow, fast]) is None
    assert plainer(np.array([0.0], np.float32), []) is None


def test_front() -> None:
    points = [
        Point(text, ms, np.array([quality], np.float32))
        for text, ms, quality in [("a", 1, 0.5), ("b", 2, 0.4), ("c", 3, 0.7), ("d", 3, 0.6), ("e", 9, 0.7)]
    ]
    assert [point.text for point in front(points)] == ["a", "c"]
    drawn = picture(points, front(points), points[2], budget=5.0, measure="nDCG@10", title="a < b")
    root = ElementTree.fromstring(drawn)
    assert len([each for each in root.iter() if each.tag.endswith("circle")]) == len(points) + 3
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")


def test_the_re_ranker_is_found(index: Index) -> None:
    queries, judged = make_queries(index)
    found = tune(
        index, queries, judged, parse("nDCG@10"), 1000.0, rerankers=["knowing"], depths=[10, 20],
        pipelines=["bm25 % 30"], folds=3, started=quiet,
    )  # fmt: skip
    assert "knowing" in found.chosen.text
    assert found.nested.mean() > 0.75  # BM25: 0.4
    assert "bm25 % 30" in [point.text for point in found.points]
    assert found.front[-1].quality == max(point.quality for point in found.points)
    with pytest.raises(CompositionError, match="one stage that re-ranks"):
        tune(index, queries, judged, parse("nDCG@10"), 9.0, rerankers=["knowing % 3"], started=quiet)
    with pytest.raises(UserError, match=r"the cheapest, '.* % 1000', takes"):
        tune(index, queries, judged, parse("nDCG@10"), 1e-6, started=quiet)
    with pytest.raises(UserError, match="too few for 20 folds"):
        tune(index, queries, judged, parse("nDCG@10"), 9.0, folds=20, started=quiet)


def test_judgements_of_another_collection(index: Index) -> None:
    queries, judged = make_queries(index)
    with pytest.raises(UserError, match="share no query id"):
        judged_queries(index, queries, {"other": {"d01": 1}})
    with pytest.raises(UserError, match="none of the 1 judged documents is in the index"):
        judged_queries(index, queries, {query.query_id: {"x1": 1} for query in queries})
    some = {queries[0].query_id: {"d01": 1, "x1": 1}, queries[1].query_id: {"x2": 1}}
    kept, _, warning = judged_queries(index, queries, some)
    assert kept == queries[:1]
    assert "2 of 3 judged documents are not in the index" in warning
    assert f"{len(queries) - 2} of {len(queries)} queries have no judgements" in warning
    assert "1 queries have no judged document" in warning
    assert judged_queries(index, queries, judged)[2] == ""


@pytest.fixture
def files(path: Path, tmp_path: Path) -> list[str]:
    queries, judged = make_queries(Index.open(path))
    (tmp_path / "q.tsv").write_text("".join(f"{query_id}\t{text}\n" for query_id, text in queries))
    (tmp_path / "r.txt").write_text(
        "".join(f"{query} 0 {doc} {grade}\n" for query, docs in judged.items() for doc, grade in docs.items())
    )
    return ["--queries", str(tmp_path / "q.tsv"), "--qrels", str(tmp_path / "r.txt"), "--folds", "3"]


def test_the_verb(path: Path, files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "best.toml", tmp_path / "best.svg"
    more = ["--reranker", "knowing", "--depth", "20", "--out", str(out), "--plot", str(plot)]
    arguments = ["tune", str(path), *files, "--budget", "500ms", *more]
    before = Index.open(path).generation
    assert cli.main([*arguments, "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Index.open(path).generation == before
    assert facts["stored"] is False
    assert facts["chosen"]["pipeline"] in [point["pipeline"] for point in facts["front"]]
    assert facts["chosen"]["nested"]["low"] <= facts["chosen"]["nested"]["quality"]
    ElementTree.fromstring(plot.read_text())
    assert cli.main([*arguments, "--pipeline", "bm25 % 5"]) == 0
    shown = capsys.readouterr()
    assert "<- chosen" in shown.out
    assert "stored as the index's pipeline" in shown.err
    tuned = Index.open(path)
    assert len(tuned) == 60
    stored = repr(tuned.pipeline())
    assert tomllib.loads(out.read_text())["pipeline"] == stored
    assert "knowing" in stored
    assert tuned.search("sun") == tuned.search("sun", pipeline=stored)


def test_a_choice_that_is_worth_less_than_bm25_is_not_stored(
    path: Path, files: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chooser, "nested", lambda self, budget: np.zeros(len(self._fold), np.float32))
    arguments = ["tune", str(path), *files, "--budget", "500ms", "--reranker", "knowing", "--depth", "20"]
    assert cli.main([*arguments, "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["chosen"]["pipeline"] in {"bm25 % 1000", "short % 1000"}
    assert facts["chosen"]["nested"]["quality"] > 0.3
    assert "knowing" in facts["rejected"]["pipeline"]
    assert facts["rejected"]["nested"]["quality"] == 0
    assert cli.main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "% 1000  <- chosen" in shown
    assert "not taken: " in shown
    assert "0.0000 on folds that it was not chosen on, no better than the best single" in shown


def test_judgements_are_needed(path: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", str(path), *files[:2], "--budget", "50ms"]) == 2
    assert "--qrels is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "50"], "such as 50ms, 0.2s"),
        (["--budget", "9pairs"], "pairs are for `retrieve search`; tune takes a time"),
        (["--budget", "5ms", "--queries", "absent@train"], "no folder 'absent'"),
        (["--budget", "5ms", "--queries", "absent.tsv"], "no file 'absent.tsv'"),
        (["--budget", "5ms", "--out", "/absent/best.toml"], "no folder '/absent'"),
        (["--budget", "5ms", "--plot", "/"], "--plot '/' is a folder"),
        (["--budget", "5ms", "--folds", "501"], "--most is 1000"),
        (["--budget", "5ms", "--folds", "16"], "too few for 16 folds"),
        (["--budget", "5ms", "--measure", "nDGC@10"], "did you mean 'nDCG'"),
        (["--budget", "5ms", "--folds", "1"], "give 2 or more"),
        (["--budget", "5ms", "--reranker", "knowin"], "did you mean 'knowing'"),
        (["--budget", "0.0001ms"], "give a larger --budget"),
    ],
)
def test_refusals(
    path: Path, files: list[str], arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if "give a larger" not in message:  # what is refused before anything is computed
        monkeypatch.setattr("retrieval.bench.tune.Tables", None)
    assert cli.main(["tune", str(path), *files, *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
