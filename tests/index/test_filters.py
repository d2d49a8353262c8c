"""Filters: the grammar, errors that point at the place, and masks equal to a plain evaluation."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.artefact import Store
from retrieval.errors import UnknownName, UserError
from retrieval.index.documents import DocumentsReader, DocumentsWriter
from retrieval.index.filters import parse, schema
from retrieval.types import Document

ROWS: list[dict[str, Any]] = [
    {"year": 2019, "section": "games", "tags": ["x", "y"], "draft": True},
    {"year": 2020, "section": "doc", "tags": ["y"], "draft": False},
    {"year": 2021.5, "section": "it's", "tags": "z", "mixed": 4},
    {"mixed": "4", "in": 1, "a-b.c": "w", "nested": {"x": 1}},
    {"section": 'say "hi" \\', "tags": []},
]


def store(path: Path, rows: list[dict[str, Any]]) -> DocumentsReader:
    """A part of documents with this metadata."""
    with Store.writer(path, create=True) as transaction:
        part = transaction.part()
        writer = DocumentsWriter(part)
        writer.add([Document(f"d{number}", "x", "", row) for number, row in enumerate(rows)])
        writer.finish()
        transaction.commit({"segments": [{"name": part.name, "docs": len(rows)}]})
    return DocumentsReader(Store.open(path), part.name)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> DocumentsReader:
    return store(tmp_path_factory.mktemp("filters") / "index", ROWS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year = 2019", [0]),
        ("year=2019", [0]),
        ("year == 2.019e3", [0]),
        ("year != 2019", [1, 2, 3, 4]),
        ("year < 2020", [0]),
        ("year <= 2020", [0, 1]),
        ("year > 2020", [2]),
        ("year >= 2020", [1, 2]),
        ("year in (2019, 2021.5, -1)", [0, 2]),
        ("year not in (2019)", [1, 2, 3, 4]),
        ('section = "games"', [0]),
        ("section = games", [0]),
        ("section = 'it\\'s'", [2]),
        ('section = "it\'s"', [2]),
        (r'section = "say \"hi\" \\"', [4]),
        ('section in ("games", "doc")', [0, 1]),
        ('section < "e"', [1]),
        ('section >= "games"', [0, 2, 4]),
        ('section > "games"', [2, 4]),
        ('section <= "games"', [0, 1]),
        ('section > "zzz"', []),
        ("tags = y", [0, 1]),
        ("tags in (x, z)", [0, 2]),
        ("tags = unheard", []),
        ("draft = true", [0]),
        ("draft = FALSE", [1]),
        ("draft in (true, false)", [0, 1]),
        ("mixed = 4", [2]),
        ('mixed = "4"', [3]),
        ('mixed in (4, "4")', [2, 3]),
        ('"in" = 1', [3]),
        ("a-b.c = w", [3]),
        ("not year = 2019", [1, 2, 3, 4]),
        ("not not year = 2019", [0]),
        ("year = 2019 or year = 2020 and draft = true", [0]),
        ("(year = 2019 or year = 2020) and draft = false", [1]),
        ("not (year = 2019 or tags = z)", [1, 3, 4]),
        ("NOT year > 1 AND section > a Or mixed = 4", [2, 4]),
        ("((((year = 2020))))", [1]),
    ],
)
def test_masks(reader: DocumentsReader, text: str, expected: list[int]) -> None:
    assert parse(text).mask(reader).nonzero()[0].tolist() == expected


@pytest.mark.parametrize(
    ("text", "at", "word"),
    [
        ("", 1, "a field, 'not' or '('"),
        ("year", 5, "=, !=, <"),
        ("year =", 7, "a value"),
        ("year = 1 year = 2", 10, "'and', 'or' or the end"),
        ("year = 1 and", 13, "a field"),
        ("year = and", 8, "a value"),
        ("and = 1", 1, "a field"),
        ("(year = 1", 10, "')'"),
        ("year = 1)", 9, "the end"),
        ("year in 1", 9, "'('"),
        ("year in ()", 10, "a value"),
        ("year in (1 2)", 12, "',' or ')'"),
        ("year not = 1", 10, "'in'"),
        ("year < true", 8, "needs a number or a text"),
        ('year = "open', 8, "not closed"),
        ("year ! 3", 6, "unexpected '!'"),
        ("= 3", 1, "a field"),
        ("(" * 500 + "year = 1" + ")" * 500, 102, "parentheses"),
    ],
)
def test_errors_point_at_the_place(text: str, at: int, word: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert f"at character {at}:" in str(caught.value)
    assert word in str(caught.value)


def test_long_filters_are_read_in_linear_time(reader: DocumentsReader) -> None:
    assert parse("not " * 100_001 + "year = 2019").mask(reader).sum() == 4
    assert parse(" or ".join(["year = 2019"] * 20_000)).mask(reader).sum() == 1
    assert parse(f"year in ({', '.join(str(each) for each in range(100_000))})").mask(reader).sum() == 2
    with pytest.raises(UserError, match="too long"):
        parse("x" * (2 << 20))


def test_unknown_fields_and_other_kinds(reader: DocumentsReader, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'section'"):
        parse("year = 1 or sektion = 2").mask(reader)
    for text, word in (
        ("section = 4", "put a text in quotes"),
        ('year = "2020"', "without quotes"),
        ("year < abc", "the text 'abc'"),
        ("draft = 1", "true and false"),
        ("year = true", "not true"),
        ("nested = 1", "lists or objects"),
    ):
        with pytest.raises(UserError, match=word):
            parse(text).mask(reader)
    other = store(tmp_path / "other", [{"colour": "red"}])
    fields = schema([reader, other])
    assert parse("year = 2019 or colour = red").mask(other, fields).tolist() == [True]
    assert parse("not year = 2019").mask(other, fields).tolist() == [True]
    with pytest.raises(UnknownName):
        parse("year = 2019").mask(other)


VALUES = st.sampled_from([1, 2.5, -3, True, False, "a", "b", "", "é", "10", 'q"\\'])
ROW = st.fixed_dictionaries(
    {}, optional={name: VALUES | st.lists(st.sampled_from(["a", "b", "é"]), max_size=3) for name in "fgh"}
)
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq}


def shown(value: Any) -> str:
    """A value as a filter has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def kind(value: Any) -> str:
    return "flags" if isinstance(value, bool) else "strings" if isinstance(value, str) else "numbers"


