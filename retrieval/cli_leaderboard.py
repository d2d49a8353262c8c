"""The verbs leaderboard and verify: rows as a page, and whether a row can be recomputed."""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from retrieval.cli_common import JSON_HELP, note, size_in_bytes, write_json
from retrieval.cli_parser import Parser, whole
from retrieval.errors import UserError
from retrieval.render import printable

if TYPE_CHECKING:
    from retrieval.bench.verification import Verification

_SHOWN = 12  # differences that people see; --json has all


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
        cited = sum(bool(entry.quoted) for entry in section.entries)
        counts = [
            (len(section.entries) - cited, "system"),
            (len(section.pairs), "test"),
            (cited, "quoted line"),
        ]
        words = (f"{count} {word}{'s' * (count != 1)}" for count, word in counts if count)
        print(printable(f"{section.title}: {', '.join(words)}"))
    for warning in dict.fromkeys(section.warning for section in made.sections):
        if warning:
            note(f"warning: {warning}")
    print(f"{given.out.rstrip('/')}/index.html")


def verify_options(parser: Parser) -> None:
    parser.positional("row", "ROW", "a row file, as `retrieve bench` writes")
    parser.option("--data", metavar="DIR", help="the suite's files (default: where the row says)")
    parser.option("--index", metavar="DIR", help="the index (default: where the row says)")
    parser.option("--work", metavar="DIR", help="build the index here if the row's is gone")
    parser.option(
        "--sample", metavar="N", read=whole, default=20,
        help="queries to ask again (default: 20; all where the system is made of run files)",
    )  # fmt: skip
    parser.option("--seed", metavar="N", read=_number, default=0, help="of the sample (default: 0)")
    parser.option("--memory", metavar="SIZE", default="1GB", help="what building an index may hold")
    parser.flag("--json", JSON_HELP)


def verify(given: Namespace) -> None:
    """Recompute a sample of a row's queries, and compare data, index, models and every figure.

    Exit codes: 0 all agree; 2 something differs, which is said, or is not there. Other versions and times
    are told, and make no difference. A row's paths are as seen from where its command ran.
    """
    memory = size_in_bytes(given.memory)
    from retrieval.bench.row import read_row
    from retrieval.bench.verify import VerifySettings, verify

    row = read_row(given.row)
    found = verify(row, VerifySettings(given.data, given.index, given.work, given.sample, given.seed, memory))
    if given.json:
        write_json(_as_json(found))
    else:
        _show(found)
    if found.differences:
        count = len(found.differences)
        raise UserError(f"{given.row}: {count:,} {'value differs' if count == 1 else 'values differ'}")


def _as_json(found: Verification) -> dict[str, object]:
    return {
        "system": found.system, "task": found.task, "queries": found.queries, "of": found.of,
        "agrees": not found.differences, "agreed": found.agreed,
        "differences": [vars(difference) for difference in found.differences], "notes": found.notes,
    }  # fmt: skip


def _show(found: Verification) -> None:
    print(printable(f"{found.task}, {found.system}: {found.queries:,} of {found.of:,} queries asked again"))
    for what in found.agreed:
        print(printable(f"  same     {what}"))
    for difference in found.differences[:_SHOWN]:
        old, new = (f"{value:.6f}" if isinstance(value, float) else str(value)[:80]
                    for value in (difference.row, difference.now))  # fmt: skip
        print(printable(f"  differs  {difference.what}: {old} in the row, {new} now"))
    if len(found.differences) > _SHOWN:
        print(f"  ... and {len(found.differences) - _SHOWN:,} more (--json shows all)")
    for text in found.notes:
        print(printable(f"  note     {text}"))


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ArgumentTypeError(f"{text!r} is no whole number from 0 to 999999999")
    return int(text)
