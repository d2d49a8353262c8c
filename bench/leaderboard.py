"""leaderboard: rows become a folder: one page, the same as Markdown and LaTeX, and the rows themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from retrieval.bench.leaderboard_board import Board, board
from retrieval.bench.leaderboard_page import page
from retrieval.bench.leaderboard_text import latex, markdown
from retrieval.bench.row import BOARD, Row
from retrieval.data.output import atomic
from retrieval.errors import UserError


def write_leaderboard(
    rows: Sequence[Row],
    out: str | os.PathLike[str],
    quoted: Iterable[Row] = (),
    *,
    baseline: str | None = None,
    measure: str | None = None,
    title: str = "Leaderboard",
    markdown_file: str | None = None,
    latex_file: str | None = None,
) -> Board:
    """Writes index.html, leaderboard.md, leaderboard.tex and rows.json into `out`; equal rows, equal bytes.

    Arguments as `leaderboard_board.board` takes them; the two files replace the place of the texts. Raises
    as it does, and UserError for a place that cannot be written.
    """
    made = board(rows, quoted, baseline=baseline, measure=measure, title=title)
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {os.fspath(out)!r}: {error.strerror}") from None
    texts = {
        folder / "index.html": page(made),
        Path(markdown_file or folder / "leaderboard.md"): markdown(made),
        Path(latex_file or folder / "leaderboard.tex"): latex(made),
        folder / BOARD: _rows(made),
    }
    for place, text in texts.items():
        with atomic(place) as write:
            write(text.encode())
    return made


def _rows(made: Board) -> str:
    """All rows that the page shows, one a line, in its order."""
    lines = [json.dumps(entry.row) for section in made.sections for entry in section.entries]
    return "[\n" + ",\n".join(lines) + "\n]\n"
