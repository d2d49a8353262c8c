"""The verbs about data: list, show, sample."""

from __future__ import annotations

from argparse import Namespace
from itertools import islice

from retrieval.cli_common import JSON_HELP, write_json
from retrieval.cli_parser import Parser, whole
from retrieval.errors import MissingExtra, UserError


def list_data_options(parser: Parser) -> None:
    parser.positional("pattern", "PATTERN", "only names that contain it", "?")


def list_data(given: Namespace) -> None:
    """List the names that CORPUS may have besides a path: ir_datasets ids (extra: bench)."""
    try:
        import ir_datasets
    except ImportError:
        raise MissingExtra("bench", "the list of ir_datasets ids") from None
    names = sorted(name for name in ir_datasets.registry if (given.pattern or "").lower() in name.lower())
    if not names:
        raise UserError(f"no ir_datasets id contains {given.pattern!r}; list them all: retrieve data list")
    print("\n".join(names))


def show_data_options(parser: Parser) -> None:
    parser.positional("corpus", "CORPUS", "as `retrieve index` takes it")
    parser.option("-n", metavar="N", default=3, read=whole, help="how many documents (default: 3)")
    parser.flag("--json", JSON_HELP)


def show_data(given: Namespace) -> None:
    """Print the first documents of a corpus as `retrieve index` would read them."""
    from retrieval.data.corpus import open_corpus
    from retrieval.render import printable

    for number, document in enumerate(islice(open_corpus(given.corpus), given.n)):
        if given.json:
            fields = {"_id": document.doc_id, "title": document.title, "text": document.text}
            write_json({**fields, "metadata": dict(document.metadata)})
            continue
        print("\n" * (number > 0) + printable(document.doc_id))
        if document.title:
            print(f"  title     {printable(_cut(document.title))}")
        print(f"  text      {printable(_cut(document.text))}")
        for name, value in document.metadata.items():
            print(f"  {printable(name):<9} {printable(_cut(repr(value)))}")


def _cut(text: str, length: int = 500) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def sample_options(parser: Parser) -> None:
    parser.option("--out", metavar="DIR", help="copy it to a new folder")


def sample(given: Namespace) -> None:
    """Print where the packaged sample is (a BEIR folder: WordNet's named entities), or copy it."""
    from retrieval.data.wordnet import sample_path

    path = sample_path()
    if given.out is None:
        print(path)
        return
    import os
    import shutil

    if os.path.lexists(given.out):
        raise UserError(f"{given.out!r} exists already; name a folder that does not")
    shutil.copytree(path, given.out)
    print(given.out)
