"""Words of entity types, `type<TAB>word, word, ...`, for queries: python -m retrieval.data.type_words.

From WordNet: for every noun, in its first sense, its synonyms and its kinds (hyponyms) at whatever depth,
nearest first. Named instances are left out: they are what a search for a type is to find. From NERetrieve:
the entities of every type of the train split, the most frequent first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from retrieval.data.neretrieve import labels, labels_path
from retrieval.data.output import atomic
from retrieval.data.type_names import verbalised
from retrieval.data.wordnet import WORDNET, Synset, read_nouns
from retrieval.diskio import disk_errors
from retrieval.errors import RetrievalError, UserError

MOST = 200  # words of a type


def from_wordnet(
    folder: str | os.PathLike[str] = WORDNET, most: int = MOST
) -> Iterator[tuple[str, list[str]]]:
    """(noun, words) of every noun that has any. Raises UserError where there is no WordNet."""
    nouns = read_nouns(folder)
    below: dict[str, list[str]] = defaultdict(list)
    for offset, synset in nouns.items():
        if not synset.instance:
            for above in synset.above:
                below[above].append(offset)
    for name, offset in _first_senses(folder):
        if offset in nouns and not nouns[offset].instance:
            words = list(islice(_kinds(offset, nouns, below, name), most))
            if words:
                yield name, words


def _kinds(offset: str, nouns: dict[str, Synset], below: dict[str, list[str]], name: str) -> Iterator[str]:
    """Synonyms, then the lemmas of hyponyms, breadth first, each once."""
    said = {name}
    seen, level = {offset}, [offset]
    while level:
        for each in level:
            for lemma in nouns[each].lemmas:
                if lemma.lower() not in said:
                    said.add(lemma.lower())
                    yield lemma
        level = [kind for each in level for kind in below[each] if kind not in seen]
        level = list(dict.fromkeys(level))
        seen.update(level)


def _first_senses(folder: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """(noun in lower case, offset of its most frequent sense) of WordNet's index.noun."""
    path = Path(folder) / "index.noun"
    if not path.is_file():
        raise UserError(
            f"no index.noun in {os.fspath(folder)!r}; install Debian's wordnet-base or name its folder"
        )
    with disk_errors("read", path), path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.startswith(" "):  # the licence
                continue
            cells = line.split()
            try:
                count = int(cells[2])
                yield cells[0].replace("_", " "), cells[-count]
            except (ValueError, IndexError):
                raise UserError(f"{path}:{number}: not a line of WordNet's index.noun") from None


def from_neretrieve(folder: str | os.PathLike[str], most: int = MOST) -> Iterator[tuple[str, list[str]]]:
    """(type, entities) of the train split, sorted by type. Raises UserError, BadLine."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label in labels(labels_path(folder, "train")):
        for kind, entities in label.tagged.items():
            counts[kind].update(dict.fromkeys(entities, 1))
    for kind, found in sorted(counts.items()):
        ranked = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
        yield verbalised(kind), [" ".join(entity.replace("_", " ").split()) for entity, _ in ranked[:most]]


def write_type_words(types: Iterable[tuple[str, Sequence[str]]], path: str | os.PathLike[str]) -> int:
    """Writes the file, whole or not at all; returns the number of types. Commas in words become spaces."""
    count = 0
    with atomic(path) as write:
        for count, (name, words) in enumerate(types, 1):  # noqa: B007
            plain = (" ".join(word.replace(",", " ").split()) for word in words)
            write(f"{name}\t{', '.join(word for word in plain if word)}\n".encode())
    return count


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.data.type_words", description=__doc__)
    parser.add_argument("out", metavar="OUT.tsv")
    parser.add_argument("--wordnet", metavar="DIR", default=WORDNET, help=f"default: {WORDNET}")
    parser.add_argument("--neretrieve", metavar="DIR", help="NERetrieve's folder, in place of WordNet")
    given = parser.parse_args(arguments)
    try:
        found = from_neretrieve(given.neretrieve) if given.neretrieve else from_wordnet(given.wordnet)
        count = write_type_words(found, given.out)
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(f"{given.out}: {count:,} types\n")


if __name__ == "__main__":
    main()
