"""Systems on collections of long documents: figures against others made anew, costs, an index kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index
from retrieval.bench import best_answer, long_quality, needle
from retrieval.bench.evaluate import evaluate
from retrieval.bench.learned_sets import read_collection
from retrieval.bench.pipelines import uses
from retrieval.bench.statistics import bootstrap, holm, paired_t
from retrieval.data.corpus import open_corpus

WORDS = [a + b + c for a in "bdg" for b in "aei" for c in "mn"]
SYSTEMS = {"first": "bm25 % 100", "sum": "0.5 * bm25(b=1) + 0.5 * flat(k1=0) % 20"}


def write_collection(folder: Path, seed: int) -> None:
    """30 documents of random words; a query is two words of its only relevant document."""
    rng = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    texts = [rng.choice(WORDS, rng.integers(5, 60)).tolist() for _ in range(30)]
    corpus = [{"_id": f"d{i}", "text": " ".join(text)} for i, text in enumerate(texts)]
    asked = [{"_id": f"q{i}", "text": " ".join(texts[i][:2])} for i in range(10)]
    for name, records in (("corpus", corpus), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i} 0 d{i} 1\n" for i in range(10)))


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., tuple[str, dict[str, Any]]]:
    """Runs the command on two collections, one given as a folder: what it prints, and JSON."""
    write_collection(tmp_path / "data" / "one", 0)
    write_collection(tmp_path / "elsewhere" / "two", 1)

    def command(*more: str) -> tuple[str, dict[str, Any]]:
        file = tmp_path / "out.json"
        arguments = ["--collections", str(tmp_path / "data"), "--json", str(file)]
        arguments += ["--work", str(tmp_path / "work"), "--sparse", "bm25", "--sparse", "flat=bm25"]
        if "--sets" not in more:
            arguments += ["--sets", "one,./elsewhere/two"]
        monkeypatch.chdir(tmp_path)
        for label, pipeline in SYSTEMS.items():
            arguments += ["--system", f"{label}={pipeline}"]
        long_quality.main([*arguments, *more])
        return capsys.readouterr().out, json.loads(file.read_text())

    return command


def test_figures_are_those_of_the_pipelines(run: Callable[..., Any], tmp_path: Path) -> None:
    printed, results = run()
    values: dict[str, dict[str, Any]] = {}
    for name, folder in (
        ("one", tmp_path / "data" / "one"),
        ("elsewhere/two", tmp_path / "elsewhere" / "two"),
    ):
        collection = read_collection(folder.parent, folder.name)
        with Index.create(tmp_path / f"again-{folder.name}", ["bm25", "flat=bm25"]) as index:
            index.add(open_corpus(folder))
            index.commit()
            values[name] = {
                label: evaluate(
                    index.pipeline(text)(collection.queries).cut(100),
                    collection.judgements,
                    ["nDCG@10", "R@100"],
                ).values
                for label, text in SYSTEMS.items()
            }
    for measure in ("nDCG@10", "R@100"):
        ps = []
        for name, each in values.items():
            for label in SYSTEMS:
                figure = results["sets"][name]["figures"][label][measure]
                assert figure["mean"] == pytest.approx(each[label][measure].mean())
                interval = bootstrap(each[label][measure])
                assert (figure["low"], figure["high"]) == pytest.approx(interval[1:])
            gap = paired_t(each["sum"][measure], each["first"][measure])
            assert results["sets"][name]["figures"]["sum"][measure]["p"] == pytest.approx(gap.p)
            assert "p" not in results["sets"][name]["figures"]["first"][measure]
            ps.append(gap.p)
        corrected = [results["sets"][name]["figures"]["sum"][measure]["p_holm"] for name in values]
        assert corrected == pytest.approx(holm(ps))
        for label in SYSTEMS:
            mean = np.mean([each[label][measure].mean() for each in values.values()])
            assert results["mean"][label][measure]["mean"] == pytest.approx(mean)
            assert f"{mean:.3f} (" in printed
    assert "| nDCG@10 | one | elsewhere/two | mean | - first (95 %) |" in printed


def test_costs_count_what_a_pipeline_uses(run: Callable[..., Any], tmp_path: Path) -> None:
    printed, results = run("--sets", "one")
    lists = results["sets"]["one"]["representations"]
    assert set(lists) == {"bm25", "flat"}
    (index,) = (tmp_path / "work").iterdir()
    parts = [each for each in index.glob("seg-*") if not (each / "ids.bin").exists()]  # not the documents
    total = sum(one["bytes"] for one in lists.values())
    assert len(parts) == 2
    assert total == sum(file.stat().st_size for part in parts for file in part.iterdir())
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| one | ")]
    assert [row[-1].rstrip(" |") for row in rows] == [f"{lists['bm25']['bytes']:,}", f"{total:,}"]
    assert all(cost["ms"] > 0 for cost in results["sets"]["one"]["costs"].values())


@pytest.mark.parametrize("module", [best_answer, long_quality, needle])
def test_help(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert "'BM25=bm25 % 100'" in " ".join(capsys.readouterr().out.split())


def test_representations_of_a_pipeline() -> None:
    names = ["bm25", "blocks", "minilm", "minilm_blocks"]
    assert uses("0.5 * blocks(k1=2) + minilm_blocks % 100", names) == ["blocks", "minilm_blocks"]
    assert uses('bm25 >> cross(./minilm) + other("minilm")', names) == ["bm25"]


def test_an_index_is_kept(run: Callable[..., Any], tmp_path: Path) -> None:
    _, once = run("--sets", "one", "--queries", "4")
    (made,) = (tmp_path / "work").iterdir()
    before = (made / "COMMIT").stat().st_mtime_ns
    printed, again = run("--sets", "one", "--queries", "4")
    assert [each.name for each in (tmp_path / "work").iterdir()] == [made.name]
    assert (made / "COMMIT").stat().st_mtime_ns == before
    assert once["sets"]["one"]["figures"] == again["sets"]["one"]["figures"]
    assert "one: 4 of 10 queries, drawn with a seed" in printed


def test_what_a_model_cuts_off_is_shown(
    run: Callable[..., Any], tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_model("text")
    printed, results = run("--sets", "one", "--dense", f"tiny={model}", "--system", "tiny=tiny % 100")
    lists = results["sets"]["one"]["representations"]["tiny"]
    assert lists["dropped"] > 0
    row = next(line for line in printed.splitlines() if line.startswith("| one | tiny | "))
    assert row.split(" | ")[3:] == [
        f"{int(lists['dropped']):,}", str(results["sets"]["one"]["costs"]["tiny"]["tokens_dropped"]),
        f"{lists['bytes']:,} |",
    ]  # fmt: skip
    assert f"| tiny | {lists['bytes']:,} | {int(lists['tokens']):,} | {int(lists['dropped']):,} (" in printed


def test_a_set_that_is_not_there_or_comes_twice(run: Callable[..., Any], capsys: Any) -> None:
    for sets, problem in (
        ("three", "there is no folder 'three'"),
        ("one,one", "twice"),
        (",", "no collection"),
    ):
        with pytest.raises(SystemExit) as stopped:
            run("--sets", sets)
        assert stopped.value.code == 2
        assert problem in capsys.readouterr().err
