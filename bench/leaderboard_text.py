"""A leaderboard as Markdown and as LaTeX: all text escaped, quoted lines in italics, their sources below."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from retrieval.bench.leaderboard_board import Board
from retrieval.bench.leaderboard_columns import NONE, PAD, columns, fixed, hardware
from retrieval.bench.leaderboard_overview import Overview, remarks
from retrieval.bench.leaderboard_section import Section
from retrieval.render import printable

_MARKDOWN = re.compile(r"([\\`*_{}\[\]#|~$])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%",
    "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "-": "{-}", "[": "{[}", "]": "{]}",
    PAD: r"\phantom{0}", NONE: "--", "\u2212": "$-$", "▲": r"$\uparrow$", "▼": r"$\downarrow$",
    "×": r"$\times$", "…": r"\dots{}", "’": "'", "·": r"$\cdot$",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c", "\u0328": "k",
}  # fmt: skip


def markdown(board: Board) -> str:
    """The tables as Markdown (GitHub's), the text of rows escaped."""
    parts = [f"# {escape_markdown(board.title)}", ""]
    for over in board.overviews:
        parts += [f"## {escape_markdown(over.suite)}, all tasks", ""]
        parts += _markdown_table(*_overview(over, escape_markdown))
        parts += [f"{escape_markdown(remark)}\n" for remark in remarks(over)]
    for section in board.sections:
        parts += [f"## {escape_markdown(section.title)}", "", f"{_asked(section)}.", ""]
        parts += [f"**Warning:** {escape_markdown(section.warning)}\n"] if section.warning else []
        parts += [f"Note: {escape_markdown(note)}\n" for note in section.notes]
        parts += _markdown_table(*_section(section, escape_markdown))
        parts += [f"{escape_markdown(_tests(section))}\n"]
    return "\n".join(parts).rstrip() + "\n"


def latex(board: Board) -> str:
    """The tables as LaTeX floats for \\input. They need no package; booktabs' rules are used where loaded."""
    parts = [
        "% Made by `retrieve leaderboard`. Rules are those of booktabs where it is loaded.",
        r"\providecommand{\toprule}{\hline}\providecommand{\midrule}{\hline}"
        r"\providecommand{\bottomrule}{\hline}",
    ]
    for over in board.overviews:
        caption = f"{board.title}: {over.suite}, {over.measure or 'headlines of all tasks'}."
        below = [escape_latex(remark) for remark in remarks(over)]
        parts += _latex_table(*_overview(over, escape_latex), escape_latex(caption), below)
    for section in board.sections:
        caption = f"{board.title}: {section.title}, {_asked(section)}."
        below = [escape_latex(text) for text in (section.warning, *section.notes, _tests(section)) if text]
        parts += _latex_table(*_section(section, escape_latex), escape_latex(caption), below)
    return "\n".join(parts) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in one line: no markup, HTML, or end of a table's cell."""
    plain = printable(text.replace(PAD, "")).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", plain)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is: in ASCII, accents as commands, other letters as U+ and their code."""
    parts = (unicodedata.normalize("NFC", printable(part)) for part in text.split(PAD))
    return _LATEX[PAD].join("".join(map(_latex_character, part)) for part in parts)


def _latex_character(char: str) -> str:
    if char in _LATEX:
        return _LATEX[char]
    if char.isascii():
        return char
    base, *marks = list(unicodedata.normalize("NFD", char))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        inside = {"i": r"\i", "j": r"\j"}.get(base, base)
        return f"\\{_ACCENTS[marks[0]]}{{{inside}}}"
    plain = unicodedata.normalize("NFKD", char)
    if plain.isascii() and plain.isprintable():
        return "".join(map(_latex_character, plain))
    return f"U+{ord(char):04X}"


Table = tuple[list[str], list[bool], list[list[str]], list[bool], list[str]]


def _section(section: Section, escape: Callable[[str], str]) -> Table:
    """Headings, which of them are numbers, the lines, which of those are quoted, and their sources."""
    shown = columns(section)
    lines = [[escape(column.cells[place]) for column in shown] for place in range(len(section.entries))]
    cited = [entry.quoted for entry in section.entries]
    heads = [escape(column.title) for column in shown]
    return (
        heads,
        [column.numeric for column in shown],
        lines,
        [bool(c) for c in cited],
        _sources(cited, escape),
    )


def _overview(over: Overview, escape: Callable[[str], str]) -> Table:
    heads = ["System", *(["mean"] if over.measure else []), *(section.task for section in over.sections)]
    lines = []
    for line in over.lines:
        digits = 3 if line.quoted else 4
        figures = ([line.mean] if over.measure else []) + line.figures
        lines.append([line.name, *(NONE if value is None else fixed(value, digits) for value in figures)])
    cited = [line.quoted for line in over.lines]
    shown = [[escape(cell) for cell in line] for line in lines]
    numeric = [column > 0 for column in range(len(heads))]
    return [escape(head) for head in heads], numeric, shown, [bool(c) for c in cited], _sources(cited, escape)


def _sources(cited: Sequence[str], escape: Callable[[str], str]) -> list[str]:
    """One for each quoted line, in their order."""
    return [escape(source) for source in cited if source]


def _markdown_table(
    heads: list[str], numeric: list[bool], lines: list[list[str]], quoted: list[bool], sources: list[str]
) -> Iterator[str]:
    yield _joined(heads)
    yield _joined(["---:" if number else "---" for number in numeric])
    numbers, notes = _numbered(quoted, sources)
    for line, number in zip(lines, numbers, strict=True):
        cells = line if number is None else [f"*{cell.strip()}*" if cell.strip() else "" for cell in line]
        if number is not None:
            cells[0] += f" <sup>{number}</sup>"
        yield _joined(cells)
    yield ""
    for number, source in enumerate(notes, 1):
        yield f"<sup>{number}</sup> Quoted, not measured here: {source}  "
    if notes:
        yield ""


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell or ' ' for cell in cells)} |"


