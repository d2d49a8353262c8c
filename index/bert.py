"""BERT over packed batches: sequences of any length side by side, no padding. Needs torch.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (NAACL 2019). Parameter names are those
of transformers' BertModel, so that its files load as they are. What differs: there is no padding and no mask;
every linear layer runs on the tokens of all sequences at once, and only attention knows where one ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.packed import Packed, Spread, pack, plan_batches

__all__ = ["Bert", "BertConfig", "MlmHead", "Packed", "Pooler", "pack", "plan_batches"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}
_LEGAL: dict[str, tuple[int | None, tuple[type, ...]]] = {
    "int": (1, (int,)),  # and at most _MOST: nobody's model has more of anything
    "float": (0, (int, float)),
    "str": (None, (str,)),
}


_MOST = 1 << 20
_OF_FAMILIES = ("position_offset", "relative_buckets")  # no fields of config.json: families.py sets them


@dataclass(frozen=True)
class BertConfig:
    """The fields of config.json that matter here; the defaults are BERT-base's."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    position_offset: int = 0  # the first token's position: RoBERTa's is padding_idx + 1
    relative_buckets: int = 0  # MPNet's bias by distance, one number a bucket and head; 0: none

    @property
    def longest(self) -> int:
        """Tokens that there are positions for."""
        return self.max_position_embeddings - self.position_offset

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> BertConfig:
        """From what config.json holds; other fields are ignored. Raises UserError."""
        kind = config.get("model_type", "bert")
        if kind != "bert":
            raise UserError(f"config.json describes a {kind!r} model; this needs one of model_type 'bert'")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise UserError("config.json asks for relative positions; only absolute ones are supported")
        values: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in _OF_FAMILIES:
                continue
            value: Any = config.get(field.name, field.default)
            values[field.name] = value
            low, wanted = _LEGAL[str(field.type)]
            known_type = isinstance(value, wanted) and not isinstance(value, bool)
            if known_type and field.type == "int" and value > _MOST:
                raise UserError(f"config.json: {field.name} is {value!r}; no model has so many")
            if not known_type or (low is not None and value < low):
                bound = "" if low is None else f" of at least {low}"
                raise UserError(f"config.json: {field.name} is {value!r}; it must be {field.type}{bound}")
        made = cls(**values)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not getattr(made, name) <= 1:
                raise UserError(f"config.json: {name} is {getattr(made, name)!r}; it must be a share of 1")
        if made.hidden_act not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise UserError(f"config.json: unknown hidden_act {made.hidden_act!r}; known: {known}")
        if made.hidden_size % made.num_attention_heads:
            raise UserError(
                f"config.json: hidden_size {made.hidden_size} does not divide into "
                f"{made.num_attention_heads} attention heads"
            )
        return made


