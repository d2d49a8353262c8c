"""M2-BERT's network: against the official implementation, and the identities that it is built on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.m2bert import M2Bert, M2Config, _BlockLinear, _FeatureMixer, _short  # noqa: E402
from retrieval.index.m2bert_filters import convolve, fast_length, position_features, spectrum  # noqa: E402

Tensor = Any


def tiny(**fields: Any) -> M2Bert:
    shape = {
        "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32,
        "max_position_embeddings": 96, "hyena_filter_order": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    return M2Bert(M2Config(**{**shape, **fields})).eval()


# --- the official implementation ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(parity: Path) -> tuple[M2Bert, dict[str, Tensor]]:
    from safetensors.torch import load_file

    folder = parity / "m2bert"
    model = M2Bert(M2Config.from_dict(json.loads((folder / "config.json").read_text()))).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model, load_file(folder / "expected.safetensors")


def test_equals_official_hidden_states_poolings_and_filters(case: tuple[M2Bert, dict[str, Tensor]]) -> None:
    model, expected = case
    mask = expected["attention_mask"][..., None].float()
    with torch.no_grad():
        hidden = model(expected["input_ids"])
        mean = (hidden * mask).sum(1) / mask.sum(1)
        forward, reverse = model.encoder.layers()[0].attention.filter_fn.taps(64)
        found = {
            "last_hidden_state": hidden, "pooled_cls": model.pooler(hidden[:, 0]),
            "pooled_mean": model.pooler(mean), "layer0_filter_fwd": forward, "layer0_filter_rev": reverse,
        }  # fmt: skip
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0, msg=name)


def test_published_shapes_key_for_key(parity: Path) -> None:
    with torch.device("meta"):
        model = M2Bert(M2Config())
    shapes = json.loads((parity / "m2bert" / "m2-bert-80M-2k.state_dict_shapes.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == shapes


@pytest.mark.parametrize("length", [2048, 8192, 32768])
def test_published_parameter_counts(length: int) -> None:
    with torch.device("meta"):
        model = M2Bert(M2Config(max_position_embeddings=length))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 80_121_600 + length * 768 + 24 * length * 5


def test_position_features_begin_as_published(case: tuple[M2Bert, dict[str, Tensor]]) -> None:
    z = position_features(5, 64)[0]
    angle = 2 * math.pi * 3 / 64
    expected = [3 / 63, math.cos(1e-4 * angle), math.cos(angle), -math.sin(1e-4 * angle), -math.sin(angle)]
    np.testing.assert_allclose(z[3].numpy(), expected, atol=1e-6)


# --- convolution --------------------------------------------------------------------------------------------


def direct(v: Tensor, forward: Tensor, reverse: Tensor, bias: Tensor) -> Tensor:
    """y[t] = sum kf[m] v[t - m] + sum_{m >= 1} kr[m - 1] v[t + m] + bias v[t], one product at a time."""
    y = torch.zeros_like(v)
    length = v.shape[-1]
    for t in range(length):
        y[..., t] = bias * v[..., t]
        for m in range(t + 1):
            y[..., t] += forward[:, m] * v[..., t - m]
        for m in range(1, length - t):
            y[..., t] += reverse[:, m - 1] * v[..., t + m]
    return y


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 33), seed=st.integers(0, 9), spare=st.integers(0, 3))
def test_fft_equals_the_direct_sum(length: int, seed: int, spare: int) -> None:
    torch.manual_seed(seed)
    v, bias = torch.randn(2, 3, length), torch.randn(3)
    forward, reverse = torch.randn(3, length + spare), torch.randn(3, length + spare)
    found = convolve(v, spectrum(forward, reverse, bias, length))
    torch.testing.assert_close(found, direct(v, forward, reverse, bias), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 24])
def test_an_impulse_at_either_end(length: int) -> None:
    forward, reverse = torch.randn(1, length), torch.randn(1, length)
    kernel = spectrum(forward, reverse, torch.zeros(1), length)
    first, last = torch.zeros(1, 1, length), torch.zeros(1, 1, length)
    first[..., 0] = last[..., -1] = 1
    torch.testing.assert_close(convolve(first, kernel)[0], forward, atol=1e-5, rtol=1e-5)
    wanted = torch.cat(
        [reverse[:, : length - 1].flip(1), forward[:, :1]], 1
    )  # the reverse begins at distance 1
    torch.testing.assert_close(convolve(last, kernel)[0], wanted, atol=1e-5, rtol=1e-5)


@given(least=st.integers(1, 70_000))
def test_fast_lengths_are_long_enough_even_and_smooth(least: int) -> None:
    size = rest = fast_length(least)
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert size % 2 == 0
    assert least <= size <= max(2, 1.25 * least + 2)


def test_the_short_filter_is_the_causal_depthwise_convolution() -> None:
    conv = torch.nn.Conv1d(6, 6, 3, padding=2, groups=6)
    x = torch.randn(2, 6, 9)
    torch.testing.assert_close(_short(x, conv), conv(x)[..., :9])
    with torch.no_grad():  # another path
        for length in (1, 2, 9):
            torch.testing.assert_close(_short(x[..., :length], conv), conv(x[..., :length])[..., :length])


def test_convolution_stays_in_float32_under_autocast() -> None:
    v, forward, reverse = torch.randn(1, 4, 50), torch.randn(4, 50), torch.randn(4, 50)
    exact = convolve(v, spectrum(forward, reverse, torch.zeros(4), 50))
    with torch.autocast("cpu", torch.bfloat16):
        found = convolve(v, spectrum(forward, reverse, torch.zeros(4), 50))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0, rtol=0)


# --- kernels are kept ---------------------------------------------------------------------------------------


def test_kernels_are_made_once_and_anew_when_weights_change() -> None:
    model, ids = tiny().requires_grad_(False), torch.randint(0, 64, (1, 40))
    with torch.no_grad():
        before = model(ids)
        model(ids[:, :20])
        model(ids)
        assert model.kernels.made == 1
        model.get_parameter("encoder.layer.1.attention.filter_fn.implicit_filter.6.weight").mul_(2)
        after = model(ids)
        assert model.kernels.made == 2
        assert not torch.allclose(before, after)
        model.kernels.clear()
        torch.testing.assert_close(model(ids), after)


def test_kernels_follow_an_optimizer_that_counts_no_changes() -> None:
    model, ids = tiny().requires_grad_(False), torch.randint(0, 64, (1, 40))
    with torch.no_grad():
        before = model(ids)
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.encoder.layers()[0].attention.filter_fn.parameters(), fused=True)
    model(ids).square().sum().backward()
    with torch.no_grad():
        model(ids)
    optimizer.step()
    model.requires_grad_(False)
    with torch.no_grad():
        after = model(ids)
        model.kernels.clear()
        assert not torch.equal(after, before)
        torch.testing.assert_close(model(ids), after, atol=0, rtol=0)


def test_kernels_of_a_longer_text_serve_a_shorter_one() -> None:
    model, ids = tiny().requires_grad_(False), torch.randint(0, 64, (1, 30))
    with torch.no_grad():
        alone = model(ids)
        model.kernels.clear()
        model(torch.randint(0, 64, (1, 96)))
        torch.testing.assert_close(model(ids), alone, atol=1e-6, rtol=1e-6)


def test_with_and_without_gradients_is_the_same() -> None:
    model = tiny()
    ids, lengths = torch.randint(0, 64, (3, 90)), torch.tensor([90, 3, 41])
    with torch.no_grad():
        without = model(ids, lengths)
    torch.testing.assert_close(model(ids, lengths), without, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_of_the_filters() -> None:
    model = tiny().train()
    ids = torch.randint(0, 64, (2, 96))
    with torch.no_grad():
        model(ids)  # kept kernels must not be taken
    model(ids).square().sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# --- block-diagonal layers and Monarch matrices -------------------------------------------------------------


def test_block_diagonal_equals_dense() -> None:
    layer = _BlockLinear(4, 24, 48, bias=False).double()
    x = torch.randn(7, 24, dtype=torch.float64)
    found = layer.blocks(x.view(7, 4, -1).transpose(0, 1)).transpose(0, 1).reshape(7, 48)
    torch.testing.assert_close(found, x @ layer.dense().T, atol=1e-14, rtol=0)
    with torch.no_grad():  # another path
        again = layer.blocks(x.view(7, 4, -1).transpose(0, 1)).transpose(0, 1).reshape(7, 48)
    torch.testing.assert_close(again, found, atol=1e-14, rtol=0)


def test_the_feature_mixer_equals_dense_layers() -> None:
    mixer = _FeatureMixer(tiny().config).double()
    a = torch.randn(2, 5, 16, dtype=torch.float64)
    gate, value = (a @ mixer.gated_layers.dense().T).chunk(2, dim=-1)
    inner = torch.nn.functional.gelu(gate) * value
    wanted = mixer.layernorm(inner @ mixer.wo.dense().T + mixer.wo.bias + a)
    torch.testing.assert_close(mixer(a), wanted, atol=1e-12, rtol=0)


def stride(x: Tensor, side: int) -> Tensor:
    """The stride permutation: as a side x side grid, transposed."""
    return x.unflatten(-1, (side, side)).transpose(-1, -2).flatten(-2)


def monarch(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """M x with M = P^T L P R; left, right [side, side, side] are block-diagonal, x [..., side^2]."""
    side = len(left)
    x = torch.einsum("boi,...bi->...bo", right, x.unflatten(-1, (side, side))).flatten(-2)
    x = torch.einsum("boi,...bi->...bo", left, stride(x, side).unflatten(-1, (side, side))).flatten(-2)
    return stride(x, side)


def test_order_two_monarch_equals_dense() -> None:
    side = 5
    left, right = torch.randn(2, side, side, side, dtype=torch.float64)
    permutation = stride(torch.eye(side * side, dtype=torch.float64), side).T
    dense = permutation.T @ torch.block_diag(*left) @ permutation @ torch.block_diag(*right)
    x = torch.randn(3, side * side, dtype=torch.float64)
    torch.testing.assert_close(monarch(x, left, right), x @ dense.T, atol=1e-12, rtol=0)


def test_the_fourier_transform_is_monarch_up_to_twiddles() -> None:
    side = 6
    size = side * side
    numbers = torch.arange(side, dtype=torch.float64)
    small = torch.exp(-2j * math.pi * torch.outer(numbers, numbers) / side)
    twiddle = torch.exp(-2j * math.pi * torch.outer(numbers, numbers) / size)  # [j2, k1]
    x = torch.randn(size, dtype=torch.complex128)
    # X[k1 + side k2] = sum_j2 w_s^(j2 k2) w_n^(j2 k1) sum_j1 w_s^(j1 k1) x[side j1 + j2]
    inner = x.view(side, side).T @ small  # [j2, k1]
    found = (small @ (twiddle * inner)).flatten()  # [k2, k1]
    torch.testing.assert_close(found, torch.fft.fft(x), atol=1e-12, rtol=0)


# --- padding ------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 60), more=st.integers(0, 36), seed=st.integers(0, 5))
def test_masked_does_not_depend_on_padding_and_the_published_form_does(
    length: int, more: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = tiny()
    ids = torch.randint(1, 64, (1, length))
    padded = torch.cat([ids, torch.randint(0, 64, (1, more))], 1)
    with torch.no_grad():
        alone = model(ids)
        masked = model(padded, torch.tensor([length]))[:, :length]
        unmasked = model(padded)[:, :length]
    torch.testing.assert_close(masked, alone, atol=1e-5, rtol=1e-5)
    if more > 3:
        assert (unmasked - alone).abs().max() > 1e-3


# --- bad input ----------------------------------------------------------------------------------------------


def test_refuses_more_tokens_than_positions() -> None:
    with pytest.raises(UserError, match=r"97 tokens and the model reads 96"):
        tiny()(torch.zeros(1, 97, dtype=torch.long))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hyena_training_additions", True, "only False is supported"),
        ("use_monarch_mlp", False, "only True is supported"),
        ("hidden_size", 30, "does not divide into 4 blocks"),
        ("hidden_size", "768", "must be int"),
        ("num_hidden_layers", 0, "must be int"),
        ("hyena_emb_dim", 4, "give 3, 5, 7"),
        ("long_conv_l_max", 1024, "must be equal"),
        ("layer_norm_eps", -1.0, "must be float"),
        ("pool_all", 1, "must be bool"),
    ],
)
def test_refuses_configurations_that_it_does_not_build(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        M2Config.from_dict({field: value})


def test_rounds_the_vocabulary_up_and_writes_what_it_reads() -> None:
    config = M2Config.from_dict({"vocab_size": 30522, "max_position_embeddings": 8192})
    assert config.vocab_size == 30528
    assert M2Config.from_dict(config.to_dict()) == config
