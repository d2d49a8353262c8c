"""LM-Infinite: decoders beyond their trained length, by a Lambda-shaped mask and a limit to distances.

Han et al., "LM-Infinite: Zero-Shot Extreme Length Generalization for Large Language Models" (NAACL 2024),
section 3. A token sees those less than `window` before it, as ever, and the first `sinks` tokens of its text,
these at a distance of `window` at most: their keys are taken unrotated, the query is rotated by `window`. For
texts no longer than the window nothing changes. Time and memory grow with the length, not with its square.

What differs: the middle tokens that the paper adds for the last query are left out. The last token sees the
window and the beginning directly, the rest only through the layers below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import UserError

NAME = "retrieval_lm_infinite"
FAMILIES = frozenset(
    {"gemma", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3", "starcoder2"}
)
"""model_type of the families whose rotary positions are known here, and tested."""

_FIXED = (
    "default",
    "linear",
    "llama3",
    "yarn",
)  # kinds of RoPE whose frequencies do not change with the length
_CELLS = 1 << 25  # of one block of logits: 128 MB


@dataclass(eq=False)
class Lambda:
    """What an attention layer knows: the window, the sinks, the rotary frequencies float32[r / 2].

    keys: where the self-test listens; None otherwise.
    """

    window: int
    sinks: int
    rotary: Any
    keys: list[Tensor] | None = None


def install(module: Any, window: int, sinks: int) -> None:
    """Gives a decoder this attention, by transformers' own registry of attention functions.

    Raises UserError for a family or positions that it does not know, or layers that have a window already.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    config = module.config
    if config.model_type not in FAMILIES:
        raise UserError(
            f"LM-Infinite does not know the positions of model_type {config.model_type!r}; it does those of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        raise UserError(f"the model has a sliding window of {config.sliding_window} itself; leave out window")
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in _FIXED:
        raise UserError(f"LM-Infinite cannot be combined with positions of kind {kind!r}; leave out window")
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _padding)
    module.set_attn_implementation(NAME)
    state = Lambda(window, sinks, module.rotary_emb)
    layers = [
        layer for layer in module.modules() if hasattr(layer, "is_causal") and hasattr(layer, "layer_idx")
    ]
    for layer in layers:
        layer.lm_infinite = state
    _check(module, state)


def dense(query: Tensor, key: Tensor, window: int, sinks: int, frequencies: Tensor, scaling: float) -> Tensor:
    """float[h, n, n], -inf where nothing is seen: the logits of one text by the definition, for tests.

    query, key float[h, n, d]: before rotation. O(n^2).
    """
    n = query.shape[1]
    at = torch.arange(n)
    near = rotate(query, at, frequencies) @ rotate(key, at, frequencies).transpose(1, 2)
    far = rotate(query, torch.full((n,), window), frequencies) @ key.transpose(1, 2)
    distance = at[:, None] - at[None, :]
    logits = torch.where(distance < window, near, far) * scaling
    return logits.masked_fill((distance < 0) | ((distance >= window) & (at >= sinks)), -torch.inf)


def rotate(x: Tensor, by: Tensor, frequencies: Tensor) -> Tensor:
    """x [..., n, d] turned by so many positions each: by [n] or [b, 1, n]. Dimensions beyond 2r stay."""
    angles = by[..., None].to(frequencies.dtype) * frequencies
    cos, sin = angles.cos(), angles.sin()
    r = frequencies.shape[0]
    wide = x.to(torch.promote_types(x.dtype, frequencies.dtype))
    one, two, rest = wide[..., :r], wide[..., r : 2 * r], wide[..., 2 * r :]
    return torch.cat([one * cos - two * sin, two * cos + one * sin, rest], -1).to(x.dtype)


