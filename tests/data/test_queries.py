"""Queries: TSV and JSON lines, splits of BEIR folders, and lines that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data.queries import read_queries, write_queries
from retrieval.errors import BadLine, RetrievalError, UnknownName, UserError
from retrieval.types import Query

IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="{"), min_size=1, max_size=8
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=30).filter(
    str.strip
)
JUDGED = {"scifact": 300, "debtags": 416, "wordnet-entities": 320}


@settings(deadline=None)
@given(
    st.dictionaries(IDS, TEXTS, min_size=1, max_size=8),
    st.sampled_from(["q.tsv", "q.tsv.gz", "q.jsonl", "q.jsonl.gz"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], name: str
) -> None:
    if next(iter(texts)).startswith("\ufeff"):  # taken for a byte-order mark
        return
    path = tmp_path_factory.mktemp("queries") / name
    queries = [Query(query_id, text) for query_id, text in texts.items()]
    assert write_queries(queries, path) == len(queries)
    assert read_queries(path) == queries


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1\tone\r\n\r\n2\ttwo words\n", [Query("1", "one"), Query("2", "two words")]),
        ("qid\tquery\n1\tone\n", [Query("1", "one")]),
        (
            '{"_id": "1", "text": "one", "metadata": {}}\n{"id": "2", "query": "two"}\n',
            [Query("1", "one"), Query("2", "two")],
        ),
    ],
)
def test_forms(tmp_path: Path, text: str, expected: list[Query]) -> None:
    (tmp_path / "q").write_text(text)
    assert read_queries(tmp_path / "q") == expected
    (tmp_path / "q.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    assert read_queries(str(tmp_path / "q.gz")) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1\ta\n2", "2: 1 columns; a line is: id, tab, text"),
        ("1\ta\n2\tb\tc", "2: 3 columns"),
        ("1\ta\n1\tb", "2: the id '1' comes twice, first in line 1"),
        ("1\ta\n2\t ", "2: the text is empty"),
        ("1\ta\na b\tc", "2: the id 'a b' holds white space"),
        ('{"_id": "1", "text": "a"}\n{"_id": 2, "text": "a"}', "2: the id 2 is a number, not a string"),
        ('{"_id": "1", "text": "a"}\n{"_id": "2"}', "2: no text"),
        ('{"_id": "1", "text": "a"}\n{"_id": "2", "text": 5}', "2: the text is a number, not a string"),
        ('{"_id": "1", "text": "a"}\n["2"]', "2: not a JSON object"),
        ('{"_id": "1", "text": "a"}\n{"_id":', "2: not JSON"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "q").write_text(text)
    with pytest.raises(BadLine, match=f"/q:{problem}"):
        read_queries(tmp_path / "q")


def test_empty_and_absent(tmp_path: Path) -> None:
    (tmp_path / "q").touch()
    with pytest.raises(UserError, match="holds no query"):
        read_queries(tmp_path / "q")
    with pytest.raises(UserError, match="no such file"):
        read_queries(tmp_path / "absent")


def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    queries = [Query("a", "one"), Query("b", "two"), Query("c", "three")]
    write_queries(queries, tmp_path / "queries.jsonl.gz")
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nb\td\t1\na\td\t0\n")
    (tmp_path / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\nc\td\t1\n")
    return tmp_path


def test_splits_of_a_folder(tmp_path: Path) -> None:
    place = folder(tmp_path)
    assert [query.query_id for query in read_queries(place)] == ["a", "b"]
    assert [query.query_id for query in read_queries(f"{place}@test")] == ["a", "b"]
    assert [query.query_id for query in read_queries(Path(f"{place}@dev"))] == ["c"]
    with pytest.raises(UnknownName, match="known: dev, test"):
        read_queries(f"{place}@train")
    (place / "qrels/dev.tsv").write_text("query-id\tcorpus-id\tscore\nmissing\td\t1\n")
    with pytest.raises(UserError, match="1 queries judged in split 'dev' have no text, first 'missing'"):
        read_queries(f"{place}@dev")


def test_a_folder_without_judgements_gives_all(tmp_path: Path) -> None:
    write_queries([Query("a", "one"), Query("b", "two")], tmp_path / "queries.jsonl")
    assert len(read_queries(tmp_path)) == 2
    with pytest.raises(UnknownName, match="unknown split"):
        read_queries(f"{tmp_path}@test")


@pytest.mark.parametrize(
    "query", [Query("a b", "x"), Query("1", "x\ty"), Query("1", "x\ny"), Query("1", " ")]
)
def test_what_the_form_cannot_hold(tmp_path: Path, query: Query) -> None:
    with pytest.raises(UserError, match="cannot write query"):
        write_queries([query], tmp_path / "q.tsv")
    assert not list(tmp_path.iterdir())


@settings(deadline=None)
@given(st.binary(max_size=100) | st.text(st.sampled_from('{}":,\t\n1a'), max_size=40).map(str.encode))
def test_garbage_gives_queries_or_errors_of_the_tree(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "q"
    path.write_bytes(content)
    try:
        assert all(query.query_id and query.text for query in read_queries(path))
    except RetrievalError as error:
        assert error.exit_code == 2  # noqa: PT017


@pytest.mark.parametrize("name", sorted(JUDGED))
def test_real_collections(collections: Path, name: str) -> None:
    assert len(read_queries(f"{collections / name}@test")) == JUDGED[name]


def test_msmarco_topics(collections: Path) -> None:
    place = collections / "msmarco/passage"
    assert len(read_queries(place / "dev-small.queries.tsv")) == 6980
    assert len(read_queries(place / "dl20.queries.tsv")) == 200
