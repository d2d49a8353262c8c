"""The learned-sparse comparison: pipelines as printed, statistics, choices off the test split, one run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval import Index, Query, Run, UserError
from retrieval.bench import learned, learned_report, learned_sets, learned_systems
from retrieval.bench.evaluate import Evaluation, evaluate
from retrieval.bench.learned_systems import System
from retrieval.bench.measures import parse_all
from retrieval.bench.statistics import bootstrap, holm, paired_t

WORDS = [a + b + c for a in "bdg" for b in "aei" for c in "mn"]


def write_collection(folder: Path, seed: int, documents: int = 40, queries: int = 12) -> None:
    """A BEIR folder of random words; a query is two words of its only relevant document."""
    rng = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    texts = [rng.choice(WORDS, rng.integers(3, 9)).tolist() for _ in range(documents)]
    corpus = [{"_id": f"d{i}", "title": "", "text": " ".join(text)} for i, text in enumerate(texts)]
    asked = [{"_id": f"q{i}", "text": " ".join(texts[i][:2])} for i in range(2 * queries)]
    for name, records in (("corpus", corpus), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for split, first in (("test", 0), ("train", queries)):
        lines = "".join(f"q{i}\td{i}\t1\n" for i in range(first, first + queries))
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two collections, `one` and `two`."""
    for seed, name in enumerate(("one", "two")):
        write_collection(tmp_path / "data" / name, seed)
    return tmp_path / "data"


# --- systems ----------------------------------------------------------------------------------------------

VECTORS = [{"cab": 9, "bed": 3}, {"cab": 2, "fig": 200}, {"bed": 7, "jam": 1, "cab": 7}, {"fig": 4}]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """BM25 and ready weights."""
    made = Index.create(tmp_path / "index", ["bm25", "other=impacts"])
    made.add([{"id": str(i), "text": " ".join(v), "vector": v} for i, v in enumerate(VECTORS)])
    made.commit()
    return made


@pytest.mark.parametrize(
    "system",
    [
        System("a", "bm25"),
        System("b", "bm25", "other"),
        System("c", "bm25", "other", 0.35),
        System("d", "bm25(k1=2)", "other", 0.9),
    ],
)
def test_a_system_finds_what_its_pipeline_finds(index: Index, system: System) -> None:
    queries = [Query("1", "cab fig"), Query("2", "bed"), Query("3", "nowhere"), Query("4", "jam cab cab")]
    legs = learned_systems.Legs(index, 1)
    legs.at(queries)
    assert system.run(legs).to_dict() == index.pipeline(system.pipeline)(queries).to_dict()


