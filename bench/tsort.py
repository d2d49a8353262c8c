"""Ada-LEval's TSort by pairs of segments: python -m retrieval.bench.tsort FILE --scorer "cross(DIR)".

A record is four segments of a text in random order, with what stands before and after them. For each of the
20 pairs that may be neighbours a scorer says how well the second follows the first; of the 24 orders the one
with the largest sum is the answer. So a re-ranker, which reads two passages, can do a task of long contexts.

scorer  a stage that reads texts, `cross(DIR)`, `biencoder(DIR, reads=passage)`, `likelihood`: the end of the
        first segment is its query, the beginning of the second its document. Or `lm(DIR)`: a decoder's log
        likelihood of that beginning after that end

The score is the share of records whose whole order is right, with its bootstrap interval; guessing gives 1/24
(4.2 %). What is named at each place is reported beside it, as a scorer may prefer a place of the prompt.
`python -m retrieval.bench.tsort_make` makes records of a local corpus.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.ada_leval import SEGMENTS, Shuffled, order_bias, read_shuffled
from retrieval.bench.arguments import positive
from retrieval.bench.statistics import bootstrap
from retrieval.errors import RetrievalError, UserError
from retrieval.pipeline import parse, parse_params
from retrieval.progress import Progress
from retrieval.stage import Given, Stage, lacks_documents, with_documents
from retrieval.types import Document, Query, Run

_LABELS = ("Before", *(f"Part {number}" for number in range(1, SEGMENTS + 1)), "After")
# The greedy start leaves the instruction alone, which holds a sample of the same form.
_PROMPT = re.compile(
    r"\A.*^[ \t]*" + r"(.*?)^[ \t]*".join(f"{re.escape(label)}:" for label in _LABELS) + r"(.*)\Z",
    re.S | re.M,
)
_BEFORE, _AFTER = -1, SEGMENTS  # in place of a segment's number
_WORD = re.compile(r"\S+")
_ORDERS = [list(order) for order in permutations(range(SEGMENTS))]
# The neighbours that any order may have.
PAIRS = [
    *((_BEFORE, part) for part in range(SEGMENTS)),
    *permutations(range(SEGMENTS), 2),
    *((part, _AFTER) for part in range(SEGMENTS)),
]

Scorer = Callable[[Sequence[tuple[str, str]]], NDArray[np.float64]]
"""(first, second) of each pair -> how well the second follows."""


class Segments(NamedTuple):
    """What a TSort prompt holds."""

    before: str
    parts: list[str]
    after: str


def segments(record: Shuffled) -> Segments:
    """The texts of a record's prompt. Raises UserError where it has another form."""
    found = _PROMPT.match(record.prompt)
    texts = [text.strip() for text in found.groups()] if found else []
    if found is None or not all(texts[1:-1]):
        raise UserError(
            f"record {record.record_id}: the prompt has no Before:, Part 1: to Part {SEGMENTS}: and After: "
            "at beginnings of lines; give a file of Ada-LEval's TSort"
        )
    return Segments(texts[0], texts[1:-1], texts[-1])


def pair_texts(found: Segments, words: int) -> list[tuple[str, str]]:
    """(end of the first, beginning of the second) of PAIRS, so many words each."""

    def text(part: int) -> str:
        if part in (_BEFORE, _AFTER):
            return found.before if part == _BEFORE else found.after
        return found.parts[part]

    return [(_end(text(first), words), _beginning(text(second), words)) for first, second in PAIRS]


def best_order(scores: Sequence[float] | NDArray[Any]) -> list[int]:
    """The order of numbers from 1 whose neighbours score most, of all 24; scores: of PAIRS.

    Of equal orders the first one of the alphabet.
    """
    known = dict(zip(PAIRS, np.asarray(scores, np.float64).tolist(), strict=True))

    def total(order: list[int]) -> float:
        return float(sum(known[pair] for pair in pairwise([_BEFORE, *order, _AFTER])))

    return [part + 1 for part in max(_ORDERS, key=total)]


