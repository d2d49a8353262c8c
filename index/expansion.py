"""TILDE as a document expander: the most likely terms that a passage does not hold yet (TILDEv2, section 3).

The m terms of highest likelihood are counted before filtering: those that stand in the passage already and
those of the expansion stop list (generated from the vocabulary, see vocabulary.py) are then taken out, so a
passage gains fewer than m terms, each once, most likely first. Equal likelihoods are ordered by term id, so
that the terms for a smaller m begin those for a larger one.

Differs from the official code: `##s` is looked up in the vocabulary, where the official rule excludes id
2015 whatever stands there; ids are int32, where int16 made id 40000 negative.

Zhuang and Zuccon: Fast Passage Re-ranking with Contextualized Exact Term Matching and Efficient Passage
Expansion. arXiv 2108.08513, 2021.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def id_mask(size: int, ids: Iterable[int]) -> NDArray[np.bool_]:
    """bool[size], true at the ids; those outside the vocabulary are left out."""
    wanted = np.fromiter(ids, np.int64)
    mask = np.zeros(size, bool)
    mask[wanted[(wanted >= 0) & (wanted < size)]] = True
    return mask


def top_ids(logits: torch.Tensor, m: int) -> NDArray[np.int32]:
    """The m largest of each row of [n, V] in descending order, int32[n, min(m, V)]; ties by ascending id."""
    import torch

    m = min(m, logits.shape[1])
    if m <= 0:
        return np.empty((logits.shape[0], 0), np.int32)
    best, found = torch.topk(logits, min(m + 1, logits.shape[1]), dim=1)
    values, ids = best.float().cpu().numpy(), found.cpu().numpy().astype(np.int32)
    tied = np.flatnonzero((values[:, 1:] == values[:, :-1]).any(1))
    if len(tied):
        order = np.lexsort((ids[tied], -values[tied]), axis=1)
        ids[tied] = np.take_along_axis(ids[tied], order, 1)
    # Of terms that are equal at the border topk takes any: such a row is sorted whole.
    for row in np.flatnonzero(values[:, m - 1] == values[:, m]) if values.shape[1] > m else ():
        ids[row, :m] = np.argsort(-logits[row].float().cpu().numpy(), kind="stable")[:m]
    return ids[:, :m]


def new_terms(
    top: NDArray[np.int32], passages: Sequence[NDArray[Any]], excluded: NDArray[np.bool_]
) -> list[NDArray[np.int32]]:
    """What each passage gains: of top int32[n, m] those that are neither in its ids nor excluded bool[V]."""
    rows = np.repeat(np.arange(len(passages)), [len(passage) for passage in passages])
    seen = np.tile(excluded, (len(passages), 1))
    if len(rows):
        seen[rows, np.concatenate(passages)] = True
    keep = ~np.take_along_axis(seen, top.astype(np.int64), 1)
    ends = np.cumsum(keep.sum(1))
    return np.split(top[keep], ends[:-1])


def expand(
    logits: torch.Tensor, passages: Sequence[NDArray[Any]], m: int, excluded: NDArray[np.bool_]
) -> list[NDArray[np.int32]]:
    """The terms that each passage gains, int32 each, most likely first.

    logits    [n, V], TILDE's for each passage
    passages  the WordPiece ids of each, with or without special tokens
    m         terms looked at, before filtering
    excluded  bool[V], the expansion stop list as a mask
    """
    return new_terms(top_ids(logits, m), passages, excluded)


def expanded_sequence(
    passage: NDArray[Any], gained: NDArray[Any], cls: int, sep: int, length: int
) -> NDArray[np.int32]:
    """What TILDEv2 reads: [CLS] passage [SEP] gained [SEP], at most `length` ids; without gain one [SEP].

    A passage that leaves no room pushes the least likely terms out.
    """
    room = length - 2
    body = [passage, np.array([sep]), gained] if len(gained) else [passage]
    inner = np.concatenate(body)[:room]
    return np.concatenate([[cls], inner, [sep]]).astype(np.int32)
