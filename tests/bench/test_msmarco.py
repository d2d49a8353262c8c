"""MS MARCO's suites: its files under their names, relevance levels, candidates, and the real runs of DL19."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from retrieval.bench.evaluate import evaluate
from retrieval.bench.msmarco import FILES, read_candidates
from retrieval.bench.row import Row
from retrieval.bench.run_suite import RunSettings, run_suite
from retrieval.bench.suite import SuiteSettings, Task, tasks_of
from retrieval.bench.system import System, parse_system
from retrieval.data.qrels import read_qrels
from retrieval.data.runs import read_scores
from retrieval.errors import BadLine, UnknownName, UserError
from tests.bench.suite_files import write_marco

BM25 = parse_system('name = "BM25"\npipeline = "bm25"')
PASSAGE = "msmarco-passage"
# File of ../shared/data/msmarco/runs -> nDCG@10 and AP(rel=2) by ir-measures, as its README has them.
REAL = {
    "dl19.BM25.top1000": (0.4795, 0.2864),
    "dl19-passage.bm25.ielab-tilde.top1000": (0.4973, 0.2903),
    "dl19.BM25RM3.top1000": (0.5156, 0.3108),
    "dl19.BM25_deepct.top1000": (0.5599, 0.3169),
    "dl19.BM25_docT5q.top1000": (0.6308, 0.4044),
    "dl19.ANCE.top1000": (0.6537, 0.3715),
    "dl19.bm25_VBERT.top1000": (0.6855, 0.4441),
    "dl19.BM25_docT5q_ColBERT.top1000": (0.7143, 0.5012),
    "dl19.prf_rank_beta1.top1000": (0.7352, 0.5431),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_marco(tmp_path / "marco")
    return tmp_path / "marco"


def tasks(data: Path | str, suite: str = PASSAGE, **more: Any) -> list[Task]:
    return list(tasks_of(suite, SuiteSettings(str(data), **more)))


def rows(found: list[Task], systems: list[System], work: Path) -> list[Row]:
    return list(run_suite(found, systems, RunSettings(work)))


def test_the_files_that_are_there_make_the_tasks(data: Path) -> None:
    dev, deep = tasks(data)
    assert (dev.name, dev.measures[0], dev.rel) == ("dev", "RR@10", 1)
    assert (deep.name, deep.measures[:2], deep.rel) == ("dl19", ("nDCG@10", "AP(rel=2)"), 2)
    assert [query.query_id for query in deep.queries] == ["100", "101", "102", "103"]  # judged, of the 6
    assert deep.note == "4 judged queries, where the published set has 43"
    assert [Path(file).name for file in dev.files] == [
        "collection.tsv", "queries.dev.small.tsv", "qrels.dev.small.tsv",
    ]  # fmt: skip
    assert [task.name for task in tasks(data, split="dl19")] == ["dl19"]


def test_files_may_be_compressed_and_in_a_folder_of_the_kind(data: Path) -> None:
    (data / "passage").mkdir()
    for file in [each for each in data.iterdir() if each.is_file()]:
        (data / "passage" / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert [len(task.queries) for task in tasks(data)] == [6, 4]


def test_the_encoding_is_repaired_if_asked_for(data: Path) -> None:
    last: dict[str, str] = {}
    for value in ("as it is", "repair"):
        [task] = tasks(data, split="dev", options={"encoding": value})
        assert task.documents is not None
        *_, document = task.documents()
        last[value] = document.text
    assert last == {"as it is": "cafÃ© bam", "repair": "café bam"}
    assert "repaired" in task.note
    with pytest.raises(UserError, match="--set encoding=mend: choose as it is or repair"):
        tasks(data, options={"encoding": "mend"})


def test_levels_are_those_of_deep_learning(data: Path, tmp_path: Path) -> None:
    [task] = tasks(data, split="dl19")
    assert all("rel=2" in name for name in task.measures if name != "nDCG@10")
    run = tmp_path / "grades.trec"  # passage 1 has the grade 1, and 2 the grade 2
    run.write_text("101 Q0 1 1 2.0 x\n102 Q0 2 1 2.0 x\n")
    [row] = rows([task], [parse_system(f'name = "r"\nrun = "{run}"')], tmp_path / "work")
    found = dict(zip(row["query_ids"], row["measures"]["RR(rel=2)"]["values"], strict=True))
    assert found == {"100": 0.0, "101": 0.0, "102": 1.0, "103": 0.0}  # what has no hits counts too
    assert row["measures"]["nDCG@10"]["values"][1] > 0
    with pytest.raises(UserError, match=r"from grade 2, AP from 1; write AP\(rel=2\)"):
        list(run_suite([task], [BM25], RunSettings(tmp_path / "work", measures=("AP",))))


def test_candidates_are_ranked_and_nothing_else(data: Path, tmp_path: Path) -> None:
    [task] = tasks(data, tasks=("dev-rerank",))
    assert task.candidates is not None
    assert task.candidates["101"] == [str(doc) for doc in range(1, 30, 2)]
    [whole] = rows(tasks(data, tasks=("dev",)), [BM25], tmp_path / "work")
    [row] = rows([task], [BM25], tmp_path / "work")
    found = dict(zip(row["query_ids"], row["measures"]["R@1000"]["values"], strict=True))
    assert found == {str(100 + i): 1.0 for i in range(6)}  # passage i of query 100 + i is a candidate
    assert row["measures"]["RR@10"]["mean"] >= whole["measures"]["RR@10"]["mean"]
    (data / "top1000.dev").write_text("100\t1\tq\tp\n100\t5\tq\tp\n")
    [row] = rows(tasks(data, tasks=("dev-rerank",)), [BM25], tmp_path / "work")
    assert row["measures"]["R@1000"]["mean"] == 0.0  # passage 0 is not among them


@pytest.mark.parametrize(
    "line", ["7\t{}", "7 {} 1", "7\t{}\ta query\ta passage", "7 Q0 {} 1 -3.5 run"], ids=str.split
)
def test_candidates_come_in_every_form(line: str, tmp_path: Path) -> None:
    path = tmp_path / "top"
    path.write_text(
        "".join(line.format(doc) + "\n" for doc in ("D2", "D1")) + line.format("D3")[1:].join("8\n")
    )
    assert read_candidates(str(path), {"7"}) == {"7": ["D2", "D1"]}
    with pytest.raises(UserError, match="candidates of none of the queries"):
        read_candidates(str(path), {"9"})


def test_a_line_that_is_no_candidate_is_named(tmp_path: Path) -> None:
    (tmp_path / "top").write_text("7 D1\n7\n")
    with pytest.raises(BadLine, match="top:2: 1 columns"):
        read_candidates(str(tmp_path / "top"), {"7"})


def test_what_is_not_there_is_said_with_the_files_looked_for(data: Path, tmp_path: Path) -> None:
    (data / "dl20.queries.tsv").write_text("1\ta\n")
    with pytest.raises(UserError, match=r"no judgements.*looked there and in passage/ for dl20.qrels.trec"):
        tasks(data, split="dl20")
    with pytest.raises(UserError, match=r"holds no queries and judgements.*queries.dev.small.tsv"):
        tasks(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        tasks(tmp_path / "absent")
    with pytest.raises(UnknownName, match="unknown split of msmarco-passage 'dl18'; did you mean 'dl19'"):
        tasks(data, split="dl18")
    with pytest.raises(UnknownName, match="unknown task 'dl19-rernk'; did you mean 'dl19-rerank'"):
        tasks(data, tasks=("dl19-rernk",))
    with pytest.raises(UserError, match="no task of dev is of the split dl19"):
        tasks(data, tasks=("dev",), split="dl19")
    (data / "2019qrels-pass.txt").write_text("999 0 1 1\n")
    with pytest.raises(UserError, match="share no query"):
        tasks(data, split="dl19")


def test_the_folder_of_ir_datasets_is_known_by_its_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=r"there is no folder '.*home/msmarco-passage'"):
        tasks(PASSAGE)
    own = tmp_path / "home" / PASSAGE
    (own / "trec-dl-2019").mkdir(parents=True)
    (data / "collection.tsv").rename(own / "collection.tsv")
    (data / "msmarco-test2019-queries.tsv").rename(own / "trec-dl-2019" / "queries.tsv")
    (data / "2019qrels-pass.txt").rename(own / "trec-dl-2019" / "qrels")
    (own / "trec-dl-2019" / "ms.run").write_text("100\t3\n")
    [task] = tasks(PASSAGE)
    assert task.documents is not None
    assert [task.name, len(list(task.documents()))] == ["dl19", 31]
    [again] = tasks(PASSAGE, tasks=("dl19-rerank",))
    assert again.candidates == {"100": ["3"], "101": [], "102": [], "103": []}


def test_every_split_has_measures_of_its_level() -> None:
    assert {suite: set(files.splits) for suite, files in FILES.items()} == {
        suite: {"dev", "dl19", "dl20"} for suite in (PASSAGE, "msmarco-document")
    }
    documents = FILES["msmarco-document"].splits
    assert documents["dev"].measures[0] == "RR@100"
    assert documents["dl19"].measures[:2] == ("nDCG@10", "AP@100")


def test_the_real_runs_give_their_published_figures(collections: Path, tmp_path: Path) -> None:
    folder = collections / "msmarco"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    files = {name: folder / "runs" / f"{name}.trec.gz" for name in REAL}
    systems = [parse_system(f'name = "{name}"\nrun = "{file}"') for name, file in files.items()]
    both = f"run({files['dl19.BM25_docT5q.top1000']}) + run({files['dl19.ANCE.top1000']})"
    systems.append(parse_system(f'name = "RRF"\npipeline = "{both}"'))
    *found, fused = rows(tasks(folder, split="dl19"), systems, tmp_path)
    for row in found:
        assert len(row["query_ids"]) == 43
        figures = tuple(row["measures"][name]["mean"] for name in ("nDCG@10", "AP(rel=2)"))
        assert figures == pytest.approx(REAL[row["system"]["name"]], abs=5e-5), row["system"]["name"]
    better = max(found[place]["measures"]["nDCG@10"]["mean"] for place in (4, 5))
    assert fused["measures"]["nDCG@10"]["mean"] > better
    # By hand: reciprocal ranks from the files, scored in double precision.
    sums: dict[str, dict[str, float]] = {}
    for name in ("dl19.BM25_docT5q.top1000", "dl19.ANCE.top1000"):
        for query, hits in read_scores(files[name]).items():
            ordered = sorted(hits, key=lambda doc: (hits[doc], doc), reverse=True)
            for rank, doc in enumerate(ordered, 1):
                into = sums.setdefault(query, {})
                into[doc] = into.get(doc, 0.0) + 1 / (60 + rank)
    best = {query: sorted(hits, key=lambda doc: (-hits[doc], doc))[:1000] for query, hits in sums.items()}
    sums = {query: {doc: sums[query][doc] for doc in docs} for query, docs in best.items()}
    expected = evaluate(sums, read_qrels(folder / "passage" / "dl19.qrels.trec"), ["nDCG@10", "AP(rel=2)"])
    for name, mean in expected.means.items():
        assert fused["measures"][name]["mean"] == pytest.approx(mean, abs=1e-4)


def test_the_sets_of_the_shared_folder_are_complete(collections: Path) -> None:
    folder = collections / "msmarco"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    found = {task.name: (len(task.queries), task.note, task.documents) for task in tasks(folder)}
    assert found == {"dev": (6980, "", None), "dl19": (43, "", None), "dl20": (54, "", None)}
    assert {task.name: len(task.queries) for task in tasks(folder, "msmarco-document")} == {
        "dev": 5193, "dl19": 43,
    }  # fmt: skip
