"""The verbs of the command line from end to end: outputs to the letter, what each of them refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval import cli_batch, cli_doctor

Call = Callable[..., Any]
Write = Callable[[Path, list[Any]], Path]


# --- index --------------------------------------------------------------------------------------------------


def test_index_says_what_it_committed(call: Call, corpus: Path, tmp_path: Path) -> None:
    done = call("index", corpus, "--out", tmp_path / "i")
    assert done.out.splitlines()[-1] == '{"committed": 4, "generation": 1}'


def test_an_index_is_not_replaced_by_accident(call: Call, corpus: Path, index: Path) -> None:
    call("index", corpus, "--out", index).failed(2, "--append")
    call("index", corpus, "--out", index, "--append", "--overwrite").failed(2, "exclude one another")
    known = "corpus.jsonl:1: the id 'd1' is known already"
    call("index", corpus, "--out", index, "--append").failed(2, known)
    call("index", corpus, "--out", index, "--append", "--compact").failed(2, "--compact was settled")
    call("index", corpus, "--out", index, "--update", "--no-text").failed(2, "--no-text was settled")
    assert call("check", index, "--json").json["generation"] == 1


def test_append_update_overwrite(call: Call, index: Path, tmp_path: Path, write: Write) -> None:
    more = write(tmp_path / "more.jsonl", [{"_id": "d5", "text": "moon"}])
    assert call("index", more, "--out", index, "--append").json == {"committed": 5, "generation": 2}
    changed = write(
        tmp_path / "changed.jsonl", [{"_id": "d5", "text": "comet"}, {"_id": "d6", "text": "comet"}]
    )
    assert call("index", changed, "--out", index, "--update").json == {"committed": 6, "generation": 3}
    assert call("search", index, "moon", "--json").json["results"] == []
    assert {hit["id"] for hit in call("search", index, "comet", "--json").json["results"]} == {"d5", "d6"}
    assert call("index", more, "--out", index, "--overwrite").json["committed"] == 1


def test_append_makes_what_is_not_there(call: Call, corpus: Path, tmp_path: Path) -> None:
    assert call("index", corpus, "--out", tmp_path / "new", "--append").json == {
        "committed": 4,
        "generation": 1,
    }


def test_bad_lines(call: Call, tmp_path: Path, write: Write) -> None:
    bad = write(
        tmp_path / "bad.jsonl",
        [{"_id": "d1", "text": "x"}, "not json\n", {"_id": "a b", "text": "x"}, {"_id": "d2", "text": "x"}],
    )
    call("index", bad, "--out", tmp_path / "i").failed(2, "bad.jsonl:2: not JSON")
    call("search", tmp_path / "i", "wind").failed(2, "no documents yet")
    done = call("index", bad, "--out", tmp_path / "i", "--skip-bad")
    assert done.json == {"committed": 2, "generation": 1}
    assert done.err.startswith("skipped 2 bad lines:\n")
    assert "bad.jsonl:3: " in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sparse", "bm52"], "did you mean 'bm25'?"),
        (["--sparse", "splade"], "unknown sparse"),
        (["--sparse", "bm25", "--sparse", "bm25"], "two representations are called 'bm25'"),
        (["--analyzer", "englich"], "did you mean 'english'?"),
        (["--dense", "minilm"], "no directory 'minilm'"),
        (["--memory", "1"], "--memory '1'"),
        (["--memory", "much"], "--memory 'much'"),
        (["--nonsense"], "no such option '--nonsense'"),
    ],
)
def test_index_refuses(call: Call, corpus: Path, tmp_path: Path, options: list[str], message: str) -> None:
    call("index", corpus, "--out", tmp_path / "i", *options).failed(2, message)
    assert not (tmp_path / "i").exists()


def test_index_options(call: Call, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "i"
    options = [
        "--sparse",
        "one=bm25",
        "--sparse",
        "two=bm25",
        "--analyzer",
        "words",
        "--compact",
        "--no-text",
    ]
    assert call("index", corpus, "--out", path, "--memory", "64MB", *options).code == 0
    found = call("check", path, "--json").json["representations"]
    assert {name: (facts["compact"], facts["analyzer"]["name"]) for name, facts in found.items()} == {
        "one": (True, "words"),
        "two": (True, "words"),
    }
    call("search", path, "wind").failed(2, "one, two; name a pipeline, e.g. 'one', with --pipeline")
    call("explain", path, "wind", "--doc", "d1").failed(2, ", with --pipeline")
    assert len(call("search", path, "wind", "--pipeline", "two", "--json").json["results"]) == 2


# --- search -------------------------------------------------------------------------------------------------


def test_search_json_is_to_the_letter(call: Call, index: Path) -> None:
    done = call("search", index, "solar wind", "--json", "-k", "1")
    assert list(done.json) == ["query", "results", "timing_ms", "tokens_dropped"]
    assert done.json["query"] == "solar wind"
    (hit,) = done.json["results"]
    assert list(hit) == ["rank", "id", "score", "title", "text"]
    assert (hit["rank"], hit["id"], hit["title"]) == (1, "d1", "Solar wind")
    assert list(done.json["timing_ms"]) == ["bm25", "total"]
    assert (done.out.count("\n"), done.err) == (1, "")
    assert "\x1b" not in call("search", index, "star", "--json").out
    assert "\u202e" not in call("search", index, "star", "--json").out


def test_search_for_people(call: Call, index: Path) -> None:
    done = call("search", index, "star")
    assert done.code == 0
    assert [line.split()[2] for line in done.out.splitlines()[::2]] == ["d4", "d3"]
    assert "\\x1b[31mred\\x07 \\u202e" in done.out
    assert done.err.startswith("2 of 4 documents in ")


def test_search_options(call: Call, index: Path) -> None:
    def ids(*options: str) -> list[str]:
        return [hit["id"] for hit in call("search", index, "--json", *options).json["results"]]

    assert ids("sun", "--filter", "year >= 2010 and not year = 2020") == ["d3"]
    assert ids("wind", "--pipeline", "bm25(k1=1.2, b=0.1) % 1") == ["d2"]
    assert ids("--", "-wind-") == ["d2", "d1"]
    assert ids("") == ids("zebra") == []
    trace = call("search", index, "sun", "--pipeline", "bm25 % 9 >> bm25(b=0)", "--json").json["timing_ms"]
    assert list(trace) == ["bm25", "bm25(b=0)", "total"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one QUERY"),
        (["wind", "--queries", "q.tsv", "--run", "r"], "give one QUERY"),
        (["--queries", "q.tsv"], "belong together"),
        (["wind", "--run", "r.trec"], "belong together"),
        (["wind", "-k", "0"], "whole number from 1"),
        (["wind", "-k", "ten"], "whole number from 1"),
        (["wind", "-k", "2147483647"], "from 1 to 999999999"),
        (["wind", "--pipeline", ""], "--pipeline is empty"),
        (["--queries", "q.tsv", "--run", "-", "--json"], "both write to standard output"),
        (["--queries", "nofile", "--run", "r.trec"], "error: no such file or folder: 'nofile'"),
        (["wind", "power"], "unexpected argument 'power'"),
        (["wind", "--filter", "yeer = 1"], "did you mean 'year'?"),
        (["wind", "--filter", "year ="], ""),
        (["wind", "--pipeline", "bm52"], "did you mean 'bm25'?"),
        (["wind", "--pipeline", "bm25 %"], ""),
        (["wind", "--pipeline", "bm25(k9=1)"], "k9"),
        (["--jsn", "wind"], "did you mean '--json'?"),
        ([os.fsdecode(b"\xff")], "the query is not valid UTF-8"),
        (["--queries", "absent.tsv", "--run", "r.trec"], "absent.tsv"),
    ],
)
def test_search_refuses(call: Call, index: Path, arguments: list[str], message: str) -> None:
    call("search", index, *arguments).failed(2, message)


@pytest.mark.parametrize("query", ["", "the of", "\U0001f600", "?!"])
def test_a_query_without_terms(call: Call, index: Path, query: str) -> None:
    done = call("search", index, query)
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("no word of the query is left after analysis: stop words and punctuation")
    assert call("search", index, "zebra").err.startswith("0 of 4 documents")


def test_a_run_on_standard_output(call: Call, index: Path, tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("q1\tsun star\nq2\twind\n")
    assert call("search", index, "--queries", tmp_path / "q.tsv", "--run", tmp_path / "r").code == 0
    done = call("search", index, "--queries", tmp_path / "q.tsv", "--run", "-")
    assert done.out == (tmp_path / "r").read_text()
    assert done.err.startswith("standard output: ")


def test_queries_into_a_run(call: Call, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text("q1\tsun star\nq2\twind\nq3\tzebra\nq4\tpower\nq5\tspace\n")
    done = call("search", index, "--queries", queries, "--run", tmp_path / "a.trec", "--threads", "1")
    assert (done.code, done.out) == (0, "")
    text = (tmp_path / "a.trec").read_text()
    assert [line.split()[:3:2] for line in text.splitlines() if line.startswith("q2")] == [
        ["q2", "d2"],
        ["q2", "d1"],
    ]
    monkeypatch.setattr(cli_batch, "_GROUP", 2)  # what is searched in groups is the same
    done = call("search", index, "--queries", queries, "--run", tmp_path / "b.trec", "-k", "1000", "--json")
    assert (tmp_path / "b.trec").read_text() == text
    assert (done.json["queries"], done.json["hits"]) == (5, text.count("\n"))
    both = [
        call("search", index, "--queries", queries, "--run", tmp_path / "c.trec", "-k", k).code for k in "12"
    ]
    assert both == [0, 0]


# --- eval ---------------------------------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, Path]:
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.trec"
    run.write_text("q1 Q0 a 1 3.0 t\nq1 Q0 b 2 2.0 t\nq2 Q0 a 1 1.0 t\nq9 Q0 a 1 1.0 t\n")
    qrels.write_text("q1 0 b 2\nq2 0 a 1\nq3 0 c 1\n")
    return run, qrels


def test_eval_json(call: Call, judged: tuple[Path, Path]) -> None:
    done = call("eval", *judged, "-m", "RR@10", "-m", "AP(rel=2)", "--json")
    assert done.json == {"RR@10": pytest.approx(0.5), "AP(rel=2)": pytest.approx(1 / 6)}
    assert done.err.startswith("note: 1 of 3 judged queries have no hits and count 0; 1 queries of the run")
    rows = call("eval", *judged, "-m", "RR@10", "--json", "--per-query").json
    assert rows["per_query"] == {"q1": {"RR@10": 0.5}, "q2": {"RR@10": 1.0}, "q3": {"RR@10": 0.0}}


def test_eval_for_people(call: Call, judged: tuple[Path, Path]) -> None:
    lines = call("eval", *judged, "-m", "RR@10", "-m", "NumRet", "--per-query").out.splitlines()
    assert lines[0].split() == ["query", "RR@10", "NumRet"]
    assert lines[1].split() == ["q1", "0.5000", "2.0000"]
    assert lines[6].split()[:2] == ["RR@10", "0.5000"]
    assert lines[7].split() == ["NumRet", "3.0000"]
    assert lines[8] == "3 queries"


def test_eval_reads_scores_in_double_precision(call: Call, tmp_path: Path) -> None:
    """Scores that are equal in float32 only are a tie for trec_eval, none for MS MARCO, as in ir-measures."""
    run, qrels = tmp_path / "run.trec", tmp_path / "qrels.trec"
    run.write_text("q Q0 b 1 100.000001 t\nq Q0 a 2 100.0 t\n")
    qrels.write_text("q 0 a 1\n")
    assert call("eval", run, qrels, "-m", "RR@10", "-m", "RR", "--json").json == {"RR@10": 0.5, "RR": 0.5}
    run.write_text("q Q0 a 1 100.000001 t\nq Q0 b 2 100.0 t\n")
    assert call("eval", run, qrels, "-m", "RR@10", "-m", "RR", "--json").json == {"RR@10": 1.0, "RR": 0.5}


def test_eval_refuses(call: Call, judged: tuple[Path, Path], tmp_path: Path) -> None:
    run, qrels = judged
    call("eval", run, qrels, "-m", "ndgc@10").failed(2, "did you mean 'nDCG'?")
    call("eval", run, tmp_path / "absent").failed(2, "absent")
    call("eval", run).failed(2, "QRELS is missing")
    call("eval", tmp_path, qrels).failed(2, str(tmp_path))
    qrels.write_text("q1 0 other 1\n")
    call("eval", run, qrels).failed(2, "share no document")


# --- the other verbs ----------------------------------------------------------------------------------------


def test_explain(call: Call, index: Path) -> None:
    facts = call("explain", index, "solar wind zebra", "--doc", "d1", "--json").json
    score = call("search", index, "solar wind zebra", "--json").json["results"][0]["score"]
    assert facts["rank"] == 1
    terms = {term["term"]: term["contribution"] for term in facts["stages"][0]["terms"]}
    assert sum(terms.values()) == pytest.approx(score, rel=1e-5)
    assert terms["zebra"] == 0
    text = call("explain", index, "solar wind", "--doc", "d1").out
    assert text.startswith("d1: rank 1 of bm25\n\nbm25: score ")
    assert text.splitlines()[3].split() == ["term", "contribution", "value", "weight", "documents"]
    absent = call("explain", index, "solar", "--doc", "d2").out
    assert absent.startswith("d2: not among the documents that bm25 returns\n")
    assert "\nno word of the query is left after analysis" in call("explain", index, "the", "--doc", "d2").out
    assert "left after analysis" not in absent
    call("explain", index, "solar", "--doc", "d1", "--pipeline", " ").failed(2, "--pipeline is empty")
    call("explain", index, "solar", "--doc", "d0").failed(2, "no document 'd0'")
    call("explain", index, "solar").failed(2, "--doc")


def test_delete(call: Call, index: Path, tmp_path: Path) -> None:
    call("delete", index, "d1", "d0").failed(2, "no document 'd0'")
    call("delete", index).failed(2, "no ids given")
    assert call("delete", index, "d1").json == {"committed": 3, "generation": 2, "deleted": 1}
    (tmp_path / "ids").write_text("d2\n\nd3\n")
    assert call("delete", index, "--ids", tmp_path / "ids").json["committed"] == 1
    assert [hit["id"] for hit in call("search", index, "sun wind", "--json").json["results"]] == ["d4"]


def test_merge_add_check_rollback(call: Call, index: Path, tmp_path: Path, write: Write) -> None:
    before = call("search", index, "sun wind star", "--json").json["results"]
    more = write(tmp_path / "more.jsonl", [{"_id": "d5", "text": "moon"}])
    assert call("index", more, "--out", index, "--append").code == 0
    assert call("delete", index, "d5").code == 0
    assert call("merge", index, "--compact").json == {"committed": 4, "generation": 4}
    assert call("search", index, "sun wind star", "--json").json["results"] == before
    call("merge", index, "--compact", "--no-compact").failed(2, "exclude one another")
    assert call("add", index, "--sparse", "plain=bm25").json == {"committed": 4, "generation": 5}
    call("add", index, "--sparse", "plain=bm25").failed(2, "already")
    call("add", index).failed(2, "nothing to add")
    facts = call("check", index, "--json").json
    assert list(facts) == ["generation", "docs", "ids_sha256", "representations"]
    assert (facts["docs"], sorted(facts["representations"])) == (4, ["bm25", "plain"])
    assert call("check", index).out.startswith("ok: generation 5, 4 documents\nids sha256 ")
    assert list(call("check", index, "--rollback", "--json").json["representations"]) == ["bm25"]


def test_data(call: Call, corpus: Path, tmp_path: Path) -> None:
    shown = call("data", "show", corpus, "-n", "3").out
    assert "title     Solar wind" in shown
    assert "\\x1b[31mred\\x07 \\u202e" in shown
    assert "d4" not in shown
    record = json.loads(call("data", "show", corpus, "-n", "1", "--json").out)
    assert record == {
        "_id": "d1",
        "title": "Solar wind",
        "text": "The wind that the sun blows into space.",
        "metadata": {"year": 1990},
    }
    sample = Path(call("data", "sample").out.strip())
    assert (sample / "corpus.jsonl.gz").is_file()
    assert call("data", "sample", "--out", tmp_path / "copy").code == 0
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == sorted(p.name for p in sample.iterdir())
    call("data", "sample", "--out", tmp_path / "copy").failed(2, "exists already")
    call("data", "shw", corpus).failed(2, "did you mean 'data show'?")


def test_data_list(call: Call) -> None:
    pytest.importorskip("ir_datasets")
    names = call("data", "list", "msmarco-passage/trec-dl").out.splitlines()
    assert "msmarco-passage/trec-dl-2019/judged" in names
    assert all("msmarco-passage/trec-dl" in name for name in names)
    call("data", "list", "no such name").failed(2, "contains 'no such name'")


def test_doctor(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = call("doctor", tmp_path / "not" / "yet", "--json").json
    assert facts["packages"]["numpy"] == __import__("numpy").__version__
    assert facts["here"]["writable"]
    assert facts["here"]["free_bytes"] > 0
    extras = {"models", "faiss", "lucene", "bench", "onnx", "openvino", "gguf", "long", "lowbit", "parquet"}
    assert set(facts["extras"]) == extras
    assert "extra models" in call("doctor").out
    monkeypatch.setattr(cli_doctor, "_CORE", ("numpy", "no-such-package"))
    done = call("doctor")
    assert done.code == 2
    assert "missing: no-such-package" in done.err


def test_demo(call: Call, tmp_path: Path) -> None:
    done = call("demo", "--out", tmp_path)
    assert done.code == 0
    assert "indexed 7,730 documents" in done.out
    assert "nDCG@10 0.459" in done.out
    by_hand = [line.split() for line in done.out.splitlines() if line.startswith("  retrieve ")]
    assert [words[1] for words in by_hand] == ["index", "search", "search", "eval"]
    assert (tmp_path / "bm25.trec").stat().st_size > 0
