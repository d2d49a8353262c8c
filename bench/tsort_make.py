"""TSort records of a local corpus, in Ada-LEval's form: python -m retrieval.bench.tsort_make SOURCE OUT.json.

A record is four segments of one document, which follow one another, in random order, between what stands
before and after them. Segments are whole sentences, of at most 17.5 % of the budget of tokens each, what
stands around them of 15 %: with 2,000 tokens segments of 350, as in Ada-LEval's textsort_2k.json. Records of
a document do not overlap; which are taken, and their orders, are drawn by the seed. Equal settings and source
give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from retrieval.bench.ada_leval import SEGMENTS
from retrieval.bench.arguments import positive
from retrieval.data.corpus import open_corpus
from retrieval.data.output import atomic
from retrieval.errors import RetrievalError, UserError
from retrieval.index.vocabulary import Vocabulary
from retrieval.longdoc.blocks import sentences
from retrieval.longdoc.splitter import words
from retrieval.longdoc.tokens import Offsets
from retrieval.types import Document

TOKENS, RECORDS = 2000, 200
_SEGMENT, _AROUND = 0.175, 0.15  # of the budget
_LEAST = 8  # tokens of a segment
_BATCH = 64  # documents that are cut together
_ASK = (
    "The four parts below are one passage of a text, in random order; what stands before and after it is "
    "given too. Reply with the right order, such as Answer: [4, 1, 3, 2]: first part 4, then part 1."
)


class Passage(NamedTuple):
    """Where a record is cut: a document, the character where it begins, and its six texts in order."""

    doc_id: str
    start: int
    texts: list[str]


def passages(documents: Iterable[Document], budget: int, offsets: Offsets) -> Iterator[Passage]:
    """Every passage that records can be made of, none of which overlap.

    offsets: of the tokens that are counted. Raises UserError for a budget too small.
    """
    segment = int(budget * _SEGMENT)
    if segment < _LEAST:
        raise UserError(
            f"{budget} tokens are too few for {SEGMENTS} segments; give {int(_LEAST / _SEGMENT) + 1}"
        )
    for some in _batches(documents):
        for document, blocks in zip(
            some, sentences([one.text for one in some], offsets, segment), strict=True
        ):
            for at in range(1, len(blocks) - SEGMENTS, SEGMENTS):
                inner = blocks[at : at + SEGMENTS]
                texts = [document.text[block.start : block.end] for block in inner]
                before = document.text[: inner[0].start].rstrip()
                after = document.text[inner[-1].end :].lstrip()
                around = int(budget * _AROUND)
                texts = [_last(before, around, offsets), *texts, _first(after, around, offsets)]
                yield Passage(document.doc_id, inner[0].start, [" ".join(text.split()) for text in texts])


def record(passage: Passage, order: Sequence[int]) -> dict[str, Any]:
    """A record as published. order: the numbers, from 1, of the parts as they are to be read."""
    before, *texts, after = passage.texts
    shown = [""] * SEGMENTS
    for text, number in zip(texts, order, strict=True):
        shown[number - 1] = text
    parts = [f"Part {number}: {text}" for number, text in enumerate(shown, 1)]
    prompt = "\n\n\n".join([_ASK, f"Before: {before}", *parts, f"After: {after}"])
    return {
        "book_id": passage.doc_id,
        "para_offset": passage.start,
        "prompt": prompt + "\n",
        "answer": list(order),
    }


def make(
    source: str, out: str, budget: int = TOKENS, most: int = RECORDS, vocabulary: str = "", seed: int = 0
) -> int:
    """Writes OUT and returns the number of records. Raises UserError, BadLine."""
    offsets = Vocabulary.load(vocabulary).offsets if vocabulary else words
    found = list(passages(open_corpus(source), budget, offsets))
    if not found:
        raise UserError(
            f"no document of {source} has {SEGMENTS + 2} segments of {int(budget * _SEGMENT)} tokens; give "
            "fewer --tokens, or longer documents"
        )
    random = np.random.default_rng(seed)
    chosen = sorted(random.permutation(len(found))[:most].tolist())
    records = [record(found[at], (random.permutation(SEGMENTS) + 1).tolist()) for at in chosen]
    with atomic(out) as write:
        write((json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace"))
    return len(records)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _last(text: str, tokens: int, offsets: Offsets) -> str:
    """The last so many tokens of a text."""
    text = text[-tokens * 40 :]  # none is longer on the mean
    spans = offsets([text])[0]
    return text[int(spans[-tokens, 0]) :] if len(spans) > tokens else text


def _first(text: str, tokens: int, offsets: Offsets) -> str:
    """The first so many tokens of a text."""
    text = text[: tokens * 40]
    spans = offsets([text])[0]
    return text[: int(spans[tokens - 1, 1])] if len(spans) > tokens else text


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.tsort_make", description=__doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a corpus of long documents, in any form that retrieve index takes")
    add("out", metavar="OUT.json")
    add("--tokens", type=positive, default=TOKENS, metavar="N", help="budget of a record (default: 2000)")
    add("--records", type=positive, default=RECORDS, metavar="N", help="at most so many (default: 200)")
    add("--vocabulary", default="", metavar="DIR", help="count this model's word pieces instead of words")
    add("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        count = make(given.source, given.out, given.tokens, given.records, given.vocabulary, given.seed)
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(f"{given.out}: {count:,} records\n")


if __name__ == "__main__":
    main()
