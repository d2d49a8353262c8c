"""The suites best-answer and casehold: files, tasks, accuracy and macro-F1 of rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bench import casehold
from retrieval.bench.best_answer import THIRDS
from retrieval.bench.choices import PLACES
from retrieval.bench.row import write_row
from retrieval.bench.run_suite import RunSettings, run_suite
from retrieval.bench.suite import SuiteSettings, tasks_of
from retrieval.bench.system import read_systems
from retrieval.errors import BadLine, UnknownName, UserError
from tests.bench.test_best_answer import records

HEADER = [
    "",
    "citing_prompt",
    *(f"holding_{at}" for at in range(5)),
    *(f"score_{at}" for at in range(5)),
    "label",
]
WORDS = ["amber", "basalt", "copper", "dolomite", "emerald"]


def holdings(count: int = 20) -> list[list[Any]]:
    """The right holding repeats a word of the prompt, but in every fourth line another one does."""
    made = []
    for number in range(count):
        label = number % 3
        texts = [f"holding that {word} applies, {number}" for word in ("one", "two", "three", "four", "five")]
        cited = WORDS[number % 5]
        texts[(label + 1) % 5 if number % 4 == 0 else label] += f" to {cited}"
        made.append([number, f'The court, in "{cited}",\n\nsaid (<HOLDING>)', *texts, *[0.1] * 5, label])
    return made


def write(path: Path, rows: list[list[Any]], header: list[str] = HEADER) -> str:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    write(tmp_path / "test.csv", holdings())
    return str(tmp_path)


def measured(suite: str, data: str, tmp_path: Path, **settings: Any) -> Any:
    system = tmp_path / "bm25.toml"
    system.write_text('name = "BM25"\npipeline = "bm25"\nsparse = ["bm25"]\ntrained_on = "none"\n')
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    found = run_suite(
        tasks_of(suite, SuiteSettings(data, **settings)), read_systems([str(system)]), RunSettings(work)
    )
    return list(found)


def test_holdings_are_ranked_and_scored(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = measured("casehold", folder, tmp_path)
    assert (row["task"], row["split"], row["data"]["documents"]) == ("holdings", "test", 100)
    assert row["measures"]["Success@1"]["mean"] == pytest.approx(15 / 20)
    assert "guessing: 0.200" in row["note"]
    truth = [number % 3 for number in range(20)]
    chosen = [(number % 3 + 1) % 5 if number % 4 == 0 else number % 3 for number in range(20)]
    scores = []
    for place in {*truth, *chosen}:
        right = sum(a == b == place for a, b in zip(truth, chosen, strict=True))
        scores.append(2 * right / (truth.count(place) + chosen.count(place)))
    assert casehold.macro_f1(row) == pytest.approx(float(np.mean(scores)))
    path = tmp_path / "row.json"
    write_row(row, path)
    casehold.main([str(path)])
    assert capsys.readouterr().out == f"BM25: accuracy 0.7500, macro-F1 {np.mean(scores):.4f}\n"
    with pytest.raises(UserError, match="none of casehold"):
        casehold.macro_f1({**row, "suite": "beir"})  # type: ignore[typeddict-item]


def test_forms_of_the_file_hold_the_same(folder: str, tmp_path: Path) -> None:
    wanted = casehold.read_holdings(f"{folder}/test.csv")
    assert wanted[4].text == 'The court, in "emerald",\nsaid (<HOLDING>)\n'.rstrip()
    assert (len(wanted), wanted[4].accepted, wanted[4].answers[0]) == (20, 1, "holding that one applies, 4")
    plain = write(tmp_path / "plain.csv", holdings(), [str(at) for at in range(13)])
    assert casehold.read_holdings(plain) == wanted
    short = [[row[0], *row[1:7], row[12]] for row in holdings()]
    assert casehold.read_holdings(write(tmp_path / "short.csv", short, [*HEADER[:7], "label"])) == wanted
    lines = [
        {"example_id": q.question_id, "citing_prompt": q.text, "label": str(q.accepted)}
        | {f"holding_{at}": text for at, text in enumerate(q.answers)}
        for q in wanted
    ]
    glue = [
        {"context": q.text, "endings": q.answers, "label": q.accepted, "index": q.question_id} for q in wanted
    ]
    for name, made in (("a.jsonl", lines), ("b.jsonl", glue)):
        (tmp_path / name).write_text("".join(json.dumps(each) + "\n" for each in made))
        assert casehold.read_holdings(str(tmp_path / name)) == wanted


def test_what_is_wrong_is_named(folder: str, tmp_path: Path) -> None:
    rows = holdings(3)
    rows[1][12] = 5
    with pytest.raises(BadLine, match=r"bad\.csv:7: the label '5' is none of 0 to 4"):
        casehold.read_holdings(write(tmp_path / "bad.csv", rows))
    rows[1][1] = " "
    with pytest.raises(BadLine, match="no citing_prompt"):
        casehold.read_holdings(write(tmp_path / "bad.csv", rows))
    with pytest.raises(BadLine, match="12 columns, where the first line has 13"):
        casehold.read_holdings(write(tmp_path / "bad.csv", [holdings(1)[0][:12]]))
    with pytest.raises(BadLine, match="no columns citing_prompt"):
        casehold.read_holdings(write(tmp_path / "bad.csv", [], ["a", "b"]))
    (tmp_path / "bad.jsonl").write_text('{"context": "a", "endings": ["b"], "label": 0}\n')
    with pytest.raises(BadLine, match=r"bad\.jsonl:1: not 5 holdings"):
        casehold.read_holdings(str(tmp_path / "bad.jsonl"))
    with pytest.raises(UserError, match=r"holds no dev\.csv"):
        list(tasks_of("casehold", SuiteSettings(folder, split="dev")))
    with pytest.raises(UnknownName, match="split of casehold"):
        list(tasks_of("casehold", SuiteSettings(folder, split="all")))


def test_best_answer_is_a_suite(tmp_path: Path) -> None:
    for name in ("stackselect_1k.json", "stackselect_16k.json"):
        (tmp_path / name).write_text(json.dumps(records(30)))
    settings = SuiteSettings(str(tmp_path))
    assert [task.name for task in tasks_of("best-answer", settings)] == ["1k", "16k"]
    (task,) = tasks_of("best-answer", SuiteSettings(str(tmp_path), tasks=("1k",), queries=7, seed=1))
    assert (len(task.queries), task.of, task.measures) == (7, 30, ("Success@1", "RR"))
    assert "has 30 records, where published scores of 1k" in task.note
    assert set(task.buckets[PLACES].values()) <= set(THIRDS)
    (row,) = measured("best-answer", str(tmp_path / "stackselect_1k.json"), tmp_path)
    # The command's own test: the accepted answer repeats three words of the question, or one beside a decoy.
    assert row["measures"]["Success@1"]["mean"] == pytest.approx(2 / 3, abs=0.1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no stackselect_1k\.json"):
        list(tasks_of("best-answer", SuiteSettings(str(tmp_path / "empty"))))
