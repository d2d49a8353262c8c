"""The text of a manual page in roff source, by section: enough of man(7) and mdoc(7) to train on.

No page layout: a paragraph is a line, tables are cells in a row, equations and pictures are left out, and of
a condition the branch for terminals is taken. Macros and strings that a page defines for itself are dropped
(the strings of Perl's pod2man excepted).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple


class Section(NamedTuple):
    """A section: its heading, such as SEE ALSO, and its paragraphs, one a line."""

    heading: str
    text: str


_STRINGS = {"lq": '"', "rq": '"', 'L"': '"', 'R"': '"', 'C"': '"', "C`": '"', "C'": '"', "C+": "C++"} | {
    "--": "-", "Tm": "(TM)", "R": "(R)", "Lq": '"', "Rq": '"', "Le": "<=", "Ge": ">=", "Ba": "|", "Am": "&",
}  # fmt: skip
_CHARACTERS = {
    "aq": "'", "oq": "'", "cq": "'", "dq": '"', "lq": '"', "rq": '"', "Lq": '"', "Rq": '"', "em": " - ",
    "en": "-", "hy": "-", "mi": "-", "bu": "", "co": "(C)", "rg": "(R)", "tm": "(TM)", "rs": "\\", "ti": "~",
    "ha": "^", "ga": "`", "aa": "'", "at": "@", "sh": "#", "Do": "$", "sl": "/", "ba": "|", "or": "|",
    "lB": "[", "rB": "]", "lC": "{", "rC": "}", "la": "<", "ra": ">", "<-": "<-", "->": "->", "<=": "<=",
    ">=": ">=", "!=": "!=", "==": "==", "+-": "+/-", "mu": "x", "pl": "+", "eq": "=", "de": " degrees",
    "ss": "ß", "ae": "æ", "AE": "Æ", "/o": "ø", "/O": "Ø", "ul": "_", "ru": "_", "dg": "", "**": "*",
    "fo": "<", "fc": ">", "Fo": '"', "Fc": '"', "lh": "", "rh": "", "sc": "section ", "14": "1/4",
}  # fmt: skip
_ACCENTS = {":": "\u0308", "'": "\u0301", "`": "\u0300", "^": "\u0302", "~": "\u0303", ",": "\u0327"}
_ESCAPE = re.compile(
    r"""\\(?:
        [(](?P<two>..) | \[(?P<long>[^\]\n]*)\] | [*](?:[(](?P<s2>..) | \[(?P<sl>[^\]]*)\] | (?P<s1>.))
      | [fFmMgknY](?:[(].. | \[[^\]]*\] | [+-]?.) | s(?:\[[^\]]*\] | '[^']*' | [(].. | [+-]?\d{1,2})
      | [ABbCDhHlLNoRSvwXxZ]'[^']*' | (?P<one>.) | $
    )""",
    re.VERBOSE,
)
_ONE = {
    "-": "-",
    "e": "\\",
    "\\": "\\",
    " ": " ",
    "~": " ",
    "0": " ",
    "'": "'",
    "`": "`",
    ".": ".",
    "t": "\t",
}
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s\\])+|\\$)')
_JOINED = {"BR", "RB", "IR", "RI", "BI", "IB"}
_SPACED = {"B", "I", "R", "SM", "SB", "OP", "CW", "UR", "MT", "SY", "C", "V"}
_BREAKS = {
    "PP", "P", "LP", "TP", "TQ", "IP", "HP", "sp", "br", "RS", "RE", "nf", "fi", "EX", "EE", "Pp", "Bl", "El",
    "Bd", "Ed", "Vb", "Ve", "YS",
}  # fmt: skip
_SKIPPED = {"ig": r"\.\.", "de": r"\.\.", "de1": r"\.\.", "am": r"\.\.", "EQ": r"\.EN", "PS": r"\.PE"}
_CONTROL = re.compile(r"[.'][ \t]*(\S*)[ \t]*(.*)")
_QUOTES = {
    "Op": "[]", "Oo": "[", "Oc": "]", "Bq": "[]", "Bo": "[", "Bc": "]", "Pq": "()", "Po": "(", "Pc": ")",
    "Aq": "<>", "Ao": "<", "Ac": ">", "Dq": '""', "Do": '"', "Dc": '"', "Qq": '""', "Qo": '"', "Qc": '"',
    "Sq": "''", "So": "'", "Sc": "'", "Ql": "''", "Brq": "{}", "Bro": "{", "Brc": "}", "Eo": "", "Ec": "",
}  # fmt: skip
_WORDS = {
    "Ar", "Ad", "An", "Cd", "Cm", "Dv", "Em", "Er", "Ev", "Fa", "Fd", "Fl", "Fn", "Ft", "Ic", "In", "Li",
    "Lb", "Lk", "Mt", "Ms", "Nd", "Nm", "No", "Ns", "Pa", "Pf", "St", "Sx", "Sy", "Tn", "Ta", "Ux", "Va",
    "Vt", "Xr", "Ap", "Fo", "Fc", "Rv", "Ex", "Bx", "Fx", "Nx", "Ox", "At", "Os", "Dx", "Bsx", "Ot", "%A",
    "%B", "%D", "%I", "%J", "%N", "%O", "%P", "%Q", "%R", "%T", "%U", "%V", "%C",
}  # fmt: skip
_STOPS = (".", ",", ":", ";", ")", "]", "?", "!")
_SYSTEMS = {"Ux": "UNIX", "Bx": "BSD", "Fx": "FreeBSD", "Nx": "NetBSD", "Ox": "OpenBSD", "At": "AT&T UNIX"}


def sections(source: str) -> list[Section]:
    """The sections of a page, in order; what stands before the first heading has the heading "".

    source: the file, decoded. A page without a title line (.TH or .Dt) has no sections.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    for kind, text in _parts(source):
        if kind == "heading":
            found.append((" ".join(text.split()), []))
        else:
            found[-1][1].append(f"\n{text} " if kind == "break" else f"{text} ")
    made = (Section(heading, _tidy("".join(parts))) for heading, parts in found)
    return [each for each in made if each.heading or each.text]


