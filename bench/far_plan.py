"""What far-relevant documents hold: passages surveyed without their texts, distractors dealt, depths."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.data.corpus import open_corpus
from retrieval.errors import UserError
from retrieval.index.vocabulary import Vocabulary

WORDS = "words"
DEPTHS = ("first", "middle", "last")  # and beyond-N
MISSING = -1  # the ordinal of no passage

Count = Callable[[Sequence[str]], list[int]]
"""Texts to their numbers of tokens."""

_WORD = re.compile(r"\w+")
_BATCH = 512  # passages whose tokens are counted together
_TRIES = 16  # passages looked at for one that still fits


class Depth(NamedTuple):
    """Where the relevant passage stands. beyond: at least so many tokens before it (of `beyond-N`)."""

    name: str
    beyond: int = 0

    @classmethod
    def parse(cls, text: str) -> Depth:
        """Reads first, middle, last or beyond-N. Raises UserError."""
        found = re.fullmatch(r"beyond-(\d{1,9})", text)
        if text not in DEPTHS and (found is None or int(found[1]) < 1):
            raise UserError(
                f"unknown depth {text!r}; give {', '.join(DEPTHS)} or beyond-N, such as beyond-512"
            )
        return cls(text, int(found[1]) if found else 0)

    def place(self, before: NDArray[np.int64]) -> int | None:
        """How many distractors stand before the passage; None where they are too few tokens.

        before: int64[distractors + 1], the tokens of the first 0, 1, 2 ... distractors.
        """
        if self.name == "first":
            return 0
        if self.name == "last":
            return len(before) - 1
        if self.name == "middle":
            return int(np.argmin(np.abs(2 * before - before[-1])))
        at = int(np.searchsorted(before, self.beyond))
        return at if at < len(before) else None


@dataclass(frozen=True)
class Survey:
    """The passages of a corpus, by ordinal, without their texts.

    tokens  int64[n]
    texts   uint64[n], a hash of each text: equal where the texts are
    placed  ordinal of each wanted id
    """

    tokens: NDArray[np.int64]
    texts: NDArray[np.uint64]
    placed: dict[str, int]


class Composition(NamedTuple):
    """A document: the ordinal of its relevant passage (-1: none) and those of its distractors, in order."""

    relevant: int
    distractors: list[int]


class Deck:
    """Deals passages in a random order; a new shuffled pack is opened when the last is used up."""

    def __init__(self, cards: NDArray[np.int64], tokens: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._cards, self._tokens, self._rng = cards, tokens, rng
        self._waiting: deque[int] = deque()

    def deal(self, room: int) -> list[int]:
        """Different passages of at most `room` tokens together; what does not fit goes to the next call.

        It ends when 16 passages in turn did not fit, or all passages are in it.
        """
        taken: dict[int, None] = {}
        back: list[int] = []
        unfit = 0
        while unfit < _TRIES and len(taken) + unfit < len(self._cards):
            if not self._waiting:
                self._waiting.extend(self._rng.permutation(self._cards).tolist())
            card = self._waiting.popleft()
            if card not in taken and self._tokens[card] <= room:
                taken[card] = None
                room -= int(self._tokens[card])
                unfit = 0
                continue
            back.append(card)
            unfit += card not in taken
        self._waiting.extendleft(reversed(back))
        return list(taken)


def count_words(texts: Sequence[str]) -> list[int]:
    r"""Words `\w+` of each text: no tokenizer of subwords makes fewer tokens of it."""
    return [len(_WORD.findall(text)) for text in texts]


def counter(vocabulary: str) -> tuple[Count, str]:
    """(how tokens are counted, what they are called): words, or the word pieces of a model directory."""
    if not vocabulary:
        return count_words, WORDS
    pieces = Vocabulary.load(vocabulary)
    return lambda texts: [len(ids) for ids in pieces.encode(list(texts))], f"word pieces of {pieces.sha256}"


def survey(folder: str, wanted: set[str], count: Count) -> Survey:
    """Goes through a corpus once. Raises UserError for a wanted passage that it lacks."""
    tokens, texts = array("q"), bytearray()
    placed: dict[str, int] = {}
    for batch in open_corpus(folder).batches(_BATCH):
        for at, (_, document) in enumerate(batch, len(tokens)):
            if document.doc_id in wanted:
                placed[document.doc_id] = at
        passages = [document.full_text() for _, document in batch]
        tokens.extend(count(passages))
        for text in passages:
            texts += hashlib.blake2b(text.strip().encode(), digest_size=8).digest()
    missing = sorted(wanted - set(placed))
    if missing:
        raise UserError(
            f"{len(missing)} relevant passages are not in the corpus of {folder}, first {missing[0]!r}; "
            "take them out of the judgements, or complete the corpus"
        )
    return Survey(np.array(tokens, np.int64), np.frombuffer(texts, np.uint64), placed)


def compose(found: Survey, length: int, documents: int | None, seed: int, unit: str) -> list[Composition]:
    """What each document holds; in all of them the passage and its distractors have at most `length` tokens.

    documents: how many; those beyond the relevant passages hold distractors alone. Raises UserError.
    """
    relevant = np.unique(np.array(list(found.placed.values()), np.int64))
    total = len(relevant) if documents is None else documents
    if total < len(relevant):
        raise UserError(
            f"the queries have {len(relevant)} relevant passages, each a document; give --documents "
            f"{len(relevant)} or more, or fewer --queries"
        )
    names = {at: name for name, at in found.placed.items()}
    longest = int(relevant[np.argmax(found.tokens[relevant])])
    if found.tokens[longest] >= length:
        raise UserError(
            f"--length {length} leaves no room beside passage {names[longest]!r} of {found.tokens[longest]} "
            f"{unit}; give a greater length, or --longest to leave out queries with such passages"
        )
    first = np.zeros(len(found.texts), bool)
    first[np.unique(found.texts, return_index=True)[1]] = True  # of equal passages one is enough
    spare = first & (found.tokens > 0) & ~np.isin(found.texts, found.texts[relevant])
    cards = np.flatnonzero(spare)
    supply = int(found.tokens[cards].sum())
    if supply < length:
        raise UserError(
            f"passages that are relevant to none of the queries have {supply} {unit} in all, too few for "
            f"--length {length}; give fewer --queries, a smaller length or a larger collection"
        )
    rng = np.random.default_rng([seed, 1])
    deck = Deck(cards, found.tokens, rng)
    held = np.full(total, MISSING, np.int64)
    held[: len(relevant)] = relevant
    made = []
    for at in rng.permutation(held).tolist():
        room = length - (int(found.tokens[at]) if at != MISSING else 0)
        made.append(Composition(at, deck.deal(room)))
        if not made[-1].distractors:
            raise UserError(
                f"no distractor fits beside passage {names.get(at, '')!r} within {length} {unit}; give a "
                "greater --length"
            )
    return made


def places(found: Survey, made: Sequence[Composition], depth: Depth, unit: str) -> list[int]:
    """How many distractors stand before each document's passage. Raises UserError for an impossible depth."""
    chosen = []
    for document in made:
        before = np.concatenate([[0], np.cumsum(found.tokens[document.distractors])])
        place = depth.place(before) if document.relevant != MISSING else 0
        if place is None:
            name = next(name for name, at in found.placed.items() if at == document.relevant)
            raise UserError(
                f"depth {depth.name} is impossible: the document of passage {name!r} has {before[-1]} {unit} "
                f"beside it; give a --length some way above {depth.beyond + int(found.tokens.max())}, or "
                "leave the depth out"
            )
        chosen.append(place)
    return chosen
