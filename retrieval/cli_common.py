"""What several verbs share: JSON on stdout, notes on stderr, sizes, texts that come from the command line."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import UserError
from retrieval.render import printable, steering

if TYPE_CHECKING:
    from retrieval.cli_interrupt import Interrupts
    from retrieval.data.corpus import Corpus
    from retrieval.index.index import Index

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)

JSON_HELP = "print JSON, and nothing else, on stdout"
DIRECTORY_HELP = "the index's directory"


def write_json(value: Any) -> None:
    """One line of JSON on stdout, without raw characters that could steer a terminal."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8)
    print(steering(text))


def note(text: str) -> None:
    """A line for people on stderr."""
    print(printable(text), file=sys.stderr)


def open_index(directory: str, memory: str = "1GB", *, trust: bool = False) -> Index:
    """The index there, to be used in a `with`. Raises UserError for one without any commit of documents."""
    from retrieval.index.index import Index

    refuse_file(directory)
    index = Index.open(directory, memory=size_in_bytes(memory), trust=trust)
    if not index.representations:  # what an interrupted first `retrieve index` leaves
        index.close()
        raise UserError(f"the index at {directory!r} has no documents yet; run `retrieve index` again")
    return index


def pipeline_text(given: str | None) -> str | None:
    """The text of --pipeline, which may be a TOML file such as `retrieve tune --out` writes.

    Raises UserError for an empty text, and what the file is wrong in.
    """
    if given is None or not given.endswith(".toml"):
        if given is not None and not given.strip():
            raise UserError("--pipeline is empty; name stages, such as 'bm25 % 100', or leave it out")
        return given
    from retrieval.data.lines import Source, text_lines
    from retrieval.pipeline import from_toml
    from retrieval.stage import Param, Stage

    def named(name: str, params: dict[str, Param]) -> Stage:
        stage = Stage()
        stage.name, stage.params = name, params
        return stage

    with Source(given) as file:
        toml = "\n".join(line.rstrip("\r\n") for _, line in text_lines(file))
    return repr(from_toml(toml, named))


def refuse_file(directory: str) -> None:
    """Raises UserError where an index was to be named and a file is."""
    if os.path.isfile(directory):
        raise UserError(
            f"{directory!r} is a file, not an index; name the directory that `retrieve index` made"
        )


def note_compiling() -> None:
    """Tells people why the first work takes longer: nothing compiled is kept yet."""
    if not sys.stderr.isatty():
        return
    import retrieval.index

    code = Path(retrieval.index.__file__ or "").resolve().parent
    kept = [os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME"), "~/.cache"]
    places = [code / "__pycache__", *(Path(place).expanduser() for place in kept if place)]
    patterns = ("*.nbi", f"{code.name}_*/*.nbi", f"numba/{code.name}_*/*.nbi")
    if not any(any(place.glob(pattern)) for place in places for pattern in patterns):
        note("compiling for this machine, once (about 20 s)")


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
def counting(label: str, total: int, stop: Interrupts) -> Iterator[Callable[[int], None]]:
    """A function that counts documents done, shown on stderr with rate and remaining time.

    It raises KeyboardInterrupt after Ctrl-C.
    """
    from retrieval.progress import Progress

    with Progress(label, total, unit="documents") as progress:

        def count(documents: int) -> None:
            stop.check()
            progress.update(documents)

        yield count


@contextmanager
def watching(corpus: Corpus, stop: Interrupts) -> Iterator[Callable[[int], None]]:
    """As counting, for a corpus; how many there will be is estimated from the bytes read so far."""
    from retrieval.progress import Progress

    with Progress("indexing", unit="documents") as progress:

        def count(documents: int) -> None:
            stop.check()
            if corpus.bytes_total and corpus.bytes_read:
                whole = (progress.done + documents) * corpus.bytes_total / corpus.bytes_read
                progress.total = max(progress.done + documents, round(whole))
            progress.update(documents)

        yield count
