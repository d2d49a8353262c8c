"""The packaged sample: WordNet's named entities as documents, type names as queries, every pair judged.

Built from Debian's package wordnet-base: `python -m retrieval.data.wordnet OUT [/usr/share/wordnet]`.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.data.output import atomic, json_line
from retrieval.diskio import disk_errors
from retrieval.errors import UserError

WORDNET = "/usr/share/wordnet"
_SIZES = range(10, 1001)  # entities of a type that is worth a query
_COPYRIGHT = "Copyright 1996-2012 Cognitive Science Laboratory, Princeton University\n\n"
_VAGUE = frozenset((3, 4, 23))  # lexicographer files whose types are no kinds of thing: Tops, act, quantity
_README = """# WordNet named entities
{docs:,} named entities (WordNet's instance synsets) and {queries} types of them to search for, with all
{qrels:,} relevant pairs: a BEIR folder. A query is the name of a noun synset that has 10 to 1,000 instances
below it, at whatever depth; exactly these are relevant. Topmost synsets, acts and quantities are left out.

Built from WordNet 3.0 as in Debian's package wordnet-base by `python -m retrieval.data.wordnet OUT`.
WordNet's licence is in LICENSE; it covers everything in this folder.
"""


class Synset(NamedTuple):
    """A noun synset: lexicographer file, lemmas, ids of its hypernyms, whether it is an instance, gloss."""

    lexfile: int
    lemmas: list[str]
    above: list[str]
    instance: bool
    gloss: str


def sample_path() -> Path:
    """The packaged sample, a BEIR folder with its licence notice."""
    return Path(__file__).resolve().parent / "sample"


def read_nouns(folder: str | os.PathLike[str] = WORDNET) -> dict[str, Synset]:
    """The noun synsets of a WordNet dictionary by offset (8 digits). Raises UserError where there is none."""
    path = Path(folder) / "data.noun"
    if not path.is_file():
        raise UserError(
            f"no data.noun in {os.fspath(folder)!r}; install Debian's wordnet-base or name its folder"
        )
    nouns = {}
    with disk_errors("read", path), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.startswith(" "):  # the licence
                try:
                    offset, synset = _parse(line)
                except (ValueError, IndexError) as error:
                    raise UserError(f"{path}:{number}: not a line of WordNet's data.noun ({error})") from None
                nouns[offset] = synset
    return nouns


def _parse(line: str) -> tuple[str, Synset]:
    """One line: offset lexfile type count (lemma, sense)* count (pointer, offset, part, source)* | gloss."""
    fields, _, gloss = line.partition("|")
    cells = fields.split()
    after = 4 + 2 * int(cells[3], 16)
    lemmas = [cell.replace("_", " ") for cell in cells[4:after:2]]
    pointers = cells[after + 1 : after + 1 + 4 * int(cells[after])]
    kinds = list(zip(pointers[::4], pointers[1::4], pointers[2::4]))
    above = [offset for kind, offset, part in kinds if kind in ("@", "@i") and part == "n"]
    instance = any(kind == "@i" for kind, _, _ in kinds)
    return cells[0], Synset(int(cells[1]), lemmas, above, instance, gloss.strip())


def build(out: str | os.PathLike[str], wordnet: str | os.PathLike[str] = WORDNET) -> dict[str, int]:
    """Write the sample into the folder `out`, the same bytes every time; returns docs, queries and qrels.

    Raises UserError where WordNet is missing or `out` cannot be written, StorageError where the disk fails.
    """
    nouns = read_nouns(wordnet)
    folder = Path(out)
    with disk_errors("create", folder, placing=True):
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
    below: dict[str, list[str]] = defaultdict(list)
    entities = sorted(offset for offset, synset in nouns.items() if synset.instance)
    for offset in entities:
        for type_offset in _ancestors(nouns, offset):
            below[type_offset].append(offset)
    types = sorted(o for o, found in below.items() if len(found) in _SIZES and nouns[o].lexfile not in _VAGUE)
    _write(folder / "corpus.jsonl.gz", [json_line(_document(offset, nouns[offset])) for offset in entities])
    _write(folder / "queries.jsonl.gz", [json_line(_query(o, nouns[o], len(below[o]))) for o in types])
    pairs = [f"n{query}\tn{doc}\t1\n".encode() for query in types for doc in below[query]]
    _write(folder / "qrels" / "test.tsv", [b"query-id\tcorpus-id\tscore\n", *pairs])
    counts = {"docs": len(entities), "queries": len(types), "qrels": len(pairs)}
    _write(folder / "README.md", [_README.format(**counts).encode()])
    _write(folder / "LICENSE", [_licence(Path(wordnet) / "data.noun").encode()])
    return counts


def _ancestors(nouns: dict[str, Synset], offset: str) -> set[str]:
    """All synsets above one, through hypernyms and what it is an instance of."""
    found: set[str] = set()
    waiting = [offset]
    while waiting:
        for above in nouns[waiting.pop()].above:
            if above not in found:
                found.add(above)
                waiting.append(above)
    return found


def _document(offset: str, synset: Synset) -> dict[str, Any]:
    metadata = {"lexfile": synset.lexfile, "instance": True}
    return {
        "_id": f"n{offset}",
        "title": ", ".join(synset.lemmas),
        "text": synset.gloss,
        "metadata": metadata,
    }


def _query(offset: str, synset: Synset, size: int) -> dict[str, Any]:
    return {"_id": f"n{offset}", "text": synset.lemmas[0], "metadata": {"gloss": synset.gloss, "size": size}}


def _licence(path: Path) -> str:
    """WordNet's notice, which stands numbered at the head of each of its files."""
    with disk_errors("read", path), path.open(encoding="utf-8") as lines:
        notice = [" ".join(line.split()[1:]) for line in lines if line.startswith("  ")]
    return _COPYRIGHT + "\n".join(notice) + "\n"


def _write(path: Path, lines: list[bytes]) -> None:
    with atomic(path) as write:
        write(b"".join(lines))


if __name__ == "__main__":
    build(*sys.argv[1:3])
