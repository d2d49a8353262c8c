"""BERT for inference on a CPU: weights laid out once for the processor, what follows a product fused into it.

The same computation as bert.py, from its parameters: queries, keys and values in one product; GELU and the
residual inside the product that they follow (oneDNN's post-operations, where torch has them); in float32 or
bfloat16, sums of attention and LayerNorm in float32. Where first tokens alone are asked for, the last layer
makes no keys and no values: their matrices are applied to the queries and to what attention has summed up.
Needs torch, no compiler.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.index.bert import Bert
from retrieval.index.packed import Packed, Spread

_ROWS = 4096  # of a product that weights are laid out for


class _Linear:
    """x W' + b, then an activation, or a sum with a second tensor."""

    def __init__(self, weight: Tensor, bias: Tensor, activation: str, *, packed: bool) -> None:
        self._bias, self._activation = bias, activation
        self._weight = weight.contiguous()
        self._packed = packed
        if packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed:
            kind, how = _POINTWISE[self._activation]
            out = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, kind, [], how)
            return cast(Tensor, out)
        return cast(Tensor, _EAGER[self._activation](functional.linear(x, self._weight, self._bias)))

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """x W' + b + other."""
        if self._packed:
            out = torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")
            return cast(Tensor, out)
        return functional.linear(x, self._weight, self._bias).add_(other)


