"""Rows recomputed: what agrees, and every kind of difference, found where it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval.bench.row import read_row
from retrieval.bench.verify import VerifySettings, verify
from retrieval.cli import main
from retrieval.errors import UserError

WORDS = ["wind", "sail", "solar", "stream", "storm", "harbour", "keel", "mast", "tide", "rope", "bay", "reef"]


def beir(folder: Path, queries: int = 8) -> Path:
    """A small collection: query n asks for two words, of which document n has both."""
    (folder / "qrels").mkdir(parents=True)
    texts = [f"{WORDS[n % 12]} {WORDS[(n * 5 + 1) % 12]} {WORDS[(n * 7 + 2) % 12]}" for n in range(30)]
    corpus = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)]
    asked = [{"_id": f"q{n}", "text": " ".join(texts[n].split()[:2])} for n in range(queries)]
    for name, records in (("corpus", corpus), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    lines = [f"q{n}\td{(n * n) % 30}\t1\n" for n in range(queries)]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection, two rows (an index, a run file) and what they were made of."""
    folder = tmp_path_factory.mktemp("verify")
    beir(folder / "made")
    (folder / "bm25.toml").write_text('name = "BM25"\npipeline = "bm25 % 100"\n')
    lines = [f"q{n} Q0 d{d} 1 {30 - abs(d - n)} x\n" for n in range(8) for d in range(n, n + 9)]
    (folder / "a.run").write_text("".join(lines))
    (folder / "run.toml").write_text(f'name = "A run"\nrun = "{folder}/a.run"\n')
    command = [
        "bench",
        "beir",
        "--data",
        f"{folder}/made",
        "--work",
        f"{folder}/work",
        "--out",
        f"{folder}/rows",
    ]
    assert main([*command, "--system", f"{folder}/bm25.toml", "--system", f"{folder}/run.toml"]) == 0
    assert main([*command[:-1], f"{folder}/few", "--system", f"{folder}/bm25.toml", "--queries", "5"]) == 0
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Callable[..., Path]:
    """copied(change, name): a row of the folder, changed, in a file of its own."""

    def copy(change: Callable[[Any], object] = lambda row: None, name: str = "bm25") -> Path:
        row = json.loads((made / "rows" / "beir" / "made" / f"{name}.json").read_text())
        change(row)
        (tmp_path / "row.json").write_text(json.dumps(row))
        return tmp_path / "row.json"

    return copy


def differences(file: Path, **settings: Any) -> list[str]:
    return [each.what for each in verify(read_row(file), VerifySettings(**settings)).differences]


def test_rows_agree(copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copied())]) == 0
    out = capsys.readouterr().out
    assert out.startswith("beir made test, BM25: 8 of 8 queries asked again\n")
    for part in (
        "sha256 of the queries", "sha256 of the judgements", "sha256 of the documents", "document ids",
        "means and intervals", "nDCG@10 of 8 queries",
    ):  # fmt: skip
        assert part in out
    assert "differs" not in out
    assert "p50 of 8 queries" in out
    assert main(["verify", str(copied(name="a-run"))]) == 0
    assert "model run(" in capsys.readouterr().out


def test_a_sample_is_asked_of_an_index_and_all_of_a_run(copied: Callable[..., Path]) -> None:
    assert verify(read_row(copied()), VerifySettings(sample=3)).queries == 3
    assert verify(read_row(copied(name="a-run")), VerifySettings(sample=3)).queries == 8


def test_a_row_of_drawn_queries(made: Path) -> None:
    found = verify(read_row(made / "few" / "beir" / "made" / "bm25.json"), VerifySettings())
    assert (found.queries, found.of, found.differences) == (5, 5, [])


