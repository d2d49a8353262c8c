"""M2-BERT: BERT with long convolutions for attention and block-diagonal layers for its MLP. Needs torch.

Fu et al., "Monarch Mixer: A Simple Sub-Quadratic GEMM-Based Architecture" (NeurIPS 2023); Saad-Falcon et al.,
"Benchmarking and Building Long-Context Retrieval Models with LoCo and M2-BERT" (ICML 2024). Parameter names
are those of the published checkpoints, and so is the arithmetic: the sequence mixer is a gated convolution
plus a second one of the layer's input, without a residual around it; the feature mixer is a GLU of
block-diagonal layers. What differs: kernels are made once and kept (m2bert_filters.py), the skip term is the
kernel's tap 0, and padded rows can be kept out of the convolutions (`lengths`), which the published model
never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError
from retrieval.index.m2bert_filters import Filter, KernelCache, convolve

_FIXED: Mapping[str, Any] = {  # what the published retrieval models have, and the only form that is built
    "monarch_mixer_sequence_mixing": True, "bidirectional": True, "residual_long_conv": True,
    "hyena_training_additions": False, "hyena_w_mod": 1, "use_glu_mlp": True, "use_monarch_mlp": True,
    "use_learnable_monarch": False, "use_positional_encodings": True,
}  # fmt: skip
_MOST = 1 << 20
_CHUNK = 2048  # tokens that the feature mixer takes at a time where no gradient is wanted: fits caches


@dataclass(frozen=True)
class M2Config:
    """The fields of config.json that decide about the network; the defaults are those of m2-bert-80M-2k.

    max_position_embeddings is the longest text in tokens, and the number of rows of every filter's z.
    """

    vocab_size: int = 30528
    hidden_size: int = 768
    num_hidden_layers: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    hyena_filter_order: int = 128
    hyena_emb_dim: int = 5
    hyena_w: float = 10
    monarch_mlp_nblocks: int = 4
    pool_all: bool = False

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> M2Config:
        """From what config.json holds; the vocabulary is rounded up to a multiple of 8. Raises UserError."""
        for name, only in _FIXED.items():
            if config.get(name, only) != only:
                raise UserError(f"config.json: {name} is {config[name]!r}; only {only!r} is supported")
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = values[field.name] = config.get(field.name, field.default)
            wanted = {"int": int, "float": (int, float), "bool": bool}[str(field.type)]
            legal = isinstance(value, cast(Any, wanted)) and (field.type == "bool" or value is not True)
            if not legal or not 0 <= value <= _MOST or (field.type == "int" and value < 1):
                raise UserError(f"config.json: {field.name} is {value!r}; it must be {field.type}, above 0")
        longest, positions = config.get("long_conv_l_max"), values["max_position_embeddings"]
        if longest is not None and longest != positions:
            raise UserError(
                f"config.json: long_conv_l_max is {longest!r} and max_position_embeddings {positions}; both "
                "are the length in tokens and must be equal"
            )
        if values["hidden_dropout_prob"] > 1:
            raise UserError(f"config.json: hidden_dropout_prob is {values['hidden_dropout_prob']}")
        values["vocab_size"] = -(-values["vocab_size"] // 8) * 8
        made = cls(**values)
        if made.hyena_emb_dim < 3 or made.hyena_emb_dim % 2 == 0:
            raise UserError(f"config.json: hyena_emb_dim is {made.hyena_emb_dim}; give 3, 5, 7 ...")
        for name, size in (("hidden_size", made.hidden_size), ("intermediate_size", made.intermediate_size)):
            if size % made.monarch_mlp_nblocks or made.monarch_mlp_nblocks % 2:
                raise UserError(
                    f"config.json: {name} {size} does not divide into {made.monarch_mlp_nblocks} blocks, an "
                    "even number"
                )
        return made

    def to_dict(self) -> dict[str, Any]:
        """As config.json holds it, the fixed fields and the published names of the length included."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**_FIXED, **own, "long_conv_l_max": self.max_position_embeddings, "pad_token_id": 0}


