"""LoCo's files: both layouts, counts, Qasper's rule, the replaced file, what is wrong said with its place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from retrieval.data import loco
from retrieval.data.loco import PART, TASKS, V0, LocoTask
from retrieval.errors import BadLine, MissingExtra, UnknownName, UserError
from tests.bench import loco_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return loco_files.write(tmp_path / "loco")


def test_a_file_a_task(folder: Path) -> None:
    for task in TASKS:
        found = LocoTask(folder, task, PART)
        names = [f"{task}_test_Passage_{at}" for at in range(3)]
        assert [document.doc_id for document in found.documents()] == names
        assert [query.text for query in found.queries] == [
            "what of amber",
            "what of basalt",
            "what of copper",
        ]
        assert list(found.judgements.values()) == [{name: 1} for name in names]
        assert found.dropped == ((1, 1) if task.startswith("qasper") else (0, 0))
    assert set(V0) < set(TASKS)
    assert len(TASKS) == 12


def test_files_of_all_tasks_are_filtered_by_their_dataset(tmp_path: Path) -> None:
    for side, made in (("queries", loco_files.queries), ("documents", loco_files.documents)):
        loco_files.lines(tmp_path / f"{side}.jsonl", [one for task in TASKS for one in made(task)])
    found = LocoTask(tmp_path, "qasper_title", PART)
    assert (len(found.queries), found.dropped) == (3, (1, 1))
    assert found.own_documents == []
    assert all(document.doc_id.startswith("qasper_title") for document in found.documents())


def test_the_counts_are_those_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="has 3 queries and 3 documents, where the published test split"):
        LocoTask(folder, "gov_report")
    with pytest.raises(UserError, match=r"no gov_report_train\.jsonl"):
        LocoTask(folder, "gov_report", "train")
    monkeypatch.setitem(loco._COUNTS, "gov_report", {"test": (3, 3)})
    found = LocoTask(folder, "gov_report")
    assert (found.counts, found.note) == ((3, 3), "")
    for counts in ((3, 3), (4, 4)):  # after Qasper's rule, and before it
        monkeypatch.setitem(loco._COUNTS, "qasper_title", {"test": counts})
        assert "1 queries of Qasper" in LocoTask(folder, "qasper_title").note
    assert "where those have 272 and 272" in LocoTask(folder, "qmsum", PART).note


def test_a_file_beside_the_folder_replaces_that_of_qmsum(folder: Path) -> None:
    other = [{**one, "passage": f"another {one['passage']}"} for one in loco_files.documents("qmsum")]
    for task in ("qmsum", "gov_report"):
        loco_files.lines(folder / "LoCoV1-Documents" / f"{task}_test.jsonl", other)
    assert all(one.text.startswith("another") for one in LocoTask(folder, "qmsum", PART).documents())
    assert not any(one.text.startswith("another") for one in LocoTask(folder, "gov_report", PART).documents())


@pytest.mark.parametrize(
    ("side", "change", "message"),
    [
        ("Queries", {"answer_pids": []}, r"qmsum_test.jsonl:2: answer_pids is \[\]"),
        ("Queries", {"answer_pids": ["nowhere"]}, "qmsum_test.jsonl:2: there is no document 'nowhere'"),
        ("Queries", {"qid": "qmsum_test_Query_0"}, "qmsum_test.jsonl:2: the qid .* comes twice"),
        ("Queries", {"query": " "}, "qmsum_test.jsonl:2: the query is empty"),
        ("Queries", {"query": None}, "qmsum_test.jsonl:2: the query is null"),
        ("Queries", {"dataset": None}, "qmsum_test.jsonl:2: dataset is None"),
        ("Documents", {"passage": None}, "qmsum_test.jsonl:2: the passage of .* is empty"),
        ("Documents", {"pid": 7}, "qmsum_test.jsonl:2: pid is 7"),
        ("Documents", {"pid": "qmsum_test_Passage_0"}, "qmsum_test.jsonl:2: the pid .* comes twice"),
        ("Documents", {"passage": ["a"]}, "qmsum_test.jsonl:2: the passage is a list"),
    ],
)
def test_a_wrong_record_is_named(folder: Path, side: str, change: dict[str, object], message: str) -> None:
    made = loco_files.queries("qmsum") if side == "Queries" else loco_files.documents("qmsum")
    made[1] |= change
    loco_files.lines(folder / f"LoCoV1-{side}" / "documents" / "qmsum_test.jsonl", made)
    with pytest.raises(BadLine, match=message):
        LocoTask(folder, "qmsum", PART)


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="qmsum"):
        LocoTask(folder, "qmsun", PART)
    with pytest.raises(UnknownName, match="split"):
        LocoTask(folder, "qmsum", "dev")
    with pytest.raises(UserError, match="no folder"):
        LocoTask(tmp_path / "nowhere", "qmsum", PART)
    with pytest.raises(UserError, match="neither LoCoV1-Queries"):
        LocoTask(tmp_path, "qmsum", PART)


def test_parquet_needs_pyarrow_and_says_so(folder: Path) -> None:
    if importlib.util.find_spec("pyarrow"):
        pytest.skip("pyarrow is installed")
    place = folder / "LoCoV1-Queries" / "documents"
    (place / "qmsum_test.jsonl").rename(place / "qmsum_test.parquet")
    with pytest.raises(MissingExtra, match=r"pyarrow.*qmsum_test\.parquet.*retrieval\[parquet\]"):
        LocoTask(folder, "qmsum", PART)


def test_parquet_holds_the_same(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # type: ignore[import-not-found]

    before = LocoTask(folder, "qmsum", PART)
    documents = list(before.documents())
    for side, made in (("Queries", loco_files.queries), ("Documents", loco_files.documents)):
        (folder / f"LoCoV1-{side}" / "documents" / "qmsum_test.jsonl").unlink()
        (folder / f"LoCoV1-{side}" / "data").mkdir()
        table = pyarrow.Table.from_pylist([one for task in TASKS for one in made(task)])
        parquet.write_table(table, folder / f"LoCoV1-{side}" / "data" / "test-00000-of-00001.parquet")
    after = LocoTask(folder, "qmsum", PART)
    assert after.queries == before.queries
    assert after.judgements == before.judgements
    assert list(after.documents()) == documents
    (folder / "LoCoV1-Queries" / "data" / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        LocoTask(folder, "qmsum", PART)
