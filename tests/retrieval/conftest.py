"""What the tests of the command line share: calling it, a small corpus, an index of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from retrieval import cli

DOCUMENTS: list[dict[str, Any]] = [
    {"_id": "d1", "title": "Solar wind", "text": "The wind that the sun blows into space.", "year": 1990},
    {"_id": "d2", "title": "Wind power", "text": "Turbines turn wind into power.", "year": 2005},
    {"_id": "d3", "title": "", "text": "The sun is a star. \u001b[31mred\u0007 \u202e", "year": 2010},
    {"_id": "d4", "title": "Stars", "text": "Every star is a sun far away.", "year": 2020},
]


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def failed(self, code: int, message: str) -> None:
        """A failure as the contract wants it: the code, one or two lines on stderr, nothing on stdout."""
        assert self.code == code, self
        assert message in self.err
        assert self.err.startswith("error: ")
        assert 1 <= self.err.count("\n") <= 2
        assert "Traceback" not in self.err
        assert self.out == ""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        code = cli.main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def write() -> Callable[[Path, list[Any]], Path]:
    """Writes JSON lines; a string among the records is written as it is."""

    def lines(path: Path, records: list[Any]) -> Path:
        path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
        return path

    return lines


@pytest.fixture
def corpus(tmp_path: Path, write: Callable[[Path, list[Any]], Path]) -> Path:
    """Four documents, d1 to d4."""
    return write(tmp_path / "corpus.jsonl", DOCUMENTS)


@pytest.fixture
def index(call: Callable[..., Outcome], corpus: Path, tmp_path: Path) -> Path:
    """An index of them."""
    path = tmp_path / "an.index"
    assert call("index", corpus, "--out", path).code == 0
    return path
