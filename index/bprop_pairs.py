"""What PROP and B-PROP read in a training step: [CLS] words [SEP] document [SEP], whole words masked.

Both instances of a pair stand side by side and share nothing: the published code cut a document's tokens in
place, so that a later pair of it saw a shorter text. Only the document is masked, never the word set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.vocabulary import Vocabulary

Ids = NDArray[np.int32]


class Instance(NamedTuple):
    """One sequence. word: the place of each token's word in the document; -1 for all that is no document."""

    ids: Ids
    segments: NDArray[np.int64]
    word: NDArray[np.int64]


class Masked(NamedTuple):
    """Ids with masks in them, which places were masked (rising) and what stood there."""

    ids: Ids
    places: NDArray[np.int64]
    labels: Ids


def instance(
    chosen: Ids, document: Ids, word: NDArray[np.int64], limit: int, vocabulary: Vocabulary
) -> Instance:
    """[CLS] chosen [SEP] document [SEP] of at most `limit` tokens: the document is cut from its end.

    chosen: ids of a word set; document: ids; word: the place of each of the document's tokens' word. Of a set
    that leaves no room for a document, the end is cut too.
    """
    chosen = chosen[: max(limit - 4, 0)]
    room = max(limit - 3 - len(chosen), 0)
    document, word = document[:room], word[:room]
    cls, sep = vocabulary.cls, vocabulary.sep
    ids = np.concatenate([[cls], chosen, [sep], document, [sep]]).astype(np.int32)
    head = len(chosen) + 2
    segments = np.repeat(np.array([0, 1]), [head, len(document) + 1])
    places = np.concatenate([np.full(head, -1), word, [-1]]).astype(np.int64)
    return Instance(ids, segments, places)


def mask_words(
    one: Instance, vocabulary: Vocabulary, rng: np.random.Generator, *, share: float = 0.15, most: int = 60
) -> Masked:
    """Masks whole words of the document: `share` of its tokens, at most `most`, and one word at least.

    A word is taken with all its pieces or not at all; one that would go beyond the number is passed over. Of
    the chosen tokens 80 % become [MASK], 10 % a random piece, 10 % stay; all are to be predicted. Special
    pieces in a document ([UNK]) are never chosen. No random piece is a special one.
    """
    special = vocabulary.special
    able = one.word >= 0
    if special:
        able &= ~np.isin(one.ids, list(special))
    places = np.flatnonzero(able)
    number = min(most, max(1, round(share * len(places)))) if len(places) else 0
    words = one.word[places]
    taken: list[NDArray[np.int64]] = []
    left = number
    order = rng.permutation(np.unique(words)).tolist()
    for word in order:
        if left == 0:
            break
        pieces = places[words == word]
        if len(pieces) <= left:
            taken.append(pieces)
            left -= len(pieces)
    if order and not taken:
        taken.append(places[words == order[0]])
    chosen = np.sort(np.concatenate([np.empty(0, np.int64), *taken]))
    ids = one.ids.copy()
    kind = rng.random(len(chosen))
    ids[chosen[kind < 0.8]] = vocabulary.mask
    swapped = chosen[kind >= 0.9]
    ids[swapped] = _ordinary(vocabulary, len(swapped), rng)
    return Masked(ids, chosen, one.ids[chosen])


def _ordinary(vocabulary: Vocabulary, count: int, rng: np.random.Generator) -> Ids:
    """Random pieces, none of them special."""
    drawn = rng.integers(vocabulary.size, size=count).astype(np.int32)
    special = list(vocabulary.special)
    while (bad := np.isin(drawn, special)).any():
        drawn[bad] = rng.integers(vocabulary.size, size=int(bad.sum()))
    return drawn


def side_by_side(
    pairs: Sequence[tuple[Ids, Ids, Ids, NDArray[np.int64]]], limit: int, vocabulary: Vocabulary
) -> list[Instance]:
    """The instances of pairs (better set, worse set, document, word of its tokens): two each, in turn."""
    made = []
    for better, worse, document, word in pairs:
        made.append(instance(better, document, word, limit, vocabulary))
        made.append(instance(worse, document, word, limit, vocabulary))
    return made