def test_legs_are_searched_once_for_all_systems_and_anew_for_other_queries(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    legs = learned_systems.Legs(index, 1)
    calls: list[int] = []
    stage = legs._stage("bm25")
    inner = stage._run

    def counted(queries: list[Query], run: Run | None) -> Run:
        calls.append(1)
        return inner(queries, run)

    monkeypatch.setattr(stage, "_run", counted)
    monkeypatch.setattr(stage, "within", lambda k: stage)
    for text in ("cab", "jam"):
        legs.at([Query("1", text)])
        found = [System("", "bm25").run(legs), System("", "bm25", "other", 0.5).run(legs)]
        assert set(found[0].to_dict()["1"]) <= set(found[1].to_dict()["1"])
    assert len(calls) == 2


def test_evaluations_of_batches_are_those_of_all_at_once(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [Query(str(i), text) for i, text in enumerate(["cab fig", "bed", "jam", "nowhere", "fig"])]
    judged = {query.query_id: {str(i % 4): 1} for i, query in enumerate(queries)}
    systems = [System("x", "bm25"), System("y", "bm25", "other", 0.4)]
    seen: list[int] = []
    monkeypatch.setattr(learned_systems, "_BATCH", 2)
    found = learned_systems.evaluations(index, queries, judged, systems, progress=seen.append)
    assert sum(seen) == 5
    assert max(seen) <= 2
    for system, evaluation in zip(systems, found):
        whole = evaluate(index.pipeline(system.pipeline)(queries), judged, learned_systems.MEASURES)
        assert evaluation.query_ids == whole.query_ids
        for measure in learned_systems.MEASURES:
            assert evaluation.values[measure].tolist() == whole.values[measure].tolist()


def test_systems_are_those_of_the_representations() -> None:
    labels = [system.label for system in learned_systems.standard(["bm25", "tilde"])]
    assert labels == ["BM25", "TILDE"]
    assert list(learned_systems.fused(["bm25", "bprop"], (0, 1))) == ["BM25 + B-PROP"]
    legs = [system.second for system in learned_systems.fused(["bm25", "tildev2"], (0, 1))["BM25 + TILDEv2"]]
    assert legs == ["tildev2", "tildev2(idf=1)"]


# --- statistics -------------------------------------------------------------------------------------------


def worth(values: NDArray[np.float64]) -> Evaluation:
    """An evaluation with these values of both measures."""
    column = values
    measures = parse_all(learned_systems.MEASURES)
    ids = [str(i) for i in range(len(column))]
    return Evaluation(tuple(measures), ids, {str(measure): column for measure in measures}, 0, 0)


def test_resampled_means_are_those_of_the_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.random.default_rng(3).random((57, 2))
    for cells in (4_000_000, 300):
        monkeypatch.setattr(learned_report, "_CELLS", cells)
        means = learned_report.resampled_means(columns, seed=5)
        low, high = np.quantile(means, [0.025, 0.975], axis=0)
        for i in range(2):
            exact = bootstrap(columns[:, i], seed=5)
            assert (low[i], high[i]) == pytest.approx((exact.low, exact.high))


def test_figures_pair_systems_and_correct_over_sets() -> None:
    rng = np.random.default_rng(1)
    sets = {}
    for name, gain, size in (("a", 0.02, 40), ("b", 0.0, 30), ("c", -0.1, 25)):
        base = rng.random(size)
        sets[name] = {"BM25": worth(base), "new": worth(base + rng.normal(gain, 0.05, size))}
    found, mean = learned_report.figures(sets)
    tests = [paired_t(s["new"].values["R@100"], s["BM25"].values["R@100"]) for s in sets.values()]
    cells = [found[name]["new"]["R@100"] for name in sets]
    assert [cell["p"] for cell in cells] == [test.p for test in tests]
    assert [cell["p_holm"] for cell in cells] == holm([test.p for test in tests])
    assert [cell["difference"] for cell in cells] == pytest.approx([test.difference for test in tests])
    for cell in [*cells, mean["new"]["R@100"]]:
        assert cell["low"] < cell["mean"] < cell["high"]
        assert cell["difference_low"] < cell["difference"] < cell["difference_high"]
        # Paired: far narrower than the systems' own intervals.
        assert cell["difference_high"] - cell["difference_low"] < (cell["high"] - cell["low"]) / 2
    assert mean["new"]["nDCG@10"]["mean"] == pytest.approx(np.mean([c["mean"] for c in cells]))
    assert "difference" not in mean["BM25"]["R@100"]
    wide = max(cell["high"] - cell["low"] for cell in cells)
    assert mean["new"]["R@100"]["high"] - mean["new"]["R@100"]["low"] < wide


def test_marks_of_significance() -> None:
    base = np.linspace(0.2, 0.8, 50)
    step = 0.1 + 0.01 * np.sin(np.arange(50))
    sets = {
        "up": {"BM25": worth(base), "x": worth(base + step)},
        "down": {"BM25": worth(base), "x": worth(base - step)},
    }
    found, _ = learned_report.figures(sets)
    assert learned_report._marked(found["up"]["x"]["nDCG@10"]).endswith("*")
    assert learned_report._marked(found["down"]["x"]["nDCG@10"]).endswith("†")
    assert learned_report._marked(found["up"]["BM25"]["nDCG@10"]) == "0.500"


@pytest.mark.parametrize(
    ("gaps", "verdict"), [((0.03, 0.03), "reached"), ((0.01, 0.01), "missed"), ((0.1, -0.02), "missed")]
)
def test_the_goal_is_the_mean_and_the_lowest(gaps: tuple[float, float], verdict: str) -> None:
    def cell(gap: float) -> dict[str, Any]:
        figures = {"difference": gap, "difference_low": gap, "difference_high": gap}
        return {"BM25 + TILDEv2": {"nDCG@10": figures}}

    sets = {str(i): {"figures": cell(gap)} for i, gap in enumerate(gaps)}
    text = learned_report.reached({"mean": cell(sum(gaps) / 2), "sets": sets})
    assert text.endswith(f"{verdict}.")
    assert f"lowest {min(gaps):+.3f}" in text


# --- collections ------------------------------------------------------------------------------------------


def test_queries_are_drawn_with_a_seed(folder: Path) -> None:
    whole = learned_sets.read_collection(folder, "one")
    first, again, other = (learned_sets.read_collection(folder, "one@train", 5, seed) for seed in (1, 1, 2))
    assert len(whole.queries) == whole.total == first.total == 12
    assert whole.label == "one"
    assert first.label == "one@train"
    assert len(first.queries) == 5
    assert first.queries == again.queries != other.queries
    assert [query for query in first.queries if query in whole.queries] == []


def test_an_index_is_used_again_and_only_for_what_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    def progress(corpus: object) -> Callable[[int], None]:
        built.append(corpus)
        return lambda count: None

    built: list[object] = []
    collection = learned_sets.read_collection(folder, "one")
    indexes = learned_sets.Indexes(tmp_path / "work", ["bm25"], 64 << 20)
    for _ in range(2):
        with indexes.open(collection, progress) as index:
            assert len(index) == 40
    assert len(built) == 1
    other = learned_sets.Indexes(tmp_path / "work", ["bm25", "weights=impacts"], 64 << 20)
    assert other.path(collection) != indexes.path(collection)
    with open(folder / "one" / "corpus.jsonl", "a") as corpus:
        corpus.write('{"_id": "new", "text": "cab"}\n')
    with indexes.open(collection, progress) as index:
        assert len(index) == 41


def test_an_index_that_was_never_committed_is_built(folder: Path, tmp_path: Path) -> None:
    collection = learned_sets.read_collection(folder, "one")
    indexes = learned_sets.Indexes(tmp_path / "work", ["bm25"], 64 << 20)
    Index.create(indexes.path(collection), ["bm25"]).close()
    with indexes.open(collection, lambda corpus: lambda count: None) as index:
        assert len(index) == 40


def test_facts_are_those_of_the_files(index: Index) -> None:
    found = learned_sets.facts(index.path)
    parts = {path.parent for path in Path(index.path).glob("seg-*/facts.json")}
    sizes = [sum(file.stat().st_size for file in part.iterdir()) for part in parts]
    assert sorted(each["bytes"] * 4 for each in found.values()) == sorted(sizes)
    assert found["other"]["terms"] == 2
    assert found["other"]["list_bytes"] < found["other"]["bytes"]
    assert found["bm25"]["list_bytes"] == found["bm25"]["bytes"]


# --- the whole --------------------------------------------------------------------------------------------


@pytest.fixture
def models(tiny_model: Callable[..., Path]) -> dict[str, Path]:
    """Random ones; that of B-PROP is the other BERT under another name."""
    tilde = tiny_model("tilde", words=WORDS, window=20)
    expansion = {"model": "../tilde", "top": 3}
    tildev2 = tiny_model("tildev2", words=WORDS, window=20, expansion=expansion, maximum=20.0)
    bprop = tilde.with_name("bprop")
    shutil.copytree(tilde, bprop)
    config = json.loads((bprop / "config.json").read_text())
    (bprop / "config.json").write_text(json.dumps({**config, "retrieval": {"kind": "bprop"}}))
    return {"tilde": tilde, "tildev2": tildev2, "bprop": bprop}


def run(folder: Path, out: Path, models: dict[str, Path], *arguments: str) -> dict[str, Any]:
    """What --json says."""
    given = [part for kind in learned_sets.KINDS for part in (f"--{kind}", str(models.get(kind, "-")))]
    common = ["--collections", str(folder), "--threads", "1", "--json", str(out)]
    learned.main([*common, *given, *arguments])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_everything(
    folder: Path, tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    work = ["--work", str(tmp_path / "work")]
    sets = ["--sets", "one,absent,two"]
    found = run(folder, tmp_path / "out.json", models, *sets, *work, "--tune", "one@train")
    labels = [
        "BM25", "BM25 >> TILDEv2", "BM25 >> TILDEv2, idf", "TILDEv2", "TILDEv2, idf", "B-PROP", "TILDE",
        "BM25 + TILDEv2", "BM25 + B-PROP",
    ]  # fmt: skip
    assert list(found["systems"]) == labels
    assert list(found["sets"]) == ["one", "two"]
    assert found["skipped"] == {"absent": "there is no folder 'absent' among the collections"}
    assert [one["queries"] for one in found["sets"].values()] == [12, 12]
    text = capsys.readouterr().out
    assert text == learned_report.markdown(found)
    for label in labels:
        assert f"| {label} |" in text
    tuned = found["tuned"]["BM25 + TILDEv2"]
    assert (tuned["on"], len(tuned["tried"])) == ("one@train", 2 * len(learned.GRID))
    assert tuned["value"] == max(value for *_, value in tuned["tried"])
    # Every figure is that of the pipeline which stands beside it.
    collection = learned_sets.read_collection(folder, "two")
    (path,) = (tmp_path / "work").glob("two-*")
    with Index.open(path) as index:
        for label, pipeline in found["systems"].items():
            wanted = evaluate(
                index.pipeline(pipeline)(collection.queries), collection.judgements, ["nDCG@10"]
            )
            cell = found["sets"]["two"]["figures"][label]["nDCG@10"]
            assert cell["mean"] == pytest.approx(wanted.means["nDCG@10"])
    for lists in found["sets"]["two"]["lists"].values():
        assert lists["bytes"] >= lists["list_bytes"] > 0
    assert found["sets"]["two"]["lists"]["tildev2"]["tokens"] > 0


def test_nothing_is_chosen_on_what_is_measured(folder: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    two = {"tildev2": models["tildev2"]}
    settings = learned.parse(["--collections", str(folder), "--tune", "one@test", "--sets", "two,one"])
    comparison = object.__new__(learned.Comparison)
    comparison.settings, comparison.folder = settings, folder
    with pytest.raises(UserError, match="one of the sets to evaluate"):
        comparison._to_tune_on(["two", "one"])
    settings.tune = "one@copy"
    shutil.copyfile(folder / "one" / "qrels" / "test.tsv", folder / "one" / "qrels" / "copy.tsv")
    with pytest.raises(UserError, match="share 12 queries"):
        comparison._to_tune_on(["two", "one"])
    settings.tune = "absent@train"
    with pytest.raises(UserError, match="give --weight"):
        comparison._to_tune_on(["two"])
    found = run(folder, tmp_path / "out.json", two, "--sets", "two", "--weight", "0.3", "--queries", "4")
    assert found["tuned"] == {}
    assert found["systems"]["BM25 + TILDEv2"] == "0.3 * bm25 % 1000 + 0.7 * tildev2 % 1000"
    assert (found["sets"]["two"]["queries"], found["sets"]["two"]["of"]) == (4, 12)


def test_choices_follow_the_train_split_alone(folder: Path, tmp_path: Path, models: dict[str, Path]) -> None:
    """Other judgements of the test split change no choice."""
    one = {"tildev2": models["tildev2"]}
    arguments = ["--sets", "one", "--tune", "one@train"]
    before = run(folder, tmp_path / "a.json", one, *arguments)
    lines = "".join(f"q{i}\td{39 - i}\t1\n" for i in range(12))
    (folder / "one" / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    after = run(folder, tmp_path / "b.json", one, *arguments)
    assert after["tuned"] == before["tuned"]
    assert after["sets"]["one"]["figures"] != before["sets"]["one"]["figures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sets", "absent"], "none of the collections"),
        (["--sets", "one,one"], "names one twice"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    none = [part for kind in learned_sets.KINDS for part in (f"--{kind}", "-")]
    with pytest.raises(SystemExit) as ended:
        learned.main(["--collections", str(folder), *none, *arguments])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


def test_a_model_that_is_not_there_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SystemExit) as ended:
        learned.main(["--collections", str(folder), "--tildev2", str(folder / "nowhere"), "--tilde", "-"])
    assert ended.value.code == 2
    assert "no model directory" in capsys.readouterr().err.splitlines()[-1]
