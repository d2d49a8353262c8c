"""The encoder "m2bert": its modes of padding, its settings, its identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from retrieval.errors import UnknownName, UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.m2bert_encoder import groups, padded_length  # noqa: E402

TEXTS = [
    "the meeting",
    "",
    "remote control cost",
    "the cost of a remote control " * 9,
    "a",
    "the meeting " * 14,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, m2bert_models: Any) -> str:
    return str(m2bert_models.directory(tmp_path_factory.mktemp("m2") / "model"))


@pytest.fixture
def opened(model: str) -> Callable[..., Any]:
    return lambda **params: open_encoder(model, "", params)


@pytest.mark.parametrize("pad", ["faithful", "trim", "masked"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_text_has_one_vector_whatever_stands_beside_it(
    opened: Callable[..., Any], pad: str, pooling: str
) -> None:
    encoder = opened(pad=pad, pooling=pooling)
    together = encoder.encode(TEXTS)
    assert together.rows.shape == (len(TEXTS), encoder.dim)
    alone = np.concatenate([encoder.encode([text]).rows for text in TEXTS])
    np.testing.assert_allclose(together.rows, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


def test_tokens_and_what_was_cut_are_counted(opened: Callable[..., Any]) -> None:
    found = opened(pad="masked").encode(TEXTS)
    assert found.tokens.tolist() == [4, 2, 5, 65, 3, 30]
    assert found.dropped.tolist() == [0, 0, 0, 33, 0, 0]


def test_a_cut_text_keeps_its_sep_in_masked_alone(opened: Callable[..., Any]) -> None:
    for pad, last in (("faithful", False), ("trim", False), ("masked", True)):
        ids = opened(pad=pad).prepare([TEXTS[3]]).ids[0]
        assert len(ids) == 32
        assert (ids[-1] == 3) is np.bool_(last)
        assert ids[0] == 2


def test_faithful_pads_every_text_to_the_full_length_and_takes_no_other(opened: Callable[..., Any]) -> None:
    encoder = opened()
    assert encoder.settings.pad == "faithful"
    sequences = encoder.prepare(TEXTS, "query")
    assert {len(ids) for ids in sequences.ids} == {32}
    short = sequences._replace(ids=[ids[:20] for ids in sequences.ids])
    with pytest.raises(UserError, match="exactly 32 tokens, padding included, and one has 20"):
        encoder.embed(short)
    with pytest.raises(UserError, match="give pad=trim"):
        opened(length=16)


def test_faithful_depends_on_padding_and_masked_does_not(opened: Callable[..., Any]) -> None:
    text = TEXTS[:1]
    faithful, trim = opened().encode(text).rows, opened(pad="trim").encode(text).rows
    assert (faithful * trim).sum() < 0.999
    np.testing.assert_allclose(opened(pad="masked").encode(text).rows, trim, atol=1e-5)


def test_faithful_is_the_published_arithmetic(opened: Callable[..., Any]) -> None:
    encoder = opened(normalise=False)
    ids = torch.zeros(1, 32, dtype=torch.long)
    ids[0, :4] = torch.tensor([2, 6, 7, 3])
    with torch.no_grad():
        expected = torch.tanh(encoder.module.pooler.dense(encoder.module(ids)[:, 0]))
    np.testing.assert_allclose(encoder.encode(TEXTS[:1]).rows, expected.numpy(), atol=1e-5)


def test_the_identity_tells_the_modes_apart(opened: Callable[..., Any]) -> None:
    given: list[dict[str, Any]] = [
        {}, {"pad": "trim"}, {"pad": "masked"}, {"pad": "trim", "length": 16}, {"pooling": "mean"},
        {"normalise": False},
    ]  # fmt: skip
    identities = [repr(opened(**params).identity) for params in given]
    assert len(set(identities)) == len(given)
    assert opened(precision="bfloat16").identity == opened().identity


def test_bfloat16_stays_near_float32_and_says_how_near(opened: Callable[..., Any]) -> None:
    exact, rough = opened(pad="masked"), opened(pad="masked", precision="bfloat16")
    cosines = (exact.encode(TEXTS).rows * rough.encode(TEXTS).rows).sum(1)
    assert cosines.min() > 0.99
    assert 0.99 < rough.runtime["gate"]["min"] <= 1.000001
    assert rough.runtime["precision"] == "bfloat16"
    assert "gate" not in exact.runtime


def test_saves_what_opens_as_the_same_encoder(opened: Callable[..., Any], tmp_path: Path) -> None:
    encoder = opened(pad="masked", pooling="mean", length=20)
    encoder.save(str(tmp_path / "saved"), trained_on="nothing")
    again = open_encoder(str(tmp_path / "saved"))
    np.testing.assert_array_equal(again.encode(TEXTS).rows, encoder.encode(TEXTS).rows)
    assert {**again.identity, "model": 0} == {**encoder.identity, "model": 0}
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["retrieval"]["trained_on"] == "nothing"


def test_prompts_of_the_configuration_are_put_in_front(tmp_path: Path, m2bert_models: Any) -> None:
    directory = m2bert_models.directory
    path = directory(tmp_path / "m", pad="masked", prompts={"query": "the cost "})
    encoder, plain = open_encoder(path), open_encoder(directory(tmp_path / "n", pad="masked"))
    np.testing.assert_allclose(
        encoder.encode(["meeting"], "query").rows, plain.encode(["the cost meeting"]).rows, atol=1e-6
    )
    np.testing.assert_allclose(encoder.encode(["meeting"]).rows, plain.encode(["meeting"]).rows, atol=1e-6)


def test_gradients_flow_through_embed_as_the_trainer_needs(opened: Callable[..., Any]) -> None:
    encoder = opened(pad="masked", pooling="mean")
    encoder.module.requires_grad_(True)
    encoder.embed(encoder.prepare(TEXTS))[:, 0].sum().backward()
    grads = {name: p.grad for name, p in encoder.module.named_parameters()}
    assert all(grad is not None for grad in grads.values())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pad": "left"}, "m2bert has faithful, trim, masked"),
        ({"pooling": "max"}, "m2bert has cls, mean"),
        ({"pad": "trim", "length": 64}, "reads 3 to 32 tokens"),
        ({"pad": "trim", "length": 2}, "reads 3 to 32 tokens"),
        ({"normalise": 1}, "give true or false"),
        ({"precision": "int8"}, "m2bert has float32, bfloat16"),
    ],
)
def test_refuses_params_of_no_sense(opened: Callable[..., Any], params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(**params)


def test_refuses_an_unknown_param_by_name(opened: Callable[..., Any]) -> None:
    with pytest.raises(UnknownName, match="did you mean 'pad'"):
        opened(padd="trim")


@settings(deadline=None)
@given(lengths=st.lists(st.integers(2, 9000), max_size=40), equal=st.booleans())
def test_groups_cover_every_row_once_and_waste_little(lengths: list[int], equal: bool) -> None:
    sizes = np.array(lengths, np.int64)
    made = groups(sizes, equal=equal)
    assert sorted(np.concatenate([np.empty(0, np.int64), *made]).tolist()) == list(range(len(sizes)))
    for group in made:
        padded = int(sizes[group].max()) * len(group)
        assert padded == sizes[group].sum() if equal else padded <= sizes[group].sum() * 1.25 + 10_000


@given(length=st.integers(1, 40_000))
def test_padded_lengths_are_few_and_near(length: int) -> None:
    assert length <= padded_length(length) <= length + max(8, length / 8)
    assert len({padded_length(n) for n in range(4097, 8193)}) == 16


@pytest.mark.gpu
def test_on_cuda_as_on_the_cpu(opened: Callable[..., Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for pad in ("faithful", "masked"):
        here, there = (
            opened(pad=pad, device="cpu").encode(TEXTS),
            opened(pad=pad, device="cuda").encode(TEXTS),
        )
        np.testing.assert_allclose(there.rows, here.rows, atol=1e-3)
