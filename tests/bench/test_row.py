"""Rows: written and read back, names as files, what is no row."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from retrieval.bench.row import Row, headline, read_row, read_rows, row_path, slug, values, write_row
from retrieval.errors import UserError

ROW: Any = {
    "format": "retrieval-row/1",
    "system": {"name": "BM25 >> Größe", "pipeline": "bm25", "representations": ["bm25"]},
    "suite": "beir",
    "task": "scifact@train",
    "split": "train",
    "measures": {
        "nDCG@10": {"mean": 0.5, "low": 0.25, "high": 0.75, "values": [0.0, 1.0]},
        "AP": {"mean": 0.1, "low": 0.1, "high": 0.1, "values": [0.1, 0.1]},
    },
    "data": {},
    "query_ids": ["q\u2028", "q2"],
    "date": "2026-11-29",
    "versions": {},
    "hardware": {},
    "times_ms": {"p50": 1.0, "values": [1.0, 2.0]},
}


def row(**changes: Any) -> Row:
    made: dict[str, Any] = {**copy.deepcopy(ROW), **changes}
    return cast(Row, made)


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = row_path(row(), tmp_path)
    assert path == tmp_path / "beir" / "scifact-train" / "bm25-then-größe.json"
    write_row(row(), path)
    found = read_row(path)
    assert found == ROW
    assert headline(found) == "nDCG@10"
    assert np.array_equal(values(found, "AP"), [0.1, 0.1])
    assert read_rows([tmp_path]) == read_rows([path]) == read_rows([path, tmp_path]) == [ROW]
    with pytest.raises(UserError, match="holds no values of RR"):
        values(found, "RR")


def test_slugs_keep_operators_apart() -> None:
    names = ["BM25 >> x", "BM25 + x", "BM25 % 10", "0.5 * x", "x", "..", "!!", "??"]
    assert len({slug(name) for name in names}) == len(names)
    assert all(slug(name) and "/" not in slug(name) and not slug(name).startswith(".") for name in names)


def test_a_row_of_another_system_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_row(row(), path)
    write_row(row(date="2026-11-30"), path)
    with pytest.raises(UserError, match="holds the row of 'BM25 >> Größe'"):
        write_row(row(system={"name": "BM25 > Größe"}), path)


def test_one_system_comes_once_a_task(tmp_path: Path) -> None:
    write_row(row(), tmp_path / "a.json")
    write_row(row(), tmp_path / "b.json")
    with pytest.raises(UserError, match=r"a.json and .*b.json are both rows of 'BM25 >> Größe'"):
        read_rows([tmp_path])


def test_a_quoted_row_holds_means_only(tmp_path: Path) -> None:
    quoted: Any = {key: ROW[key] for key in ("system", "suite", "task", "split")}
    quoted |= {"quoted": "a paper, table 2", "measures": {"nDCG@10": {"mean": 0.5}}}
    (tmp_path / "q.json").write_text(json.dumps(quoted))
    write_row(row(), tmp_path / "a.json")
    assert [one.get("quoted", "") for one in read_rows([tmp_path])] == ["", "a paper, table 2"]


def change(path: str, value: Any) -> Callable[[Any], Any]:
    """A function that puts a value at a.b.c, or takes it away where the value is None."""

    def work(made: Any) -> Any:
        *before, last = path.split("/")
        place = made
        for key in before:
            place = place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
        return made

    return work


@pytest.mark.parametrize(
    ("work", "problem"),
    [
        (lambda made: [], "not a JSON object"),
        (change("format", "retrieval-row/2"), "this version reads 'retrieval-row/1'"),
        (change("format", None), "its format is None"),
        (change("suite", 3), "suite is 3"),
        (change("system/name", " "), "its system has no name"),
        (change("measures", {}), "it holds no measure"),
        (change("measures/AP/mean", "0.1"), "AP has no mean that is a finite number"),
        (change("measures/AP/low", float("nan")), "NaN, which is no figure"),
        (change("measures/AP/values", [0.1]), r"AP has 1 values and the row 2 query_ids"),
        (change("measures/AP/values", None), "values of AP are not all finite"),
        (change("measures/AP/values", [0.1, float("inf")]), "Infinity, which is no figure"),
        (change("measures/AP/values", [True, 0.1]), "values of AP are not all finite"),
        (change("secondary", {"x": {"AP": {"mean": 1.0, "values": [1]}}}), "AP has 1 values"),
        (change("times_ms/values", [1.0]), "times_ms has 1 values"),
        (change("query_ids", ["q", "q"]), "not different ones"),
        (change("query_ids", None), "it has no query_ids"),
        (change("versions", None), "it has no versions"),
    ],
)
def test_what_is_no_row_is_refused_with_the_file(
    work: Callable[[Any], Any], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(work(row())))
    with pytest.raises(UserError, match=f"wrong.json.*{problem}"):
        read_row(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no '.*absent'"):
        read_rows([tmp_path / "absent"])
    with pytest.raises(UserError, match="holds no row"):
        read_rows([tmp_path])
    (tmp_path / "x.json").write_text('{"format": ')
    with pytest.raises(UserError, match=r"x.json is no row"):
        read_rows([tmp_path])
