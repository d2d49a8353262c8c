"""Ctrl-C while compiled code runs: it is remembered, and heeded between two batches."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import retrieval.data

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus

_READING = os.path.dirname(os.path.abspath(retrieval.data.__file__)) + os.sep


class Interrupts:
    """What Ctrl-C asked for so far; `check` raises KeyboardInterrupt once it was pressed."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        """To be called where stopping is safe."""
        if self.asked:
            raise KeyboardInterrupt

    def heed(self, signum: int, frame: FrameType | None) -> None:
        """The handler: an exception out of compiled code may crash, so it is raised only while reading input.

        Reading may wait for ever, and calls no compiled code. The second Ctrl-C ends the process at once,
        which an index on disk survives as it survives a crash.
        """
        if self.asked:
            with contextlib.suppress(OSError):
                os.write(2, b"interrupted\n")
            os._exit(128 + signum)
        self.asked = True
        while frame is not None:
            if frame.f_code.co_filename.startswith(_READING):
                raise KeyboardInterrupt
            frame = frame.f_back


class Stoppable:
    """A corpus of which nothing more is read after Ctrl-C: it may have come before a read that waits."""

    def __init__(self, corpus: Corpus, stop: Interrupts) -> None:
        self._corpus, self._stop = corpus, stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._corpus, name)

    def batches(self, size: int = 1000) -> Iterator[Any]:
        """The corpus's batches."""
        found = self._corpus.batches(size)
        while True:
            self._stop.check()
            batch = next(found, None)
            if batch is None:
                return
            yield batch


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Defers Ctrl-C; one that nothing heeded is raised at the end. Does nothing off the main thread."""
    found = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    ours = False
    if before is not signal.SIG_IGN:  # else a job in the background of a script
        with contextlib.suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGINT, found.heed)
            ours = True
    try:
        yield found
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
    found.check()
