"""The suite neretrieve: type queries, intersections, depth, a part of the corpus, R-precision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrieval.bench import neretrieve as suite
from retrieval.bench.evaluate import evaluate
from retrieval.bench.neretrieve import SIZES, main, size_bucket
from retrieval.bench.suite import SuiteSettings, Task, tasks_of
from retrieval.errors import UnknownName, UserError
from tests.bench import neretrieve_files


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(neretrieve_files.write(tmp_path / "ner"))


def tasks(folder: str, *names: str, **options: str) -> list[Task]:
    return list(tasks_of("neretrieve", SuiteSettings(folder, tasks=names, options=options)))


def test_types_and_intersections_are_queries(folder: str) -> None:
    types, pairs = tasks(folder)
    assert [tuple(query) for query in types.queries] == [
        ("FilmDirector", "film director"),
        ("US_politician", "US politician"),
    ]
    assert {query: len(found) for query, found in types.judgements.items()} == {
        "FilmDirector": 16,
        "US_politician": 17,
    }
    assert (types.measures[0], types.depth, types.split, types.note) == ("Rprec", 34, "test", "")
    assert types.buckets[SIZES] == {"FilmDirector": "10-99", "US_politician": "10-99"}
    assert types.documents is not None
    assert len(list(types.documents())) == 60
    # Basil Hill is no politician: a paragraph that mentions him and Amber Stone counts for her alone.
    assert [query.text for query in pairs.queries] == ["film director and US politician"]
    assert pairs.judgements == {"FilmDirector_and_US_politician": {str(at): 1 for at in range(12)}}


def test_train_types_and_a_table_of_names(folder: str, tmp_path: Path) -> None:
    table = tmp_path / "names.tsv"
    table.write_text("Lake\tbody of still water\n")
    settings = SuiteSettings(folder, split="train", tasks=("types",), options={"names": str(table)})
    (task,) = tasks_of("neretrieve", settings)
    assert [query.text for query in task.queries] == ["body of still water"]
    assert len(list(tasks_of("neretrieve", SuiteSettings(folder, split="train")))) == 1
    with pytest.raises(UserError, match="has no intersections"):
        list(tasks_of("neretrieve", SuiteSettings(folder, split="train", tasks=("intersections",))))
    with pytest.raises(UnknownName, match="split of NERetrieve"):
        list(tasks_of("neretrieve", SuiteSettings(folder, split="dev")))


def test_a_part_of_the_corpus_keeps_what_is_relevant(folder: str) -> None:
    def ids(negatives: int) -> tuple[Task, set[str]]:
        (task,) = tasks(folder, "types", negatives=str(negatives))
        assert task.documents is not None
        return task, {document.doc_id for document in task.documents()}

    relevant = {str(at) for at in (*range(16), *range(41, 46))}
    task, few = ids(5)
    assert relevant < few
    assert len(few) == 26
    assert task.split == "test-downsampled"
    assert "21 paragraphs that are relevant to a query, and 5 others" in task.note
    assert task.corpus_files == []  # an index of the whole corpus is not one of this part
    assert ids(5)[1] == few < ids(20)[1]
    whole, every = ids(1000)
    assert (whole.split, len(every), whole.note) == ("test", 60, "")


def test_judged_paragraphs_that_are_not_there_are_said(folder: str) -> None:
    kept = [neretrieve_files.paragraph(at, ["Amber Stone"])[0] for at in range(3, 60)]
    neretrieve_files.lines(Path(folder), "corpus", kept)
    (task,) = tasks(folder, "types", negatives="5")
    assert "6 judged paragraphs are not in the corpus" in task.note
    assert len(task.judgements["FilmDirector"]) == 13


def test_a_shallow_depth_is_flagged(folder: str) -> None:
    (task,) = tasks(folder, "types", depth="16")
    assert "depth 16 is below |REL| of 1 queries" in task.note
    (task,) = tasks(folder, "types", depth="33")
    assert "depth 33 cuts Rmult@2 of 1 queries" in task.note
    for value in ("0", "x", "1.5"):
        with pytest.raises(UserError, match=f"depth={value}"):
            tasks(folder, "types", depth=value)
    with pytest.raises(UnknownName, match="negatives"):
        tasks(folder, "types", negative="5")


def test_recall_at_rel_is_r_precision() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    random = np.random.default_rng(3)
    judged, run = {}, {}
    for query in map(str, range(30)):
        size = int(random.integers(1, 40))
        judged[query] = {f"d{at}": 1 for at in random.choice(60, size, replace=False)}
        run[query] = {f"d{at}": float(random.integers(0, 9)) for at in random.choice(60, 50, replace=False)}
    found = evaluate(run, judged, ("Rprec", "Rmult@1")).values
    assert (found["Rprec"] == found["Rmult@1"]).all()
    theirs = {each.query_id: each.value for each in ir_measures.iter_calc([ir_measures.Rprec], judged, run)}
    assert found["Rprec"] == pytest.approx([theirs[query] for query in judged])
    for place, (query, relevant) in enumerate(judged.items()):
        recall = evaluate({query: run[query]}, {query: relevant}, (f"R@{len(relevant)}",))
        assert recall.values[f"R@{len(relevant)}"][0] == pytest.approx(found["Rprec"][place])


def test_sizes() -> None:
    assert [size_bucket(size) for size in (1, 9, 10, 999, 1000, 10_000)] == [
        "1-9", "1-9", "10-99", "100-999", "1,000-9,999", ">=10,000"
    ]  # fmt: skip


def test_looking_into_the_files(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([folder, "--most", "20"])
    found = json.loads(capsys.readouterr().out)
    assert found["types"] == {"train": 1, "test": 2, "in both": 0}
    assert (found["mentions"], found["exact"], found["outside"]) == (32, 32, 0)
    with pytest.raises(SystemExit) as stopped:
        main([str(Path(folder) / "nowhere")])
    assert stopped.value.code == 2
    assert "holds no NERetrive_IR_train" in capsys.readouterr().err
    assert suite.TASKS == ("types", "intersections")