def _latex_table(
    heads: list[str],
    numeric: list[bool],
    lines: list[list[str]],
    quoted: list[bool],
    sources: list[str],
    caption: str,
    below: Sequence[str],
) -> Iterator[str]:
    yield "\n\\begin{table*}\n\\centering\\footnotesize"
    yield f"\\caption{{{caption}}}"
    kinds = "".join("r" if number else "l" for number in numeric)
    yield f"\\begin{{tabular}}{{@{{}}{kinds}@{{}}}}\n\\toprule"
    yield " & ".join(heads) + " \\\\\n\\midrule"
    numbers, notes = _numbered(quoted, sources)
    for line, number in zip(lines, numbers, strict=True):
        cells = line if number is None else [f"\\textit{{{cell}}}" if cell else "" for cell in line]
        if number is not None:
            cells[0] += f"\\textsuperscript{{{number}}}"
        yield " & ".join(cells) + " \\\\"
    yield "\\bottomrule\n\\end{tabular}\n"
    cited = [f"\\textsuperscript{{{n}}}Quoted, not measured here: {note}." for n, note in enumerate(notes, 1)]
    if cited or below:
        yield "\\par\\smallskip\\parbox{\\textwidth}{\\raggedright " + " ".join([*below, *cited]) + "}"
    yield "\\end{table*}"


def _numbered(quoted: Sequence[bool], sources: Sequence[str]) -> tuple[list[int | None], list[str]]:
    """The footnote of each line, and the footnotes: lines of one source share theirs."""
    notes = list(dict.fromkeys(sources))
    each = iter(sources)
    return [notes.index(next(each)) + 1 if cited else None for cited in quoted], notes


def _asked(section: Section) -> str:
    asked = len(section.query_ids)
    return f"{asked:,} queries" if asked == section.of else f"a sample of {asked:,} of {section.of:,} queries"


def _tests(section: Section) -> str:
    parts = []
    if section.pairs and section.baseline is not None:
        parts.append(
            f"Differences are from {section.entries[section.baseline].name}; ▲ ▼ mark p < 0.05 of "
            f"{section.test} on {section.headline}, all {len(section.pairs):,} pairs corrected by Holm."
        )
    parts.append("Tokens dropped: in documents / while searching.")
    parts.append(f"Measured on: {'; '.join(hardware(section))}.")
    return " ".join(parts)
