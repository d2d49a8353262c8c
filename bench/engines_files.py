"""The files of a corpus of the engine comparison; standard library only, for the cold starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def finish(folder: Path, kind: str, queries: Iterable[Any], facts: dict[str, int]) -> Path:
    """Write the queries, and last corpus.json, which says that the folder is whole."""
    lines = [json.dumps(query) for query in queries]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = {"name": folder.name, "kind": kind, "queries": len(lines), **facts}
    (folder / "corpus.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    return folder


def about(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    return found


def load_queries(folder: Path) -> list[Any]:
    """Strings (kind `text`) or {term: weight} (kind `impacts`)."""
    with open(folder / "queries.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def load_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every document of a `text` corpus, in order."""
    with open(folder / "docs.tsv", encoding="ascii") as lines:
        for line in lines:
            doc_id, _, text = line.rstrip("\n").partition("\t")
            yield doc_id, text