class M2Bert(nn.Module):
    """The encoder: ids int64[B, L] to hidden states float[B, L, H], L at most max_position_embeddings.

    lengths: int64[B], tokens of each row. Without it padding takes part in every convolution, as it does in
    the published model; with it the rows beyond a text's end are zero before each convolution, and what
    stands before them does not depend on how many there are. What comes out beyond the end has no meaning.
    """

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.pooler = Pooler(config)
        self.initialise(self.embeddings.word_embeddings, self.embeddings.position_embeddings)
        self.initialise(self.embeddings.token_type_embeddings, self.pooler.dense)
        for layer in self.encoder.layers():
            self.initialise(layer.attention.in_linear, layer.attention.out_linear)
        self.kernels = KernelCache([f for layer in self.encoder.layers() for f in layer.attention.filters()])

    def initialise(self, *modules: nn.Embedding | nn.Linear) -> None:
        """BERT's random start: normal weights, biases 0. Filters and block-diagonal layers have theirs."""
        for module in modules:
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def parameter_groups(self, weight_decay: float, filters: float = 1.0) -> list[dict[str, Any]]:
        """For the trainer: filters decayed by .1 and at `filters` times the rate, z at a fiftieth of it."""
        named = dict(self.named_parameters())
        z = {name for name in named if name.endswith(".pos_emb.z")}
        mlps = {name for name in named if ".implicit_filter" in name}
        others = [parameter for name, parameter in named.items() if name not in z | mlps]
        return [
            {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
            {"params": [named[name] for name in sorted(mlps)], "weight_decay": 0.1, "rate": filters},
            {"params": [named[name] for name in sorted(z)], "weight_decay": 0.0, "rate": 0.02},
        ]

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        longest = self.config.max_position_embeddings
        if ids.shape[1] > longest:
            raise UserError(
                f"a text has {ids.shape[1]} tokens and the model reads {longest}: cut it, or convert the "
                "model to a greater length"
            )
        real = None if lengths is None else _is_real(lengths, ids.shape[1])
        hidden = self.embeddings(ids)
        spectra = self.kernels.spectra(ids.shape[1])
        for at, layer in enumerate(self.encoder.layers()):
            hidden = layer(hidden, spectra[2 * at], spectra[2 * at + 1], real)
        return cast(Tensor, hidden)


def _is_real(lengths: Tensor, longest: int) -> Tensor:
    """float32[B, 1, longest]: 1 for a token, 0 for padding."""
    return (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None].float()


class Pooler(nn.Module):
    """Dense and tanh: [B, H] -> [B, H]."""

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, pooled: Tensor) -> Tensor:
        return torch.tanh(self.dense(pooled))


class M2ForPretraining(nn.Module):
    """The encoder, `bert`, and a masked-LM head, `cls`: its decoder is the word embeddings, and a bias."""

    def __init__(self, model: M2Bert) -> None:
        super().__init__()
        self.bert = model
        self.cls = _MlmHead(model.config)
        model.initialise(self.cls.dense)

    def forward(self, ids: Tensor, lengths: Tensor | None, rows: Tensor) -> Tensor:
        """Logits float[N, V] of the places `rows`, int64[N], of all B x L."""
        hidden = self.cls(self.bert(ids, lengths).flatten(0, 1)[rows])
        return functional.linear(hidden, self.bert.embeddings.word_embeddings.weight, self.cls.bias)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Those of the encoder with filters at twice the rate, as published, and the head's among them."""
        groups = self.bert.parameter_groups(weight_decay, 2.0)
        for parameter in self.cls.parameters():
            groups[0 if parameter.ndim >= 2 else 1]["params"].append(parameter)
        return groups


