"""The verb bench: systems on the tasks of a benchmark, a row each."""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from retrieval.cli_common import JSON_HELP, note, size_in_bytes, write_json
from retrieval.cli_parser import Parser, whole
from retrieval.errors import RetrievalError, UserError

if TYPE_CHECKING:
    from pathlib import Path

    from retrieval.bench.row import Row


def bench_options(parser: Parser) -> None:
    parser.positional(
        "suite", "SUITE",
        "beir, types, msmarco-passage, msmarco-document, loco-v0, loco-v1, neretrieve, best-answer, casehold",
    )  # fmt: skip
    parser.repeated("--system", metavar="FILE.toml", help="a system: a name, a pipeline, what it searches")
    parser.option("--data", metavar="DIR", help="the suite's files", required=True)
    parser.option("--split", metavar="S", help="such as test, dev, dl19 (default: the suite's)")
    parser.repeated("--task", metavar="T", help="of the suite's tasks only this one")
    parser.option("--queries", metavar="N", read=whole, help="at most so many a task, drawn with the seed")
    parser.option("--seed", metavar="N", read=_number, default=0, help="of what is drawn (default: 0)")
    parser.repeated("-m", "--measure", metavar="M", help="in place of the suite's; the first is the headline")
    parser.repeated("--set", metavar="NAME=VALUE", help="an option of the suite (docs/bench.md)")
    parser.option("--work", metavar="DIR", help="where the indexes are kept (default: removed at the end)")
    parser.option("--out", metavar="ROWS", help="folder for the rows: ROWS/SUITE/TASK/SYSTEM.json")
    parser.option("--memory", metavar="SIZE", default="1GB", help="what building an index may hold")
    parser.option("--threads", metavar="N", read=whole, default=1, help="that models use (default: 1)")
    parser.flag("--json", JSON_HELP)


def bench(given: Namespace) -> None:
    """Measure systems on the tasks of a suite: quality with intervals and tests, times, sizes, a row each."""
    import tempfile
    from contextlib import ExitStack
    from pathlib import Path

    if not given.system:
        raise UserError("no system is given; name one or more: --system FILE.toml (docs/bench.md)")
    memory = size_in_bytes(given.memory)
    from retrieval import registry
    from retrieval.bench.measures import parse_all
    from retrieval.bench.row import row_path, write_row
    from retrieval.bench.suite import SuiteSettings, tasks_of

    registry.lookup(given.suite, kind="suite")  # what is misspelt is said before anything is read
    parse_all(given.measure)
    from retrieval.bench.run_suite import RunSettings, run_suite
    from retrieval.bench.suite_table import suite_table
    from retrieval.bench.system import read_systems

    systems = read_systems(given.system)
    asked = SuiteSettings(
        given.data, given.split, tuple(given.task), given.queries, given.seed, _options(given.set)
    )
    rows: list[Row] = []
    with ExitStack() as stack:
        work = given.work or stack.enter_context(tempfile.TemporaryDirectory(prefix="retrieve-bench-"))
        if os.path.isfile(work):
            raise UserError(f"--work {work!r} is a file; name a folder for the indexes")
        os.makedirs(work, exist_ok=True)
        settings = RunSettings(
            work=Path(work), memory=memory, seed=given.seed, threads=given.threads,
            measures=tuple(given.measure), source=given.data,
            command=shlex.join(["retrieve", "bench", *_arguments(given)]),
            warn=lambda text: note(f"note: {text}"),
        )  # fmt: skip
        for row in run_suite(tasks_of(given.suite, asked), systems, settings):
            rows.append(row)
            if given.out:
                path = row_path(row, given.out)
                _tell_replaced(row, path)
                write_row(row, path)
            note(f"{row['task']}, {row['system']['name']}: {_headline(row)}")
    if given.json:
        write_json({"rows": [_summary(row) for row in rows]})
    else:
        print(suite_table(rows, given.seed), end="")


def _tell_replaced(row: Row, path: Path) -> None:
    """A note where another system's row of the same name is written over."""
    from retrieval.bench.row import read_row

    try:
        before = read_row(path)["system"]["pipeline"]
    except (RetrievalError, OSError, KeyError):
        return  # nothing is there, or nothing that can be read
    if before != row["system"]["pipeline"]:
        note(f"note: {path} was a row of {before!r}; it is written over, give systems different names")


def _headline(row: Row) -> str:
    measure, figure = next(iter(row["measures"].items()))
    return f"{measure} {figure['mean']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


def _summary(row: Row) -> dict[str, Any]:
    """The row without what it holds for each query."""
    return {key: _without_values(value) for key, value in row.items() if key != "query_ids"}


def _without_values(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_values(each) for key, each in value.items() if key != "values"}


def _options(texts: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise UserError(f"--set {text!r} has no value; write --set NAME=VALUE")
        found[name] = value
    return found


def _arguments(given: Namespace) -> list[str]:
    """The command line that says the same, for the rows."""
    words = [given.suite]
    for name in ("system", "task", "measure", "set"):
        words += [word for value in getattr(given, name) for word in (f"--{name}", value)]
    for name in ("data", "split", "queries", "seed", "work", "out", "memory", "threads"):
        value = getattr(given, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    return words


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ArgumentTypeError(f"{text!r} is no whole number from 0 to 999999999")
    return int(text)
