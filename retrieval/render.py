"""What people see on a terminal: escaped text, snippets with the matched words marked, aligned columns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple, TextIO

Span = tuple[int, int, str]
Piece = tuple[str, bool]  # text, whether it matched

_SEARCHED = 100_000  # characters of a text that are looked through for a snippet
_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Row(NamedTuple):
    """One hit, ready to be shown."""

    rank: int
    score: float
    doc_id: str
    title: Sequence[Piece]
    text: Sequence[Piece]
    place: str = ""  # where in the document the text stands, in characters


def printable(text: str) -> str:
    """The text without what could steer a terminal: controls and bidi marks escaped, white space plain."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char.isspace():
        return " "
    if unicodedata.category(char) == "Cf" and char not in _BIDI:
        return char  # joiners and the like: part of the writing of some languages
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def steering(json: str) -> str:
    """JSON whose raw C1 controls and bidi marks are written as JSON escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", json)


def searched(text: str) -> str:
    """The part of a text that a snippet is taken from."""
    return text[:_SEARCHED]


def marked(text: str, spans: Sequence[Span], wanted: Collection[str]) -> list[Piece]:
    """The whole text in pieces, those whose term is wanted marked; escaped."""
    return _pieces(text, 0, len(text), [span for span in spans if span[2] in wanted])


def snippet(text: str, spans: Sequence[Span], wanted: Collection[str], width: int = 200) -> list[Piece]:
    """About `width` characters around the place where the most different wanted terms stand; escaped."""
    matches = [span for span in spans if span[2] in wanted]
    start = _start(text, matches, width)
    end = min(len(text), start + width)
    if end < len(text):
        space = text.rfind(" ", start + width // 2, end + 1)
        end = space if space > 0 else end
    inside = [span for span in matches if start <= span[0] and span[1] <= end]
    before, after = "… " if start > 0 else "", " …" if end < len(text) else ""
    pieces = _pieces(text, start, end, inside)
    return [*([(before, False)] if before else []), *pieces, *([(after, False)] if after else [])]


def _start(text: str, matches: Sequence[Span], width: int) -> int:
    """Where the snippet begins: a little before the best group of matches, at a word."""
    best, best_worth, last = 0, 0, 0
    for first, (start, _, _) in enumerate(matches):
        while last < len(matches) and matches[last][1] <= start + width * 3 // 4:
            last += 1
        worth = len({term for _, _, term in matches[first : min(last, first + 50)]})
        if worth > best_worth:
            best, best_worth = start, worth
    if best <= width // 4:
        return 0
    at = text.find(" ", best - width // 4, best)
    return at + 1 if at >= 0 else best


def _pieces(text: str, start: int, end: int, matches: Sequence[Span]) -> list[Piece]:
    pieces: list[Piece] = []
    for left, right, _ in matches:
        if left < start:  # one term inside another
            continue
        pieces += [(printable(text[start:left]), False), (printable(text[left:right]), True)]
        start = right
    pieces.append((printable(text[start:end]), False))
    return [piece for piece in pieces if piece[0]]


def show_hits(rows: Sequence[Row], stream: TextIO) -> None:
    """Hits for people: on a terminal a table with the matched words highlighted, else plain lines."""
    if not stream.isatty():
        for row in rows:
            title = "".join(piece for piece, _ in row.title)
            stream.write(
                f"{row.rank:>3}  {row.score:.4f}  {printable(row.doc_id)}{'  ' + title if title else ''}\n"
            )
            text = "".join(piece for piece, _ in row.text)
            place = f"[{row.place}] " if row.place else ""
            stream.write(f"     {place}{text}\n" if text else "")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="dim")
    table.add_column("", justify="right", style="dim")
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("id", no_wrap=True, max_width=32, overflow="ellipsis", style="cyan")
    table.add_column("document", ratio=1)
    for row in rows:
        shown = Text()
        for piece, match in row.title:
            shown.append(piece, "bold yellow" if match else "bold")
        if row.title and row.text:
            shown.append("\n")
        if row.place:
            shown.append(f"[{row.place}] ", "dim")
        for piece, match in row.text:
            shown.append(piece, "bold yellow" if match else "")
        table.add_row(str(row.rank), f"{row.score:.4f}", Text(printable(row.doc_id)), shown)
    Console(file=stream).print(table)


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines with the cells of each row under one another; the columns in `right` are set to the right."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)] if shown else []
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
