"""Leaderboards as Markdown and LaTeX: tables of equal width, nothing that breaks out of a cell."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.bench.leaderboard_board import board
from retrieval.bench.leaderboard_text import escape_latex, escape_markdown, latex, markdown

CITED: Any = {
    "quoted": "Table_1 & more", "system": {"name": "Lit_erature"}, "suite": "made", "task": "one",
    "split": "test", "measures": {"nDCG@10": {"mean": 0.99}},
}  # fmt: skip
COMMANDS = re.compile(
    "begin|end|providecommand|toprule|midrule|bottomrule|hline|centering|footnotesize|caption|par|smallskip|"
    "parbox|textwidth|raggedright|textit|textsuperscript|phantom|textbackslash|textasciicircum|textless|"
    "textasciitilde|textgreater|textbar|char|uparrow|downarrow|times|dots|cdot|[ijurHvck]"
)


def check_latex(text: str) -> None:
    """What a compiler would stop at: braces, dollars, ends, unknown commands, letters beyond ASCII."""
    assert text.isascii()
    text = "\n".join(line for line in text.split("\n") if not line.startswith("%"))
    depth, opened, position, mathematics = 0, [], 0, False
    while position < len(text):
        char = text[position]
        if char == "\\":
            name = re.match(r"[A-Za-z]+", text[position + 1 :])
            if name:
                assert COMMANDS.fullmatch(name[0]), name[0]
                if name[0] in ("begin", "end"):
                    environment = re.match(r"\{([a-z*]+)\}", text[position + 1 + len(name[0]) :])
                    assert environment is not None
                    if name[0] == "begin":
                        opened.append(environment[1])
                    else:
                        assert opened.pop() == environment[1]
            position += 1 + (len(name[0]) if name else 1)
            continue
        depth += (char == "{") - (char == "}")
        mathematics ^= char == "$"
        assert depth >= 0
        if char == "&":
            assert opened[-1] == "tabular"
        assert char not in "#%~_^" or mathematics
        position += 1
    assert depth == 0
    assert not opened
    assert not mathematics


def test_latex_would_compile(rows: list[Any]) -> None:
    rows[0]["system"]["name"] = r"50% & more_\input{x} $y$ #1 ~ ^ [z] é 中 <b> 'q' `c` {"
    text = latex(board([*rows, CITED], title="A & B_c"))
    check_latex(text)
    for table in re.findall(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in table[1].split("\\\\\n"):
            if "&" in line:
                assert len(re.findall(r"(?<!\\)&", line)) == len(table[0]) - 1
    assert r"\textit{Lit\_erature}\textsuperscript{1}" in text
    assert r"Quoted, not measured here: Table\_1 \& more" in text
    assert r"$\uparrow$" in text
    assert r"0.990\phantom{0}" in text


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_safe_in_latex(text: str) -> None:
    check_latex(escape_latex(text))


def test_a_broken_text_is_found() -> None:
    for wrong in ("{", "}", "$", "a & b", "50%", "#", r"\input{x}", "é", r"\begin{x}", "a_b"):
        with pytest.raises((AssertionError, IndexError)):
            check_latex(wrong)


def test_markdown_tables_are_whole(rows: list[Any]) -> None:
    rows[0]["system"]["name"] = "a|b\n# x <img src=x> [l](javascript:1) `c` *d*"
    text = markdown(board([*rows, CITED], title="# T <b>"))
    assert "<img" not in text
    assert text.startswith("# \\# T &lt;b&gt;\n")
    table = [line for line in text.split("\n") if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
    assert len(table) == 2 + 5
    assert len(widths) == 1
    assert re.search(r"\*Lit\\_erature\* <sup>1</sup> \| \*0\.990\*", text)
    assert "<sup>1</sup> Quoted, not measured here: Table\\_1 &amp; more" in text
    assert "▲" in text
    assert "12 / 3" in text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_stays_in_its_cell(text: str) -> None:
    escaped = escape_markdown(text)
    assert not re.search(r"\n|<|(?<!\\)(?:\\\\)*[|`*_\[]", escaped.replace("\\\\", ""))
