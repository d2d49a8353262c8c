"""The verbs leaderboard and verify: rows as a page, and whether a row can be recomputed."""

from __future__ import annotations

from argparse import Namespace

from retrieval.cli_common import note
from retrieval.cli_parser import Parser


def leaderboard_options(parser: Parser) -> None:
    parser.positional(
        "rows", "ROWS...", "row files, or folders of them, as `retrieve bench` writes", count="*"
    )
    parser.option("-o", "--out", metavar="DIR", required=True, help="folder for index.html and the others")
    parser.option(
        "--baseline",
        metavar="NAME",
        help="the system to test against at first (default: BM25, else the lowest)",
    )
    parser.option("--measure", metavar="M", help="the measure to lead with, where a task has it")
    parser.option("--title", metavar="T", default="Leaderboard", help="the page's title")
    parser.flag("--quoted", "add figures of the literature on the same tasks, marked, with their source")
    parser.option("--markdown", metavar="FILE", help="where Markdown goes (default: DIR/leaderboard.md)")
    parser.option("--latex", metavar="FILE", help="where LaTeX goes (default: DIR/leaderboard.tex)")


def leaderboard(given: Namespace) -> None:
    """Write one page of all rows: intervals, corrected paired tests, quality against time, every query.

    DIR/index.html holds everything and needs no network; leaderboard.md, leaderboard.tex and rows.json lie
    beside it. Equal rows give equal bytes.
    """
    from retrieval.bench.leaderboard import write_leaderboard
    from retrieval.bench.leaderboard_quoted import quoted_rows
    from retrieval.bench.row import read_rows
    from retrieval.errors import UserError

    if not given.rows:
        raise UserError("ROWS is missing; give row files or folders\nsee: retrieve leaderboard --help")
    made = write_leaderboard(
        read_rows(given.rows),
        given.out,
        quoted_rows() if given.quoted else (),
        baseline=given.baseline,
        measure=given.measure,
        title=given.title,
        markdown_file=given.markdown,
        latex_file=given.latex,
    )
    for section in made.sections:
        ours = sum(not entry.quoted for entry in section.entries)
        print(
            f"{section.title}: {ours} systems, {len(section.pairs)} tests, "
            f"{len(section.entries) - ours} quoted lines"
        )
    for warning in dict.fromkeys(section.warning for section in made.sections):
        if warning:
            note(f"warning: {warning}")
    print(f"{given.out.rstrip('/')}/index.html")
