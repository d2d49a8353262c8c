"""The verb export: a representation of an index, written for other search engines."""

from __future__ import annotations

from argparse import Namespace

from retrieval.cli_common import DIRECTORY_HELP, note_compiling, open_index, valid_text, write_json
from retrieval.cli_interrupt import interrupts
from retrieval.cli_parser import Parser
from retrieval.errors import UserError


def export_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.option("--representation", metavar="NAME", help="which one (default: the only one)")
    parser.option(
        "--to",
        metavar="PATH",
        help="FILE.ciff, FILE.jsonl (Anserini's vectors; both may end in .gz), a folder for the latter; "
        "FILE.npy of a dense one, ids in FILE.ids",
        required=True,
    )


def export(given: Namespace) -> None:
    """Write a representation as CIFF or Anserini's JSON vectors: frequencies of bm25, else 8-bit weights."""
    from retrieval.index.export import CIFF
    from retrieval.index.export import export as write
    from retrieval.progress import Progress

    with interrupts() as stop, open_index(given.directory) as index:
        name = given.representation
        if name is None:
            name, *others = index.representations
            if others:
                known = ", ".join(index.representations)
                raise UserError(
                    f"the index has the representations {known}; say which: --representation {name}"
                )
        path = valid_text(given.to, "path")
        note_compiling()
        lists = path.lower().endswith(CIFF)
        with Progress(
            "exporting", None if lists else len(index), unit="lists" if lists else "documents"
        ) as bar:

            def count(done: int) -> None:
                stop.check()
                bar.update(done)

            done = write(index, valid_text(name, "representation"), path, count)
        write_json({"exported": done.documents, "postings": done.postings, "to": path})