def holds(row: dict[str, Any], tree: Any) -> bool:
    """Ten lines of evaluation."""
    if tree[0] == "not":
        return not holds(row, tree[1])
    if tree[0] in ("and", "or"):
        return (all if tree[0] == "and" else any)(holds(row, each) for each in tree[1])
    field, sign, value = tree
    held = row.get(field, [])
    values = held if isinstance(held, list) else [held]
    return any(kind(each) == kind(value) and SIGNS[sign](each, value) for each in values)


def written(tree: Any) -> str:
    if tree[0] == "not":
        return f"not ({written(tree[1])})"
    if tree[0] in ("and", "or"):
        return "(" + f" {tree[0]} ".join(written(each) for each in tree[1]) + ")"
    return f"{tree[0]} {tree[1]} {shown(tree[2])}"


TESTS = st.tuples(st.sampled_from("fgh"), st.sampled_from(sorted(SIGNS)), VALUES).filter(
    lambda test: test[1] == "=" or not isinstance(test[2], bool)
)
TREES = st.recursive(
    TESTS,
    lambda inner: (
        st.tuples(st.just("not"), inner)
        | st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(ROW, max_size=12), tree=TREES)
def test_masks_equal_plain_evaluation(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], tree: Any
) -> None:
    reader = store(tmp_path_factory.mktemp("filters") / "index", rows)
    everything = {name: {"numbers", "strings", "flags"} for name in "fgh"}
    assert parse(written(tree)).mask(reader, everything).tolist() == [holds(row, tree) for row in rows]
