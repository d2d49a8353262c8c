"""The verbs that write an index or verify it: index, add, delete, merge, check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli_common import Directory, JsonFlag, counting, note, size_in_bytes, valid_text, watching, write_json
from retrieval.errors import UserError

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus
    from retrieval.index.index import Index

Sparse = Annotated[
    list[str] | None,
    typer.Option("--sparse", metavar="[NAME=]METHOD[:MODEL]", help="A sparse representation; may be repeated."),
]
Dense = Annotated[
    list[str] | None,
    typer.Option("--dense", metavar="[NAME=][METHOD:]MODEL", help="A dense representation; may be repeated."),
]
Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="What building may hold in memory before it spills to disk.")
]


def index(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="FILE.jsonl, .tsv or .trec (each may end in .gz), a BEIR folder, an ir_datasets id, or - for stdin.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where the index goes.", show_default=False)],
    sparse: Sparse = None,
    dense: Dense = None,
    analyzer: Annotated[
        str | None, typer.Option(metavar="A", help="english, lucene, words, a language, or wordpiece:FILE.")
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to the index; a known id is a bad line.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the index, in one step.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Add to the index; a known id is replaced.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count bad lines and report them.")] = False,
    repair_encoding: Annotated[
        bool, typer.Option("--repair-encoding", help="Undo the double encoding of MS MARCO's collection.tsv.")
    ] = False,
    memory: Memory = "1GB",
    compact: Annotated[bool, typer.Option("--compact", help="Smaller lists, slower to search.")] = False,
    no_text: Annotated[bool, typer.Option("--no-text", help="Do not store the documents' text.")] = False,
) -> None:
    """Index a corpus; the last line of output is {"committed": N, "generation": G}, once that is durable."""
    modes = [name for name, given in _modes(append, overwrite, update) if given]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} exclude one another; give one of them")
    _no_dense(dense)
    budget = size_in_bytes(memory)
    from retrieval.data.corpus import open_corpus

    documents = open_corpus(corpus, skip_bad=skip_bad, repair_encoding=repair_encoding)
    with _opened(
        out, sparse, analyzer, grow=append or update, overwrite=overwrite, compact=compact, store_text=not no_text,
        memory=budget,
    ) as target:  # fmt: skip
        with watching(documents) as count:
            target.add(documents, update=update, progress=count)
        generation = target.commit()
        _report_skipped(documents)
        write_json({"committed": len(target), "generation": generation})


def _modes(append: bool, overwrite: bool, update: bool) -> list[tuple[str, bool]]:
    return [("--append", append), ("--overwrite", overwrite), ("--update", update)]


def _opened(
    path: str,
    sparse: list[str] | None,
    analyzer: str | None,
    *,
    grow: bool,
    overwrite: bool,
    compact: bool,
    store_text: bool,
    memory: int,
) -> Index:
    """The index to write to: the one that is there if it is to grow, else a new one."""
    from retrieval.artefact import Store
    from retrieval.index.index import Index

    if grow and Store.exists(path):
        target = Index.open(path, memory=memory)
        if target.representations:  # else it is what a killed first build left behind
            fixed = {
                "--sparse": sparse is not None,
                "--analyzer": analyzer is not None,
                "--compact": compact,
                "--no-text": not store_text,
            }
            for option, given in fixed.items():
                if given:
                    raise UserError(
                        f"{option} was settled when {path!r} was made; leave it out, or build anew with --overwrite"
                    )
            return target
        target.close()
    return Index.create(
        path, sparse or ["bm25"], analyzer=analyzer or "english", overwrite=overwrite, compact=compact,
        store_text=store_text, memory=memory,
    )  # fmt: skip


def _no_dense(dense: list[str] | None) -> None:
    """Refuses --dense as long as no dense method is registered."""
    if not dense:
        return
    from retrieval import registry

    known = registry.names("dense")
    if not known:
        raise UserError(f"--dense {dense[0]}: this version has no dense methods; use --sparse, such as --sparse bm25")
    raise UserError(f"--dense {dense[0]}: dense methods ({', '.join(known)}) cannot be used from here yet")


def _report_skipped(corpus: Corpus) -> None:
    if corpus.skipped_count:
        more = "" if corpus.skipped_count <= len(corpus.skipped) else f"; the first {len(corpus.skipped)}"
        note(f"skipped {corpus.skipped_count:,} bad line{'s'[: corpus.skipped_count > 1]}{more}:")
        for bad in corpus.skipped:
            note(f"  {bad}")


def add(directory: Directory, sparse: Sparse = None, dense: Dense = None, memory: Memory = "1GB") -> None:
    """Build further representations of an index from its stored text."""
    _no_dense(dense)
    if not sparse:
        raise UserError("nothing to add; give --sparse [NAME=]METHOD[:MODEL] (documents: retrieve index --append)")
    from retrieval.index.index import Index

    with Index.open(directory, memory=size_in_bytes(memory)) as target:
        for spec in sparse:
            with counting(f"building {spec}", len(target)) as count:
                target.add_representation(valid_text(spec, "representation"), progress=count)
        write_json({"committed": len(target), "generation": target.generation})


def delete(
    directory: Directory,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", show_default=False)] = None,
    ids_file: Annotated[
        str | None, typer.Option("--ids", metavar="FILE", help="A file with one id a line; - for stdin.")
    ] = None,
) -> None:
    """Delete documents by id; an unknown id is an error, and nothing is deleted then."""
    wanted = [valid_text(doc_id, "id") for doc_id in ids or []]
    if ids_file is not None:
        wanted += _read_ids(ids_file)
    if not wanted:
        raise UserError("no ids given; name them, or give a file with one a line: --ids FILE")
    from retrieval.index.index import Index

    with Index.open(directory) as target:
        deleted = target.delete(wanted)
        generation = target.commit()
        write_json({"committed": len(target), "generation": generation, "deleted": deleted})


def _read_ids(path: str) -> list[str]:
    from retrieval.data.lines import Source, text_lines

    with Source(path) as file:
        return [line.strip() for _, line in text_lines(file) if line.strip()]


def merge(
    directory: Directory,
    reorder: Annotated[
        bool, typer.Option("--reorder", help="Put similar documents together: smaller, faster lists; takes longer.")
    ] = False,
    compact: Annotated[
        bool | None, typer.Option("--compact/--no-compact", help="Change the form of the lists.", show_default=False)
    ] = None,
    memory: Memory = "1GB",
) -> None:
    """Make one segment of all, without the deleted documents; results stay the same."""
    from retrieval.index.index import Index

    with Index.open(directory, memory=size_in_bytes(memory)) as target:
        with counting("merging", len(target)) as count:
            generation = target.merge(reorder=reorder, compact=compact, progress=count)
        write_json({"committed": len(target), "generation": generation})


def check(
    directory: Directory,
    json: JsonFlag = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the former commit (a second rollback undoes it).")
    ] = False,
) -> None:
    """Verify every byte of an index."""
    from retrieval import check as checks

    facts: dict[str, Any] = checks.rollback(directory) if rollback else checks.check(directory)
    if json:
        write_json(facts)
        return
    print(f"{'rolled back' if rollback else 'ok'}: generation {facts['generation']}, {facts['docs']:,} documents")
    print(f"ids sha256 {facts['ids_sha256']}")
    for name, settings in facts["representations"].items():
        print(f"representation {name}: {_summary(settings)}")


def _summary(settings: dict[str, Any]) -> str:
    from retrieval.render import printable

    parts = [str(settings.get("kind", "?"))]
    analyzer = settings.get("analyzer")
    if isinstance(analyzer, dict) and "name" in analyzer:
        parts.append(f"analyzer {analyzer['name']}")
    parts += [key for key, value in settings.items() if value is True]
    return printable(", ".join(parts))
