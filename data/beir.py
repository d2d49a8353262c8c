"""BEIR folders: where corpus, queries and qrels lie, plain or .gz, and what `PATH@split` means."""

from __future__ import annotations

import os
from pathlib import Path

from retrieval.errors import UnknownName, UserError

SPLIT = "test"


def split_source(source: str | os.PathLike[str]) -> tuple[str, str | None]:
    """(path, split) of `PATH@split`, where a folder stands before the "@"; anything else is a path."""
    name = os.fspath(source)
    path, mark, split = name.rpartition("@")
    if mark and split and "/" not in split and os.path.isdir(path) and not os.path.lexists(name):
        return path, split
    return name, None


def corpus_file(folder: str | os.PathLike[str]) -> Path:
    """The corpus of a BEIR folder. Raises UserError where there is none."""
    return _file(Path(folder), "corpus.jsonl", "a corpus")


def has_corpus(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder looks like a BEIR folder, be it one without a corpus."""
    names = ("corpus.jsonl", "corpus.jsonl.gz", "queries.jsonl", "queries.jsonl.gz", "qrels")
    return any(os.path.lexists(os.path.join(folder, name)) for name in names)


def queries_file(folder: str | os.PathLike[str]) -> Path:
    """The queries of a BEIR folder. Raises UserError where there are none."""
    return _file(Path(folder), "queries.jsonl", "queries")


def qrels_file(folder: str | os.PathLike[str], split: str | None = None) -> Path:
    """The judgements of one split (`test` unless said). Raises UnknownName for one that is not there."""
    name = split or SPLIT
    known = splits(folder)
    if name not in known:
        raise UnknownName(
            f"split of {os.fspath(folder)}", name, known, "" if known else "It holds no qrels/<split>.tsv."
        )
    return _file(Path(folder) / "qrels", f"{name}.tsv", "judgements")


def splits(folder: str | os.PathLike[str]) -> list[str]:
    """The names of the splits that a BEIR folder has judgements for, sorted."""
    try:
        names = os.listdir(os.path.join(folder, "qrels"))
    except OSError:
        return []
    return sorted(
        {
            name.removesuffix(".gz").removesuffix(".tsv")
            for name in names
            if name.endswith((".tsv", ".tsv.gz"))
        }
    )


def _file(folder: Path, name: str, what: str) -> Path:
    for each in (folder / name, folder / f"{name}.gz"):
        if each.is_file():
            return each
    raise UserError(
        f"{folder} is a folder without {what}: no {name}, plain or .gz, in it; give a BEIR folder or a file"
    )
