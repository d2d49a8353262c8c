"""A teacher: what transformers computes, packed; pooling as its files say; every bad directory named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.teacher import Teacher  # noqa: E402

TEXTS = ["abc def", "z", "the what of a b c - d, e. f", "", "x y " * 40]


def pooling(directory: Path, *modes: str) -> None:
    (directory / "1_Pooling").mkdir(exist_ok=True)
    known = ("cls_token", "mean_tokens", "max_tokens")
    facts = {f"pooling_mode_{mode}": mode in modes for mode in known}
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16, **facts})
    )


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token"])
def test_vectors_are_those_of_transformers(tiny_model: Callable[..., Path], mode: str) -> None:
    transformers = pytest.importorskip("transformers")
    directory = tiny_model("tilde")
    pooling(directory, mode)
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    found = Teacher(str(directory)).encode(TEXTS)
    files = ModelFiles.open(str(directory))
    config = transformers.BertConfig(**files.config)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    tensors = {n.removeprefix("bert."): t for n, t in files.tensors().items() if n.startswith("bert.")}
    model.load_state_dict(tensors, strict=False)
    for text, vector in zip(TEXTS, found, strict=True):
        words = files.vocabulary
        ids = torch.tensor([[words.cls, *words.encode([text])[0][:22].tolist(), words.sep]])
        with torch.no_grad():
            hidden = model(ids).last_hidden_state[0]
        row = hidden[0] if mode == "cls_token" else hidden.mean(0)
        np.testing.assert_allclose(vector, (row / row.norm()).numpy(), atol=1e-5)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_order_and_neighbours_do_not_matter(tiny_model: Callable[..., Path]) -> None:
    teacher = Teacher(str(tiny_model("tilde")))
    assert teacher.identity["pooling"] == "mean"
    whole = teacher.encode(TEXTS)
    np.testing.assert_allclose(teacher.encode(TEXTS[::-1])[::-1], whole, atol=1e-6)
    for text, vector in zip(TEXTS, whole, strict=True):
        np.testing.assert_allclose(teacher.encode([text])[0], vector, atol=1e-6)
    assert teacher.encode([]).shape == (0, 16)
    scores = teacher.score(TEXTS[:2], TEXTS[1:3])
    np.testing.assert_allclose(scores, [whole[0] @ whole[1], whole[1] @ whole[2]], atol=1e-6)


def test_bfloat16_is_near(tiny_model: Callable[..., Path]) -> None:
    directory = str(tiny_model("tilde"))
    plain, rounded = Teacher(directory).encode(TEXTS), Teacher(directory, bf16=True).encode(TEXTS)
    assert (plain * rounded).sum(1).min() > 0.99
    assert (plain != rounded).any()


def test_prompts_stand_before_the_text(tiny_model: Callable[..., Path]) -> None:
    directory = tiny_model("tilde")
    plain = Teacher(str(directory))
    prompts = {"prompts": {"query": "q: ", "document": "d: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    prompted = Teacher(str(directory))
    np.testing.assert_array_equal(prompted.encode(["abc"], "query"), plain.encode(["q: abc"]))
    np.testing.assert_array_equal(prompted.encode(["abc"]), plain.encode(["d: abc"]))


def test_other_architectures_go_through_transformers(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    transformers = pytest.importorskip("transformers")
    source = tiny_model("tilde")
    size = ModelFiles.open(str(source)).config["vocab_size"]
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=size, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64
    )
    directory = tmp_path / "distil"
    model = transformers.DistilBertModel(config).eval()
    model.save_pretrained(directory)
    transformers.BertTokenizerFast(vocab_file=str(source / "vocab.txt")).save_pretrained(directory)
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    found = Teacher(str(directory)).encode(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            inputs = tokenizer([text], truncation=True, max_length=24, return_tensors="pt")
            row = model(**inputs).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, (row / row.norm()).numpy(), atol=1e-5)


def test_bad_directories(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="no teacher"):
        Teacher(str(tmp_path / "none"))
    directory = tiny_model("tilde")
    pooling(directory)
    with pytest.raises(UserError, match="names no pooling mode"):
        Teacher(str(directory))
    (directory / "1_Pooling" / "config.json").write_text("[")
    with pytest.raises(UserError, match="cannot read"):
        Teacher(str(directory))
    (directory / "1_Pooling" / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot read"):
        Teacher(str(directory))
    (directory / "1_Pooling" / "config.json").unlink()
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": -5}')
    with pytest.raises(UserError, match="max_seq_length as -5"):
        Teacher(str(directory))
    (directory / "sentence_bert_config.json").unlink()
    (directory / "config_sentence_transformers.json").write_text('{"prompts": ["query: "]}')
    with pytest.raises(UserError, match="prompts that are no object of names"):
        Teacher(str(directory))
    (directory / "config_sentence_transformers.json").unlink()
    broken: dict[str, Any] = {**json.loads((directory / "config.json").read_text()), "model_type": "no-such"}
    (directory / "config.json").write_text(json.dumps(broken))
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="describes a 'no-such' model"):
        Teacher(str(directory))
