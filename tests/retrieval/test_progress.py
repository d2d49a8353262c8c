"""Progress lines, with a clock of the test's own."""

from __future__ import annotations

import io

import pytest

from retrieval import progress
from retrieval.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_every_few_seconds_with_rate_and_time_left(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress("indexing", 5000, unit="documents", stream=out) as bar:
        for _ in range(12):
            clock[0] += 1.0
            bar.update(100)
    lines = out.getvalue().splitlines()
    assert lines[0] == "indexing: 500 of 5,000 documents, 100/s, 45 s left"
    assert lines[1] == "indexing: 1,000 of 5,000 documents, 100/s, 40 s left"
    assert lines[2] == "indexing: 1,200 of 5,000 documents, 100/s, 38 s left"
    assert len(lines) == 3


def test_the_last_plain_line_comes_once(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress("indexing", 100, stream=out) as bar:
        clock[0] += 10.0
        bar.update(100)
    assert out.getvalue() == "indexing: 100 of 100, 10/s, 10 s in all\n"


def test_short_work_off_a_terminal_is_silent(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress("indexing", stream=out) as bar:
        clock[0] += 1.0
        bar.update()
    assert out.getvalue() == ""


def test_a_terminal_gets_one_redrawn_line(clock: list[float]) -> None:
    out = Terminal()
    with Progress("indexing", stream=out) as bar:
        for _ in range(3):
            clock[0] += 60.0
            bar.update(6)
    written = out.getvalue()
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert written.count("\r") == 4
    assert "indexing: 18, 0.1/s, 3 min 0 s so far" in written


def test_finished_work_says_what_it_took(clock: list[float]) -> None:
    bar = Progress("merging", 10, stream=io.StringIO())
    bar.done = 10
    assert bar.line(7200.0) == "merging: 10 of 10, 0.0014/s, 2 h 0 min in all"
    assert bar.line(0.0) == "merging: 10 of 10, 0/s, 0 s in all"


def test_quiet_writes_nothing(clock: list[float]) -> None:
    out = Terminal()
    with Progress("indexing", stream=out, quiet=True) as bar:
        clock[0] += 10.0
        bar.set(7)
    assert out.getvalue() == ""
    assert bar.done == 7


def test_the_work_goes_on_when_nobody_reads(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress("indexing", stream=out) as bar:
        out.close()
        for _ in range(3):
            clock[0] += 10.0
            bar.update()
    assert bar.done == 3


def test_work_that_goes_on_counts_its_rate_from_where_it_began() -> None:
    bar = Progress("training", 100, stream=io.StringIO())
    bar.start_at(60)
    bar.done = 80
    assert bar.line(10.0) == "training: 80 of 100, 2/s, 10 s left"
