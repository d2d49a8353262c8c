"""SMITH's losses: matching of two documents, masked words of blocks, masked blocks of documents. Needs torch.

Yang et al. (CIKM 2020), sections 3.3 to 3.5. What differs, unless `compat` asks for the released code: the
matching head learns its scale and threshold (6 times a cosine of no less than 0 finds every pair a match);
words count equally whatever their block; masked blocks and their negatives are real blocks alone, without a
bias for each place of the batch. All in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

AMPLIFIER = 6.0
_SMALL = 1e-5


class Matching(nn.Module):
    """The logit that two documents match: scale * cosine + shift; compat: 6 * cosine.

    The threshold of .5 is then a cosine of -shift / scale.
    """

    def __init__(self, *, compat: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(AMPLIFIER), requires_grad=not compat)
        self.shift = nn.Parameter(torch.tensor(0.0), requires_grad=not compat)

    def forward(self, cosines: Tensor) -> Tensor:
        return self.scale * cosines.float() + self.shift


def matching_loss(logits: Tensor, labels: Tensor, positive_weight: float = 1.0) -> Tensor:
    """Sigmoid cross-entropy, mean over pairs. logits: float[n]; labels: bool[n], or the grades 0, 1, 2."""
    wanted = (labels > 0).float()
    losses = functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (losses * (1 + (positive_weight - 1) * wanted)).mean()


def word_loss(losses: Tensor, slots: Tensor, *, compat: bool = False) -> Tensor:
    """Of the cross-entropies of masked words, float[m]: their mean.

    slots: int64[m], the place in its document of each word's block. compat: the mean over the batch for each
    place, summed over places.
    """
    losses = losses.float()
    if not compat:
        return losses.sum() / max(1, len(losses))
    places = int(slots.max()) + 1 if len(slots) else 0
    summed = losses.new_zeros(places).index_add(0, slots, losses)
    counts = torch.bincount(slots, minlength=places)
    return (summed / (counts + _SMALL)).sum()


def block_loss(
    predicted: Tensor, wanted: Tensor, *, bias: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of telling each masked block's vector from those of all blocks masked with it.

    predicted, wanted: float[m, H], what the document level predicts and the vectors that were masked. It is
    ln m where predictions are zero, and 0 for no blocks. compat has a bias, float[m], for each place of the
    batch, and weights, float[m], 0 at places without a block, which stay negatives all the same.
    """
    if not len(predicted):
        return predicted.sum() * 0.0
    logits = predicted.float() @ wanted.float().T
    if bias is not None:
        logits = logits + bias
    losses = functional.cross_entropy(
        logits, torch.arange(len(logits), device=logits.device), reduction="none"
    )
    if weights is None:
        return losses.mean()
    return (losses * weights).sum() / (weights.sum() + _SMALL)


class MaskedBlocks(nn.Module):
    """What stands in for masked blocks, and what makes predictions of the document level's outputs.

    mask      float[1, H], learned
    bias      of compat: one number for each of `slots` places of the batch
    """

    def __init__(self, width: int, *, slots: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.empty(1, width).normal_(std=0.02))
        self.dense = nn.Linear(width, width)
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(slots)) if slots else None

    def hide(self, blocks: Tensor, places: Tensor) -> Tensor:
        """float[n, H]: the blocks with the vector `mask` at some places, int64[m]."""
        hidden = self.mask.to(blocks.dtype).expand(len(places), -1)
        return blocks.index_copy(0, places, hidden)

    def forward(self, mixed: Tensor) -> Tensor:
        """float[m, H]: predictions, of the document level's outputs at masked places."""
        return cast(Tensor, self.LayerNorm(functional.gelu(self.dense(mixed))))


def draw_blocks(counts: Sequence[int] | NDArray[Any], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[m], ascending: k places of each document's blocks, of all blocks laid side by side.

    counts: of each document. At least one block of a document stays; one of a single block has none masked.
    """
    sizes = np.asarray(counts, np.int64)
    starts = np.cumsum(sizes) - sizes
    drawn = [
        start + rng.choice(size, min(k, size - 1), replace=False)
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
        if size > 1
    ]
    return np.sort(np.concatenate([np.empty(0, np.int64), *drawn]))


def draw_slots(documents: int, slots: int, k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64[documents, k], as the released code draws: of each document's slots, be there a block or not."""
    return np.stack([np.sort(rng.choice(slots, k, replace=False)) for _ in range(documents)])
