"""Judgements: three forms told by their content, both ways, and lines that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.data.qrels import read_qrels, write_qrels
from retrieval.errors import BadLine, RetrievalError, UserError
from retrieval.types import Qrels

IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="\ufeff"), min_size=1, max_size=8
)
QRELS = st.dictionaries(
    IDS, st.dictionaries(IDS, st.integers(-99, 10**9 - 1), min_size=1, max_size=5), min_size=1, max_size=5
)
FORMS: list[Literal["trec", "beir"]] = ["trec", "beir"]


@settings(deadline=None)
@given(QRELS, st.sampled_from(FORMS), st.sampled_from(["q", "q.gz"]))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    judgements: dict[str, dict[str, int]],
    form: Literal["trec", "beir"],
    name: str,
) -> None:
    path = tmp_path_factory.mktemp("qrels") / name
    write_qrels(Qrels.from_dict(judgements), path, form)
    assert read_qrels(path).to_dict() == judgements


@pytest.mark.parametrize(
    "text",
    [
        "1 0 a 2\n1 0 b 0\n2 0 a -1\n",
        "1\t0\ta\t2\r\n1\t0\tb\t0\r\n\r\n2\tQ0\ta\t-1\r\n",
        "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\ta\t-1\n",
        "\ufeffquery_id\tdoc_id\trelevance\n1\ta\t2\n1\ta\t2\n1\tb\t+0\n2\ta\t-1",
        "1\ta\t2\n1\tb\t0\n2\ta\t-1\n",
    ],
)
def test_forms(tmp_path: Path, text: str) -> None:
    (tmp_path / "q").write_text(text)
    assert read_qrels(tmp_path / "q").to_dict() == {"1": {"a": 2, "b": 0}, "2": {"a": -1}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1 a\n", "1: 2 columns; a line is"),
        ("1 0 a 1\n1 b 1\n", "2: 3 columns, where the first line has 4"),
        ("1 0 a 1\n1 0 b 0.5\n", "2: the relevance '0.5' is not an integer"),
        ("1 0 a 1\n1 0 b 1_0\n", "2: the relevance '1_0' is not an integer"),
        ("1 0 a 1\n1 0 b \u0663\n", "2: the relevance '\u0663' is not an integer"),
        ("1 0 a 1\n1 0 b --1\n", "2: the relevance '--1' is not an integer"),
        ("1 0 a 1\n1 0 b 99999999999\n", "2: the relevance '99999999999' is not an integer"),
        ("some prose here\n", "1: the relevance 'here' is not an integer"),
        ("1 0 a 1\n1 0 a 2\n", "2: document 'a' of query '1' is judged 1 and 2"),
        ("1 0 a\0b 1\n1 0 b 2\n", r"1: the document id 'a\\x00b' holds a control character"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "q").write_text(text)
    with pytest.raises(BadLine, match=f"/q:{problem}"):
        read_qrels(tmp_path / "q")


def test_empty_and_unknown(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(UserError, match="holds no judgement"):
        read_qrels(tmp_path / "q")
    with pytest.raises(UserError, match="unknown form of qrels 'xml'"):
        write_qrels(Qrels.from_dict({}), tmp_path / "x", "xml")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the id 'a b' holds white space"):
        write_qrels(Qrels.from_dict({"1": {"a b": 1}}), tmp_path / "x")


@settings(deadline=None)
@given(st.binary(max_size=100) | st.text(st.sampled_from("1 a\t\n-0"), max_size=40).map(str.encode))
def test_garbage_gives_judgements_or_errors_of_the_tree(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "q"
    path.write_bytes(content)
    try:
        assert len(read_qrels(path))
    except RetrievalError as error:
        assert error.exit_code == 2  # noqa: PT017


@pytest.mark.parametrize(
    ("name", "queries", "judged"),
    [
        ("wordnet-entities", 320, 23263),
        ("wordnet-entities@test", 320, 23263),
        ("scifact@train", 809, 919),
        ("debtags", 416, 39804),
        ("msmarco/passage/dl19.qrels.trec", 43, 9260),
        ("msmarco/passage/dl20.qrels.trec", 54, 11386),
        ("msmarco/passage/dev-small.qrels.trec", 6980, 7437),
    ],
)
def test_real_collections(collections: Path, name: str, queries: int, judged: int) -> None:
    found = read_qrels(collections / name)
    assert (len(found), sum(map(len, found.values()))) == (queries, judged)