def blockwise(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    start: Tensor,
    state: Lambda,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """float[b, h, n, d]: attention of rotated queries [b, h, n, d] to rotated keys and values [b, k, n, d].

    start int64[b]: the column of each text's first token; h is a multiple of k (grouped queries).
    """
    b, h, n, d = query.shape
    kv, window, device = key.shape[1], state.window, query.device
    frequencies = state.rotary.inv_freq.to(device)
    group = h // kv
    columns = torch.arange(n, device=device)
    sink = torch.arange(min(state.sinks, n), device=device)
    place = (start[:, None] + sink).clamp(max=n - 1)  # [b, s]
    gather = place[:, None, :, None].expand(b, kv, len(sink), d)
    first = rotate(key.gather(2, gather), -sink, frequencies)  # as they were before their rotation
    first_value = value.gather(2, gather)
    # A query stands at column - start and was rotated by it; the rest up to `window` is what is missing.
    capped = rotate(query, (window - (columns[None] - start[:, None]))[:, None], frequencies)
    rows = max(16, min(window, _CELLS // (b * h * (window + 256))))
    parts = []
    for begin in range(0, n, rows):
        end = min(n, begin + rows)
        low = max(0, begin - window + 1)
        own = columns[begin:end, None]
        near = _logits(query[:, :, begin:end], key[:, :, low:end], group) * scaling
        seen = (columns[low:end] <= own) & (own - columns[low:end] < window)
        real = (columns[low:end] >= start[:, None])[:, None] | (columns[low:end] == own)  # [b, rows, keys]
        near = near.masked_fill(~(seen & real)[:, None, None], -torch.inf)
        far = _logits(capped[:, :, begin:end], first, group) * scaling
        away = own[None] - place[:, None] >= window
        far = far.masked_fill(~away[:, None, None], -torch.inf)
        weights = torch.cat([far, near], -1).float().softmax(-1).to(query.dtype)
        weights = functional.dropout(weights, dropout, dropout > 0)
        mixed = weights.flatten(2, 3) @ torch.cat([first_value, value[:, :, low:end]], 2)
        parts.append(mixed.view(b, kv, group, end - begin, -1).flatten(1, 2))
    return torch.cat(parts, 2)


def _logits(query: Tensor, key: Tensor, group: int) -> Tensor:
    """[b, k, g, rows, keys] of queries [b, k * g, rows, d] and keys [b, k, keys, d]."""
    b, kv, keys, d = key.shape
    rows = query.shape[2]
    found = query.reshape(b, kv, group * rows, d) @ key.transpose(2, 3)
    return found.view(b, kv, group, rows, keys)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: rotated [b, h, n, d], and what _padding made. Returns [b, n, h, d]."""
    state: Lambda = module.lm_infinite
    if state.keys is not None:
        state.keys.append(key)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    n = query.shape[2]
    if n > state.window:
        start = (
            torch.zeros(len(query), dtype=torch.long, device=query.device)
            if attention_mask is None
            else attention_mask.int().argmax(1)
        )
        return blockwise(query, key, value, start, state, scale, dropout).transpose(1, 2).contiguous(), None
    seen = None
    if attention_mask is not None:
        at = torch.arange(n, device=query.device)
        seen = (at[:, None] >= at) & (attention_mask[:, None, None] | (at[:, None] == at))
    mixed = functional.scaled_dot_product_attention(
        query, key, value, seen, dropout, is_causal=seen is None, scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    return mixed.transpose(1, 2).contiguous(), None


def _padding(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """bool[b, n], which columns hold a token, or None where all do: all that _attend has to know."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask.bool()


def _check(module: nn.Module, state: Lambda) -> None:
    """The first layer's keys of one token repeated must be equal once their rotation is undone."""
    device = next(module.parameters()).device
    state.keys = []
    try:
        with torch.inference_mode():
            module(input_ids=torch.full((1, 9), 3, device=device), use_cache=False)
        key = state.keys[0].float()
    finally:
        state.keys = None
    plain = rotate(key, -torch.arange(9, device=device), state.rotary.inv_freq.float().to(device))
    if not torch.allclose(
        plain, plain[:, :, :1].expand_as(plain), rtol=1e-2, atol=1e-2 * float(key.abs().max())
    ):
        raise UserError("LM-Infinite does not know how this model rotates its keys; leave out window")