class _MlmHead(nn.Module):
    def __init__(self, config: M2Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        return cast(Tensor, self.LayerNorm(functional.gelu(self.dense(hidden))))


class _Embeddings(nn.Module):
    position_ids: Tensor

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.position_embeddings.weight[: ids.shape[1]] + self.token_type_embeddings.weight[0]
        return cast(Tensor, self.dropout(self.LayerNorm(self.word_embeddings(ids) + rows)))


class _Encoder(nn.Module):
    def __init__(self, config: M2Config) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def layers(self) -> list[_Layer]:
        return cast("list[_Layer]", list(self.layer))


class _Layer(nn.Module):
    def __init__(self, config: M2Config) -> None:
        super().__init__()
        self.attention = _SequenceMixer(config)
        self.mlp = _FeatureMixer(config)

    def forward(self, hidden: Tensor, gated: Tensor, residual: Tensor, real: Tensor | None) -> Tensor:
        mixed = self.attention(hidden, gated, residual, real)
        if torch.is_grad_enabled() or mixed.shape[1] <= _CHUNK:
            return cast(Tensor, self.mlp(mixed))
        return torch.cat([self.mlp(part) for part in mixed.split(_CHUNK, dim=1)], dim=1)


class _SequenceMixer(nn.Module):
    """x1, x2, v = shortconv(u W_in); y = (LC_1(v x1) x2 + LC_2(u)) W_out."""

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        size = config.hidden_size
        shape = (size, config.hyena_filter_order, config.hyena_emb_dim, config.max_position_embeddings)
        self.in_linear = nn.Linear(size, 3 * size)
        self.short_filter = nn.Conv1d(3 * size, 3 * size, 3, padding=2, groups=3 * size)
        self.filter_fn = Filter(*shape, freq=config.hyena_w)
        self.filter_fn2 = Filter(*shape, freq=config.hyena_w)
        self.out_linear = nn.Linear(size, size)

    def filters(self) -> list[Filter]:
        return [self.filter_fn, self.filter_fn2]

    def forward(self, hidden: Tensor, gated: Tensor, residual: Tensor, real: Tensor | None) -> Tensor:
        """hidden [B, L, H]; gated and residual: spectra; real [B, 1, L] or None."""
        across = hidden.transpose(1, 2)
        projected = torch.matmul(self.in_linear.weight, across) + self.in_linear.bias[:, None]
        x1, x2, v = _short(projected, self.short_filter).chunk(3, dim=1)
        v = v * x1
        if real is not None:
            v, across = v * real, across * real
        y = torch.addcmul(convolve(across, residual), convolve(v, gated), x2.float())
        return cast(Tensor, self.out_linear(y.transpose(1, 2).to(hidden.dtype)))


def _short(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """Causal: out[t] = w0 x[t - 2] + w1 x[t - 1] + w2 x[t] + b, in three shifted products."""
    weight, bias = conv.weight[:, 0, :, None], cast(Tensor, conv.bias)
    if not torch.is_grad_enabled():  # half the time: nothing is copied
        out = torch.addcmul(bias[:, None], x, weight[:, 2])
        out[..., 1:].addcmul_(x[..., :-1], weight[:, 1])
        out[..., 2:].addcmul_(x[..., :-2], weight[:, 0])
        return out
    padded = functional.pad(x, (2, 0))
    length = x.shape[-1]
    out = torch.addcmul(bias[:, None], x, weight[:, 2])
    out = torch.addcmul(out, padded[..., 1 : length + 1], weight[:, 1])
    return torch.addcmul(out, padded[..., :length], weight[:, 0])


class _BlockLinear(nn.Module):
    """A block-diagonal linear layer: weight [blocks, out / blocks, in / blocks]."""

    def __init__(self, blocks: int, inner: int, outer: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, outer // blocks, inner // blocks))
        # The bound of Kaiming's rule with a = sqrt(5) for the columns that a row sees.
        bound = (blocks / inner) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(outer)) if bias else None

    def dense(self) -> Tensor:
        """The same as one matrix [out, in]."""
        found: Tensor = torch.block_diag(*self.weight.unbind())  # type: ignore[no-untyped-call]
        return found

    def blocks(self, x: Tensor) -> Tensor:
        """x [blocks, T, in / blocks] -> [blocks, T, out / blocks], without the bias: one batched GEMM.

        On a CPU, where no gradient is wanted, a GEMM each: a quarter faster than the batched one there.
        """
        if torch.is_grad_enabled() or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return torch.bmm(x, self.weight.transpose(1, 2))
        out = x.new_empty(*x.shape[:2], self.weight.shape[1])
        for one, weight, into in zip(x, self.weight, out, strict=True):
            torch.mm(one, weight.t(), out=into)
        return out


class _FeatureMixer(nn.Module):
    """gate, value = BD(a); LN(BD(GELU(gate) value) + a)."""

    def __init__(self, config: M2Config) -> None:
        super().__init__()
        size, inner, blocks = config.hidden_size, config.intermediate_size, config.monarch_mlp_nblocks
        self.gated_layers = _BlockLinear(blocks, size, 2 * inner, bias=False)
        self.wo = _BlockLinear(blocks, inner, size, bias=True)
        self.layernorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, a: Tensor) -> Tensor:
        rows = a.reshape(-1, a.shape[-1])
        blocks = self.wo.weight.shape[0]
        both = self.gated_layers.blocks(rows.view(len(rows), blocks, -1).transpose(0, 1))
        # The first half of all columns gates: these are the first half of the blocks.
        gate, value = both.chunk(2)
        inner = functional.gelu(gate) * value
        # Columns of a block of `both` feed two blocks of wo.
        inner = inner.view(blocks // 2, len(rows), 2, -1).permute(0, 2, 1, 3).reshape(blocks, len(rows), -1)
        out = self.wo.blocks(inner).transpose(0, 1).reshape(rows.shape) + cast(Tensor, self.wo.bias)
        return cast(Tensor, self.layernorm(self.dropout(out) + rows)).view(a.shape)