def open_scorer(text: str) -> Scorer:
    """The scorer that --scorer names. Raises UserError, UnknownName, CompositionError."""

    decoder = re.fullmatch(r"\s*lm\((.*)\)\s*", text, re.S)
    if decoder is not None:
        from retrieval.bench.tsort_lm import LmScorer

        params: Mapping[str, Any] = parse_params(decoder[1])
        if "model" not in params or not set(params) <= {"model", "precision"}:
            raise UserError(f"{text}: write lm(DIR) or lm(DIR, precision=bfloat16)")
        return LmScorer(**params)
    stage = parse(text, given=True)
    if not lacks_documents(stage):
        raise UserError(f"{text} reads no texts; give a re-ranker that does, such as cross(DIR), or lm(DIR)")
    return lambda pairs: _by_stage(stage, pairs)


def _by_stage(stage: Stage, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """Each pair as a query of one document. A pair without a text on either side scores 0."""
    held = {str(at): Document(str(at), second) for at, (_, second) in enumerate(pairs)}
    asked = [Query(str(at), first) for at, (first, second) in enumerate(pairs) if first and second]
    given = Run.from_dict({query.query_id: {query.query_id: 0.0} for query in asked})
    reading = with_documents(stage, lambda names: [held[name] for name in names])
    scores = np.zeros(len(pairs))
    for name, hits in (Given(given) >> reading)(asked).items():
        scores[int(name)] = hits[0].score if hits else 0.0
    return scores


def measure(
    records: Sequence[Shuffled], scorer: Scorer, words: int, progress: Callable[[int], None] | None = None
) -> list[list[int]]:
    """The order that pairs of segments give each record."""
    found = []
    for record in records:
        found.append(best_order(scorer(pair_texts(segments(record), words))))
        if progress is not None:
            progress(1)
    return found


def report(
    records: Sequence[Shuffled], orders: Sequence[Sequence[int] | None], seed: int = 0
) -> dict[str, Any]:
    """{"records", "accuracy", "low", "high", "chance", "neighbours", ...} of orders; None: none was named.

    neighbours: the share of the three borders between segments that are right, a milder measure
    """
    values = [float(order == record.order) for order, record in zip(orders, records, strict=True)]
    near = [
        len({*pairwise(order or ())} & {*pairwise(record.order)}) / (SEGMENTS - 1)
        for order, record in zip(orders, records, strict=True)
    ]
    mean, low, high = bootstrap(values, seed=seed)
    return {
        "records": len(values), "accuracy": mean, "low": low, "high": high, "chance": 1 / len(_ORDERS),
        "neighbours": float(np.mean(near)), **order_bias(records, orders),
    }  # fmt: skip


def _end(text: str, words: int) -> str:
    spans = [match.start() for match in _WORD.finditer(text)]
    return text[spans[-words] :].strip() if len(spans) > words else text.strip()


def _beginning(text: str, words: int) -> str:
    spans: Iterator[int] = (match.end() for match in _WORD.finditer(text))
    ends = [end for end, _ in zip(spans, range(words), strict=False)]
    return text[: ends[-1]].strip() if ends else ""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.tsort", description=__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="textsort_2k.json and so on, or what tsort_make wrote")
    add("--scorer", required=True, metavar="STAGE", help="cross(DIR), likelihood, biencoder(DIR), lm(DIR)")
    add("--words", type=positive, default=64, metavar="N", help="of either side of a border (default: 64)")
    add("--records", type=positive, metavar="N", help="the first N (default: as published)")
    add("--seed", type=int, default=0, help="of the interval")
    given = parser.parse_args(arguments)
    try:
        records, warnings = read_shuffled(given.file, given.records)
        scorer = open_scorer(given.scorer)
        with Progress("sorting", len(records), unit="records") as bar:
            orders = measure(records, scorer, given.words, bar.update)
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")
    sys.stdout.write(json.dumps({"scorer": given.scorer, **report(records, orders, given.seed)}) + "\n")


if __name__ == "__main__":
    main()
