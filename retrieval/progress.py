"""Progress of long work on stderr: rate and remaining time, without any dependency."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import TextIO


class Progress:
    """Context manager that counts: `with Progress("indexing", total, unit="docs") as bar: bar.update(n)`.

    On a terminal one line is redrawn ten times a second; elsewhere a plain line comes every `interval`
    seconds, and work that is done sooner prints nothing. `quiet=True` prints nothing at all. total=None: no
    remaining time.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        unit: str = "",
        quiet: bool = False,
        stream: TextIO | None = None,
        interval: float = 5.0,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self._first = 0  # what was done before this run of the work
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._redraw = self._stream.isatty()
        self._pause = 0.1 if self._redraw else interval
        self._shown = False
        self._told = -1  # what `done` was in the line shown last

    def __enter__(self) -> Progress:
        self._start = self._last = monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown and (self._redraw or self.done != self._told):
            self._show(monotonic(), last=True)

    def start_at(self, done: int) -> None:
        """Says how much an earlier run had done: the rate counts from there."""
        self.done = self._first = done

    def update(self, count: int = 1) -> None:
        """Counts `count` more as done."""
        self.set(self.done + count)

    def set(self, done: int) -> None:
        """Says how much is done so far, for work that knows its position (bytes read)."""
        self.done = done
        now = monotonic()
        if now - self._last >= self._pause:
            self._show(now)

    def line(self, seconds: float) -> str:
        """What is shown after so many seconds: `indexing: 1,200 of 5,000 docs, 400/s, 9 s left`."""
        rate = (self.done - self._first) / seconds if seconds > 0 else 0.0
        speed = f"{rate:,.0f}/s" if rate >= 9.95 or not rate else f"{rate:.2g}/s"
        of = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.label}: {self.done:,}{of}{' ' + self.unit if self.unit else ''}", speed]
        if self.total is not None and rate > 0 and self.done < self.total:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        else:
            parts.append(f"{_clock(seconds)} so far" if self.total is None else f"{_clock(seconds)} in all")
        return ", ".join(parts)

    def _show(self, now: float, last: bool = False) -> None:
        self._last = now
        if self._quiet:
            return
        self._shown, self._told = True, self.done
        line = self.line(now - self._start)
        try:
            if self._redraw:
                self._stream.write(f"\r{line}\x1b[K" + ("\n" if last else ""))
            else:
                self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads stderr any more: the work goes on
            self._quiet = True


def _clock(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
