"""The tree of errors that the package raises, and the exit code of each.

    RetrievalError                 1
    ├── UserError                  2   something the user gave is wrong
    │   ├── BadLine                2   one line of an input file
    │   ├── UnknownName            2   a name that nobody registered; suggests the nearest
    │   ├── MissingExtra           2   an optional dependency is not installed
    │   └── CompositionError       2   stages that do not fit together
    ├── CorruptIndex               3   bytes on disk are not what was committed
    │   └── UnsupportedFormat      3   written by a version that this one cannot read
    ├── Locked                     4   another process is writing
    └── StorageError               5   disk full, I/O error, out of memory

A message says what was wrong with which value, then what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice


class RetrievalError(Exception):
    """Root of the tree; `exit_code` is what the command line exits with."""

    exit_code = 1


class UserError(RetrievalError):
    """Something that the user gave is wrong: a value, a file, a name, a pipeline."""

    exit_code = 2


class BadLine(UserError):
    """One line of an input file is wrong; the message begins with `source:line`."""

    def __init__(self, source: str, line: int, problem: str) -> None:
        super().__init__(f"{source}:{line}: {problem}")
        self.source = source
        self.line = line
        self.problem = problem

    def __reduce__(self) -> tuple[type[BadLine], tuple[str, int, str]]:
        return type(self), (self.source, self.line, self.problem)  # crosses process boundaries whole


class UnknownName(UserError):
    """No such name: `UnknownName("dataset", "msmarco-pasage", known, "List them: ...")`."""

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), hint: str = "") -> None:
        self.kind = kind
        self.name = name
        self.known = sorted(known)
        self.hint = hint
        advice = suggest(name, self.known)
        if not advice and self.known:
            shown = ", ".join(self.known[:12]) + (", ..." if len(self.known) > 12 else "")
            advice = f"known: {shown}"
        message = f"unknown {kind} {name!r}"
        message += f"; {advice}" if advice else ""
        super().__init__(f"{message}{'' if message.endswith('?') else '.'} {hint}" if hint else message)

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str], str]]:
        return type(self), (self.kind, self.name, self.known, self.hint)


class MissingExtra(UserError):
    """An optional dependency is absent: `MissingExtra("models", "cross-encoders")`."""

    def __init__(self, extra: str, need: str) -> None:
        super().__init__(f"{need}: not installed; install it with: pip install 'retrieval[{extra}]'")
        self.extra = extra
        self.need = need

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.extra, self.need)


class CompositionError(UserError):
    """Stages that do not fit together, or a pipeline text that does not parse."""


class CorruptIndex(RetrievalError):
    """The bytes on disk are not those that were committed."""

    exit_code = 3


class UnsupportedFormat(CorruptIndex):
    """The index needs a newer reader than this version is."""


class Locked(RetrievalError):
    """Another process holds the index's write lock."""

    exit_code = 4


class StorageError(RetrievalError):
    """The machine is short of something (disk, memory) or failed to read or write."""

    exit_code = 5


_NO_MEMORY = (
    "not enough memory",  # torch on a CPU
    "DefaultCPUAllocator",
    "bad_alloc",  # C++
    "Cannot allocate memory",  # the system, mapping a file
    "failed to map segment",  # the loader, of a library
)


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, whatever the type of the error in which a library says so."""
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)


def suggest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'bm25'?` for the nearest of the first 1000 known names, or an empty string."""
    from difflib import get_close_matches  # slow to import, and seldom needed

    folded = {item.casefold(): item for item in islice(known, 1000)}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]!r}?" if near else ""
