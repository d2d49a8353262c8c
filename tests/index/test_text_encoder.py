"""Text encoders: what transformers computes, packed or not; order, company, cutting, prompts, saving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval.errors import StorageError, UserError  # noqa: E402
from retrieval.index.bert import Bert  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.foreign import Foreign  # noqa: E402
from retrieval.index.text_encoder import TextEncoder  # noqa: E402
from tests.index.text_models import (  # noqa: E402
    FOREIGN,
    OWN,
    TEXTS,
    ids_of,
    write_layout,
    write_model,
)  # fmt: skip

MEAN = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}


def opened(directory: Path, **params: Any) -> TextEncoder:
    encoder = open_encoder(str(directory), params={"precision": "float32", "device": "cpu", **params})
    assert isinstance(encoder, TextEncoder)
    return encoder


def alone(model: Any, text: str, length: int) -> Any:
    """Token states of one text by transformers, without padding."""
    ids = torch.tensor([ids_of(text, length)])
    more = {}
    if model.config.model_type == "longformer":
        more = {"global_attention_mask": torch.tensor([[1] + [0] * (ids.shape[1] - 1)])}
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), **more).last_hidden_state[0]


@pytest.mark.parametrize("kind", [*OWN, *FOREIGN])
def test_vectors_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    model = write_model(tmp_path / "m", kind, OWN.get(kind, FOREIGN.get(kind, {})))
    encoder = opened(tmp_path / "m", length=24)
    assert isinstance(encoder.network, Bert if kind in OWN else Foreign)
    found = encoder.encode(TEXTS)
    assert found.tokens.tolist() == [len(text.split()) + 2 for text in TEXTS]
    assert found.dropped.tolist() == [max(len(text.split()) - 22, 0) for text in TEXTS]
    for text, row in zip(TEXTS, found.rows, strict=True):
        expected = alone(model, text, 24).mean(0)
        np.testing.assert_allclose(row, (expected / expected.norm()).numpy(), atol=1e-5, err_msg=text)


def test_byte_level_models(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModel, AutoTokenizer, ByT5Tokenizer, CanineTokenizer

    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    config = AutoConfig.for_model("canine", **size, num_hash_buckets=64, local_transformer_stride=16)
    AutoModel.from_config(config).eval().save_pretrained(tmp_path / "canine")
    CanineTokenizer().save_pretrained(tmp_path / "canine")
    write_model(tmp_path / "byt5", "t5", {**FOREIGN["t5"], "vocab_size": 384, "pad_token_id": 0})
    (tmp_path / "byt5" / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(tmp_path / "byt5")
    for name, framed in (("canine", 2), ("byt5", 1)):
        encoder = opened(tmp_path / name, length=300)
        texts = ["Il-ħajja", "wind and sea " * 3, ""]
        found = encoder.encode(texts)
        sizes = [len(text) if name == "canine" else len(text.encode()) for text in texts]
        assert found.tokens.tolist() == [size + framed for size in sizes]
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert encoder.prepare(texts[:1]).ids[0].tolist() == tokenizer(texts[0])["input_ids"]
        assert np.isfinite(found.rows).all()


def test_roberta_reads_byte_level_bpe(tmp_path: Path) -> None:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import AutoTokenizer, RobertaTokenizerFast

    write_model(tmp_path / "m", "roberta", {"type_vocab_size": 1, "vocab_size": 300})
    (tmp_path / "m" / "tokenizer.json").unlink()
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the wind of the sun"] * 9, vocab_size=290, min_frequency=2,
                            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])  # fmt: skip
    bpe.save_model(str(tmp_path))
    made = RobertaTokenizerFast(vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt"))
    made.save_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    texts = ["the wind", " of  the Sün 東", "", "</s> the"]
    found = opened(tmp_path / "m").prepare(texts)
    for text, ids in zip(texts[:3], found.ids, strict=False):
        assert ids.tolist() == tokenizer(text)["input_ids"]
    assert found.ids[3].tolist().count(2) == 1  # a control token in a text is text


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    directory = tmp_path_factory.mktemp("company") / "m"
    write_model(directory, "mpnet", {})
    return opened(directory)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["wind", "sea", "x", "a", "zzz"]), max_size=60), max_size=9), st.data()
)
def test_order_and_company_do_not_matter(
    mpnet: TextEncoder, lists: list[list[str]], data: st.DataObject
) -> None:
    texts = [" ".join(words) for words in lists]
    mpnet.budget = data.draw(st.integers(1, 200))
    found = mpnet.encode(texts)
    assert found.rows.shape == (len(texts), 16)
    for text, row in zip(texts, found.rows, strict=True):
        np.testing.assert_allclose(mpnet.encode([text]).rows[0], row, atol=1e-5)
    order = data.draw(st.permutations(range(len(texts))))
    np.testing.assert_allclose(mpnet.encode([texts[i] for i in order]).rows, found.rows[order], atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_fused_inference_is_the_module(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path / "m", kind, {})
    encoder = opened(tmp_path / "m")
    sequences = encoder.prepare(TEXTS)
    with torch.enable_grad():
        slow = encoder.embed(sequences)
    with torch.inference_mode():
        fast = encoder.embed(sequences)
        np.testing.assert_allclose(fast.numpy(), slow.detach().numpy(), atol=1e-5)
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.mul_(1.1)  # as a step of training does
    with torch.enable_grad():
        slow = encoder.embed(sequences)
    np.testing.assert_allclose(encoder.encode(TEXTS).rows, slow.detach().numpy(), atol=1e-5)
    assert np.abs(slow.detach().numpy() - fast.numpy()).max() > 1e-3


def test_prompts_and_what_pooling_leaves_out(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m", "bert", {})
    prompts = {"query": "q : ", "document": "x ", "other": "y "}
    write_layout(tmp_path / "m", {**MEAN, "include_prompt": False}, prompts=prompts)
    plain, prompted = opened(tmp_path / "m", query_prompt="", passage_prompt=""), opened(tmp_path / "m")
    assert dict(prompted.identity["prompts"]) == {"query": "q : ", "passage": "x "}
    assert prompted.identity["include_prompt"] is False
    states = alone(model, "q : wind", 24)[3:].mean(0)  # without <s> q :
    row = prompted.encode(["wind"], "query").rows[0]
    np.testing.assert_allclose(row, (states / states.norm()).numpy(), atol=1e-5)
    assert not np.allclose(plain.encode(["q : wind"]).rows[0], row, atol=1e-3)
    named = opened(tmp_path / "m", passage_prompt_name="other")
    assert named.identity["prompts"]["passage"] == "y "
    with pytest.raises(UserError, match="has no prompt 'nine'; it has: document, other, query"):
        opened(tmp_path / "m", query_prompt_name="nine")


def test_normalisation_follows_similarity(tmp_path: Path) -> None:
    write_model(tmp_path / "m", "bert", {})
    write_layout(tmp_path / "m", MEAN, after=(), similarity_fn_name="dot")
    dot = opened(tmp_path / "m")
    assert dot.identity["normalise"] is False
    lengths = np.linalg.norm(dot.encode(TEXTS).rows, axis=1)
    assert np.abs(lengths - 1).min() > 1e-3
    for said in ("cosine", None):
        write_layout(tmp_path / "m", MEAN, after=(), similarity_fn_name=said)
        rows = opened(tmp_path / "m").encode(TEXTS).rows
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert opened(tmp_path / "m", normalise=False).identity["normalise"] is False
    write_layout(tmp_path / "m", MEAN, after=(), similarity_fn_name="euclidean")
    with pytest.raises(UserError, match="compares by 'euclidean'"):
        opened(tmp_path / "m")


@pytest.mark.parametrize("kind", ["distilbert", "mpnet", "electra"])
def test_saved_opens_again(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path / "m", kind, OWN.get(kind, FOREIGN.get(kind, {})))
    write_layout(
        tmp_path / "m",
        {"embedding_dimension": 16, "pooling_mode": ["mean", "cls"]},
        prompts={"query": "q : "},
    )
    first = opened(tmp_path / "m")
    if kind == "distilbert":  # what its files have no place for is not lost
        with torch.no_grad():
            first.network.embeddings.token_type_embeddings.weight.add_(0.3)  # type: ignore[operator, union-attr]
    first.save(str(tmp_path / "s"), note="tried")
    first.save(str(tmp_path / "s"), note="again")
    second = opened(tmp_path / "s")
    assert second.config["retrieval"]["note"] == "again"
    for kind_ in ("query", "passage"):
        np.testing.assert_allclose(
            second.encode(TEXTS, kind_).rows, first.encode(TEXTS, kind_).rows, atol=1e-6
        )
    (tmp_path / "s" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'thesis\.txt'"):
        first.save(str(tmp_path / "s"))


def test_identity_and_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "m", "bert", {"initializer_range": 0.05})
    first, second = opened(tmp_path / "m"), opened(tmp_path / "m")
    assert first.identity == second.identity
    assert first.identity["layout"] == "plain"
    assert json.loads(json.dumps(first.identity)) == first.identity
    assert first.runtime == {"backend": "torch", "precision": "float32"}
    narrow = opened(tmp_path / "m", precision="bfloat16")
    assert narrow.identity == first.identity
    assert 0.99 <= narrow.runtime["gate"]["min"] <= narrow.runtime["gate"]["mean"] <= 1
    rows = narrow.encode(TEXTS).rows
    assert (rows != first.encode(TEXTS).rows).any()
    assert (rows * first.encode(TEXTS).rows).sum(1).min() > 0.99
    write_model(tmp_path / "m", "bert", {}, seed=1)
    assert opened(tmp_path / "m").identity != first.identity
    assert opened(tmp_path / "m", length=9).identity["length"] == 9


def test_a_gate_that_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "m", "bert", {})
    monkeypatch.setattr("retrieval.index.gate.measure", lambda found, exact: {"min": 0.98, "mean": 0.999})
    with pytest.raises(UserError, match=r"cosine to float32 0\.9800 at worst"):
        opened(tmp_path / "m", precision="bfloat16").encode(["a"])
    monkeypatch.setattr("retrieval.index.text_encoder.bfloat16_pays", lambda: True)
    assert opened(tmp_path / "m", precision="auto").runtime == {"backend": "torch", "precision": "float32"}


def test_a_text_of_400_000_words(tmp_path: Path) -> None:
    write_model(tmp_path / "m", "bert", {})
    encoder = opened(tmp_path / "m", length=32)
    text = "wind of the sea . " * 80_000
    found = encoder.encode([text, "wind of the sea . " * 10, "a" * 3_000_000])
    assert found.tokens[:2].tolist() == [400_002, 52]
    assert found.dropped[:2].tolist() == [400_002 - 32, 20]
    np.testing.assert_allclose(found.rows[0], found.rows[1], atol=1e-5)


def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m", "bert", {})
    encoder = opened(tmp_path / "m")
    message = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"

    def fails(*_: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(encoder, "embed", fails)
    with pytest.raises(StorageError, match="out of memory in a batch of 3 tokens; give batch=1"):
        encoder.encode(["a"])
    message = "shapes differ"
    with pytest.raises(RuntimeError, match="shapes differ"):
        encoder.encode(["a"])
    calls = []

    def halves(sequences: Any) -> Any:
        calls.append(len(sequences.ids))
        if len(sequences.ids) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return torch.tensor([[float(len(ids))] * 16 for ids in sequences.ids])

    monkeypatch.setattr(encoder, "embed", halves)
    rows = encoder.encode(["a a a", "a", "a a", "a a a a", "a a a a a"]).rows
    assert rows[:, 0].tolist() == [5, 3, 4, 6, 7]
    assert calls == [5, 2, 3, 1, 2]


def test_threads_are_for_one_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m", "bert", {})
    encoder = opened(tmp_path / "m", threads=3)
    before, seen = torch.get_num_threads(), []
    embed = encoder.embed

    def looks(sequences: Any) -> Any:
        seen.append(torch.get_num_threads())
        return embed(sequences)

    monkeypatch.setattr(encoder, "embed", looks)
    encoder.encode(["a"])
    assert seen == [3]
    assert torch.get_num_threads() == before


def test_not_finite_is_an_error(tmp_path: Path) -> None:
    write_model(tmp_path / "m", "bert", {})
    encoder = opened(tmp_path / "m")
    with torch.no_grad():
        encoder.network.embeddings.LayerNorm.weight.fill_(torch.inf)  # type: ignore[operator, union-attr]
    with pytest.raises(UserError, match="not finite"):
        encoder.encode(["a"])


@pytest.mark.parametrize("name", ["minilm", "mpnet"])
def test_real_weights_as_sentence_transformers(weights: Path, name: str) -> None:
    package = pytest.importorskip("sentence_transformers")
    if not (weights / name).is_dir():
        pytest.skip(f"no {name} in {weights}")
    texts = [
        "How do vaccines work?",
        "",
        "naïve Übergröße 東京 [SEP]x",
        "A longer passage about the sea. " * 90,
    ]
    theirs = package.SentenceTransformer(str(weights / name), device="cpu", local_files_only=True)
    expected = theirs.encode([text.replace("[SEP]", "") for text in texts])
    found = opened(weights / name).encode([text.replace("[SEP]", "") for text in texts])
    np.testing.assert_allclose(found.rows, expected, atol=1e-5)
    assert found.dropped.tolist()[:3] == [0, 0, 0]
    assert found.dropped[3] == found.tokens[3] - {"minilm": 256, "mpnet": 384}[name]


@pytest.mark.gpu
def test_a_gpu_gives_the_same(tmp_path: Path) -> None:
    write_model(
        tmp_path / "m", "bert", {"initializer_range": 0.05, "hidden_size": 64, "intermediate_size": 64}
    )
    plain = opened(tmp_path / "m").encode(TEXTS).rows
    np.testing.assert_allclose(opened(tmp_path / "m", device="cuda").encode(TEXTS).rows, plain, atol=1e-3)
    narrow = opened(tmp_path / "m", device="cuda", precision="bfloat16")  # through varlen attention
    assert (narrow.encode(TEXTS).rows * plain).sum(1).min() > 0.99
