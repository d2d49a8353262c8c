"""The verbs about data: list, show, sample."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from retrieval.cli_common import JsonFlag, write_json
from retrieval.errors import MissingExtra, UserError

app = typer.Typer(help="Corpora: list what is known, show one, get the sample.", rich_markup_mode=None)


@app.command("list")
def list_data(
    pattern: Annotated[
        str | None, typer.Argument(metavar="PATTERN", help="Only names that contain it.", show_default=False)
    ] = None,
) -> None:
    """List the names that CORPUS may have besides a path: ir_datasets ids (extra: bench)."""
    try:
        import ir_datasets
    except ImportError:
        raise MissingExtra("bench", "the list of ir_datasets ids") from None
    names = sorted(name for name in ir_datasets.registry if not pattern or pattern.lower() in name.lower())
    if not names:
        raise UserError(f"no ir_datasets id contains {pattern!r}; list them all: retrieve data list")
    print("\n".join(names))


@app.command("show")
def show(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="As `retrieve index` takes it.", show_default=False)
    ],
    count: Annotated[int, typer.Option("-n", min=1, help="How many documents.")] = 3,
    json: JsonFlag = False,
) -> None:
    """Print the first documents of a corpus as `retrieve index` would read them."""
    from retrieval.data.corpus import open_corpus
    from retrieval.render import printable

    for number, document in enumerate(islice(open_corpus(corpus), count)):
        if json:
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


@app.command("sample")
def sample(
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Copy it to a new folder.", show_default=False)
    ] = None,
) -> None:
    """Print where the packaged sample is (a BEIR folder: WordNet's named entities), or copy it."""
    from retrieval.data.wordnet import sample_path

    path = sample_path()
    if out is None:
        print(path)
        return
    import os
    import shutil

    if os.path.lexists(out):
        raise UserError(f"{out!r} exists already; name a folder that does not")
    shutil.copytree(path, out)
    print(out)
