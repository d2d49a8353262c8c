"""Training examples in every form: what is read, and where each bad line is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from retrieval.data.training import Example, read_examples
from retrieval.errors import BadLine, UnknownName, UserError


def written(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz"])
def test_tsv_pairs_and_triples(tmp_path: Path, name: str) -> None:
    pairs = written(tmp_path / name, "q one\tp one", "", "q two\tp two")
    assert list(read_examples(pairs)) == [Example("q one", "p one"), Example("q two", "p two")]
    triples = written(tmp_path / f"3{name}", "q\tgood\tbad")
    assert list(read_examples(triples)) == [Example("q", "good", ("bad",))]


def test_json_lines(tmp_path: Path) -> None:
    records = [
        {"query": "q", "positive": "p"},
        {"query": "q", "positive": {"title": "T", "text": "x"}, "negatives": ["n", {"text": "m"}]},
        {"query": "q", "positive": "p", "negatives": ["n"], "scores": [2, 0.5], "more": 1},
    ]
    path = written(tmp_path / "e.jsonl", *map(json.dumps, records))
    assert list(read_examples(path)) == [
        Example("q", "p"),
        Example("q", "T x", ("n", "m")),
        Example("q", "p", ("n",), (2.0, 0.5)),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[1]", "not a JSON object"),
        ('{"query": "q"', "not JSON"),
        ('{"positive": "p"}', "no query"),
        ('{"query": "q"}', "no positive"),
        ('{"query": " ", "positive": "p"}', "the query is empty"),
        ('{"query": "q", "positive": 3}', "the positive is a number, not a string"),
        ('{"query": "q", "positive": {"title": 3}}', "the title or the text of the positive is not a string"),
        ('{"query": "q", "positive": {}}', "the positive is empty"),
        ('{"query": "q", "positive": "p", "negatives": "n"}', 'the field "negatives" is not a list'),
        ('{"query": "q", "positive": "p", "negatives": ["n", ""]}', "the negative 2 is empty"),
        ('{"query": "q", "positive": "p", "scores": [1, 2]}', "2 scores for 1 passages"),
        ('{"query": "q", "positive": "p", "scores": [true]}', 'the field "scores" is not a list of numbers'),
    ],
)
def test_bad_json_names_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path / "e.jsonl", '{"query": "q", "positive": "p"}', line)
    with pytest.raises(BadLine) as caught:
        list(read_examples(path))
    assert str(caught.value).startswith(f"{path}:2: {problem}")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("only a query", "1 column; a line is: query, passage[, negative passage]"),
        ("q\tp\tn\tn", "4 columns; a line is"),
        ("q\tp\tn", "3 columns, where the first line has 2"),
        ("q\t ", "the passage is empty"),
        ("\tp", "the query is empty"),
    ],
)
def test_bad_tsv_names_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = written(tmp_path / "e.tsv", "q\tp", line)
    with pytest.raises(BadLine) as caught:
        list(read_examples(path))
    assert str(caught.value).startswith(f"{path}:2: {problem}")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no training example"):
        list(read_examples(written(tmp_path / "e.tsv", "", " ")))
    with pytest.raises(UserError, match="no such file"):
        list(read_examples(str(tmp_path / "no.tsv")))


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    written(
        folder / "corpus.jsonl",
        *(json.dumps({"_id": f"d{i}", "title": f"T{i}", "text": f"x{i}"}) for i in range(4)),
    )
    written(folder / "queries.jsonl", *(json.dumps({"_id": f"q{i}", "text": f"ask {i}"}) for i in range(3)))
    head = "query-id\tcorpus-id\tscore"
    written(folder / "qrels" / "train.tsv", head, "q0\td0\t1", "q0\td1\t2", "q0\td2\t0", "q1\td3\t1")
    written(folder / "qrels" / "test.tsv", head, "q2\td0\t1")
    return folder


def test_a_beir_folder_gives_its_train_split(beir: Path) -> None:
    expected = [
        Example("ask 0", "T0 x0", ("T2 x2",)),
        Example("ask 0", "T1 x1", ("T2 x2",)),
        Example("ask 1", "T3 x3"),
    ]
    assert list(read_examples(beir)) == expected
    assert list(read_examples(f"{beir}@train")) == expected
    assert list(read_examples(f"{beir}@test")) == [Example("ask 2", "T0 x0")]


def test_a_beir_folder_without_training_judgements_never_gives_its_test_split(beir: Path) -> None:
    (beir / "qrels" / "train.tsv").unlink()
    with pytest.raises(UnknownName, match=r"unknown split of .* 'train'; known: test"):
        list(read_examples(beir))
    written(beir / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore", "q0\tnone\t1")
    with pytest.raises(UserError, match="not in the corpus, first 'none'"):
        list(read_examples(beir))


@pytest.fixture
def marco(tmp_path: Path) -> Path:
    folder = tmp_path / "marco"
    written(folder / "collection.tsv", "0\tzero", "1\tone\twith a tab", "2\ttwo", "7\tseven é")
    written(folder / "queries.train.tsv", "10\tfirst", "11\tsecond")
    written(folder / "qrels.train.tsv", "10 0 2 1", "11 0 7 1", "11 0 0 0")
    return folder


def test_marco_s_own_files(marco: Path) -> None:
    assert list(read_examples(marco)) == [Example("first", "two"), Example("second", "seven é")]
    written(marco / "qidpidtriples.train.full.2.tsv.gz", "11\t7\t1", "10\t2\t0")
    assert list(read_examples(marco)) == [
        Example("second", "seven é", ("one\twith a tab",)),
        Example("first", "two", ("zero",)),
    ]


def test_passages_in_any_order_and_without_gaps(marco: Path) -> None:
    lines = ["1\tone", "0\tzero", "7\tseven", "2\ttwo"]
    written(marco / "collection.tsv", *lines)
    assert [example.positive for example in read_examples(marco)] == ["two", "seven"]
    written(marco / "collection.tsv", *(f"{i}\ttext {i}" for i in range(8)))
    assert [example.positive for example in read_examples(marco)] == ["text 2", "text 7"]
    (marco / "collection.tsv").write_bytes(b"\n".join(b"%d\ttext %d" % (i, i) for i in range(8)))
    assert [example.positive for example in read_examples(marco)] == ["text 2", "text 7"]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("qidpidtriples.train.tsv", ["10\t2\t0", "10\t2"], r"triples.train.tsv:2: 2 columns"),
        ("qidpidtriples.train.tsv", ["12\t2\t0"], r"tsv:1: the query '12' is not in queries.train.tsv"),
        ("qidpidtriples.train.tsv", ["10\t2\t3"], r"tsv:1: the passage '3' is not in .*collection.tsv"),
        ("qidpidtriples.train.tsv", ["10\tx\t0"], r"tsv:1: the passage 'x' is not in"),
        ("collection.tsv", ["0\tzero", "two\tx"], r"collection.tsv:2: a line is: number of the passage"),
        ("collection.tsv", ["0\tzero", ""], r"collection.tsv:2: a line is: number of the passage"),
        ("queries.train.tsv", ["9\tother"], r"the judged query '10' is not in queries.train.tsv"),
    ],
)
def test_what_is_wrong_in_marco_s_files(marco: Path, name: str, lines: list[str], message: str) -> None:
    written(marco / name, *lines)
    with pytest.raises(UserError, match=message):
        list(read_examples(marco))


def test_marco_s_files_that_are_missing(marco: Path) -> None:
    (marco / "qrels.train.tsv").unlink()
    with pytest.raises(UserError, match=r"no qrels.train.tsv; put MS MARCO's files side by side"):
        list(read_examples(marco))
    written(marco / "collection.tsv.gz", "0\tzero")
    (marco / "collection.tsv").unlink()
    with pytest.raises(UserError, match="unpack it"):
        list(read_examples(marco))
    (marco / "collection.tsv").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        list(read_examples(marco))
