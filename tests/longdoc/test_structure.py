"""Structure: turns, paragraphs and headings, and blocks along them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from hypothesis import given

from retrieval.longdoc.blocks import structure
from retrieval.longdoc.structure import units
from tests.longdoc.splitting import pieces, texts, words


def found(text: str) -> list[tuple[bool, str]]:
    return [(unit.opens, text[unit.start : unit.end].strip()) for unit in units(text)]


@given(texts)
def test_units_are_the_text(text: str) -> None:
    assert "".join(text[unit.start : unit.end] for unit in units(text)) == text


def test_turns_and_paragraphs() -> None:
    text = "\nGrad C: Yes .\nWell .\nPhD D: No : not that\nhttp://x.y is a link\n\n"
    text += "A paragraph\nof two lines.\nnote: x"
    assert found(text) == [
        (False, "Grad C: Yes .\nWell ."),
        (False, "PhD D: No : not that\nhttp://x.y is a link"),
        (False, "A paragraph\nof two lines.\nnote: x"),
    ]


def test_headings() -> None:
    text = "# Title\n## Part\nText here.\nNAME\nls - list\n\n"
    text += "2.1 Scope of work\n\nIt is.\n1. buy milk\nLast\n----\nEnd."
    assert found(text) == [
        (True, "# Title\n## Part\nText here."),
        (True, "NAME\nls - list"),
        (True, "2.1 Scope of work\n\nIt is.\n1. buy milk"),
        (True, "Last\n----\nEnd."),
    ]
    assert not any(
        opens for opens, _ in found("3. This one ends as a sentence does.\n\nOK\n\nA: B\n\n#no\n\n----\n")
    )


def test_blocks_begin_at_headings_and_turns() -> None:
    text = "# One\nAnn: a b c\nBob: d e\nAnn: fa go hi is it. Kit let me not on pa qi.\n# Two\nr s"
    (blocks,) = structure([text], words, 9)
    assert [text[block.start : block.end] for block in blocks] == [
        "# One\nAnn: a b c\nBob: d e",
        "Ann: fa go hi is it.",
        "Kit let me not on pa qi.",
        "# Two\nr s",
    ]
    (blocks,) = structure([text], words, 100)
    assert [text[block.start : block.end] for block in blocks] == [
        text[: text.index("\n# Two")],
        "# Two\nr s",
    ]


def test_meetings(collections: Path) -> None:
    """In a transcript, a block begins inside a turn only where the turn is longer than a block."""
    with gzip.open(collections / "qmsum" / "corpus.jsonl.gz", "rt") as file:
        text = json.loads(next(file))["text"]
    turns = [len(spans) for spans in pieces(text.split("\n"))]
    (blocks,) = structure([text], pieces, 256)
    assert sum(block.tokens for block in blocks) == sum(turns)
    inside = [block for block in blocks if block.start and text[block.start - 1] != "\n"]
    assert len(inside) <= sum(-(-turn // 256) for turn in turns if turn > 256)
    assert len(blocks) < 2 * sum(turns) / 256
