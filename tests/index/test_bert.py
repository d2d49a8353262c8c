"""BERT over packed batches against transformers, one sequence at a time; batching changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index import packed as packing  # noqa: E402
from retrieval.index.bert import Bert, BertConfig, MlmHead, Packed, pack, plan_batches  # noqa: E402

LENGTHS = [7, 1, 24, 3, 7, 23, 12, 7, 2, 24]


def shape(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 40, "max_position_embeddings": 24, "initializer_range": 0.4, **changes,
    }  # fmt: skip


def sequences(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids, and segments as of pairs: zeros, then ones."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 50, length) for length in LENGTHS]
    return ids, [(np.arange(length) > length // 2).astype(np.int64) for length in LENGTHS]


def bert(**changes: Any) -> Bert:
    torch.manual_seed(1)
    return Bert(BertConfig.from_dict(shape(**changes)), pooler=True).eval()


def rows(packed: Packed, i: int) -> slice:
    return slice(int(packed.offsets[i]), int(packed.offsets[i + 1]))


def close(a: Any, b: Any, tolerance: float) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance)


@pytest.fixture(params=[0, 300, 1 << 20], ids=["even blocks", "some padding", "one block"])
def _waste(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_WASTE_CPU", request.param)


@pytest.mark.usefixtures("_waste")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_act": "gelu_new", "num_attention_heads": 1},
        {"hidden_act": "relu", "layer_norm_eps": 1e-5, "num_hidden_layers": 1},
    ],
)
def test_same_as_transformers(changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(**shape(**changes), attn_implementation="eager")
    theirs = transformers.BertForMaskedLM(config).eval()
    pooled = transformers.BertModel(config).eval()
    pooled.load_state_dict(theirs.bert.state_dict(), strict=False)
    ours = Bert(BertConfig.from_dict(config.to_dict()), pooler=True).eval()
    assert not any(ours.load_state_dict(pooled.state_dict()))
    head = MlmHead(ours)
    mine = {f"cls.{name}" for name in head.state_dict()}
    state = {name.removeprefix("cls."): value for name, value in theirs.state_dict().items() if name in mine}
    assert not any(head.load_state_dict(state))

    ids, segments = sequences()
    packed = pack(ids, segments)
    with torch.inference_mode():
        hidden, attention = ours(packed, cls_attention=True)
        assert close(ours(packed), hidden, 0)
        first, first_attention = ours.first(packed)
        for i, (sequence, segment) in enumerate(zip(ids, segments)):
            at = rows(packed, i)
            given_ = {
                "input_ids": torch.tensor(sequence)[None],
                "token_type_ids": torch.tensor(segment)[None],
            }
            expected = pooled(**given_, output_attentions=True)
            assert close(hidden[at], expected.last_hidden_state[0], 1e-5)
            assert close(attention[at], expected.attentions[-1][0].mean(0)[0], 1e-6)
            assert close(first[i], expected.last_hidden_state[0, 0], 1e-5)
            assert ours.pooler is not None
            assert close(ours.pooler(hidden[at][:1]), expected.pooler_output, 1e-5)
            assert close(head(hidden[at]), theirs(**given_).logits[0], 2e-5)
        assert close(first_attention, attention, 1e-7)


@pytest.mark.usefixtures("_waste")
def test_a_batch_is_its_sequences_alone() -> None:
    model = bert()
    ids, segments = sequences()
    packed = pack(ids, segments)
    with torch.inference_mode():
        together, attention = model(packed, cls_attention=True)
        for i in range(len(ids)):
            alone, row = model(pack([ids[i]], [segments[i]]), cls_attention=True)
            assert close(together[rows(packed, i)], alone, 1e-5)
            assert close(attention[rows(packed, i)], row, 1e-6)
            assert float(row.sum()) == pytest.approx(1, abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(len(LENGTHS))), st.sampled_from([0, 300, 1 << 20]))
def test_order_does_not_matter(order: list[int], waste: int) -> None:
    model = bert(num_hidden_layers=2)
    ids, _ = sequences()
    plain, permuted = pack(ids), pack([ids[i] for i in order])
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        expected = model(plain)
        patch.setattr(packing, "_WASTE_CPU", waste)
        got = model(permuted)
    for place, i in enumerate(order):
        assert close(got[rows(permuted, place)], expected[rows(plain, i)], 1e-5)


def test_segments_matter() -> None:
    model = bert()
    ids, segments = sequences()
    with torch.inference_mode():
        assert not close(model(pack(ids)), model(pack(ids, segments)), 0.01)


@pytest.mark.usefixtures("_waste")
def test_gradients_are_those_of_the_sequences() -> None:
    model = bert()
    ids, segments = sequences()
    losses = {
        "packed": model(pack(ids, segments)).square().sum(),
        "alone": sum(model(pack([i], [s])).square().sum() for i, s in zip(ids, segments)),
    }
    body = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    packed, alone = (torch.autograd.grad(loss, body) for loss in losses.values())
    for a, b in zip(packed, alone):
        assert close(a, b, 1e-4 * max(1.0, float(b.abs().max())))


def test_gradients_through_the_first_tokens() -> None:
    model = bert()
    packed = pack(*sequences())
    body = [parameter for name, parameter in model.named_parameters() if "pooler" not in name]
    whole = torch.autograd.grad(model(packed)[packed.offsets[:-1]].square().sum(), body)
    first = torch.autograd.grad(model.first(packed)[0].square().sum(), body)
    for a, b in zip(first, whole):
        assert close(a, b, 1e-4 * max(1.0, float(b.abs().max())))


def test_dropout_only_in_training() -> None:
    packed = pack(sequences()[0])
    for part in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = bert(**{**still, part: 0.5})
        with torch.inference_mode():
            calm = model(packed)
            assert close(model(packed), calm, 0)
            assert close(bert(**still).train()(packed), calm, 1e-5)
            assert not close(model.train()(packed), calm, 0.01)
            assert not close(model.first(packed)[0], calm[packed.offsets[:-1]], 0.01)


def test_the_head_is_tied_to_the_embeddings() -> None:
    model = bert()
    head = MlmHead(model)
    assert not any("decoder" in name or "embed" in name for name in head.state_dict())
    head(torch.ones(1, 24)).sum().backward()
    gradient = model.embeddings.word_embeddings.weight.grad
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0


def test_bfloat16_autocast_stays_near() -> None:
    model = bert(initializer_range=0.1)
    packed = pack(sequences()[0])
    with torch.inference_mode():
        exact, (first, attention) = model(packed), model.first(packed)
        with torch.autocast("cpu", torch.bfloat16):
            near, (near_first, near_attention) = model(packed), model.first(packed)
    for a, b in ((exact, near), (first, near_first)):
        assert float(torch.cosine_similarity(a, b.float()).min()) > 0.999
    assert close(attention, near_attention.float(), 0.01)


def test_too_long_a_sequence_is_refused() -> None:
    with pytest.raises(UserError, match=r"25 tokens .* positions for 24: cut the text to 24"):
        bert()(pack([[1] * 25]))
    assert len(bert()(pack([[1] * 24]))) == 24


def test_empty_sequences_and_batches() -> None:
    with pytest.raises(ValueError, match="sequence 1 is empty"):
        pack([[1, 2], [], [3]])
    none = pack([])
    assert none.longest == 0
    assert bert()(none).shape == (0, 24)
    first, attention = bert().first(none)
    assert (first.shape, attention.shape) == ((0, 24), (0,))


def test_pack() -> None:
    packed = pack([np.array([5, 6, 7], np.int32), [8]], [[0, 0, 1], [1]])
    assert packed.ids.tolist() == [5, 6, 7, 8]
    assert packed.positions.tolist() == [0, 1, 2, 0]
    assert packed.segments.tolist() == [0, 0, 1, 1]
    assert packed.offsets.tolist() == [0, 3, 4]
    assert packed.longest == 3
    assert {x.dtype for x in packed[:4]} == {torch.int64}
    with pytest.raises(ValueError, match="segments"):
        pack([[1, 2], [3]], [[0], [0, 0]])


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 100))
def test_plan_batches(lengths: list[int], tokens: int) -> None:
    batches = plan_batches(lengths, tokens)
    order = [i for batch in batches for i in batch.tolist()]
    assert order == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    sums = [sum(lengths[i] for i in batch) for batch in batches]
    for batch, total in zip(batches, sums):
        assert total <= tokens or len(batch) == 1
    for total, following in zip(sums, batches[1:]):
        assert total + lengths[following[0]] > tokens  # none is cut off early


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "'roberta'"),
        ({"hidden_size": 25}, "25 does not divide into 4"),
        ({"hidden_act": "swish"}, "'swish'; known: gelu"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"hidden_dropout_prob": -1}, "hidden_dropout_prob is -1"),
        ({"position_embedding_type": "relative_key"}, "relative positions"),
    ],
)
def test_bad_configurations(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BertConfig.from_dict(shape(**changes))


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = bert()
    ids, segments = sequences()
    with torch.inference_mode():
        expected, row = model(pack(ids, segments), cls_attention=True)
        model.cuda()
        packed = pack(ids, segments, device="cuda")
        hidden, attention = model(packed, cls_attention=True)
        first, _ = model.first(packed)
    assert close(hidden.cpu(), expected, 1e-4)
    assert close(attention.cpu(), row, 1e-5)
    assert close(first.cpu(), expected[packed.offsets[:-1].cpu()], 1e-4)
