"""What several verbs share: JSON on stdout, notes on stderr, sizes, texts that come from the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.errors import UserError
from retrieval.render import printable

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Directory = Annotated[str, typer.Argument(metavar="DIR", help="The index's directory.", show_default=False)]


def write_json(value: Any) -> None:
    """One line of JSON on stdout."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not utf8))


def note(text: str) -> None:
    """A line for people on stderr."""
    print(printable(text), file=sys.stderr)


def size_in_bytes(text: str) -> int:
    """1073741824 for `1GB`, `1GiB` or `1024M`: units are powers of 1024. UserError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    size = int(float(found[1]) * 1024 ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if size < 1 << 20:
        raise UserError(f"--memory {text!r} is no size of 1MB or more; write it as 512MB or 2GB")
    return size


def valid_text(text: str, what: str) -> str:
    """The text, if it is one: an argument that is not UTF-8 reaches Python as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"the {what} is not valid UTF-8; check the terminal's encoding") from None
    return text


@contextmanager
def counting(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A function that counts documents done, shown on stderr with rate and remaining time."""
    from retrieval.progress import Progress

    with Progress(label, total, unit="documents") as progress:
        yield progress.update


@contextmanager
def watching(corpus: Corpus) -> Iterator[Callable[[int], None]]:
    """Counts a corpus's documents; how many there will be is estimated from the bytes read so far."""
    from retrieval.progress import Progress

    with Progress("indexing", unit="documents") as progress:

        def count(documents: int) -> None:
            if corpus.bytes_total and corpus.bytes_read:
                whole = (progress.done + documents) * corpus.bytes_total / corpus.bytes_read
                progress.total = max(progress.done + documents, round(whole))
            progress.update(documents)

        yield count