def test_a_changed_value_is_found(copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    def change(row: Any) -> None:
        row["measures"]["AP"]["values"][3] += 0.25

    file = copied(change)
    assert main(["verify", str(file)]) == 2
    shown = capsys.readouterr()
    assert "differs  AP of query 'q3': " in shown.out
    assert "differs  mean of the row's values of AP" in shown.out
    assert "nDCG@10 of 8 queries" in shown.out
    assert shown.err.startswith(f"error: {file}: ")
    assert "Traceback" not in shown.err
    assert main(["verify", str(file), "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["agrees"] is False
    (one,) = [each for each in told["differences"] if "q3" in each["what"]]
    assert one["row"] - one["now"] == pytest.approx(0.25)


def test_a_changed_mean_is_found_without_its_query(copied: Callable[..., Path]) -> None:
    def change(row: Any) -> None:
        row["measures"]["nDCG@10"]["mean"] += 0.001
        row["measures"]["RR@10"]["high"] += 0.001

    assert differences(copied(change), sample=1) == [
        "mean of the row's values of nDCG@10", "high of the row's values of RR@10",
    ]  # fmt: skip


def test_another_pipeline_or_name(copied: Callable[..., Path]) -> None:
    def change(row: Any) -> None:
        row["system"] |= {"name": "Better", "pipeline": "bm25 % 100 >> cross"}

    assert differences(copied(change)) == ["name of the system", "pipeline"]


@pytest.mark.parametrize(("file", "old", "new", "expected"), [
    ("corpus.jsonl", "keel", "hull", "sha256 of the documents"),
    ("queries.jsonl", "wind", "gale", "sha256 of the queries"),
    ("qrels/test.tsv", "q2\td4", "q2\td5", "sha256 of the judgements"),
    ("qrels/test.tsv", "q1\td1\t1\n", "", "ids of the queries"),
])  # fmt: skip
def test_changed_data(
    copied: Callable[..., Path], made: Path, tmp_path: Path, file: str, old: str, new: str, expected: str
) -> None:
    shutil.copytree(made / "made", tmp_path / "made")
    text = (tmp_path / "made" / file).read_text()
    assert old in text
    (tmp_path / "made" / file).write_text(text.replace(old, new))
    found = verify(read_row(copied()), VerifySettings(data=str(tmp_path / "made")))
    assert expected in [each.what for each in found.differences]
    if "queries" not in file:
        assert any(Path(file).name in text for text in found.notes) or file == "corpus.jsonl"


def test_an_index_that_is_gone(copied: Callable[..., Path], tmp_path: Path) -> None:
    def change(row: Any) -> None:
        row["index"]["path"] = str(tmp_path / "gone")

    with pytest.raises(UserError, match=r"no index .*gone.*--work"):
        differences(copied(change))
    found = verify(read_row(copied(change)), VerifySettings(work=str(tmp_path / "work")))
    assert found.differences == []
    assert any("the row's index is gone; asked was" in note for note in found.notes)


def test_an_index_of_other_documents(
    copied: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.jsonl").write_text('{"_id": "d1", "text": "wind"}\n{"_id": "d2", "text": "solar"}\n')
    assert main(["index", str(tmp_path / "other.jsonl"), "--out", str(tmp_path / "other")]) == 0
    found = differences(copied(), index=str(tmp_path / "other"))
    assert "sha256 of the index's document ids" in found
    assert any(what.startswith("nDCG@10 of query") for what in found)


def test_a_run_file_that_changed(copied: Callable[..., Path], made: Path) -> None:
    run = made / "a.run"
    before = run.read_text()
    try:
        run.write_text(before.replace("q1 Q0 d1 1 30", "q1 Q0 d1 1 3"))
        found = differences(copied(name="a-run"))
    finally:
        run.write_text(before)
    assert any(what.startswith("model run(") and what.endswith(": file") for what in found)
    assert "nDCG@10 of query 'q1'" in found


def test_versions_and_times_make_no_difference(copied: Callable[..., Path]) -> None:
    def change(row: Any) -> None:
        row["versions"]["numpy"] = "1.0"
        row["times_ms"]["p50"] = 1e6

    found = verify(read_row(copied(change)), VerifySettings())
    assert found.differences == []
    assert any(text.startswith("version of numpy: 1.0 in the row") for text in found.notes)


def test_what_cannot_be_verified(copied: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    cited = {"quoted": "Table 1", "measures": {"AP": {"mean": 0.5}}}
    changes: list[tuple[Callable[[Any], object], str]] = [
        (lambda row: row.update(cited), "quoted from 'Table 1'"),
        (lambda row: row.update(suite="beer"), "did you mean 'beir'"),
        (lambda row: row.update(task="other"), "other"),
        (lambda row: row.update(seed="x"), "seed 'x'"),
        (lambda row: row["hardware"].update(threads="x"), "threads 'x'"),
        (lambda row: row["data"].update(source="/nowhere"), "/nowhere"),
        (lambda row: row["data"].pop("source"), "--data DIR"),
        (lambda row: row["system"].update(file="name = 3"), "row's system file"),
        (lambda row: row["system"].update(file=7), "row's system file"),
    ]
    for change, message in changes:
        assert main(["verify", str(copied(change))]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "defect" not in err