_POINTWISE = {
    "": ("none", ""), "gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"), "relu": ("relu", ""),
}  # fmt: skip
_EAGER: dict[str, Any] = {
    "": lambda x: x,
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


# Rows up to ... are computed in multiples of ...: 6 % more at most, 3 % on average.
_STEPS = ((32, 1), (128, 4), (512, 16), (2048, 64), (1 << 62, 256))


class _First(NamedTuple):
    """The last layer's attention of first tokens: matrices float32[heads, width of a head, H] and biases."""

    query: tuple[Tensor, Tensor]
    key: Tensor  # its bias adds the same to all of a query's scores: softmax does not see it
    value: tuple[Tensor, Tensor]


class _Layer(NamedTuple):
    qkv: _Linear
    out: _Linear
    first_norm: tuple[Tensor, Tensor]
    up: _Linear
    down: _Linear
    second_norm: tuple[Tensor, Tensor]


class FusedBert:
    """`fused(packed)` is `bert(packed)`, float32[T, H], without gradients, of the parameters as they were.

    dtype: float32 or bfloat16, of the products.
    """

    def __init__(self, bert: Bert, dtype: torch.dtype = torch.float32) -> None:
        self._bert, self._type = bert, dtype
        config = bert.config
        self._heads, self._eps = config.num_attention_heads, config.layer_norm_eps
        packed = can_pack(dtype)
        with torch.inference_mode():
            self._layers = [_lay_out(layer, config.hidden_act, dtype, packed) for layer in bert.encoder.layer]
            self._first = _first_tokens(bert.encoder.last().attention.self)

    def __call__(self, packed: Packed) -> Tensor:
        x, _, tokens = self._before(packed, len(self._layers))
        return x[:tokens].float()

    def first(self, packed: Packed) -> Tensor:
        """The rows of the first tokens, float32[B, H]; the last layer is computed for them alone."""
        x, spread, _ = self._before(packed, len(self._layers) - 1)
        starts = x.index_select(0, packed.offsets[:-1])
        mixed = _attend_first(self._first, x, starts, spread).to(self._type)
        count, rows = len(starts), usual_rows(len(starts))
        return self._rest(self._layers[-1], _filled(mixed, rows), _filled(starts, rows))[:count].float()

    def _before(self, packed: Packed, layers: int) -> tuple[Tensor, Spread, int]:
        """(rows of the tokens, behind them some of zeros; how tokens attend; the number of tokens)."""
        spread = self._bert.spread(packed)
        x: Tensor = self._bert.embeddings(packed).to(self._type)
        tokens = len(x)
        rows = usual_rows(tokens)
        x = _filled(x, rows)
        for layer in self._layers[:layers]:
            x = self._rest(layer, _filled(_attend(layer.qkv(x), spread, self._heads), rows), x)
        return x, spread, tokens

    def _rest(self, layer: _Layer, mixed: Tensor, x: Tensor) -> Tensor:
        size = x.shape[1:]
        x = functional.layer_norm(layer.out.plus(mixed, x), size, *layer.first_norm, self._eps)
        return functional.layer_norm(layer.down.plus(layer.up(x), x), size, *layer.second_norm, self._eps)


def usual_rows(rows: int) -> int:
    """The number of rows that products are computed for: so many or a few more, of few different numbers.

    oneDNN keeps code and buffers for every shape it meets: with new shapes in each batch memory would grow.
    """
    step = next(step for most, step in _STEPS if rows <= most)
    return -(-rows // step) * step


def _filled(x: Tensor, rows: int) -> Tensor:
    return x if len(x) == rows else torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


def _lay_out(layer: Any, activation: str, dtype: torch.dtype, packed: bool) -> _Layer:
    attention = layer.attention.self
    parts = (attention.query, attention.key, attention.value)
    weight = torch.cat([part.weight for part in parts]).to(dtype)
    bias = torch.cat([part.bias for part in parts]).to(dtype)

    def linear(module: nn.Linear, then: str = "") -> _Linear:
        return _Linear(module.weight.to(dtype), module.bias.to(dtype), then, packed=packed)

    def norm(module: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        return module.weight.to(dtype), module.bias.to(dtype)

    return _Layer(
        _Linear(weight, bias, "", packed=packed), linear(layer.attention.output.dense),
        norm(layer.attention.output.LayerNorm), linear(layer.intermediate.dense, activation),
        linear(layer.output.dense), norm(layer.output.LayerNorm),
    )  # fmt: skip


def _attend(qkv: Tensor, spread: Spread, heads: int) -> Tensor:
    """As Spread.attend, on rows that hold query, key and value side by side: [T, 3H] -> [T, H]."""
    width = qkv.shape[1] // 3
    parts = []
    for block in spread.blocks:
        rows = block.take(qkv).view(block.sequences, block.longest, 3, heads, width // heads)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        mask = block.mask
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        mixed = functional.scaled_dot_product_attention(q, k, v, mask)
        parts.append(mixed.transpose(1, 2).reshape(-1, width))
    return spread.back(parts)


def _first_tokens(attention: Any) -> _First:
    def matrix(linear: nn.Linear) -> Tensor:
        weight = linear.weight.detach().float()
        return weight.view(attention.heads, -1, weight.shape[1])

    query, value = attention.query, attention.value
    return _First(
        (matrix(query), query.bias.detach().float()), matrix(attention.key),
        (matrix(value), value.bias.detach().float()),
    )  # fmt: skip


def _attend_first(of: _First, x: Tensor, starts: Tensor, spread: Spread) -> Tensor:
    """What first tokens take in, float32[B, H]: of rows x[T, H], first tokens' rows starts[B, H]."""
    weight, bias = of.query
    heads, size, _ = weight.shape
    query = functional.linear(starts.float(), weight.flatten(0, 1), bias).view(len(starts), heads, size)
    # [B, heads, H]: a query times its head's key matrix meets rows as they are.
    asked = torch.einsum("bhd,hdk->bhk", query, of.key) / size**0.5
    taken = torch.empty_like(asked)
    for block in spread.blocks:
        rows = block.take(x).view(block.sequences, block.longest, -1).float()
        scores = torch.bmm(asked.index_select(0, block.members), rows.transpose(1, 2))
        if block.mask is not None:
            own = block.mask[:, :, 0]
            scores = scores + own if own.is_floating_point() else scores.masked_fill(~own, -torch.inf)
        taken.index_copy_(0, block.members, torch.bmm(scores.softmax(-1), rows))
    weight, bias = of.value
    return torch.einsum("bhk,hdk->bhd", taken, weight).flatten(1) + bias


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch lays out weights for oneDNN: its operators are there and give the right product."""
    try:
        with torch.inference_mode():
            x, w = torch.eye(3, 5).to(dtype), torch.arange(20.0).view(4, 5).to(dtype)
            linear = _Linear(w, torch.ones(4, dtype=dtype), "relu", packed=True)
            fits = torch.equal(linear(x), x @ w.T + 1)
            return fits and torch.equal(linear.plus(x, x @ w.T), 2 * (x @ w.T) + 1)
    except (AttributeError, RuntimeError):
        return False
