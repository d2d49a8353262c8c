"""What M2-BERT is pre-trained on: a corpus as one stream of tokens, the mixture of texts, masked words.

Saad-Falcon et al. (ICML 2024), section 4.1: of the sequences 30 % are natural texts at their own length, and
70 % are cut from the texts joined to the full length. Short ones alone teach nothing of long distances, long
ones alone nothing of how short texts look. Torch is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.corpus_tokens import corpus_tokens
from retrieval.index.examples import Tokens

if TYPE_CHECKING:
    from retrieval.index.trainer import TaskOptions
    from retrieval.index.vocabulary import Vocabulary


def read_stream(options: TaskOptions, words: Vocabulary, documents: int, facts: Mapping[str, Any]) -> Tokens:
    """The texts of options.corpus, each with a [SEP] at its end, below options.out or found there.

    documents: at most so many; 0: all. facts: what they depend on. Raises UserError where there are fewer
    than two, or the directory holds others; BadLine; Locked.
    """

    def tokenise(texts: Sequence[str]) -> list[NDArray[np.int32]]:
        encoded = words.encode(list(texts))
        return [np.append(ids, words.sep).astype(np.int32) for ids in encoded if len(ids)]

    return corpus_tokens(options, "texts", "tokenised corpus", documents, facts, tokenise)


def mixture(
    ends: NDArray[np.int64], length: int, variable: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """int64[n, 2]: the sequences of an epoch as places [start, end) of the stream, shuffled.

    ends      int64[d + 1], where each document begins, and the stream ends
    length    tokens of a full sequence, its [CLS] not counted
    variable  share of sequences that are documents from their start; the others are the stream in pieces of
              `length`, which begin at another place in every epoch. With variable=1: each document once

    Documents are drawn without a repetition until all have been drawn.
    """
    starts, total = ends[:-1], int(ends[-1])
    whole = np.zeros((0, 2), np.int64)
    if variable < 1:
        first = int(rng.integers(0, min(length, max(1, total - length + 1))))
        begin = first + length * np.arange(max(1, (total - first) // length), dtype=np.int64)
        whole = np.stack([begin, np.minimum(begin + length, total)], axis=1)
    wanted = len(starts) if variable >= 1 else round(len(whole) * variable / (1 - variable))
    rounds = [rng.permutation(len(starts)) for _ in range(-(-wanted // len(starts)))]
    drawn = np.concatenate([np.empty(0, np.int64), *rounds])[:wanted].astype(np.int64)
    natural = np.stack([starts[drawn], np.minimum(ends[drawn + 1], starts[drawn] + length)], axis=1)
    return rng.permutation(np.concatenate([whole, natural]))


def frame(piece: NDArray[np.int32], words: Vocabulary) -> NDArray[np.int32]:
    """[CLS] and a piece of the stream, its last token made [SEP]."""
    ids = np.concatenate([[words.cls], piece]).astype(np.int32)
    ids[-1] = words.sep
    return ids


class Masked(NamedTuple):
    """A sequence with words hidden: ids as the model reads them, places that are asked for, the answers."""

    ids: NDArray[np.int32]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]


def mask(ids: NDArray[np.int32], words: Vocabulary, share: float, rng: np.random.Generator) -> Masked:
    """Devlin et al.'s rule: of `share` of the tokens, 80 % become [MASK], 10 % any piece, 10 % stay.

    Special tokens are never asked for; of a sequence with another token at least one is.
    """
    open_to = np.flatnonzero(~np.isin(ids, list(words.special)))
    count = min(len(open_to), max(1, round(share * len(open_to))))
    places = np.sort(rng.choice(open_to, count, replace=False)) if count else open_to
    labels = ids[places].astype(np.int64)
    draw = rng.random(count)
    hidden = ids.copy()
    hidden[places[draw < 0.8]] = words.mask
    changed = places[(draw >= 0.8) & (draw < 0.9)]
    hidden[changed] = rng.integers(0, words.size, len(changed))
    return Masked(hidden, places.astype(np.int64), labels)


def mask_all(
    sequences: Sequence[NDArray[np.int32]], words: Vocabulary, share: float, rng: np.random.Generator
) -> list[Masked]:
    """mask() of each."""
    return [mask(ids, words, share, rng) for ids in sequences]
