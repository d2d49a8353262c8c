"""SMITH's network: a BERT over blocks of tokens, a transformer over the blocks' vectors. Needs torch.

Yang et al., "Beyond 512 Tokens: Siamese Multi-depth Transformer-based Hierarchical Encoder for Long-Form
Document Matching" (CIKM 2020, arXiv 2004.12297). What differs, unless `compat` asks for the released code:
no dense layers behind pooling, whose ReLU kept every cosine above 0; sums, means and attention over a
document's own blocks alone, at length 1; a document's vector from all of its blocks, not from the first one;
a document level that begins as the identity. There is no padding at either level: all blocks of a batch are
one packed call, all documents another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.bert import Bert, BertConfig
from retrieval.index.packed import Packed, Spread, pack
from retrieval.index.pooling import pool

CHOICES = {
    "pooling": ("cls", "mean"), "document": ("first", "token", "mean"),
    "combine": ("normal", "sum_concat", "mean_concat", "attention"),
}  # fmt: skip
_MOST = 1 << 16


@dataclass(frozen=True)
class SmithConfig:
    """The document level, and how the two meet; the sentence level has BERT's own configuration.

    block       tokens of a block at most, [CLS] and two [SEP] counted
    positions   learned positions of blocks; block i has number i modulo this, so no document is too long
    layers, heads, intermediate    of the document level; its width is the sentence level's
    pooling     a block's tokens to one: the first, or their mean
    document    which output stands for a document: the first block's, that of a learned token, or the mean
    combine     its vector alone, or behind the sum, mean or learned mean of the blocks' vectors
    attention_size   of the learned mean
    compat      as the released code: see the module's docstring. A document then has `loop` blocks; what is
                missing is padding, which sums, means and attention take in, and which are not scaled
    """

    block: int = 128
    positions: int = 512
    layers: int = 3
    heads: int = 4
    intermediate: int = 512
    pooling: Literal["cls", "mean"] = "mean"
    document: Literal["first", "token", "mean"] = "mean"
    combine: Literal["normal", "sum_concat", "mean_concat", "attention"] = "normal"
    attention_size: int = 256
    compat: bool = False
    loop: int = 48

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], sentence: BertConfig) -> SmithConfig:
        """From "retrieval" of config.json; other keys are ignored. Raises UserError."""
        values = {each.name: given.get(each.name, each.default) for each in fields(cls)}
        for name, value in values.items():
            if name in CHOICES:
                if value not in CHOICES[name]:
                    raise UserError(f"{name}={value}: SMITH has {', '.join(CHOICES[name])}")
            elif name == "compat":
                if not isinstance(value, bool):
                    raise UserError(f"compat={value}: give true or false")
            elif isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
                raise UserError(f"{name}={value!r}: SMITH takes a whole number, 1 to {_MOST}")
        made = cls(**values)
        if not 4 <= made.block <= sentence.longest:
            raise UserError(f"block={made.block}: the sentence level reads 4 to {sentence.longest} tokens")
        if sentence.hidden_size % made.heads:
            raise UserError(f"heads={made.heads}: they do not divide a width of {sentence.hidden_size}")
        if made.compat and (made.pooling, made.document) != ("cls", "first"):
            raise UserError(
                "compat=true is the released model, with pooling=cls and document=first; give these, or "
                "leave compat out"
            )
        if made.compat and made.loop > made.positions:
            raise UserError(f"loop={made.loop}: there are {made.positions} positions; give fewer")
        return made

    @property
    def normalised(self) -> bool:
        """Whether documents' vectors have length 1."""
        return not self.compat or self.combine == "normal"


class Mixed(NamedTuple):
    """What the document level makes of n blocks of d documents.

    blocks  float[n, H], its outputs at the blocks
    pooled  float[d, H], what stands for each document
    """

    blocks: Tensor
    pooled: Tensor


