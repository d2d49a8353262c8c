"""Names of entity types in words: `AmericanFilmDirector`, `American_film_director`; or by a table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from retrieval.data.fields import shown
from retrieval.data.lines import Source, text_lines
from retrieval.errors import BadLine

# Runs of capitals that are no word's beginning (NBA), words, numbers.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]+(?=[A-Z][a-z])|[^\W\d_](?:(?![A-Z])[^\W\d_]|'(?=[a-z]))*|\d+")


def verbalised(name: str, table: Mapping[str, str] | None = None) -> str:
    """A type's name as words: as the table says, else split at underscores and capitals, in lower case.

    Capitals alone (NBA) stay as they are. A name that holds white space is taken to be in words already.
    """
    if table and name in table:
        return table[name]
    if " " in name.strip():
        return name.strip()
    parts = [part for piece in re.split(r"[^\w']+|_+", name) for part in _PART.findall(piece)]
    return " ".join(part if len(part) > 1 and part.isupper() else part.lower() for part in parts) or name


def read_names(path: str | os.PathLike[str]) -> dict[str, str]:
    """Type -> words of a TSV file, `type<TAB>words` a line. Raises BadLine, UserError."""
    found: dict[str, str] = {}
    for number, name, words in tsv_pairs(path, "type, tab, words"):
        if found.setdefault(name, words) != words:
            raise BadLine(os.fspath(path), number, f"the type {shown(name)} comes twice, differently")
    return found


def read_type_words(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Type in words, lower case -> instances and kinds of it, of a TSV file `type<TAB>word, word, ...`.

    A type may have several lines; what stands twice counts once. Raises BadLine, UserError.
    """
    found: dict[str, dict[str, None]] = {}
    for number, name, words in tsv_pairs(path, "type, tab, words between commas"):
        given = [word.strip() for word in words.split(",") if word.strip()]
        if not given:
            raise BadLine(os.fspath(path), number, f"the type {shown(name)} has no words")
        found.setdefault(verbalised(name).lower(), {}).update(dict.fromkeys(given))
    return {name: list(words) for name, words in found.items()}


def tsv_pairs(path: str | os.PathLike[str], form: str) -> list[tuple[int, str, str]]:
    """(line, first, second) of a file of two columns; `#` begins a comment. Raises BadLine, UserError."""
    name = os.fspath(path)
    found = []
    with Source(name) as file:
        for number, line in text_lines(file):
            if line.startswith("#"):
                continue
            cells = line.split("\t")
            if len(cells) != 2 or not cells[0].strip() or not cells[1].strip():
                raise BadLine(name, number, f"{len(cells)} columns or an empty one; a line is: {form}")
            found.append((number, cells[0].strip(), cells[1].strip()))
    return found
