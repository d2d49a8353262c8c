"""Pooling of a decoder's states into one vector, by the attention mask and never by token ids or columns.

last           the state of the last token, which has seen all others (RepLLaMA, Ma et al., SIGIR 2024)
mean           mean over the tokens, those of an instruction left out where the encoder says so (LLM2Vec)
weighted-mean  mean weighted by position: later tokens of a causal model have seen more (Muennighoff, "SGPT",
               2022, section 3)
echo           the text stands twice; mean over the second copy and what follows it, which has seen the first
               (Springer et al., "Repetition Improves Language Model Embeddings", ICLR 2025)
echo-last      the same with the last token alone
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POOLINGS = ("last", "mean", "weighted-mean", "echo", "echo-last")
ECHOES = ("echo", "echo-last")


def pad(ids: list[NDArray[np.int32]], fill: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """(ids int64[n, t], mask bool[n, t]): sequences side by side, filled up on the right, or on the left."""
    longest = max((len(row) for row in ids), default=0)
    table = np.full((len(ids), longest), fill, np.int64)
    mask = np.zeros((len(ids), longest), np.bool_)
    for at, row in enumerate(ids):
        where = slice(longest - len(row), longest) if left else slice(0, len(row))
        table[at, where] = row
        mask[at, where] = True
    return torch.from_numpy(table), torch.from_numpy(mask)


def positions(mask: Tensor) -> Tensor:
    """int64[n, t]: which token of its sequence each column is, from 0; 0 where there is none yet."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def pool(hidden: Tensor, mask: Tensor, skip: Tensor, pooling: str) -> Tensor:
    """float32[n, d] of states [n, t, d]; mask bool[n, t], skip int64[n]: leading tokens that do not count.

    Every sequence has at least one token that counts. Padding may stand on either side.
    """
    at = positions(mask)
    if pooling in ("last", "echo-last"):
        last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)  # the last column that holds a token
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    weights = (mask & (at >= skip[:, None])).float()
    if pooling == "weighted-mean":
        weights = weights * (at + 1)
    total = torch.einsum("nt,ntd->nd", weights, hidden.float())
    return total / weights.sum(1, keepdim=True)
