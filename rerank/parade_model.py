"""PARADE over block vectors: a transformer reads what query and blocks share and scores the document.

Li, Yates, MacAvaney, He, Sun: PARADE: Passage Representation Aggregation for Document Reranking (arXiv
2008.09093, 2020), the variant Transformer. What differs: there a cross-encoder makes a passage's vector,
here it is projected from the vectors q and b that a bi-encoder made of query and block, [q * b; |q - b|; b],
so that a document costs no pass of a language model; of each document the transformer reads the blocks that
are closest to the query; and the score is that of the best block (MaxP) plus what the transformer adds, which
is 0 before training. Blocks have no positions. Needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval.errors import UserError

_SCALE = 20.0  # of the best block's cosine at the beginning: 1 / 0.05, the usual temperature
_BUDGET = 4096  # blocks that are scored together, padding included


class ParadeConfig(NamedTuple):
    """dim of the encoder's vectors; hidden, layers, heads of the transformer; most: blocks that it reads."""

    dim: int
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    most: int = 16

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ParadeConfig:
        """From config.json. Raises UserError for sizes that no model has."""
        values = [config.get(name) for name in cls._fields]
        if not all(type(value) is int and value > 0 for value in values):
            raise UserError(f"a model of kind parade needs whole numbers {', '.join(cls._fields)}: {values}")
        found = cls(*values)  # type: ignore[arg-type]  # they were looked at
        if found.hidden % found.heads:
            raise UserError(f"{found.heads} heads do not divide hidden={found.hidden}; change one of them")
        return found


class ParadeModel(nn.Module):
    """The model."""

    def __init__(self, config: ParadeConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.project = nn.Linear(3 * config.dim, config.hidden)
        self.cls = nn.Parameter(torch.randn(config.hidden) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.hidden, config.heads, 4 * config.hidden, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.hidden), enable_nested_tensor=False
        )
        self.head = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale = nn.Parameter(torch.tensor([_SCALE]))

    def forward(self, queries: Tensor, blocks: Tensor, real: Tensor) -> Tensor:
        """float[n], the scores of n pairs of query and document.

        queries float[n, dim]; blocks float[n, longest, dim]; real bool[n, longest]: which are no padding. The
        best block of a document without any counts 0.
        """
        query = queries[:, None]
        best = (query * blocks).sum(2).masked_fill(~real, -torch.inf).amax(1)
        best = torch.where(real.any(1), best, 0.0)
        # Unit vectors have small elements; brought to a variance of 1, they suit a fresh layer.
        query, wide = query * self.config.dim**0.5, blocks * self.config.dim**0.5
        features = torch.cat([query * wide, (query - wide).abs(), wide], dim=2)
        first = self.cls.expand(len(queries), 1, -1)
        hidden = torch.cat([first, self.project(features)], dim=1)
        padding = torch.cat([real.new_zeros(len(queries), 1), ~real], dim=1)
        hidden = self.layers(hidden, src_key_padding_mask=padding)
        found: Tensor = self.scale * best + self.head(hidden[:, 0])[:, 0]
        return found


class Blocks(NamedTuple):
    """Block vectors of documents: float32[blocks, dim], int64[documents + 1] as in longdoc/pooling.py."""

    rows: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def closest(
        self, queries: NDArray[np.float32], documents: NDArray[np.int64], most: int
    ) -> tuple[Tensor, Tensor]:
        """(float[n, longest, dim], bool[n, longest]): of documents[i] the `most` blocks nearest queries[i].

        Side by side with what pads them, in the document's order.
        """
        starts = self.offsets[documents]
        sizes = self.offsets[documents + 1] - starts
        real = np.arange(max(1, min(most, int(sizes.max(initial=0))))) < sizes[:, None]
        found = np.zeros((*real.shape, self.rows.shape[1]), np.float32)
        for at, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
            own = self.rows[start : start + size]
            if size > most:
                own = own[np.sort(np.argpartition(-(own @ queries[at]), most - 1)[:most])]
            found[at, : len(own)] = own
        return torch.from_numpy(found), torch.from_numpy(real)


def score_blocks(
    model: ParadeModel,
    queries: NDArray[np.float32],
    query: NDArray[np.int64],
    blocks: Blocks,
    document: NDArray[np.int64],
) -> NDArray[np.float32]:
    """float32[n]: the scores of the pairs queries[query[i]], document[i]; without gradients.

    Documents of about equal length are scored together, in memory that does not grow with n.
    """
    device = model.cls.device
    most = model.config.most
    sizes = np.minimum(np.diff(blocks.offsets)[document], most)
    order = np.argsort(-sizes, kind="stable")
    found = np.empty(len(document), np.float32)
    at = 0
    with torch.inference_mode():
        while at < len(order):
            batch = order[at : at + max(1, _BUDGET // max(1, int(sizes[order[at]])))]
            asked = queries[query[batch]]
            rows, real = blocks.closest(asked, document[batch], most)
            scores = model(torch.from_numpy(asked).to(device), rows.to(device), real.to(device))
            found[batch] = scores.float().cpu().numpy()
            at += len(batch)
    return found
