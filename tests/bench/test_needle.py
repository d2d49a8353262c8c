"""Pipelines as systems, and the sweep of depths and lengths: figures, change with depth, tables, picture."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from retrieval import Index, Query, Run, UserError
from retrieval.bench import far_relevant, heatmap, needle, pipelines
from retrieval.bench.evaluate import evaluate
from retrieval.bench.learned_sets import read_collection
from retrieval.bench.statistics import bootstrap
from retrieval.data.corpus import open_corpus
from retrieval.errors import CompositionError, UnknownName

# --- pipelines --------------------------------------------------------------------------------------------


def test_systems_are_labels_and_pipelines() -> None:
    found = pipelines.read_systems(["a b = bm25(k1=2) % 7", "c=bm25%5>>other"], ["bm25", "other"])
    assert [tuple(system) for system in found] == [("a b", "bm25(k1=2) % 7"), ("c", "bm25 % 5 >> other")]
    assert [system.label for system in pipelines.read_systems(None, ["bm25"])] == ["BM25"]
    for wrong in ("bm25", "=bm25", "a=", "bm25(k1=2) % 7"):
        with pytest.raises(UserError, match="has no label; write LABEL=PIPELINE"):
            pipelines.read_systems([wrong], ["bm25"])
    with pytest.raises(UserError, match="two systems are called 'a'"):
        pipelines.read_systems(["a=bm25", "a=bm25 % 3"], ["bm25"])
    with pytest.raises(UnknownName, match="nowhere"):
        pipelines.read_systems(["a=nowhere"], ["bm25"])
    with pytest.raises(CompositionError):
        pipelines.read_systems(["a=bm25 %"], ["bm25"])


VECTORS = [{"cab": 9, "bed": 3}, {"cab": 2, "fig": 200}, {"bed": 7, "jam": 1, "cab": 7}, {"fig": 4}]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """BM25 and ready weights."""
    made = Index.create(tmp_path / "index", ["bm25", "other=impacts"])
    made.add([{"id": str(i), "text": " ".join(v), "vector": v} for i, v in enumerate(VECTORS)])
    made.commit()
    return made


QUERIES = [Query("1", "cab fig"), Query("2", "bed"), Query("3", "nowhere"), Query("4", "jam cab cab")]
JUDGED = {"1": {"1": 1}, "2": {"0": 2, "2": 1}, "3": {"3": 1}, "4": {"2": 1}}
MEASURES = ["nDCG@10", "RR@10"]


def test_outcomes_are_those_of_the_pipeline_over_all_queries(index: Index) -> None:
    systems = pipelines.read_systems(["x=bm25", "y=0.4 * bm25 + 0.6 * other"], ["bm25", "other"])
    seen: list[int] = []
    found = pipelines.outcomes(index, QUERIES, JUDGED, systems, MEASURES, progress=seen.append)
    assert sum(seen) == len(QUERIES) * 2
    for system in systems:
        whole = evaluate(index.pipeline(system.pipeline)(QUERIES), JUDGED, MEASURES)
        ours = found[system.label].evaluation
        assert ours.query_ids == whole.query_ids
        assert {m: v.tolist() for m, v in ours.values.items()} == {
            m: v.tolist() for m, v in whole.values.items()
        }
        assert found[system.label].milliseconds > 0


def test_candidates_are_reranked_and_no_others_found(index: Index) -> None:
    systems = pipelines.read_systems(["x=bm25", "y=other"], ["bm25", "other"])
    given = {"1": ["3", "0"], "2": ["1", "0"], "3": ["3", "1"], "4": ["0", "2"]}

    def candidates(query: Query) -> Run:
        return Run.from_dict({query.query_id: dict.fromkeys(given[query.query_id], 0.0)})

    found = pipelines.outcomes(index, QUERIES, JUDGED, systems, ["NumRet", "RR"], candidates=candidates)
    for outcome in found.values():
        assert outcome.evaluation.means["NumRet"] == 8
    # Query 1 wants document 1, which is no candidate; 3 matches nothing: ties by id, descending.
    assert found["x"].evaluation.values["RR"].tolist() == [0, 1, 1, 1]


# --- sweep ------------------------------------------------------------------------------------------------


@pytest.fixture
def far(tmp_path: Path) -> Callable[..., Path]:
    """Makes far-relevant collections; a relevant passage has a word of its own, which its query asks for."""
    rng = np.random.default_rng(1)
    source = tmp_path / "passages"
    (source / "qrels").mkdir(parents=True)
    words = [a + b + c for a in "bdg" for b in "aei" for c in "mn"]
    texts = [" ".join([f"only{i}", *rng.choice(words, 8)]) for i in range(80)]
    lines = [json.dumps({"_id": f"p{i}", "text": text}) for i, text in enumerate(texts)]
    (source / "corpus.jsonl").write_text("\n".join(lines))
    asked = [json.dumps({"_id": f"q{i}", "text": f"only{i} {words[i]}"}) for i in range(12)]
    (source / "queries.jsonl").write_text("\n".join(asked))
    (source / "qrels" / "test.tsv").write_text("".join(f"q{i} 0 p{i} 1\n" for i in range(12)))

    def make(length: int, depths: tuple[str, ...] = ("first", "last", "beyond-20"), **more: Any) -> Path:
        out = tmp_path / f"far-{length}"
        far_relevant.make(str(source), str(out), depths, length=length, documents=15, **more)
        return out

    return make


def test_collections_are_found_and_in_order(far: Callable[..., Path]) -> None:
    long, short = far(120, ("last", "middle", "beyond-50", "beyond-6", "first")), far(60)
    found = needle.find([str(long), str(short / "last"), str(short / "first")])
    depths = ["first", "beyond-6", "beyond-50", "middle", "last"]
    wanted = [(60, "first"), (60, "last"), *((120, depth) for depth in depths)]
    assert [(place.length, place.depth) for place in found] == wanted
    assert {place.unit for place in found} == {"words"}


def test_collections_that_do_not_compare_are_refused(far: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no far-relevant collection; make one"):
        needle.find([str(tmp_path / "passages")])
    with pytest.raises(UserError, match="nothing"):
        needle.find([str(tmp_path / "nothing")])
    first = far(60, ("first",))
    shutil.copytree(first, tmp_path / "copy")
    with pytest.raises(UserError, match=r"both have first at length 60; give one of them"):
        needle.find([str(first), str(tmp_path / "copy")])
    settings = tmp_path / "copy" / "first" / far_relevant.SETTINGS
    settings.write_text(settings.read_text().replace('"unit": "words"', '"unit": "x"').replace("60", "61"))
    with pytest.raises(UserError, match=r"lengths are in words and in x"):
        needle.find([str(first), str(tmp_path / "copy")])
    settings.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        needle.find([str(tmp_path / "copy")])


def test_the_sweep_gives_every_figure(far: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    folders = [far(60), far(120, ("first", "last"))]
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "svg", "json")}
    arguments = [str(folder) for folder in folders]
    arguments += [
        "--system",
        "BM25=bm25 % 100",
        "--system",
        "flat=bm25(k1=0) % 3",
        "--work",
        str(tmp_path / "work"),
    ]
    needle.main([*arguments, *(word for name, file in files.items() for word in (f"--{name}", str(file)))])
    printed = capsys.readouterr().out
    results = json.loads(files["json"].read_text())
    rows = {(row["system"], row["length"], row["depth"]): row for row in results["rows"]}
    assert len(rows) == 2 * 5
    for (label, length, depth), row in rows.items():
        folder = tmp_path / f"far-{length}" / depth
        collection = read_collection(folder.parent, folder.name)
        with Index.create(tmp_path / f"again-{label}-{length}-{depth}") as index:
            index.add(open_corpus(folder))
            index.commit()
            run = index.pipeline(results["systems"][label])(collection.queries)
        worth = evaluate(run, collection.judgements, needle.MEASURES)
        for measure in needle.MEASURES:
            interval = bootstrap(worth.values[measure])
            assert (row[measure]["mean"], row[measure]["low"], row[measure]["high"]) == interval
            # BM25 is blind to order: no depth changes anything.
            assert ("change" in row[measure]) == (depth != "first")
            assert row[measure].get("change", 0) == 0
        cell = f"{row['nDCG@10']['mean']:.3f} ({row['nDCG@10']['low']:.3f} to {row['nDCG@10']['high']:.3f})"
        assert cell in printed
        assert row["documents"] == 15
    assert "| depth | 60 words | 120 words |" in printed
    assert printed.count("| beyond-20 |") == 2
    assert "| flat | 60 | 15 | 12 | " in printed
    lines = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert len(lines) == len(rows) * len(needle.MEASURES)
    for line in lines:
        row = rows[line["system"], int(line["length"]), line["depth"]]
        assert float(line["mean"]) == row[line["measure"]]["mean"]
    texts = [
        element.text for element in ElementTree.fromstring(files["svg"].read_text()).iter() if element.text
    ]
    for row in rows.values():
        assert f"{row['nDCG@10']['mean']:.3f}" in texts


def test_change_may_be_from_another_depth(far: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    folder, file = str(far(60)), tmp_path / "out.json"
    needle.main([folder, "--base", "last", "--json", str(file)])
    assert "the change from last, paired" in capsys.readouterr().out
    rows = json.loads(file.read_text())["rows"]
    assert {row["depth"] for row in rows if "change" not in row["RR@10"]} == {"last"}
    with pytest.raises(SystemExit):
        needle.main([folder, "--base", "middle"])
    assert "--base middle is no depth of length 60; it has first, beyond-20, last" in capsys.readouterr().err


def test_change_is_paired_with_the_shallowest_depth() -> None:
    def outcome(values: list[float]) -> pipelines.Outcome:
        scores = {f"q{i}": {"a": 1.0} for i in range(len(values))}
        worth = evaluate(scores, {name: {"a": 1} for name in scores}, needle.MEASURES)
        worth.values.update(dict.fromkeys(needle.MEASURES, np.array(values)))
        return pipelines.Outcome(worth, 1.0, 0)

    base, deeper = outcome([1, 0.5, 0.25, 1]), outcome([0.5, 0.25, 0, 1])
    found = needle._figures(deeper, base, 3)["nDCG@10"]
    assert (found["change"], found["change_low"], found["change_high"]) == bootstrap(
        [-0.5, -0.25, -0.25, 0], seed=3
    )
    assert "change" not in needle._figures(base, base, 3)["nDCG@10"]
    with pytest.raises(UserError, match="of one length have other queries"):
        needle._figures(outcome([1, 1]), base, 0)


def test_a_heat_map_has_a_cell_for_each_figure() -> None:
    cells = {("s & t", "first", "60"): (1.0, "a"), ("s & t", "last", "120"): (0.0, "<b>")}
    root = ElementTree.fromstring(heatmap.picture(cells, "T", "depth", "words"))
    name = "{http://www.w3.org/2000/svg}"
    boxes = [each.get("fill") for each in root.iter(f"{name}rect")][1:]
    assert boxes == ["#0b3c6f", "#ffffff"]  # what was not measured has no box
    texts = [each.text for each in root.iter(f"{name}text")]
    inks = {each.text: each.get("fill") for each in root.iter(f"{name}text")}
    assert (inks["1.000"], inks["0.000"]) == ("#fff", "#222")  # what can be read there
    assert {"s & t", "first", "last", "60", "120", "1.000", "0.000", "<b>", "depth / words"} <= set(texts)
