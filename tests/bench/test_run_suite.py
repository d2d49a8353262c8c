"""Suites of BEIR folders: figures against others made anew, what a row says, indexes kept, bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index
from retrieval.bench.evaluate import evaluate
from retrieval.bench.machine import Energy, gpu
from retrieval.bench.rankings import ask
from retrieval.bench.row import Row
from retrieval.bench.run_suite import RunSettings, run_suite
from retrieval.bench.statistics import bootstrap, holm, paired_t
from retrieval.bench.suite import SuiteSettings, tasks_of
from retrieval.bench.suite_table import suite_table
from retrieval.bench.system import parse_system
from retrieval.data.corpus import open_corpus
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import UnknownName, UserError
from tests.bench.suite_files import write_beir, write_jsonl

BM25 = 'name = "BM25"\npipeline = "bm25"\ntrained_on = "none"'
SUM = 'name = "sum"\npipeline = "bm25 % 7 + flat(b=0) % 9"\nsparse = ["bm25", "flat=bm25"]'
SYSTEMS = [parse_system(BM25), parse_system(SUM)]
Measure = Callable[..., list[Row]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two")):
        write_beir(tmp_path / "data" / name, seed, splits=("test", "dev"))
    return tmp_path / "data"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def measure(data: Path, tmp_path: Path, warnings: list[str]) -> Measure:
    """Rows of a suite. Keywords: those of SuiteSettings, and systems."""

    def work(suite: str = "beir", *, systems: Any = SYSTEMS, measures: Any = (), **more: Any) -> list[Row]:
        settings = SuiteSettings(**{"data": str(data), **more})
        how = RunSettings(tmp_path / "work", measures=measures, source="data", warn=warnings.append)
        (tmp_path / "work").mkdir(exist_ok=True)
        return list(run_suite(tasks_of(suite, settings), systems, how))

    return work


def independent(folder: Path, split: str, pipeline: str, where: Path, same_id: bool) -> Any:
    """The evaluation of a pipeline whose queries are asked all at once."""
    with Index.create(where, ["bm25", "flat=bm25"], overwrite=True) as index:
        index.add(open_corpus(folder))
        index.commit()
        run = index.pipeline(pipeline)(read_queries(f"{folder}@{split}")).to_dict()
    if same_id:
        run = {query: {doc: s for doc, s in hits.items() if doc != query} for query, hits in run.items()}
    return evaluate(run, read_qrels(f"{folder}@{split}"), ["nDCG@10", "RR@10", "AP", "R@100", "R@1000"])


def test_figures_are_those_of_the_pipelines(measure: Measure, data: Path, tmp_path: Path) -> None:
    rows = measure()
    assert [(row["task"], row["system"]["name"]) for row in rows] == [
        ("one", "BM25"), ("one", "sum"), ("two", "BM25"), ("two", "sum"),
    ]  # fmt: skip
    for row in rows:
        expected = independent(data / row["task"], "test", row["system"]["pipeline"], tmp_path / "x", True)
        assert list(row["measures"]) == list(expected.values)
        place = [expected.query_ids.index(query) for query in row["query_ids"]]
        for name, figure in row["measures"].items():
            assert figure["values"] == pytest.approx(expected.values[name][place])
            assert tuple(figure[key] for key in ("mean", "low", "high")) == bootstrap(figure["values"])
    dropped = independent(data / "one", "test", "bm25", tmp_path / "x", False)
    assert rows[0]["measures"]["AP"]["mean"] != pytest.approx(dropped.means["AP"])  # the query called d3


def test_a_row_says_how_it_was_made(measure: Measure, data: Path) -> None:
    row = measure(tasks=("one",), queries=5, split="dev")[1]
    assert (row["suite"], row["task"], row["split"], row["depth"]) == ("beir", "one@dev", "dev", 1000)
    assert row["system"]["file"] == SUM
    assert row["system"]["representations"] == ["bm25", "flat"]
    about, index, times = row["data"], row["index"], row["times_ms"]
    assert (about["documents"], about["queries"], about["of"]) == (40, 5, 13)
    assert len(row["query_ids"]) == 5
    assert set(about["files"]) == {"corpus.jsonl", "queries.jsonl", "dev.tsv"}
    assert index is not None
    assert times is not None
    assert set(index["representations"]) == {"bm25", "flat"}
    assert all(
        one["bytes"] > 0 and one["build_seconds"] > 0 and one["tokens"] > 100 and not one["tokens_dropped"]
        for one in index["representations"].values()
    )
    assert len(times["values"]) == 5
    assert times["p50"] == pytest.approx(np.median(times["values"]))
    assert [(each["stage"], each["out"] > 0) for each in row["stages"]] == [
        ("bm25", True),
        ("flat(b=0)", True),
    ]
    assert sum(each["ms"] for each in row["stages"]) <= times["mean"]
    assert json.loads(json.dumps(row)) == row


def test_tasks_are_named_with_their_split(measure: Measure, data: Path) -> None:
    (data / "two" / "qrels" / "dev.tsv").unlink()

    def names(**more: Any) -> list[str]:
        return [task.name for task in tasks_of("beir", SuiteSettings(str(data), **more))]

    assert names() == ["one", "two"]
    assert names(split="dev") == ["one@dev"]
    assert names(tasks=("one@dev", "one", "two")) == ["one@dev", "one", "two"]
    with pytest.raises(UnknownName, match=r"unknown split of .*two 'dev'; known: test"):
        names(tasks=("two",), split="dev")
    (data / "two" / "qrels" / "test.tsv").rename(data / "two" / "qrels" / "only.tsv")
    assert names() == ["one", "two@only"]
    (data / "two").rename(data / "msmarco")
    (data / "msmarco" / "qrels" / "only.tsv").rename(data / "msmarco" / "qrels" / "dev.tsv")
    (data / "msmarco" / "qrels" / "test.tsv").write_text("q0 0 d1 1\n")
    assert names() == ["msmarco@dev", "one"]


def test_an_index_is_kept_and_grows(measure: Measure, data: Path, tmp_path: Path) -> None:
    first = measure(tasks=("one",), systems=SYSTEMS[:1])[0]["index"]
    both = measure(tasks=("one",))[1]["index"]
    again = measure(tasks=("one",), split="dev")[0]["index"]  # another split asks the same corpus
    assert first is not None
    assert both is not None
    assert again is not None
    assert first["path"] == both["path"] == again["path"]
    assert (first["generation"], both["generation"], again["generation"]) == (1, 2, 2)
    assert both["representations"]["bm25"] == first["representations"]["bm25"]  # not built again
    shutil.rmtree(first["path"])
    assert measure(tasks=("one",), systems=SYSTEMS[:1])[0]["index"]["generation"] == 1  # type: ignore[index]
    other = parse_system('name = "o"\npipeline = "flat"\nsparse = ["flat=bm25(blocks=windows, tokens=9)"]')
    apart = measure(tasks=("one",), systems=[*SYSTEMS, other])
    assert [row["index"]["path"] == first["path"] for row in apart] == [True, True, False]  # type: ignore[index]
    write_jsonl(data / "one" / "corpus.jsonl", {f"d{i}": "bam" for i in range(40)})
    assert measure(tasks=("one",))[0]["index"]["path"] != first["path"]  # type: ignore[index]


def test_types_are_ranked_to_the_end(measure: Measure, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "kinds"
    (folder / "qrels").mkdir(parents=True)
    kinds = {"bird": 1200, "fish": 30, "tree": 3}
    made = {f"{kind}{i}": kind for kind, count in kinds.items() for i in range(count)}
    write_jsonl(folder / "corpus.jsonl", made)
    write_jsonl(folder / "queries.jsonl", {f"q-{kind}": kind for kind in kinds})
    lines = [f"q-{kind} 0 {doc} 1\n" for doc, kind in made.items() if doc != "tree2"]
    (folder / "qrels" / "test.tsv").write_text("".join([*lines, "q-tree 0 bird0 1\n"]))
    [row] = measure("types", tasks=("kinds",), systems=SYSTEMS[:1])
    assert row["depth"] == 2400
    values = {name: dict(zip(row["query_ids"], figure["values"])) for name, figure in row["measures"].items()}
    assert next(iter(values)) == "Rprec"
    assert (
        values["Rprec"] == values["Rmult@2"] == {"q-bird": 1.0, "q-fish": 1.0, "q-tree": pytest.approx(2 / 3)}
    )
    assert values["Rmult@0.5"] == {"q-bird": 0.5, "q-fish": 0.5, "q-tree": 0.0}  # tree2 comes first
    assert values["R@1000"]["q-bird"] == pytest.approx(1000 / 1200)
    classes = row["buckets"]["|REL|"]
    assert {label: found["queries"] for label, found in classes.items()} == {
        "1-9": 1, "10-99": 1, "1000 and more": 1,
    }  # fmt: skip
    assert classes["1-9"]["Rprec"] == pytest.approx(2 / 3)


def test_rankings_that_are_cut_short_are_said(measure: Measure, warnings: list[str]) -> None:
    measure("types", tasks=("one",), systems=[parse_system('name = "x"\npipeline = "bm25 % 2"')])
    assert any("rankings are shorter than the number of relevant documents" in text for text in warnings)


def test_a_task_can_have_candidates_further_judgements_and_classes(measure: Measure, data: Path) -> None:
    [task] = tasks_of("beir", SuiteSettings(str(data), tasks=("one",)))
    candidates = {query.query_id: [f"d{i}" for i in range(0, 40, 2)] for query in task.queries}
    first = task.queries[0].query_id
    given = replace(
        task, candidates=candidates, secondary={"even": {first: {"d2": 1, "d4": 1}}},
        buckets={"half": {query.query_id: "ab"[i % 2] for i, query in enumerate(task.queries)}},
    )  # fmt: skip
    rows = list(run_suite([given], SYSTEMS, RunSettings(Path(data.parent / "work2"))))
    for row in rows:
        even = {query: {d: g for d, g in task.judgements[query].items() if int(d[1:]) % 2 == 0 and d != query}
                for query in row["query_ids"]}  # fmt: skip
        best = [sum(g > 0 for g in even[query].values()) for query in row["query_ids"]]
        total = [sum(g > 0 for g in task.judgements[query].values()) for query in row["query_ids"]]
        recall = row["measures"]["R@100"]["values"]
        if row["system"]["name"] == "BM25":  # all candidates come back, and nothing else
            assert recall == pytest.approx([b / t for b, t in zip(best, total)])
        assert all(r <= b / t + 1e-9 for r, b, t in zip(recall, best, total))
        further = row["secondary"]["even"]["R@100"]["values"]
        assert further[1:] == [0.0] * (len(further) - 1)
        halves = row["buckets"]["half"]
        assert halves["a"]["queries"] + halves["b"]["queries"] == len(recall)
        assert halves["b"]["R@100"] == pytest.approx(np.mean(recall[1::2]))
    assert rows[0]["secondary"]["even"]["R@100"]["values"][0] == 1.0
    shown = suite_table(rows)
    mean = rows[0]["secondary"]["even"]["nDCG@10"]["mean"]
    assert f"| one  | BM25   | even       | {mean:16.4f} |" in shown


def test_a_ranking_is_as_deep_without_the_query_itself(data: Path, tmp_path: Path) -> None:
    [task] = tasks_of("beir", SuiteSettings(str(data), tasks=("one",)))
    with Index.create(tmp_path / "index") as index:
        index.add(open_corpus(data / "one"))
        index.commit()
        everything = index.bm25()(task.queries)
        depth = next(hit.rank for hit in everything["d3"] if hit.doc_id == "d3")
        run = ask(SYSTEMS[0].stage(index), replace(task, depth=depth), timed=True).run
    for query_id, hits in run.items():
        others = [hit.doc_id for hit in everything[query_id] if hit.doc_id != query_id]
        assert [hit.doc_id for hit in hits] == others[:depth]


def test_judgements_of_another_collection(measure: Measure, data: Path, warnings: list[str]) -> None:
    qrels = data / "one" / "qrels" / "test.tsv"
    qrels.write_text("q0 0 elsewhere 1\nq0 0 d1 1\n")
    row = measure(tasks=("one",), systems=SYSTEMS[:1])[0]
    assert any(
        "1 of 2 judged documents are not in the corpus, such as 'elsewhere'" in text for text in warnings
    )
    assert (row["data"]["judged"], row["data"]["judged_absent"]) == (2, 1)
    qrels.write_text("q0 0 elsewhere 1\n")
    with pytest.raises(
        UserError, match="none of the 1 judged documents is in the corpus, such as 'elsewhere'"
    ):
        measure(tasks=("one",))


def test_what_finds_nothing_counts_0_where_the_corpus_is_right(measure: Measure, data: Path) -> None:
    write_jsonl(data / "one" / "corpus.jsonl", {"d0": "bam", "d1": "other"})
    write_jsonl(data / "one" / "queries.jsonl", {"q0": "bam"})
    (data / "one" / "qrels" / "test.tsv").write_text("q0 0 d1 1\n")
    assert measure(tasks=("one",), systems=SYSTEMS[:1])[0]["measures"]["AP"]["mean"] == 0.0


def test_measures_may_be_others_at_the_level_of_the_task(measure: Measure, data: Path) -> None:
    [row] = measure(tasks=("one",), systems=SYSTEMS[:1], measures=("P@5", "AP"))
    assert list(row["measures"]) == ["P@5", "AP"]
    with pytest.raises(UserError, match=r"relevant from grade 1, AP\(rel=2\) from 2; write AP\(rel=1\)"):
        measure(tasks=("one",), measures=("AP(rel=2)",))
    with pytest.raises(UnknownName, match="did you mean 'nDCG'"):
        measure(tasks=("one",), measures=("nDGC@10",))
    [task] = tasks_of("beir", SuiteSettings(str(data), tasks=("one",)))
    with pytest.raises(UserError, match="no query of the split 'test' is judged"):
        replace(task, queries=[])
    with pytest.raises(UserError, match="query 'q0' has no judgement"):
        replace(task, judgements={})


def test_without_a_corpus_only_runs_are_measured(measure: Measure, data: Path, tmp_path: Path) -> None:
    (data / "one" / "corpus.jsonl").unlink()
    with pytest.raises(UserError, match="one has no corpus"):
        measure(tasks=("one",))
    run = tmp_path / "r.trec"
    run.write_text("q0 Q0 d5 1 1.0 x\nd3 Q0 d3 1 2.0 x\nd3 Q0 d5 2 1.0 x\n")
    [row] = measure(tasks=("one",), systems=[parse_system(f'name = "r"\nrun = "{run}"')])
    values = dict(zip(row["query_ids"], row["measures"]["RR@10"]["values"]))
    assert values.pop("q0") == values.pop("d3") == 1.0  # document d3 is dropped for query d3
    assert not any(values.values())
    assert row["times_ms"] is None
    assert row["index"] is None
    assert row["energy_joules"] is None
    assert list(row["models"]) == [f"run({run})"]
    run.write_text("other Q0 d5 1 1.0 x\n")
    with pytest.raises(UserError, match="one, r: the run holds none of the 13 judged queries"):
        measure(tasks=("one",), systems=[parse_system(f'name = "r"\nrun = "{run}"')])
    run.write_text("q0 Q0 zzz 1 1.0 x\n")
    with pytest.raises(UserError, match="one, r: run and judgements share no document"):
        measure(tasks=("one",), systems=[parse_system(f'name = "r"\nrun = "{run}"')])


def test_the_table_marks_what_differs_beyond_chance(measure: Measure) -> None:
    weak = parse_system('name = "we|ak"\npipeline = "bm25 % 1"\n')
    rows = measure(systems=[*SYSTEMS, weak])
    lines = suite_table(rows).splitlines()
    assert lines[0].split() == ["|", "nDCG@10", "|", "one", "|", "two", "|", "mean", "|"]
    assert len({len(line) for line in lines[:5]}) == 1  # aligned
    pairs = [(task, name) for task in ("one", "two") for name in ("sum", "we|ak")]
    values = {(row["task"], row["system"]["name"]): row["measures"]["nDCG@10"] for row in rows}
    tests = [paired_t(values[pair]["values"], values[pair[0], "BM25"]["values"]) for pair in pairs]
    corrected = dict(zip(pairs, holm([test.p for test in tests])))
    assert corrected["one", "we|ak"] < 0.05
    for line, name in zip(lines[2:5], ("BM25", "sum", "we|ak")):
        cells = [cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]]
        assert cells[0] == name.replace("|", "/")
        for task, cell in zip(("one", "two"), cells[1:3]):
            figure = values[task, name]
            assert cell.startswith(f"{figure['mean']:.4f}")
            beyond = corrected.get((task, name), 1.0) < 0.05
            above = figure["mean"] > values[task, "BM25"]["mean"]
            assert ("*" in cell, "†" in cell) == (beyond and above, beyond and not above)
        mean = np.mean([values[task, name]["mean"] for task in ("one", "two")])
        assert cells[3].startswith(f"{mean:.4f}")


def test_one_of_many_differences_is_no_finding(measure: Measure) -> None:
    rows = measure(systems=[*SYSTEMS, parse_system('name = "b"\npipeline = "bm25(b=1)"')])
    rng = np.random.default_rng(1)
    base = rng.random(13)
    gap = np.linspace(-0.22, 0.55, 13) * 0.1  # p = .04 by itself, .16 among four
    assert 0.0125 < paired_t(base + gap, base).p < 0.05
    for row in rows:
        shifted = base if row["system"]["name"] == "BM25" else base + gap
        row["measures"]["nDCG@10"] = {"mean": shifted.mean(), "low": 0, "high": 1, "values": shifted.tolist()}
    lines = suite_table(rows).splitlines()[2:5]
    assert not any("*" in line for line in lines)
    alone = [row for row in rows if row["task"] == "one" and row["system"]["name"] != "sum"]
    assert "*" in suite_table(alone).splitlines()[3]


def test_energy_is_read_where_the_machine_reports_it(tmp_path: Path) -> None:
    assert "reports no energy" in Energy(str(tmp_path)).note
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, which counts once
    (zone / "energy_uj").write_text("9000000\n")
    (zone / "max_energy_range_uj").write_text("10000000\n")
    meter = Energy(str(tmp_path))
    assert meter.note == ""
    (zone / "energy_uj").write_text("9500000\n")
    assert meter.joules() == 0.5
    (zone / "energy_uj").write_text("500000\n")  # begun anew
    assert meter.joules() == 1.5
    (zone / "energy_uj").write_text("")
    assert "read by root only" in Energy(str(tmp_path)).note
    assert meter.joules() is None


def test_the_gpu_is_named(tmp_path: Path) -> None:
    assert gpu(str(tmp_path)) is None
    (tmp_path / "0000:01").mkdir()
    (tmp_path / "0000:01" / "information").write_text("Model: \t\t NVIDIA X1\nIRQ: 3\n")
    assert gpu(str(tmp_path)) == "NVIDIA X1"


def test_the_bm25_of_scifact(collections: Path, tmp_path: Path) -> None:
    settings = SuiteSettings(str(collections), tasks=("scifact",))
    [row] = run_suite(tasks_of("beir", settings), SYSTEMS[:1], RunSettings(tmp_path))
    assert len(row["query_ids"]) == 300
    assert row["measures"]["nDCG@10"]["mean"] == pytest.approx(0.6804, abs=5e-5)


def test_the_hashes_of_a_shipped_model_are_in_the_row(measure: Measure) -> None:
    pytest.importorskip("torch")
    from retrieval.index.file_hashes import sha256_of
    from retrieval.index.model_files import WEIGHTS, shipped

    system = parse_system('name = "c"\npipeline = "bm25 % 3 >> 0.5 * bm25 + 0.5 * cross"')
    [row, *_] = measure(systems=[system])
    assert row["models"]["cross"]["weights"] == sha256_of(f"{shipped('cross')}/{WEIGHTS}")
