"""Text for terminals: nothing that steers them, matches marked, the best part of a long text."""

from __future__ import annotations

import io
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from retrieval.render import Row, columns, marked, printable, show_hits, snippet, steering

Span = tuple[int, int, str]


def spans(text: str) -> list[Span]:
    return [(match.start(), match.end(), match[0].lower()) for match in re.finditer(r"\w+", text)]


@given(st.text())
def test_nothing_steers_the_terminal(text: str) -> None:
    shown = printable(text)
    assert not re.search(
        "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown
    )
    assert printable(shown) == shown


def test_what_people_write_stays() -> None:
    for text in ("naïve café", "मराठी\u200d", "日本語", "👩\u200d🚀", ""):
        assert printable(text) == text
    assert printable("a\tb\nc\u00a0d\u2028e") == "a b c d e"
    assert printable("\x1b[0m\x9b\u202e\U000e0001\ud800") == "\\x1b[0m\\x9b\\u202e\U000e0001\\ud800"


@given(st.text())
def test_json_keeps_its_meaning(text: str) -> None:
    written = steering(json.dumps(text, ensure_ascii=False))
    assert json.loads(written) == text
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", written)


@given(st.text(st.sampled_from("ab \n\x1b…"), max_size=400), st.integers(10, 60))
def test_a_snippet_is_a_part_of_the_text(text: str, width: int) -> None:
    pieces = snippet(text, spans(text), {"a", "ab", "b"}, width)
    shown = "".join(piece for piece, _ in pieces)
    inner = shown.removeprefix("… ").removesuffix(" …")
    assert inner in printable(text)
    assert len(inner) <= 4 * width
    assert all(match is False or piece in ("a", "ab", "b") for piece, match in pieces)
    if not spans(text) or len(text) <= width:
        assert "".join(piece for piece, _ in marked(text, spans(text), {"a"})) == printable(text)


def test_a_snippet_shows_most_of_the_words() -> None:
    filler = "nothing here to see " * 30
    text = f"{filler}sun {filler}the sun and a star meet {filler}star {filler}"
    pieces = snippet(text, spans(text), {"sun", "star"})
    assert [piece for piece, match in pieces if match] == ["sun", "star"]
    assert pieces[0] == ("… ", False)
    assert pieces[-1] == (" …", False)
    whole = snippet("A sun.", spans("A sun."), {"sun"})
    assert whole == [("A ", False), ("sun", True), (".", False)]


def test_terms_inside_one_another() -> None:
    pieces = marked("abc", [(0, 3, "abc"), (1, 2, "b")], {"abc", "b"})
    assert pieces == [("abc", True)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_hits_on_a_terminal_and_in_a_pipe() -> None:
    row = Row(
        1, 2.5, "d[bold]\x1b1", [("Solar ", False), ("wind", True)], [("[red]the ", False), ("wind", True)]
    )
    terminal, pipe = Terminal(), io.StringIO()
    show_hits([row], terminal)
    show_hits([row], pipe)
    text = terminal.getvalue()
    assert "\x1b[1;33mwind\x1b[0m" in text
    assert "d[bold]\\x1b1" in text
    assert "[red]the" in text
    assert pipe.getvalue() == "  1  2.5000  d[bold]\\x1b1  Solar wind\n     [red]the wind\n"


def test_columns() -> None:
    assert columns([("a", "1.0"), ("longer", "10.0\x1b")], right=(1,)) == [
        "a            1.0",
        "longer  10.0\\x1b",
    ]
    assert columns([]) == []
