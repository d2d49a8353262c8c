"""Arguments between options, after `--`, too many, too few; sizes."""

from __future__ import annotations

from typing import Any

import pytest

from retrieval.cli_common import size_in_bytes
from retrieval.cli_parser import Parser, whole
from retrieval.errors import UserError


def read(*arguments: str) -> dict[str, Any]:
    parser = Parser("verb", "does")
    parser.positional("directory", "DIR", "where")
    parser.positional("ids", "ID", "which", "*")
    parser.flag("--json", "as JSON")
    parser.option("-k", metavar="N", help="how many", read=whole)
    parser.repeated("-m", "--measure", metavar="M", help="what")
    return vars(parser.read(arguments))


@pytest.mark.parametrize(
    ("arguments", "directory", "ids"),
    [
        (["d", "a", "b"], "d", ["a", "b"]),
        (["--json", "d", "-k", "3", "a", "-m", "x", "b"], "d", ["a", "b"]),
        (["-k3", "--measure=x", "d"], "d", []),
        (["d", "--", "-k", "--json"], "d", ["-k", "--json"]),
        (["--", "-d"], "-d", []),
        (["d", "-"], "d", ["-"]),
        (["d", ""], "d", [""]),
    ],
)
def test_positional(arguments: list[str], directory: str, ids: list[str]) -> None:
    found = read(*arguments)
    assert (found["directory"], found["ids"]) == (directory, ids)


def test_values() -> None:
    assert read("d") == {"directory": "d", "ids": [], "json": False, "k": None, "measure": [], "debug": False}
    assert read("d", "-k", "20", "-m", "a", "-m", "b")["measure"] == ["a", "b"]
    assert read("d")["measure"] == []  # the default is not shared
    assert read("d", "-k", "20")["k"] == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "DIR is missing"),
        (["d", "--jsn"], "did you mean '--json'"),
        (["d", "--js"], "no such option '--js'"),
        (["d", "-x"], "no such option '-x'"),
        (["d", "-k"], "expected one argument"),
        (["d", "-k", "0"], "no whole number from 1"),
        (["d", "-k", "٣"], "no whole number from 1"),
        (["d", "-k", "9" * 5000], "no whole number from 1"),
        (["d", "--json=1"], "ignored explicit argument"),
    ],
)
def test_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(*arguments)
    assert str(error.value).endswith("see: retrieve verb --help")


def test_too_many() -> None:
    parser = Parser("verb", "does")
    parser.positional("query", "QUERY", "what", "?")
    assert parser.read([]).query is None
    with pytest.raises(UserError, match="unexpected argument 'b'"):
        parser.read(["a", "b"])


@pytest.mark.parametrize(
    ("text", "size"),
    [("1GB", 1 << 30), ("1.5g", 3 << 29), ("512 MiB", 512 << 20), ("2048k", 2 << 20), ("1048576", 1 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "1", "GB", "-1GB", "1PB", "1e9", "1024", "nan"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UserError, match="--memory"):
        size_in_bytes(text)
