"""A row: what one system is worth on one task, as a JSON file that can be recomputed (`retrieval-row/1`).

docs/bench.md lists the fields. A quoted row holds figures of the literature: `"quoted"` says where they
stand, and beside it there are only system, suite, task, split and the means.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Required, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from retrieval.data.output import atomic
from retrieval.diskio import disk_errors
from retrieval.errors import UserError

FORMAT = "retrieval-row/1"
BOARD = "rows.json"  # what a leaderboard writes beside its page: no row of its own
_WHERE = "`retrieve bench --out DIR` writes rows, as DIR/SUITE/TASK/SYSTEM.json"
TIES = "score descending, then document id descending"
_PATTERN = re.compile(r"retrieval-row/\d+")
_SIGNS = {">>": " then ", "+": " plus ", "%": " cut ", "*": " times "}
_MEASURED = ("data", "query_ids", "date", "versions", "hardware")  # what only a row of ours must have


class Figure(TypedDict, total=False):
    """A measure: its mean, the bounds of the 95 % bootstrap interval, and one value for each of query_ids."""

    mean: Required[float]
    low: float
    high: float
    values: list[float]


class Row(TypedDict, total=False):
    """The fields of a row (docs/bench.md); those marked Required stand in a quoted row too."""

    format: str
    system: Required[dict[str, Any]]
    suite: Required[str]
    task: Required[str]
    split: Required[str]
    measures: Required[dict[str, Figure]]  # the first is the headline of the task
    quoted: str
    data: dict[str, Any]
    index: dict[str, Any] | None
    models: dict[str, dict[str, Any]]
    ties: str
    depth: int
    seed: int
    date: str
    command: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    query_ids: list[str]
    secondary: dict[str, dict[str, Figure]]  # name of further judgements -> measure -> figure
    buckets: dict[str, dict[str, dict[str, float]]]
    times_ms: dict[str, Any] | None
    stages: list[dict[str, Any]]
    tokens_dropped: dict[str, int]
    energy_joules: float | None
    energy_note: str
    note: str


def headline(row: Row) -> str:
    """The measure that the task is about: its first."""
    return next(iter(row["measures"]))


def values(row: Row, measure: str) -> NDArray[np.float64]:
    """float64[queries], in the order of query_ids. UserError for a row that has none for this measure."""
    figure = row["measures"].get(measure)
    if figure is None or "values" not in figure:
        raise UserError(f"the row of {row['system']['name']!r} holds no values of {measure} for each query")
    return np.array(figure["values"], np.float64)


def slug(name: str) -> str:
    """The name of a system as a file name: `BM25 >> TILDEv2 % 100` is bm25-then-tildev2-cut-100."""
    text = name
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    return "-".join(re.findall(r"[\w.]+", text.lower())).strip(".")[:120] or _digest(name)


def row_path(row: Row, folder: str | os.PathLike[str]) -> Path:
    """FOLDER/SUITE/TASK/SYSTEM.json."""
    return Path(folder) / slug(row["suite"]) / slug(row["task"]) / f"{slug(row['system']['name'])}.json"


def write_row(row: Row, path: str | os.PathLike[str]) -> None:
    """Writes a row, one field a line; the file appears whole or not at all.

    Raises UserError for a row that read_row would refuse, and where the file holds another system's row.
    """
    name = os.fspath(path)
    _check(name, row)
    if os.path.isfile(name) and (other := read_row(name)["system"]["name"]) != row["system"]["name"]:
        raise UserError(
            f"{name} holds the row of {other!r}, whose name differs from {row['system']['name']!r} only in "
            "signs; give one of the systems another name"
        )
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in row.items()]
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with atomic(path) as write:
        write(("{" + ",\n".join(lines) + "}\n").encode("utf-8", "backslashreplace"))


def read_row(path: str | os.PathLike[str]) -> Row:
    """The row of a file. Raises UserError, which names the file, for what is no row."""
    name = os.fspath(path)
    if os.path.isdir(name):
        raise UserError(f"{name} is a folder; name one row in it, such as {name}/SUITE/TASK/SYSTEM.json")
    with disk_errors("read", name), open(name, "rb") as file:
        data = file.read()

    def refuse(word: str) -> NoReturn:
        raise UserError(f"{name} holds {word}, which is no figure; make the row again")

    try:
        found = json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no row: {error}; {_WHERE}") from None
    _check(name, found)
    return cast(Row, found)


def read_rows(paths: Iterable[str | os.PathLike[str]]) -> list[Row]:
    """The rows of files and of folders (every .json below them), in the order of their names.

    Raises UserError for what is not there, what is no row, a folder without rows, and for one system that
    comes twice for a task.
    """
    found: dict[tuple[str, ...], tuple[str, Row]] = {}
    for path in [os.fspath(each) for each in paths]:
        if not os.path.exists(path):
            raise UserError(f"there is no {path!r}; give rows, or folders that `retrieve bench --out` wrote")
        files = [path]
        if os.path.isdir(path):  # a leaderboard may have been written into it
            files = sorted(str(file) for file in Path(path).rglob("*.json") if file.name != BOARD)
        if not files:
            raise UserError(f"{path!r} holds no row; `retrieve bench --out {path}` writes some")
        for file in files:
            row = read_row(file)
            key = (row["suite"], row["task"], row["split"], row["system"]["name"], row.get("quoted", ""))
            if key in found and not os.path.samefile(found[key][0], file):
                raise UserError(
                    f"{found[key][0]} and {file} are both rows of {key[3]!r} for {key[0]} {key[1]}; keep one"
                )
            found[key] = file, row
    return [row for _, row in found.values()]


def _check(name: str, row: Any) -> None:
    """Raises UserError, which names the file, where a row cannot be what it says."""
    if not isinstance(row, dict):
        raise UserError(f"{name} is no row: not a JSON object; {_WHERE}")
    form, quoted = row.get("format"), "quoted" in row
    if form != FORMAT and not (quoted and form is None):
        if isinstance(form, str) and _PATTERN.fullmatch(form):
            raise UserError(f"{name} has the format {form!r}; this version reads {FORMAT!r}: upgrade")
        raise UserError(f"{name} is no row: its format is {form!r}, not {FORMAT!r}; {_WHERE}")
    needed: Mapping[str, type] = {"suite": str, "task": str, "split": str, "system": dict, "measures": dict}
    for key, kind in needed.items():
        if not isinstance(row.get(key), kind):
            raise UserError(f"{name} is no row: {key} is {row.get(key)!r}")
    system = row["system"].get("name")
    if not isinstance(system, str) or not system.strip():
        raise UserError(f"{name} is no row: its system has no name")
    if not row["measures"]:
        raise UserError(f"{name} is no row: it holds no measure")
    asked = row.get("query_ids")
    if not quoted:
        for key in _MEASURED:
            if key not in row:
                raise UserError(f"{name} is no row: it has no {key}")
        if not isinstance(asked, list) or not asked or len(set(map(str, asked))) != len(asked):
            raise UserError(f"{name} is no row: query_ids are no ids, or not different ones")
    count = len(asked) if isinstance(asked, list) else None
    for group in (row["measures"], *_group(name, row.get("secondary", {})).values()):
        for measure, figure in _group(name, group).items():
            _check_figure(name, measure, figure, None if quoted else count)
    times = row.get("times_ms")
    if isinstance(times, dict) and "values" in times:
        _check_values(name, "times_ms", times["values"], count)


def _group(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name} is no row: measures are {value!r}")
    return value


def _check_figure(name: str, measure: str, figure: Any, count: int | None) -> None:
    if not isinstance(figure, dict) or not _finite(figure.get("mean")):
        raise UserError(f"{name}: {measure} has no mean that is a finite number; make the row again")
    if any(key in figure and not _finite(figure[key]) for key in ("low", "high")):
        raise UserError(f"{name}: {measure} has an interval that is not finite; make the row again")
    if "values" in figure or count is not None:
        _check_values(name, measure, figure.get("values"), count)


def _check_values(name: str, what: str, found: Any, count: int | None) -> None:
    if not isinstance(found, list) or not all(map(_finite, found)):
        raise UserError(f"{name}: the values of {what} are not all finite numbers; make the row again")
    if count is not None and len(found) != count:
        raise UserError(
            f"{name}: {what} has {len(found):,} values and the row {count:,} query_ids; make the row again"
        )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]
