"""Gradient cache: the gradient of a loss over a large batch in the memory of one small chunk.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021. A loss
that compares all texts of a batch needs all their vectors at once, but not all their graphs: the vectors are
made without one; the loss gives its gradient by each vector; then chunk after chunk is embedded again, with
the graph, and its share of the gradient goes down to the weights. One more forward pass, and the result is
that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Embed = Callable[[NDArray[np.int64]], Tensor]


def embed_cached(
    embed: Embed, chunks: Sequence[NDArray[np.int64]], device: torch.device, seed: int
) -> Tensor:
    """The vectors [n, d] of the texts 0 to n - 1, in order, whose gradients are made chunk by chunk.

    embed    gives the vectors of some of the texts, by number; it is called twice for each chunk
    chunks   numbers of texts, each in exactly one
    seed     each chunk draws its random numbers (dropout) from a generator seeded with this and its number,
             the same both times; torch's generator is left as if nothing had been drawn

    backward() of what is computed from them adds to the .grad of the parameters that embed() uses (hence
    torch.autograd.grad() does not see them). The autocast that is on at the call is on both times.
    """
    anchor = torch.zeros((), device=device, requires_grad=True)  # else there would be nothing to go back to
    vectors: Tensor = _Cached.apply(anchor, embed, list(chunks), device, seed)  # type: ignore[no-untyped-call]
    return vectors


def embed_plainly(embed: Embed, chunks: Sequence[NDArray[np.int64]]) -> Tensor:
    """The vectors [n, d] of the texts 0 to n - 1, in order, chunk by chunk, with all their graphs."""
    vectors = torch.cat([embed(chunk) for chunk in chunks])
    return vectors[_back(chunks).to(vectors.device)]


def _back(chunks: Sequence[NDArray[np.int64]]) -> Tensor:
    """Where each text is among the chunks' texts."""
    return torch.from_numpy(np.argsort(np.concatenate(chunks), kind="stable"))


class _Cached(torch.autograd.Function):
    """Vectors without a graph forward; the chunks again, with their graphs, backward."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        embed: Embed,
        chunks: list[NDArray[np.int64]],
        device: torch.device,
        seed: int,
    ) -> Tensor:
        kind = device.type
        ctx.embed, ctx.chunks, ctx.device, ctx.seed = embed, chunks, device, seed
        ctx.cast = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        parts = []
        # Without autocast's cache, which may keep weights cast here, outside any graph, for use in one.
        with torch.autocast(kind, enabled=ctx.cast[0], dtype=ctx.cast[1], cache_enabled=False):
            for at, chunk in enumerate(chunks):
                with _seeded(device, seed + at):
                    parts.append(embed(chunk).detach())
        return torch.cat(parts)[_back(chunks).to(device)]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        for at, chunk in enumerate(ctx.chunks):
            with torch.enable_grad(), _seeded(ctx.device, ctx.seed + at):
                # A context for each chunk, so that its cast weights go with its graph.
                with torch.autocast(ctx.device.type, enabled=ctx.cast[0], dtype=ctx.cast[1]):
                    vectors = ctx.embed(chunk)
                rows = gradient[torch.from_numpy(chunk).to(ctx.device)]
                torch.autograd.backward(vectors, rows.to(vectors.dtype))
        return None, None, None, None, None


class _seeded:
    """with: torch draws from this seed; afterwards its generators are as before."""

    def __init__(self, device: torch.device, seed: int) -> None:
        devices = [device] if device.type == "cuda" else []
        self._fork = torch.random.fork_rng(devices)
        self._seed = seed

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *details: Any) -> None:
        self._fork.__exit__(*details)
