"""Long texts cut into blocks of tokens: whole sentences, fixed windows, or headings and speaker turns.

"sentences" is the sentence-block segmentation of SMITH (CIKM 2020, arXiv 2004.12297): blocks are filled
greedily with whole sentences. Here a sentence longer than a block is split over several, and sentences are
found by sentencex; the released code cuts it off (`compat=True` does too) and uses NLTK's Punkt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from retrieval.errors import UserError
from retrieval.longdoc.sentences import sentence_spans
from retrieval.longdoc.structure import units
from retrieval.longdoc.tokens import Offsets, TokenTable, token_tables
from retrieval.registry import register


class Block(NamedTuple):
    """text[start:end] is the block; `tokens` of it are kept, `dropped` are not.

    start, end: characters of the document's text. dropped: of a sentence that was cut off (compat), or of
    what follows the last block that `max_blocks` allows; 0 otherwise (but for a character that has more
    tokens than a block holds). tokens and dropped of a document's blocks add up to the tokens of the text,
    but for the overlap of windows and what would be a block of white space alone.
    """

    start: int
    end: int
    tokens: int
    dropped: int = 0


Span = tuple[int, int]  # first and last cut of a TokenTable


@register("sentences", kind="block splitter")
def sentences(
    texts: Sequence[str],
    offsets: Offsets,
    capacity: int,
    *,
    compat: bool = False,
    max_blocks: int | None = None,
    language: str = "en",
) -> list[list[Block]]:
    """Blocks of whole sentences, for each text: a sentence opens a new block where it does not fit.

    offsets: the tokenizer (see longdoc/tokens.py). capacity: tokens of a block, special ones not counted;
    SMITH's is its block length less 3. A sentence longer than that is split between words and its parts are
    filled in like sentences; with compat it stands alone, cut to `capacity` tokens. max_blocks: stop after so
    many. language: of the text (sentence_spans). A text without tokens has no blocks. Raises UserError for a
    capacity or max_blocks below 1.
    """
    _check(capacity=capacity, max_blocks=max_blocks)
    return [
        _finish(table, fill(_parts(table, capacity, compat, language), capacity), capacity, max_blocks)
        for table in token_tables(texts, offsets)
    ]


@register("windows", kind="block splitter")
def windows(
    texts: Sequence[str],
    offsets: Offsets,
    capacity: int,
    *,
    overlap: int = 0,
    max_blocks: int | None = None,
) -> list[list[Block]]:
    """Windows of at most `capacity` tokens that share at most `overlap` with the one before, for each text.

    Both ends move to white space, so that no word is cut, unless that would halve the window or the overlap's
    words are longer than it. Raises UserError where overlap is not below capacity, else as `sentences`.
    """
    _check(capacity=capacity, max_blocks=max_blocks)
    if not 0 <= overlap < capacity:
        raise UserError(f"overlap={overlap} of windows of {capacity} tokens; give 0 to {capacity - 1}")
    return [
        _finish(table, _windows(table, capacity, overlap), capacity, max_blocks)
        for table in token_tables(texts, offsets)
    ]


@register("structure", kind="block splitter")
def structure(
    texts: Sequence[str],
    offsets: Offsets,
    capacity: int,
    *,
    max_blocks: int | None = None,
    language: str = "en",
) -> list[list[Block]]:
    """Blocks along the text's own structure, for each text (longdoc/structure.py says what that is).

    A heading opens a block, and no block goes on past the next heading. Within a section, whole speaker turns
    and paragraphs are filled in greedily; one longer than `capacity` is filled in by sentences. Otherwise as
    `sentences`.
    """
    _check(capacity=capacity, max_blocks=max_blocks)
    return [
        _finish(table, _structure(table, capacity, language), capacity, max_blocks)
        for table in token_tables(texts, offsets)
    ]


def fill(parts: Iterable[Span], capacity: int) -> Iterator[Span]:
    """Greedy filling: parts that lie side by side become blocks.

    A part joins the open block if their tokens fit in together, and opens the next one otherwise; one beyond
    the capacity stands alone.
    """
    first, last = 0, 0
    for begin, end in parts:
        if last == first or end - first > capacity:
            if last > first:
                yield first, last
            first = begin
        last = end
    if last > first:
        yield first, last


def _sentences(table: TokenTable, first: int, last: int, language: str) -> Iterator[Span]:
    """The sentences of tokens first to last. A token that lies across two belongs to the later one."""
    start = table.place(first)
    spans = sentence_spans(table.text[start : table.place(last)], language)
    inner = [table.before(start + end) for _, end in spans[:-1]]
    yield from pairwise([first, *(cut for cut in inner if first < cut < last), last])


def _parts(table: TokenTable, capacity: int, compat: bool, language: str) -> Iterator[Span]:
    """The sentences, and the parts of those that are longer than a block."""
    for first, last in _sentences(table, 0, len(table), language):
        yield from [(first, last)] if compat else _split(table, first, last, capacity)


def _split(table: TokenTable, first: int, last: int, capacity: int) -> Iterator[Span]:
    while first < last:
        cut = table.cut(first, last, capacity)
        yield first, cut
        first = cut


def _windows(table: TokenTable, capacity: int, overlap: int) -> Iterator[Span]:
    first, last, size = 0, 0, len(table)
    while first < size:
        last = table.cut(first, size, capacity, last)
        yield first, last
        if last == size:
            return
        # A window that white space made shorter shares less, so that windows do not crawl.
        first = table.reopen(last - overlap * min(last - first, capacity) // capacity, last)


def _structure(table: TokenTable, capacity: int, language: str) -> Iterator[Span]:
    found = units(table.text)
    cuts = [0, *(table.before(unit.end) for unit in found[:-1]), len(table)]
    opening = [at for at, unit in enumerate(found) if unit.opens or not at]
    for begin, end in pairwise([*opening, len(found)]):
        parts: list[Span] = []
        for first, last in pairwise(cuts[begin : end + 1]):
            if last - first <= capacity:
                parts.append((first, last))
                continue
            for sentence in _sentences(table, first, last, language):
                parts += _split(table, *sentence, capacity)
        yield from fill(parts, capacity)


def _finish(table: TokenTable, spans: Iterable[Span], capacity: int, max_blocks: int | None) -> list[Block]:
    """Cuts to characters: between them, blocks take all of the text, white space at their ends excepted."""
    blocks: list[Block] = []
    reached = 0
    for first, last in spans:
        tokens = min(last - first, capacity)
        start, end = table.place(first), table.place(last)
        if tokens < last - first:
            end = int(table.ends[first + tokens - 1])
        part = table.text[start:end]
        start, end = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
        if start >= end:
            continue  # byte-level vocabularies have tokens of white space alone
        if len(blocks) == max_blocks:
            blocks[-1] = blocks[-1]._replace(dropped=blocks[-1].dropped + len(table) - reached)
            break
        blocks.append(Block(start, end, tokens, last - first - tokens))
        reached = last
    return blocks


def _check(*, capacity: int, max_blocks: int | None) -> None:
    for name, value in (("capacity", capacity), ("max_blocks", max_blocks)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value} of a block splitter; give 1 or more")
