"""Token states to one vector a text: pooling over packed rows, and the modules that follow it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.layout import Step


def pool(hidden: Tensor, offsets: Tensor, modes: Sequence[str], skip: Tensor | None = None) -> Tensor:
    """float32[n, len(modes) * H] of packed rows hidden[T, H]: text i has rows offsets[i] to offsets[i + 1].

    modes    cls (the first row), max, mean, mean_sqrt_len (sum by the root of the count), weightedmean (row
             p, counted from 1, weighs p), lasttoken; concatenated in this order
    skip     int64[n], leading rows of each that are left out (a prompt); the weights of weightedmean still
             count from the first. At least one row stays
    """
    hidden = hidden.float()
    starts, lengths = offsets[:-1], offsets.diff()
    position = None
    if skip is not None and bool(skip.any()):
        skip = torch.minimum(skip, lengths - 1)
        position = _positions(offsets)
        owner = torch.repeat_interleave(lengths)
        kept = (position >= skip[owner]).nonzero()[:, 0]
        hidden, position = hidden[kept], position[kept]
        lengths = lengths - skip
        offsets = functional.pad(lengths.cumsum(0), (1, 0))
        starts = offsets[:-1]
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(hidden[starts])
        elif mode == "lasttoken":
            parts.append(hidden[offsets[1:] - 1])
        elif mode in ("mean", "max"):
            parts.append(torch.segment_reduce(hidden, mode, offsets=offsets, axis=0))
        elif mode == "mean_sqrt_len":
            summed = torch.segment_reduce(hidden, "sum", offsets=offsets, axis=0)
            parts.append(summed / lengths[:, None].float().sqrt())
        else:
            position = _positions(offsets) if position is None else position
            weights = position[:, None].float() + 1
            summed = torch.segment_reduce(hidden * weights, "sum", offsets=offsets, axis=0)
            parts.append(summed / torch.segment_reduce(weights, "sum", offsets=offsets, axis=0))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _positions(offsets: Tensor) -> Tensor:
    """int64[T]: the place of each row in its text."""
    rows = torch.arange(int(offsets[-1]), device=offsets.device)
    return rows - torch.repeat_interleave(offsets[:-1], offsets.diff())


class Head(nn.Module):
    """The modules after pooling, one after another; vectors of length 1 at the end where `normalise`."""

    def __init__(self, steps: Sequence[Step], width: int, *, normalise: bool) -> None:
        super().__init__()
        self.normalise, self.pooled = normalise, width
        self.steps = nn.ModuleList()
        for step in steps:
            wanted = step.config.get("in_features", step.config.get("dimension", width))
            if wanted != width:
                raise UserError(
                    f"{os.path.join(step.folder, 'config.json')!r} takes vectors of {wanted} numbers and "
                    f"gets {width}; its files are of different models"
                )
            if step.kind == "dense":
                width = step.config["out_features"]
                self.steps.append(Dense(wanted, width, step))
            else:
                self.steps.append(_Normalise() if step.kind == "normalise" else Norm(width))
        self.width = width

    def forward(self, rows: Tensor) -> Tensor:
        for step in self.steps:
            rows = step(rows)
        return functional.normalize(rows, dim=1) if self.normalise else rows


class Dense(nn.Module):
    """linear and an activation; parameters are named as in sentence-transformers' file."""

    def __init__(self, width: int, out: int, step: Step) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out, bias=step.config.get("bias", True) is True)
        self.activation = getattr(nn, step.config["activation"])()

    def forward(self, rows: Tensor) -> Tensor:
        return cast(Tensor, self.activation(self.linear(rows)))


class Norm(nn.Module):
    """LayerNorm; parameters are named as in sentence-transformers' file."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor) -> Tensor:
        return cast(Tensor, self.norm(rows))


class _Normalise(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return functional.normalize(rows, dim=1)
