"""The structure that a plain text shows: headings, speaker turns, paragraphs."""

from __future__ import annotations

import re
from typing import NamedTuple

_MARKDOWN = re.compile(r"#{1,6}[ \t]+\S")
_NUMBERED = re.compile(r"(?:[0-9]{1,3}(?:\.[0-9]{1,3})*|[IVXLC]{1,6})[.)]?[ \t]+[^\W\d_]")
_UNDERLINE = re.compile(r"(?:={3,}|-{3,})$")
_TURN = re.compile(r"(?P<name>[^\s:][^:]{0,59}):(?=\s|$)")
_HEADING_LENGTH = 80  # characters
_NAME_WORDS = 5


class Unit(NamedTuple):
    """text[start:end] is a turn or a paragraph, with the headings above it; opens: there are any."""

    start: int
    end: int
    opens: bool


def units(text: str) -> list[Unit]:
    """The units of a text in order; together they are all of it. A text that is empty has one, empty.

    A paragraph ends at an empty line. A turn begins at a line that begins with a name (a capital, a digit or
    a letter of a script without case; at most five words, 60 characters), a colon and white space. A heading
    is a line of at most 80 characters, other than a turn, that is `# marked`, underlined by === or ---, all
    in capitals, or numbered, without a mark of punctuation at its end and behind an empty line.
    """
    starts = [(0, False)]
    blank = True  # the line before is
    headed = False  # there are only headings since the unit's start
    place = 0
    lines = text.split("\n")
    for at, line in enumerate(lines):
        bare = line.strip()
        if bare and not (headed and _UNDERLINE.match(bare)):
            heading = _is_heading(bare, lines[at + 1].strip() if at + 1 < len(lines) else "", blank)
            if not headed and (heading or blank or _is_turn(bare)):
                starts.append((place, heading))
            headed = heading
        blank = not bare
        place += len(line) + 1
    if len(starts) > 1:  # the first line that is not blank begins the first unit
        starts = [(0, starts[1][1]), *starts[2:]]
    ends = [start for start, _ in starts[1:]]
    return [Unit(start, end, opens) for (start, opens), end in zip(starts, [*ends, len(text)])]


def _is_heading(line: str, following: str, blank: bool) -> bool:
    if len(line) > _HEADING_LENGTH or _is_turn(line):
        return False
    if _MARKDOWN.match(line) or (_UNDERLINE.match(following) and not _UNDERLINE.match(line)):
        return True
    if line.isupper() and sum(map(str.isalpha, line)) > 2:
        return line[-1] not in ",;:!?"
    return blank and bool(_NUMBERED.match(line)) and (line[-1].isalnum() or line[-1] == ")")


def _is_turn(line: str) -> bool:
    found = _TURN.match(line)
    if not found:
        return False
    name = found["name"]
    return not name[0].islower() and name[0].isalnum() and len(name.split()) <= _NAME_WORDS