class Smith(nn.Module):
    """The network. sentence level: blocks(); document level: mix() and documents()."""

    def __init__(self, sentence: BertConfig, config: SmithConfig) -> None:
        super().__init__()
        self.config = config
        self.sentence = Bert(sentence)
        width = sentence.hidden_size
        self.dim = width if config.combine == "normal" else 2 * width
        self.block_head = _Head(width, compat=config.compat)
        upper = BertConfig(
            vocab_size=1, hidden_size=width, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, intermediate_size=config.intermediate,
            hidden_act=sentence.hidden_act, hidden_dropout_prob=sentence.hidden_dropout_prob,
            attention_probs_dropout_prob=sentence.attention_probs_dropout_prob,
            max_position_embeddings=1, type_vocab_size=1, layer_norm_eps=sentence.layer_norm_eps,
        )  # fmt: skip
        self.positions = nn.Embedding(config.positions, width)
        nn.init.normal_(self.positions.weight, std=sentence.initializer_range)
        self.norm = nn.LayerNorm(width, eps=sentence.layer_norm_eps)
        self.dropout = nn.Dropout(sentence.hidden_dropout_prob)
        self.encoder = Bert(upper).encoder
        # A new document level hands on what it gets, and learns from there; a token of its own has to look.
        if not config.compat and config.document != "token":
            for name, weight in self.encoder.named_parameters():
                if name.endswith("output.dense.weight"):
                    nn.init.zeros_(weight)
        start = torch.empty(1, width).normal_(std=sentence.initializer_range)
        self.token = nn.Parameter(start) if config.document == "token" else None
        self.document_head = _Head(width, compat=config.compat)
        if config.combine == "attention":
            self.attention = nn.Sequential(
                nn.Linear(width, config.attention_size), nn.Tanh(), nn.Linear(config.attention_size, 1, False)
            )

    def blocks(self, packed: Packed) -> Tensor:
        """float32[n, H]: the vector of each block, at length 1. packed: token ids of n blocks."""
        if self.config.pooling == "cls":
            return cast(Tensor, self.block_head(self.sentence.first(packed)[0]))
        return self.pooled(self.sentence(packed), packed)

    def pooled(self, hidden: Tensor, packed: Packed) -> Tensor:
        """As blocks(), from the sentence level's states of the tokens, float[T, H]."""
        return cast(Tensor, self.block_head(pool(hidden, packed.offsets, (self.config.pooling,))))

    def padding(self, pad: int) -> Tensor:
        """float32[1, H]: what the released code takes for a block that is not there.

        Its mask is 0 everywhere, which softmax does not see: a block of `config.block` times [PAD], read as
        text.
        """
        device = self.positions.weight.device
        return self.blocks(pack([[pad] * self.config.block], device=device))

    def mix(self, blocks: Tensor, offsets: Tensor, begin: Tensor | None = None) -> Mixed:
        """The document level. blocks: float[n, H]; offsets: int64[d + 1], where each document's begin.

        begin: int64[d], the number of each document's first block, where it is a piece of a longer one.
        """
        counts = offsets.diff()
        count = len(counts)
        owner = torch.repeat_interleave(counts, output_size=len(blocks))
        place = torch.arange(len(blocks), device=blocks.device)
        numbers = place - offsets[owner] if begin is None else place - (offsets[:-1] - begin)[owner]
        hidden = blocks + self.positions(numbers % self.config.positions).to(blocks.dtype)
        if self.token is not None:  # in front of each document's blocks
            place = place + owner + 1
            offsets = offsets + torch.arange(count + 1, device=blocks.device)
            order = torch.empty(len(blocks) + count, dtype=torch.int64, device=blocks.device)
            order[place] = torch.arange(len(blocks), device=blocks.device)
            order[offsets[:-1]] = torch.arange(count, device=blocks.device) + len(blocks)
            hidden = torch.cat([hidden, self.token.to(hidden.dtype).expand(count, -1)])[order]
        hidden = self.dropout(self.norm(hidden))
        longest = int(offsets.diff().max()) if count else 0
        ids = torch.arange(len(hidden), device=blocks.device)
        spread = Spread(Packed(ids, ids, ids, offsets, longest))
        hidden = self.encoder.last()(self.encoder.before_last(hidden, spread), spread)
        if self.token is not None:
            return Mixed(hidden[place], hidden[offsets[:-1]])
        return Mixed(hidden, pool(hidden, offsets, ("cls" if self.config.document == "first" else "mean",)))

    def documents(self, blocks: Tensor, offsets: Tensor, padding: Tensor | None = None) -> Tensor:
        """float32[d, dim]: the vectors of documents; see mix(). padding: of compat, what padding() gives."""
        document: Tensor = self.document_head(self.mix(blocks, offsets).pooled)
        if self.config.combine == "normal":
            return document
        if self.config.compat:
            if padding is None:
                raise ValueError("compat takes in what padding() gives")
            whole = torch.cat([self._combined_all(blocks, offsets, padding), document], dim=1)
            return whole
        whole = torch.cat([self._combined(blocks, offsets), document], dim=1)
        return functional.normalize(whole, dim=1)

    def _combined(self, blocks: Tensor, offsets: Tensor) -> Tensor:
        """float32[d, H]: sum, mean or learned mean of each document's blocks."""
        blocks = blocks.float()
        weights = torch.ones(len(blocks), 1, device=blocks.device)
        if self.config.combine == "attention":
            scores = self.attention(blocks).float()
            owner = torch.repeat_interleave(offsets.diff(), output_size=len(blocks))
            peak = torch.segment_reduce(scores.detach(), "max", offsets=offsets, axis=0)
            weights = torch.exp(scores - peak[owner])
        summed = torch.segment_reduce(blocks * weights, "sum", offsets=offsets, axis=0)
        if self.config.combine == "sum_concat":
            return summed
        return summed / torch.segment_reduce(weights, "sum", offsets=offsets, axis=0)

    def _combined_all(self, blocks: Tensor, offsets: Tensor, padding: Tensor) -> Tensor:
        """The same over `loop` slots, of which those without a block hold padding."""
        counts = offsets.diff()
        owner = torch.repeat_interleave(counts, output_size=len(blocks))
        slots = padding.float()[None].repeat(len(counts), self.config.loop, 1)
        place = torch.arange(len(blocks), device=blocks.device) - offsets[owner]
        slots = slots.index_put((owner, place), blocks.float())
        if self.config.combine == "sum_concat":
            return slots.sum(1)
        if self.config.combine == "mean_concat":
            return slots.mean(1)
        return (torch.softmax(self.attention(slots).float(), dim=1) * slots).sum(1)


class _Head(nn.Module):
    """Behind pooling: rows at length 1, float[n, H] -> float32[n, H]; compat: of relu(dense(tanh(dense)))."""

    def __init__(self, width: int, *, compat: bool) -> None:
        super().__init__()
        self.compat = compat
        if compat:
            self.pooler = nn.Linear(width, width)
            self.dense = nn.Linear(width, width)
            for linear in (self.pooler, self.dense):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)

    def forward(self, rows: Tensor) -> Tensor:
        if self.compat:
            rows = torch.relu(self.dense(torch.tanh(self.pooler(rows))))
        return functional.normalize(rows.float(), dim=1)
