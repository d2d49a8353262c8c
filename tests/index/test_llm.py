"""Decoders as encoders: pooling, prompts, the end-of-text token, attention modes, echo, saving, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval import testing  # noqa: E402
from retrieval.errors import UnknownName, UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.llm import open_llm  # noqa: E402
from retrieval.index.llm_attention import BIDIRECTIONAL, CAUSAL, FAMILIES, check_attention, set_attention  # noqa: E402
from retrieval.index.llm_pooling import pad, pool, positions  # noqa: E402

Make = Callable[..., Path]
TEXTS = ["a", "the longest of these texts by far", "", "two words", "naïve 東京 text"]
F32: dict[str, Any] = {"precision": "float32"}


def states(module: Any, ids: list[int]) -> Any:
    with torch.inference_mode():
        return module(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "mistral"])
@pytest.mark.parametrize("pooling", ["last", "mean", "weighted-mean", "echo", "echo-last"])
def test_alone_in_a_batch_padded_left_or_right(tiny_decoder: Make, family: str, pooling: str) -> None:
    encoder = open_llm(str(tiny_decoder(family)), {**F32, "pooling": pooling})
    whole = encoder.encode(TEXTS, "query").rows
    assert np.allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text], "query").rows for text in TEXTS])
    sequences = encoder.prepare(TEXTS, "query")
    with torch.inference_mode():
        left = encoder.embed_padded(sequences, left=True).numpy()
        right = encoder.embed(sequences).numpy()
    for other in (alone, left, right):
        assert np.abs(other - whole).max() < 1e-5


def test_bidirectional_is_the_same_padded_or_alone(tiny_decoder: Make) -> None:
    encoder = open_llm(str(tiny_decoder("qwen3")), {**F32, "pooling": "mean", "attention": "bidirectional"})
    whole = encoder.encode(TEXTS).rows
    alone = np.concatenate([encoder.encode([text]).rows for text in TEXTS])
    assert np.abs(alone - whole).max() < 1e-5
    causal = open_llm(
        encoder.identity["model"]["name"] and str(tiny_decoder("qwen3")), {**F32, "pooling": "mean"}
    )
    assert np.abs(causal.encode(TEXTS).rows - whole).max() > 1e-2
    assert causal.identity != encoder.identity


def test_the_last_column_is_not_the_last_token(tiny_decoder: Make) -> None:
    encoder = open_llm(str(tiny_decoder()), F32)
    sequences = encoder.prepare(["short", "a much longer text"])
    ids, mask = pad(sequences.ids, encoder.tokens.pad)
    with torch.inference_mode():
        hidden = encoder.module(input_ids=ids).last_hidden_state
        right = pool(hidden, mask, torch.zeros(2, dtype=torch.long), "last")
    assert torch.allclose(right[0], states(encoder.module, sequences.ids[0].tolist())[-1], atol=1e-5)
    assert float((hidden[0, -1] - right[0]).abs().max()) > 0.5


def test_pad_token_may_be_a_token_of_the_text(tiny_decoder: Make) -> None:
    """Pooling goes by the mask: padding with </s>, which ends every text too, changes nothing."""
    encoder = open_llm(str(tiny_decoder()), F32)
    assert encoder.tokens.pad == encoder.tokens.eos[0] == encoder.prepare(["x"]).ids[0][-1]


def test_pooling_by_hand() -> None:
    hidden = torch.randn(2, 5, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]], dtype=torch.bool)
    skip = torch.tensor([1, 0])
    assert positions(mask)[1].tolist() == [0, 0, 1, 2, 3]
    assert torch.allclose(pool(hidden, mask, skip, "last"), torch.stack([hidden[0, 2], hidden[1, 4]]))
    mean = pool(hidden, mask, skip, "mean")
    assert torch.allclose(mean[0], hidden[0, 1:3].mean(0))
    assert torch.allclose(mean[1], hidden[1, 1:].mean(0))
    weighted = pool(hidden, mask, skip, "weighted-mean")
    assert torch.allclose(weighted[0], (2 * hidden[0, 1] + 3 * hidden[0, 2]) / 5, atol=1e-6)
    assert torch.allclose(
        weighted[1], (hidden[1, 1:] * torch.tensor([[1.0], [2], [3], [4]])).sum(0) / 10, atol=1e-6
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_every_family_switches(family: str, kernel: str) -> None:
    from transformers import AutoConfig, AutoModel

    more: dict[str, Any] = {"sliding_window": 64} if family.startswith("gemma") else {}
    if family in ("mistral", "starcoder2"):
        more = {"sliding_window": None}
    if family == "gemma2" and kernel == "sdpa":
        pytest.skip("gemma2 caps its logits, which only eager attention can")
    config = AutoConfig.for_model(
        family, vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, initializer_range=0.3, **more,
    )  # fmt: skip
    module = AutoModel.from_config(config, attn_implementation=kernel).eval()
    for mode, other in ((CAUSAL, BIDIRECTIONAL), (BIDIRECTIONAL, CAUSAL)):
        set_attention(module, mode)
        check_attention(module, mode, 60)
        with pytest.raises(
            UserError, match="does not take effect" if mode == CAUSAL else "no causal decoder"
        ):
            check_attention(module, other, 60)


def test_self_test_finds_what_was_forgotten(tiny_decoder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The complaints of LLM2Vec's users: silently causal alone without a mask, or with one."""
    module: Any = open_llm(str(tiny_decoder()), F32).module
    set_attention(module, BIDIRECTIONAL)
    module.config.is_causal = True  # as for a version of transformers that does not look at it
    with pytest.raises(UserError, match="does not take effect"):
        check_attention(module, BIDIRECTIONAL, 260)
    set_attention(module, BIDIRECTIONAL)
    plain = torch.nn.functional.scaled_dot_product_attention

    def causal_without_mask(*args: Any, attn_mask: Any = None, is_causal: bool = False, **more: Any) -> Any:
        return plain(*args, attn_mask=attn_mask, is_causal=attn_mask is None, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", causal_without_mask)
    with pytest.raises(UserError, match="alone without a mask"):
        check_attention(module, BIDIRECTIONAL, 260)


def test_echo_second_copy_sees_the_end_of_the_first(tiny_decoder: Make) -> None:
    encoder = open_llm(str(tiny_decoder()), {**F32, "pooling": "echo"})
    one, two = (encoder.prepare([text], "passage") for text in ("what a day", "what a dax"))
    second = int(one.skip[0])
    before, after = (states(encoder.module, each.ids[0].tolist()) for each in (one, two))
    first = len(encoder.tokens.prefix) + len("Query: ")
    assert float((before[first] - after[first]).abs().max()) < 1e-6
    assert float((before[second] - after[second]).abs().max()) > 1e-3
    text = encoder.tokens.tokenizer.decode(one.ids[0].tolist())
    assert text == "<s>Query: what a day\nQuery again: what a day</s>"
    assert encoder.tokens.tokenizer.decode(one.ids[0][second:].tolist()) == "what a day</s>"


def test_echo_cuts_both_copies_alike(tiny_decoder: Make) -> None:
    encoder = open_llm(str(tiny_decoder()), {**F32, "pooling": "echo-last", "length": 40})
    found = encoder.prepare(["abcdefghijklmnop"])
    text = encoder.tokens.tokenizer.decode(found.ids[0].tolist())
    assert text == "<s>Query: abcdefgh\nQuery again: abcdefgh</s>"
    assert len(found.ids[0]) <= 40
    assert found.tokens[0] == len(found.ids[0]) + 16
    assert found.dropped[0] == 16


@pytest.mark.parametrize("eos", [False, True])
def test_end_of_text_follows_the_cut(tiny_decoder: Make, eos: bool) -> None:
    """Whatever the tokenizer does itself."""
    encoder = open_llm(str(tiny_decoder(eos=eos)), {**F32, "length": 10})
    found = encoder.prepare(["abcdefghijklmnop", "abc"])
    assert [encoder.tokens.tokenizer.decode(ids.tolist()) for ids in found.ids] == [
        "<s>abcdefgh</s>",
        "<s>abc</s>",
    ]
    assert found.tokens.tolist() == [18, 5]
    assert found.dropped.tolist() == [8, 0]


def test_special_tokens_of_a_text_are_letters(tiny_decoder: Make) -> None:
    encoder = open_llm(str(tiny_decoder("qwen3", bos=False)), F32)
    assert encoder.prepare(["a</s>b"]).ids[0].tolist().count(258) == 1
    assert len(encoder.prepare(["a</s>b"]).ids[0]) == 7


def test_instructions_stand_before_queries_only(tiny_decoder: Make) -> None:
    model = str(tiny_decoder())
    encoder = open_llm(model, {**F32, "pooling": "mean", "task": "Find books"})
    assert encoder.identity["prompts"] == {"query": "Instruct: Find books\nQuery: {text}", "passage": ""}
    query, passage = encoder.prepare(["x y"], "query"), encoder.prepare(["x y"], "passage")
    decode = encoder.tokens.tokenizer.decode
    assert decode(query.ids[0].tolist()) == "<s>Instruct: Find books\nQuery: x y"
    assert decode(passage.ids[0].tolist()) == "<s>x y"
    assert decode(query.ids[0][query.skip[0] :].tolist()) == "x y"
    hidden = states(encoder.module, query.ids[0].tolist())
    by_hand = torch.nn.functional.normalize(hidden[-3:].mean(0), dim=0)
    assert np.allclose(encoder.encode(["x y"], "query").rows[0], by_hand, atol=1e-5)
    whole = open_llm(model, {**F32, "pooling": "mean", "task": "Find books", "include_prompt": True})
    assert np.abs(whole.encode(["x y"], "query").rows[0] - by_hand.numpy()).max() > 1e-3


def test_prefixes_of_repllama(tiny_decoder: Make) -> None:
    encoder = open_llm(str(tiny_decoder()), {**F32, "query_prompt": "query: ", "passage_prompt": "passage: "})
    decode = encoder.tokens.tokenizer.decode
    assert decode(encoder.prepare(["x"], "query").ids[0].tolist()) == "<s>query: x</s>"
    assert decode(encoder.prepare(["x"], "passage").ids[0].tolist()) == "<s>passage: x</s>"


def test_prompts_that_leave_no_room(tiny_decoder: Make) -> None:
    with pytest.raises(UserError, match="takes 14 of 14 tokens"):
        open_llm(str(tiny_decoder()), {**F32, "length": 14, "query_prompt": "find books: "})


def test_many_texts_are_read_in_parts(tiny_decoder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.index import llm_text

    encoder = open_llm(str(tiny_decoder()), {**F32, "pooling": "mean", "task": "t", "length": 40})
    texts = [*TEXTS, "x" * 500, "\ud800 alone"]
    whole = encoder.prepare(texts, "query")
    monkeypatch.setattr(llm_text, "_CHARS", 10)
    parts = encoder.prepare(texts, "query")
    for one, other in zip(whole.ids, parts.ids, strict=True):
        assert np.array_equal(one, other)
    for name in ("skip", "tokens", "dropped"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_every_text_has_a_vector(tiny_decoder: Make) -> None:
    for more in ({"pooling": "mean"}, {"pooling": "mean", "task": "t"}, {"eos": False}, {"pooling": "echo"}):
        encoder = open_llm(str(tiny_decoder(bos=False)), {**F32, **more})
        found = encoder.encode(["", "x" * 5000], "query")
        assert np.isfinite(found.rows).all()
        assert found.dropped[1] > 4000
    assert encoder.encode([]).rows.shape == (0, 32)


def test_identity_holds_what_changes_vectors(tiny_decoder: Make) -> None:
    model = str(tiny_decoder())
    seen = [json.dumps(open_llm(model, F32).identity, sort_keys=True)]
    for more in (
        {"pooling": "mean"}, {"pooling": "echo"}, {"attention": "bidirectional"}, {"length": 20},
        {"eos": False}, {"normalise": False}, {"task": "t"}, {"passage_prompt": "passage: "}, {"window": 40},
        {"window": 40, "sinks": 4},
        {"quantise": "int8"},
    ):  # fmt: skip
        seen.append(json.dumps(open_llm(model, {**F32, **more}).identity, sort_keys=True))
    assert len(set(seen)) == len(seen)
    again = open_llm(model, {**F32, "batch": 64, "device": "cpu"})
    assert json.dumps(again.identity, sort_keys=True) == seen[0]


def test_bfloat16_and_int8_pass_the_gate(tiny_decoder: Make) -> None:
    model = str(tiny_decoder())
    exact = open_llm(model, F32).encode(TEXTS).rows
    for more, least in (({"precision": "bfloat16"}, 0.99), ({**F32, "quantise": "int8"}, 0.995)):
        encoder = open_llm(model, more)
        gate = encoder.runtime["gate"]["min"]
        assert least < gate < 1
        assert 0.99 < (encoder.encode(TEXTS).rows * exact).sum(1).min() < 0.999999
    assert {p.dtype for p in open_llm(model, {"precision": "bfloat16"}).module.parameters()} == {
        torch.bfloat16
    }


def test_gate_refuses(tiny_decoder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.index import gate, llm_precision

    monkeypatch.setattr(gate, "LEAST", 0.9999999)
    model = str(tiny_decoder())
    for params in ({**F32, "quantise": "int8"}, {"precision": "bfloat16"}):
        with pytest.raises(UserError, match=r"too much: cosine to float32 0\.9\d+ at worst"):
            open_llm(model, params)
    monkeypatch.setattr(llm_precision, "bfloat16_pays", lambda: True)
    exact = open_llm(model, F32)
    for least, precision in ((0.9999999, "float32"), (0.9, "bfloat16")):
        monkeypatch.setattr(gate, "LEAST", least)
        encoder = open_llm(model, {"precision": "auto"})
        assert encoder.runtime["precision"] == precision
        assert np.array_equal(encoder.encode(TEXTS).rows, exact.encode(TEXTS).rows) == (
            precision == "float32"
        )


def test_saved_is_the_same_encoder(tiny_decoder: Make, tmp_path: Path) -> None:
    params = {**F32, "pooling": "mean", "task": "Find", "attention": "bidirectional", "length": 50}
    encoder = open_llm(str(tiny_decoder("qwen3")), params)
    encoder.save(str(tmp_path / "saved"), trained="on nothing")
    encoder.save(str(tmp_path / "saved"), trained="on nothing")  # a former one is replaced
    again: Any = open_encoder(str(tmp_path / "saved"), params=F32)  # by what its files say
    assert np.array_equal(again.encode(TEXTS, "query").rows, encoder.encode(TEXTS, "query").rows)
    mine, other = ({**dict(each.identity), "model": None} for each in (encoder, again))
    assert mine == other
    assert (
        json.loads((tmp_path / "saved" / "config.json").read_text())["retrieval"]["trained"] == "on nothing"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("x")
    with pytest.raises(UserError, match="choose another path"):
        encoder.save(str(tmp_path / "full"))


def test_trained_lora_is_saved_merged(tiny_decoder: Make, tmp_path: Path) -> None:
    encoder = open_llm(str(tiny_decoder()), F32)
    before = encoder.encode(TEXTS).rows
    encoder.trainable({"lora": 4, "alpha": 0.0, "targets": "q,v", "checkpointing": True})
    trained = [name for name, p in encoder.module.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all("lora_" in name for name in trained)
    encoder.module.train()
    optimiser = torch.optim.SGD([p for p in encoder.module.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step moves B alone, since B is zero
        rows = encoder.embed(encoder.prepare(TEXTS))
        (rows @ rows.T).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    encoder.module.eval()
    after = encoder.encode(TEXTS).rows
    assert np.abs(after - before).max() > 1e-2
    encoder.save(str(tmp_path / "merged"))
    again = open_llm(str(tmp_path / "merged"), F32)
    assert np.abs(again.encode(TEXTS).rows - after).max() < 1e-5
    assert np.array_equal(encoder.encode(TEXTS).rows, after)  # training may go on


def test_lora_on_int8_is_saved_as_floats(tiny_decoder: Make, tmp_path: Path) -> None:
    from retrieval.index.lora import lora_layers

    model = str(tiny_decoder())
    encoder = open_llm(model, {**F32, "quantise": "int8"})
    with pytest.raises(UserError, match="lora=16"):
        encoder.trainable({"lora": 0})
    encoder.trainable({"lora": 4, "targets": "q,v"})  # other layers stay int8
    for layer in lora_layers(encoder.module).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    encoder.save(str(tmp_path / "saved"))
    again = open_llm(str(tmp_path / "saved"), F32)
    assert again.identity["quantise"] == "none"
    assert np.abs(again.encode(TEXTS).rows - encoder.encode(TEXTS).rows).max() < 1e-4


def test_adapter_is_merged_and_named(tiny_decoder: Make, tmp_path: Path) -> None:
    from retrieval.index.lora import LoraConfig, lora_layers, save_lora

    model = str(tiny_decoder())
    encoder = open_llm(model, F32)
    encoder.trainable({"lora": 4})
    for layer in lora_layers(encoder.module).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    save_lora(encoder.module, str(tmp_path / "adapter"), LoraConfig(4, 8.0))
    opened = open_llm(model, {**F32, "adapter": str(tmp_path / "adapter")})
    assert not lora_layers(opened.module)
    assert np.abs(opened.encode(TEXTS).rows - encoder.encode(TEXTS).rows).max() < 1e-5
    assert opened.identity["adapter"]["name"] == "adapter"
    assert opened.identity != open_llm(model, F32).identity


def test_conforms(tiny_decoder: Make) -> None:
    model = str(tiny_decoder())
    testing.check_encoder(lambda: open_llm(model, F32))
    testing.check_encoder(lambda: open_llm(model, {**F32, "pooling": "echo"}))


def test_wrong_params_are_one_sentence(tiny_decoder: Make) -> None:
    model = str(tiny_decoder())
    cases: list[tuple[dict[str, Any], type[UserError], str]] = [
        ({"poling": "last"}, UnknownName, "pooling"),
        ({"pooling": "cls"}, UnknownName, "last"),
        ({"length": 500}, UserError, "window=128"),
        ({"length": "long"}, UserError, "whole number"),
        ({"normalise": "yes"}, UserError, "true or false"),
        ({"window": 200}, UserError, "trained on 128"),
        ({"window": 64, "attention": "bidirectional"}, UserError, "causal"),
        ({"query_prompt": "{task}: {text}"}, UserError, "task="),
        ({"query_prompt": "{text} {text}"}, UserError, "echo"),
        ({"pooling": "echo", "query_prompt": "{text}"}, UserError, "twice"),
        ({"quantise": "int4", "device": "cpu"}, UserError, "4-bit"),
        ({"device": "tpu"}, UserError, "cpu, cuda"),
        ({"adapter": "/nowhere"}, UserError, "no adapter"),
    ]  # fmt: skip
    for params, error, words in cases:
        with pytest.raises(error, match=words):
            open_llm(model, params)
