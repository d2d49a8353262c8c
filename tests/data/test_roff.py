"""The text of manual pages: man(7), mdoc(7), escapes, conditions, tables; groff agrees where it is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.data.roff import Section, arguments, link_target, sections, unescape

MAN = r"""'\" t
.\" A comment
.ie \n(.g .ds Aq \(aq
.el       .ds Aq '
.de Sh
.SH NOT A SECTION
..
.TH POND 1 "2020" "ponds" "Manual"
.SH NAME
pond \- keep \fIducks\fR \(em and\ frogs
.SH "THE SYNOPSIS"
.B pond
[\fB\-\-deep\fR]
.BI \-n " count" \c
.SH DESCRIPTION
One line,
and its end.  \" not this
.if t .B printed
.if n .B shown
.ie t \{\
.B printed too
.B and printed
.\}
.el shown too
.PP
.TP
.BR \-v ", " \-\-verbose
Says \*(lqmore\*(rq. It's \\(co.
.IP 1. 4
First
.TS
l l.
a	b
T{
long
T}	d
.TE
.ig
hidden
..
.SS Part
caf\('e \[u00E9]\0\s-2small\s0 a\X'n'b
.SH SEE ALSO
.BR ls (1),
.BR frog (3)
"""
MDOC = r"""
.Dd June 1, 2020
.Dt POND 8
.Os
.Sh NAME
.Nm pond
.Nd keep ducks
.Sh SYNOPSIS
.Nm
.Op Fl d Ns = Ns Ar depth
.Op Ar file ...
.Sh DESCRIPTION
The
.Nm
utility keeps
.Dq ducks ,
see
.Fn pond_open "int depth" "char *name" .
.Bl -tag -width Ds
.It Fl v
Verbose
.Pq see Xr log 5 .
.El
.Sh SEE ALSO
.Xr frog 3 ,
.Xr ls 1
"""


def test_man() -> None:
    assert sections(MAN) == [
        Section("NAME", "pond - keep ducks - and frogs"),
        Section("THE SYNOPSIS", "pond [--deep] -n count"),
        Section(
            "DESCRIPTION",
            "One line, and its end. shown shown too\n"
            '-v, --verbose Says "more". It\'s \\(co.\n1. First\na b\nlong d\nPart\n'
            "café é small ab",
        ),
        Section("SEE ALSO", "ls(1), frog(3)"),
    ]


def test_mdoc() -> None:
    assert sections(MDOC) == [
        Section("NAME", "pond - keep ducks"),
        Section("SYNOPSIS", "pond [-d=depth] [file ...]"),
        Section(
            "DESCRIPTION",
            'The pond utility keeps "ducks", see pond_open(int depth, char *name).\n-v Verbose (see log(5)).',
        ),
        Section("SEE ALSO", "frog(3), ls(1)"),
    ]


@pytest.mark.parametrize("source", [MAN, MDOC])
def test_the_words_are_groffs(source: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-t", "-mandoc", "-Tutf8", "-P-cbou"]
    done = subprocess.run(command, input=source.lstrip().encode(), capture_output=True, check=True)
    groffs, ours = (
        Counter(re.findall(r"\w+", text))
        for text in (done.stdout.decode(), "\n".join(part for one in sections(source) for part in one))
    )
    # groff adds the head and the foot of the page.
    assert not ours - groffs
    assert set(groffs - ours) <= {"POND", "1", "8", "2020", "ponds", "Manual", "System", "Manager", "s",
                                  "June", "Debian", "BSD"}  # fmt: skip


def test_links() -> None:
    assert link_target('.\\" generated\n\n.so man3/printf.3\n') == "man3/printf.3"
    assert link_target(".so man3/printf.3\n.TH X 1\n") is None
    assert link_target("") is None


def test_no_page() -> None:
    assert sections("Only text\n.SH NAME\nthat has no title line") == []
    assert sections("") == []
    assert sections(".TH X 1\nfirst\n.SH A\n.SH\nB\nb") == [
        Section("", "first"),
        Section("A", ""),
        Section("B", "b"),
    ]


@given(st.lists(st.from_regex(r'[a-z",.(]{1,8}', fullmatch=True), max_size=5))
def test_quoted_arguments(words: list[str]) -> None:
    assert arguments(" ".join('"' + word.replace('"', '""') + '"' for word in words)) == words


@given(st.text(st.sampled_from(list("ab .'\"\\{}[](*)fRnshTSdeifl\n\t")), max_size=200))
def test_any_page_has_a_text(text: str) -> None:
    for source in (f".TH A 1\n{text}", f".Dt A 1\n.{text}"):
        for section in sections(source):
            assert section.text == "\n".join(" ".join(line.split()) for line in section.text.split("\n"))
    plain = text.replace("\\", "")
    assert unescape(plain) == plain
