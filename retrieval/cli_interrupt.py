"""Ctrl-C while compiled code runs: it is remembered, and heeded between two batches."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
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

        Reading may wait for ever, and calls no compiled code.
        """
        self.asked = True
        while frame is not None:
            if frame.f_code.co_filename.startswith(_READING):
                raise KeyboardInterrupt
            frame = frame.f_back


def end_at_the_second(signals: socket.socket) -> None:
    """Reads signal numbers, and ends the process at the second Ctrl-C, as safe for an index as a crash.

    It runs in a thread: a handler in Python would wait for the compiled call that is to be left.
    """
    pressed = 0
    while got := signals.recv(1):
        pressed += got[0] == signal.SIGINT
        if pressed == 2:
            with contextlib.suppress(OSError):
                os.write(2, b"interrupted\n")
            os._exit(130)


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
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield found  # a job in the background of a script, or no place for handlers
        return
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    watcher = threading.Thread(target=end_at_the_second, args=(theirs,), daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, found.heed)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
        signal.set_wakeup_fd(wakeup)
        ours.close()  # which ends the thread
        watcher.join()
        theirs.close()
    found.check()
