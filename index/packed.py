"""Packed batches: sequences side by side without padding, laid out for attention. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_HALF = (torch.float16, torch.bfloat16)
_WASTE_CPU = 1 << 12  # masked cells of the attention matrix that cost as much as one more call
_WASTE_GPU = 1 << 22


class Packed(NamedTuple):
    """B sequences of T tokens in all: sequence i has tokens offsets[i] to offsets[i + 1].

    ids, positions, segments: int64[T]; offsets: int64[B + 1]; all on one device. longest: tokens of the
    longest sequence. `hidden[packed.offsets[:-1]]` are the rows of the first tokens, [CLS].
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    offsets: Tensor
    longest: int


def pack(
    sequences: Sequence[Sequence[int] | NDArray[Any]],
    segments: Sequence[Sequence[int] | NDArray[Any]] | None = None,
    device: torch.device | str | None = None,
) -> Packed:
    """Put sequences of token ids side by side; positions count from 0 in each; segments are 0 unless given.

    Raises ValueError for an empty sequence (one has at least its [CLS]) and where segments do not match.
    """
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    if len(lengths) and not lengths.min():
        raise ValueError(f"sequence {int(lengths.argmin())} is empty; one has at least its [CLS]")
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    total = int(offsets[-1])
    ids = _join(sequences, total)
    kinds = np.zeros(total, dtype=np.int64) if segments is None else _join(segments, total)
    if segments is not None and [len(s) for s in segments] != lengths.tolist():
        raise ValueError("segments must have the lengths of their sequences")
    positions = np.arange(total, dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    on = [torch.from_numpy(array).to(device) for array in (ids, positions, kinds, offsets)]
    return Packed(on[0], on[1], on[2], on[3], int(lengths.max(initial=0)))


def _join(sequences: Sequence[Sequence[int] | NDArray[Any]], total: int) -> NDArray[np.int64]:
    if not total:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([np.asarray(s) for s in sequences], dtype=np.int64, casting="same_kind")


def plan_batches(lengths: Sequence[int] | NDArray[Any], tokens: int = 4096) -> list[NDArray[np.int64]]:
    """Batches of at most `tokens` tokens (one sequence may have more), as indices sorted by length.

    Every index is in exactly one batch; sequences of one length keep their order. 4,096 tokens are enough to
    keep a CPU busy, and are faster there than more; a GPU likes 16,384 and more.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    batches, start, filled = [], 0, 0
    for at, size in enumerate(sizes[order].tolist()):
        if at > start and filled + size > tokens:
            batches.append(order[start:at])
            start, filled = at, 0
        filled += size
    if start < len(order):
        batches.append(order[start:])
    return batches


class Block(NamedTuple):
    """Sequences that attend in one call: `longest` rows each, rows beyond a sequence's end masked."""

    sequences: int
    longest: int
    members: Tensor  # int64, which sequences
    rows: slice | Tensor  # rows of the packed batch, sequence by sequence
    mask: Tensor | None  # bool[sequences, 1, 1, longest]: what is a token; or float, added to the attention

    def take(self, x: Tensor) -> Tensor:
        return x[self.rows] if isinstance(self.rows, slice) else x.index_select(0, self.rows)


class Spread:
    """How a packed batch is laid out for attention: blocks of equal or nearly equal length.

    Sorted batches (plan_batches) come out as slices; others are gathered. `back` undoes it. On a CUDA device
    that multiplies 16-bit numbers, attend() needs no blocks: one kernel reads the packed rows as they are.
    """

    def __init__(self, packed: Packed) -> None:
        self._offsets, self._longest = packed.offsets, packed.longest
        self._bias = False
        offsets = packed.offsets.cpu().numpy()
        lengths = np.diff(offsets)
        device = packed.ids.device
        order = np.argsort(lengths, kind="stable")
        self.blocks: list[Block] = []
        places = np.empty(len(packed.ids), dtype=np.int64)
        at, plain = 0, True
        for group in _groups(lengths[order], padded=device.type != "cpu"):
            members = order[group]
            sizes, starts = lengths[members], offsets[members]
            longest = int(sizes[-1])
            columns = np.arange(longest)
            real = columns < sizes[:, None]
            grid = starts[:, None] + np.minimum(columns, sizes[:, None] - 1)
            places[grid[real]] = at + np.flatnonzero(real)
            even = bool(sizes[0] == longest)
            rows: slice | Tensor
            if even and bool((members == np.arange(members[0], members[0] + len(members))).all()):
                rows = slice(int(starts[0]), int(starts[0]) + grid.size)
                plain &= at == rows.start
            else:
                rows, plain = torch.from_numpy(grid.ravel()).to(device), False
            mask = None if even else torch.from_numpy(real[:, None, None]).to(device)
            which = torch.from_numpy(members).to(device)
            self.blocks.append(Block(len(members), longest, which, rows, mask))
            at += grid.size
        self._places = None if plain else torch.from_numpy(places).to(device)

    def biased(self, distances: Callable[[int], Tensor]) -> Spread:
        """The same with distances(n), float[1, heads, n, n], added to the attention of blocks of n rows."""
        other = copy(self)
        other._bias, other.blocks = True, []
        for block in self.blocks:
            bias = distances(block.longest)
            if block.mask is not None:
                bias = bias.masked_fill(~block.mask, -torch.inf)
            other.blocks.append(block._replace(mask=bias))
        return other

    def attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
        """Attention of each sequence to itself: [T, H] of queries, keys and values [T, H]."""
        if query.is_cuda and query.dtype in _HALF and not (self._bias or dropout):
            from torch.nn.attention.varlen import varlen_attn  # seconds to import, and no use on a CPU

            split = (heads, query.shape[1] // heads)
            ends = self._offsets.to(torch.int32)
            q, k, v = (x.view(-1, *split) for x in (query, key, value))
            mixed = varlen_attn(q, k, v, ends, ends, self._longest, self._longest)
            return cast(Tensor, mixed).flatten(1)
        parts = []
        for block in self.blocks:
            shape = (block.sequences, block.longest, heads, -1)
            q, k, v = (block.take(x).view(shape).transpose(1, 2) for x in (query, key, value))
            mask = block.mask
            if mask is not None and mask.is_floating_point():
                mask = mask.to(q.dtype)
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
            parts.append(mixed.transpose(1, 2).reshape(-1, query.shape[1]))
        return self.back(parts) if parts else query

    def back(self, parts: list[Tensor]) -> Tensor:
        """The rows of the blocks, in the order of the packed batch."""
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)
        return rows if self._places is None else rows.index_select(0, self._places)


def _groups(lengths: NDArray[np.int64], *, padded: bool) -> list[slice]:
    """Slices of ascending lengths that are worth one attention call.

    On a CPU a little padding is cheaper than one more call; on a GPU much more is.
    """
    groups: list[slice] = []
    start = total = 0
    for at, length in enumerate(lengths.tolist()):
        waste = length * (at - start) - total
        if at > start and waste * length > (_WASTE_GPU if padded else _WASTE_CPU):
            groups.append(slice(start, at))
            start, total = at, 0
        total += length
    if start < len(lengths):
        groups.append(slice(start, len(lengths)))
    return groups
