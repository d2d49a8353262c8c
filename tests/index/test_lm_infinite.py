"""LM-Infinite against the definition computed token by token, in every family, padded on either side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from retrieval.errors import UserError  # noqa: E402
from retrieval.index import lm_infinite  # noqa: E402
from retrieval.index.lm_infinite import FAMILIES, NAME, Lambda, blockwise, dense, install, rotate  # noqa: E402

D, HEADS, KV = 8, 4, 2


def brute(query: Any, key: Any, value: Any, window: int, sinks: int, frequencies: Any) -> Any:
    """Section 3 of the paper, one pair of tokens at a time, in float64. query, key: before rotation."""
    n = query.shape[1]
    out = torch.zeros(HEADS, n, D, dtype=torch.float64)
    for h in range(HEADS):
        k, v = key[h // (HEADS // KV)].double(), value[h // (HEADS // KV)].double()
        for i in range(n):
            seen = [j for j in range(i + 1) if i - j < window or j < sinks]
            logits = []
            for j in seen:
                turn = min(i - j, window)
                turned = rotate(query[h, i : i + 1].double(), torch.tensor([turn]), frequencies.double())[0]
                logits.append(turned @ k[j] / D**0.5)
            weights = torch.stack(logits).softmax(0)
            out[h, i] = sum(weight * v[j] for weight, j in zip(weights, seen, strict=True))
    return out


def drawn(n: int, seed: int) -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(seed)
    frequencies = 100.0 ** -(torch.arange(D // 2) / (D // 2))
    return torch.randn(HEADS, n, D), torch.randn(KV, n, D), torch.randn(KV, n, D), frequencies


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 40), window=st.integers(2, 20), sinks=st.integers(0, 6), pad=st.integers(0, 5),
    right=st.booleans(), rows=st.sampled_from([1, 1 << 25]), seed=st.integers(0, 99),
)  # fmt: skip
def test_blockwise_is_the_definition(
    n: int, window: int, sinks: int, pad: int, right: bool, rows: int, seed: int
) -> None:
    sinks = min(sinks, window - 1)
    query, key, value, frequencies = drawn(n, seed)
    expected = brute(query, key, value, window, sinks, frequencies)
    at = torch.arange(n)
    rotated = [rotate(query, at, frequencies), rotate(key, at, frequencies), value]
    if right:  # one text, with something behind it
        padded = [torch.cat([x, torch.randn(len(x), pad, D)], 1)[None] for x in rotated]
        start = 0
    else:
        padded = [torch.cat([torch.randn(len(x), pad, D), x], 1)[None] for x in rotated]
        start = pad
    state = Lambda(window, sinks, SimpleNamespace(inv_freq=frequencies))
    before = lm_infinite._CELLS
    lm_infinite._CELLS = rows  # 1: blocks of few rows
    try:
        found = blockwise(padded[0], padded[1], padded[2], torch.tensor([start]), state, D**-0.5)
    finally:
        lm_infinite._CELLS = before
    assert torch.isfinite(found).all()
    assert float((found[0, :, start : start + n] - expected).abs().max()) < 1e-5
    wide = dense(query, key.repeat_interleave(HEADS // KV, 0), window, sinks, frequencies, D**-0.5).softmax(
        -1
    ) @ value.repeat_interleave(HEADS // KV, 0)
    assert float((wide - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("n", [16, 17, 60])
def test_equals_full_attention_up_to_the_window(n: int) -> None:
    query, key, value, frequencies = drawn(n, 1)
    at = torch.arange(n)
    rotated = [rotate(x, at, frequencies)[None] for x in (query, key)]
    full = torch.nn.functional.scaled_dot_product_attention(
        *rotated, value[None], is_causal=True, enable_gqa=True, scale=D**-0.5
    )
    state = Lambda(16, 3, SimpleNamespace(inv_freq=frequencies))
    found = blockwise(rotated[0], rotated[1], value[None], torch.tensor([0]), state, D**-0.5)
    same = torch.isclose(found, full, atol=1e-5).all(-1).all(1)[0]
    assert same[:17].all()  # the last of them sees token 0, a sink, at a distance of just 16
    assert not same[17:].any()  # beyond it the two are not the same


def model(family: str, **more: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    if family in ("mistral", "starcoder2"):
        more = {"sliding_window": None, **more}
    config = AutoConfig.for_model(
        family, vocab_size=60, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV, head_dim=D,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, initializer_range=0.3, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModel.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_in_a_decoder(family: str) -> None:
    """Short texts as before; long ones alike alone, beside others, padded left or right."""
    module = model(family)
    ids = torch.randint(3, 60, (2, 50))
    with torch.inference_mode():
        before = module(input_ids=ids, use_cache=False).last_hidden_state
        install(module, 16, 3)
        assert module.config._attn_implementation == NAME
        long = module(input_ids=ids, use_cache=False).last_hidden_state
        assert torch.allclose(long[:, :16], before[:, :16], atol=1e-5)
        assert float((long[:, 20:] - before[:, 20:]).abs().max()) > 1e-2
        mask = torch.ones(2, 60, dtype=torch.long)
        mask[0, :10] = 0
        left = torch.cat([torch.zeros(1, 10, dtype=torch.long), ids[:1]], 1)
        other = torch.randint(3, 60, (1, 60))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        found = module(
            input_ids=torch.cat([left, other]), attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        assert torch.allclose(found[0, 10:], long[0], atol=1e-5)
        right = torch.cat([ids[:1], torch.zeros(1, 10, dtype=torch.long)], 1)
        found = module(input_ids=torch.cat([right, other]), attention_mask=mask.flip(1), use_cache=False)
        assert torch.allclose(found.last_hidden_state[0, :50], long[0], atol=1e-5)


def test_scaled_positions() -> None:
    """YaRN scales what it rotates; undoing the rotation must not undo the scale."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    module = model("llama", rope_parameters=rope)
    assert module.rotary_emb.attention_scaling > 1
    install(module, 16, 3)
    with torch.inference_mode():
        assert torch.isfinite(module(input_ids=torch.randint(3, 60, (1, 50))).last_hidden_state).all()


def test_gradients_flow() -> None:
    module = model("qwen3")
    install(module, 8, 2)
    module(input_ids=torch.randint(3, 60, (2, 30)), use_cache=False).last_hidden_state.sum().backward()
    assert float(module.layers[0].self_attn.k_proj.weight.grad.abs().max()) > 0


def test_refusals() -> None:
    with pytest.raises(UserError, match="does not know the positions of model_type 'gpt_neox'"):
        install(model("gpt_neox"), 16, 3)
    with pytest.raises(UserError, match="sliding window of 24"):
        install(model("mistral", sliding_window=24), 16, 3)
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(UserError, match="'dynamic'"):
        install(model("llama", rope_parameters=dynamic), 16, 3)


def test_self_test_finds_other_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose keys are not turned as it was taken for."""
    module = model("llama")
    module.rotary_emb.register_forward_hook(lambda _, __, out: (out[0], -out[1]))
    with pytest.raises(UserError, match="does not know how this model rotates"):
        install(module, 16, 3)