def link_target(source: str) -> str | None:
    """The file that a page consists of, as `.so man3/printf.3` says, or None for a page of its own."""
    lines = [line for line in source.split("\n") if line.strip() and not re.match(r"[.']\s*\\[\"#]", line)]
    found = re.fullmatch(r"\.\s*so\s+(\S+)\s*", lines[0]) if len(lines) == 1 else None
    return found[1] if found else None


def _tidy(text: str) -> str:
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _parts(source: str) -> Iterator[tuple[str, str]]:
    """(heading, text), (break, text before which the line breaks) or (text, text), in the page's order."""
    lines = iter(source.replace("\r", "").replace("\\\n", "").split("\n"))
    mdoc, branch = _Mdoc(), _Branch()
    begun = False
    for line in lines:
        line = branch.taken(re.sub(r'(?<!\\)((?:\\\\)*)\\["#].*', r"\1", line), lines)
        control = _CONTROL.match(line)
        if control is None:
            if begun:
                yield ("text", unescape(line)) if line.strip() else ("break", "")
            continue
        name, rest = control[1], control[2]
        if name in _SKIPPED:
            end = re.compile(_SKIPPED[name])
            next((each for each in lines if end.match(each)), None)
        elif name in ("TH", "Dt"):
            begun = True
        elif not begun:
            continue
        elif name == "TS":
            yield from _table(lines)
        elif name in ("SH", "Sh"):
            yield "heading", unescape(" ".join(arguments(rest or next(lines, ""))))
        elif name in ("SS", "Ss"):
            yield "break", unescape(" ".join(arguments(rest or next(lines, ""))))
            yield "break", ""
        elif name in ("It", "D1", "Dl"):
            yield "break", mdoc.line(arguments(rest))
        elif name in _WORDS or name in _QUOTES:
            yield "text", mdoc.line([name, *arguments(rest)])
        elif name in _BREAKS:
            yield "break", unescape(arguments(rest)[0]) if name == "IP" and rest.strip() else ""
        elif name in _JOINED or name in _SPACED:
            joint = "" if name in _JOINED else " "
            yield "text", unescape(joint.join(arguments(rest)) or next(lines, ""))


class _Branch:
    """Conditions, `.if`, `.ie` and `.el`, as they are on a terminal; what else they ask is not so."""

    def __init__(self) -> None:
        self._met = False

    def taken(self, line: str, lines: Iterator[str]) -> str:
        """The line itself, or what a condition leaves of it; a block that is not taken is skipped."""
        while control := re.match(r"[.'][ \t]*(if|ie|el)\b[ \t]*(.*)", line):
            if control[1] == "el":
                met, line = not self._met, control[2]
            else:
                found = re.match(r"('[^']*'[^']*'|\S+)\s*(.*)", control[2])
                met, line = (found[1] in ("n", "!t"), found[2]) if found else (False, "")
                self._met = met
            if not met:
                depth = line.count("\\{") - line.count("\\}")
                while depth > 0 and (skipped := next(lines, None)) is not None:
                    depth += skipped.count("\\{") - skipped.count("\\}")
                return "."
            line = line.removeprefix("\\{").lstrip()
        return line