class Bert(nn.Module):
    """The encoder. `bert(packed)` is the last layer's hidden states, float[T, H]: row t is token t.

    With cls_attention=True also float[T]: how much the first token of a sequence attends to each of its
    tokens in the last layer, mean over heads; sums to 1 in each sequence. pooler=True adds transformers'
    pooler as `self.pooler`. Raises UserError where a sequence is longer than the position embeddings.
    """

    def __init__(self, config: BertConfig, *, pooler: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.pooler = Pooler(config) if pooler else None
        self.apply(self.initialise)

    def initialise(self, module: nn.Module) -> None:
        """Give a new linear or embedding layer BERT's random start (normal, initializer_range; bias 0)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    @overload
    def forward(self, packed: Packed, cls_attention: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, packed: Packed, cls_attention: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(self, packed: Packed, cls_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        hidden, spread = self._before_last(packed)
        last = self.encoder.last()
        final: Tensor = last(hidden, spread)
        if not cls_attention:
            return final
        return final, last.attention.self.of_first(hidden, packed)[1].mean(-1)

    def first(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """(hidden float[B, H], attention float[T]) of the first tokens: the last layer is run for them alone.

        The same values as forward's, for two thirds of the work where there are two layers. Raises as it.
        """
        hidden, _ = self._before_last(packed)
        last = self.encoder.last()
        mixed, attention = last.attention.self.of_first(hidden, packed)
        return last.after_attention(mixed, hidden[packed.offsets[:-1]]), attention.mean(-1)

    def _before_last(self, packed: Packed) -> tuple[Tensor, Spread]:
        spread = self.spread(packed)
        return self.encoder.before_last(self.embeddings(packed), spread), spread

    def spread(self, packed: Packed) -> Spread:
        """How a batch is laid out for this model's attention. Raises UserError for a sequence too long."""
        limit = self.config.longest
        if packed.longest > limit:
            raise UserError(
                f"a sequence has {packed.longest} tokens and the model has positions for {limit}: "
                f"cut the text to {limit} tokens, special tokens included"
            )
        spread = Spread(packed)
        if self.encoder.relative_attention_bias is None:
            return spread
        return spread.biased(self.encoder.distances)


class Pooler(nn.Module):
    """Dense and tanh over the first tokens: [B, H] -> [B, H]."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))


class MlmHead(nn.Module):
    """Masked-LM head: hidden[N, H] -> logits[N, V]. Named `cls` in a model, it has transformers' keys.

    The decoder is the word embedding matrix of `bert`, which stays bert's parameter, and a bias.
    """

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        config = bert.config
        self.predictions = _Predictions(config)
        self._tied = (bert.embeddings.word_embeddings,)  # in a tuple: not registered a second time
        self.apply(bert.initialise)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.predictions.transform(hidden)
        return functional.linear(hidden, self._tied[0].weight, self.predictions.bias)


class _Predictions(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = _Transform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))


class _Transform(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(self._activation(self.dense(hidden))))


class _Embeddings(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self._offset = config.position_offset

    def forward(self, packed: Packed) -> Tensor:
        positions = packed.positions + self._offset if self._offset else packed.positions
        hidden = self.word_embeddings(packed.ids) + self.token_type_embeddings(packed.segments)
        hidden = self.LayerNorm(hidden + self.position_embeddings(positions))
        return cast(Tensor, self.dropout(hidden))


class _Encoder(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        buckets, heads = config.relative_buckets, config.num_attention_heads
        self.relative_attention_bias = nn.Embedding(buckets, heads) if buckets else None

    def distances(self, length: int) -> Tensor:
        """float[1, heads, length, length]: what is added to the attention of a query's row to a key's column.

        The buckets of T5 (Raffel et al. 2020): half for each direction, of these half for one distance each,
        the rest for logarithmically wider ones up to 128.
        """
        table = cast(nn.Embedding, self.relative_attention_bias).weight
        side = table.shape[0] // 2
        place = torch.arange(length, device=table.device)
        away = place[None, :] - place[:, None]
        far = away.abs()
        exact = side // 2
        wide = torch.log(far.clamp(min=1).float() / exact) / math.log(128 / exact) * (side - exact)
        bucket = torch.where(far < exact, far, (exact + wide.long()).clamp(max=side - 1))
        return functional.embedding(bucket + (away > 0) * side, table).permute(2, 0, 1)[None]

    def before_last(self, hidden: Tensor, spread: Spread) -> Tensor:
        for layer in list(self.layer)[:-1]:
            hidden = layer(hidden, spread)
        return hidden

    def last(self) -> _Layer:
        return cast(_Layer, self.layer[-1])


class _Layer(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = _AttentionAndOutput(config)
        self.intermediate = _Intermediate(config)
        self.output = _Output(config.intermediate_size, config)

    def forward(self, hidden: Tensor, spread: Spread) -> Tensor:
        return self.after_attention(self.attention.self(hidden, spread), hidden)

    def after_attention(self, mixed: Tensor, hidden: Tensor) -> Tensor:
        """The rest of the layer, row by row."""
        hidden = self.attention.output(mixed, hidden)
        return cast(Tensor, self.output(self.intermediate(hidden), hidden))


class _AttentionAndOutput(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = _Attention(config)
        self.output = _Output(config.hidden_size, config)


class _Intermediate(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self._activation = _ACTIVATIONS[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self._activation(self.dense(hidden))


class _Output(nn.Module):
    """Dense, dropout, residual, LayerNorm."""

    def __init__(self, size: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inner: Tensor, residual: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(self.dropout(self.dense(inner)) + residual))


class _Attention(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self._dropout = config.attention_probs_dropout_prob

    def forward(self, hidden: Tensor, spread: Spread) -> Tensor:
        dropout = self._dropout if self.training else 0.0
        return spread.attend(self.query(hidden), self.key(hidden), self.value(hidden), self.heads, dropout)

    def of_first(self, hidden: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
        """What first tokens take in, float[B, H], and how they attend to each token, float32[T, heads]."""
        total, count = len(packed.ids), len(packed.offsets) - 1
        sequence = torch.repeat_interleave(
            torch.arange(count, device=hidden.device), packed.offsets.diff(), output_size=total
        )
        split = (self.heads, hidden.shape[1] // self.heads)
        query = self.query(hidden[packed.offsets[:-1]]).unflatten(1, split)
        key, value = (linear(hidden).unflatten(1, split) for linear in (self.key, self.value))
        scores = (query[sequence].float() * key).sum(-1) / split[1] ** 0.5
        index = sequence[:, None].expand_as(scores)
        peak = scores.new_full((count, self.heads), -torch.inf).scatter_reduce(0, index, scores, "amax")
        weights = torch.exp(scores - peak.detach()[sequence])
        weights = weights / weights.new_zeros(count, self.heads).index_add(0, sequence, weights)[sequence]
        kept = functional.dropout(weights, self._dropout, self.training).to(value.dtype)
        mixed = torch.zeros_like(query).index_add(0, sequence, kept[:, :, None] * value)
        return mixed.flatten(1), weights