def _table(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Rows of a table of tbl(1): after its options and formats, which end with a full stop."""
    begun = inside = False
    for line in lines:
        if line.startswith(".TE"):
            break
        if not begun:
            begun = line.rstrip().endswith(".")
        elif line.startswith(".T&"):
            begun = False
        elif not line.startswith(".") and line.strip("_=- \t"):
            # T{ and T} hold a cell of several lines.
            yield "text" if inside else "break", unescape(re.sub("T[{}]", " ", line).replace("\t", " "))
            inside = line.rfind("T{") > line.rfind("T}") or (inside and "T}" not in line)
    yield "break", ""


def arguments(rest: str) -> list[str]:
    """The arguments of a macro: words, or what stands in double quotes."""
    return [
        bare if bare else word.replace('""', '"')
        for word, bare in (found.groups(default="") for found in _ARGUMENT.finditer(rest))
    ]


def unescape(text: str) -> str:
    """Text without roff's escapes."""
    return _ESCAPE.sub(_meaning, text)


def _meaning(found: re.Match[str]) -> str:
    string = found["s1"] or found["s2"] or found["sl"]
    if string is not None:
        return _STRINGS.get(string, "")
    name = found["two"] or found["long"]
    if name is None:
        return _ONE.get(found["one"] or "", "")
    if name in _CHARACTERS:
        return _CHARACTERS[name]
    if code := re.fullmatch(r"u([0-9A-F]{4,6})", name):
        return chr(min(int(code[1], 16), 0x10FFFF))
    if len(name) == 2 and name[0] in _ACCENTS:
        return unicodedata.normalize("NFC", name[1] + _ACCENTS[name[0]])
    return ""


class _Mdoc:
    """Lines of mdoc(7): semantic macros that may call one another. It remembers the page's name."""

    def __init__(self) -> None:
        self._name = ""

    def line(self, words: list[str]) -> str:
        """The text of a line of macros and their arguments."""
        made = closing = glue = ""
        tail = len(words)
        while tail > 1 and words[tail - 1] in _STOPS:
            tail -= 1
        stops = "".join(words[tail:])
        del words[tail:]
        while words:
            word = words.pop(0)
            if word in _QUOTES:
                marks = _QUOTES[word]
                if len(marks) == 2:
                    made, closing, glue = f"{made}{glue}{marks[0]}", marks[1] + closing, ""
                elif word.endswith("c"):
                    made, glue = f"{made}{marks}", " "
                else:
                    made, glue = f"{made}{glue}{marks}", ""
            elif word in ("Ns", "Ap", "Pf"):
                glue = "'" if word == "Ap" else ""
                if word == "Pf" and words:
                    made = f"{made} {unescape(words.pop(0))}"
            elif word in _WORDS:
                text = self._words(word, words)
                made, glue = f"{made}{glue if text else ''}{text}", " " if text else glue
            else:
                text = unescape(word)
                joint = "" if text in _STOPS else glue
                made, glue = f"{made}{joint}{text}", "" if text in ("(", "[") else " "
        return made + closing + stops

    def _words(self, name: str, words: list[str]) -> str:
        """What a semantic macro says; takes its own arguments off `words`."""
        known = _WORDS | _QUOTES.keys()
        if name == "Nm":
            if words and words[0] not in known and words[0] not in _STOPS:
                self._name = self._name or unescape(words[0])
                return unescape(words.pop(0))
            return self._name
        if name == "Xr" and len(words) > 1:
            return f"{unescape(words.pop(0))}({unescape(words.pop(0))})"
        if name == "Fl":
            return "-" + (unescape(words.pop(0)) if words and words[0] not in known else "")
        if name == "Fn" and words:
            function, taken = unescape(words.pop(0)), []
            while words and words[0] not in known and len(words[0]) > 1:
                taken.append(unescape(words.pop(0)))
            return f"{function}({', '.join(taken)})"
        if name == "Nd":
            return "-"
        return "file ..." if name == "Ar" and not words else _SYSTEMS.get(name, "")
