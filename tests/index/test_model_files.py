"""Model directories: what is written comes back, whole or not at all; damage is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import load_file, save_file  # noqa: E402

from retrieval.errors import UserError  # noqa: E402
from retrieval.index import model_files  # noqa: E402
from retrieval.index.bert import Bert, BertConfig, MlmHead, pack  # noqa: E402
from retrieval.index.model_files import ModelFiles, find_model, save_model, shipped  # noqa: E402

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##s", *(f"w{i}" for i in range(32))]
VOCAB = "".join(piece + "\n" for piece in PIECES).encode()
SHAPE = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20,
    "retrieval": {"kind": "tilde", "m": 5},
}  # fmt: skip


def body(*, pooler: bool = True, **changes: Any) -> Bert:
    torch.manual_seed(3)
    return Bert(BertConfig.from_dict({**SHAPE, **changes}), pooler=pooler).eval()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A saved model."""
    save_model(str(tmp_path / "model"), SHAPE, body().state_dict(), VOCAB, card="# A model\n")
    return tmp_path / "model"


def rewrite(model: Path, change: Any) -> None:
    """Put changed tensors in the place of a model's."""
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")


def test_round_trip(model: Path) -> None:
    files = ModelFiles.open(str(model))
    assert files.config == SHAPE
    assert files.settings == {"kind": "tilde", "m": 5}
    assert files.vocabulary.pieces == PIECES
    assert (model / "README.md").read_text() == "# A model\n"
    expected = body().state_dict()
    got = files.tensors()
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in got)
    fresh = Bert(BertConfig.from_dict(files.config), pooler=True)
    assert files.load_into(fresh) == []
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())


def test_identity_is_of_the_bytes(model: Path) -> None:
    def sha256(name: str) -> str:
        return hashlib.sha256((model / name).read_bytes()).hexdigest()

    expected = {
        "name": "model",
        "weights": sha256("model.safetensors"),
        "tokenizer": sha256("vocab.txt"),
        "config": sha256("config.json"),
    }
    assert ModelFiles.open(str(model)).identity == expected
    assert ModelFiles.open(f"{model}/").identity == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(model: Path, dtype: Any) -> None:
    before = ModelFiles.open(str(model)).tensors()
    rewrite(model, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    after = ModelFiles.open(str(model)).tensors()
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    assert all(torch.equal(after[name], before[name].to(dtype).float()) for name in before)


def test_float16_on_disk(tmp_path: Path) -> None:
    tensors = {"small": torch.randn(7, 3), "large": torch.tensor([1e6, 1.0])}
    save_model(str(tmp_path / "m"), SHAPE, tensors, VOCAB, dtype="float16")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert stored["small"].dtype == torch.float16
    assert stored["large"].dtype == torch.float32  # float16 ends at 65504
    assert torch.equal(ModelFiles.open(str(tmp_path / "m")).tensors()["large"], tensors["large"])


def test_int8_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(500, 200) * torch.logspace(-6, 3, 500)[:, None]
    matrix[7] = 0
    tensors = {"matrix": matrix, "short": torch.randn(10, 10), "row": torch.randn(200_000)}
    save_model(str(tmp_path / "m"), SHAPE, tensors, VOCAB, dtype="int8")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "matrix": torch.int8,
        "matrix.scale": torch.float32,
        "short": torch.float16,
        "row": torch.float16,
    }
    loaded = ModelFiles.open(str(tmp_path / "m")).tensors()
    assert loaded.keys() == tensors.keys()
    step = matrix.abs().amax(dim=1, keepdim=True) / 127
    assert bool(((loaded["matrix"] - matrix).abs() <= step * 0.5001).all())
    assert bool((loaded["matrix"][7] == 0).all())
    save_model(str(tmp_path / "again"), SHAPE, loaded, VOCAB, dtype="int8")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert torch.equal(again["matrix"], stored["matrix"])  # saving what was loaded loses nothing more


def test_int8_keeps_hidden_states_near(tmp_path: Path) -> None:
    large = body(vocab_size=2000, hidden_size=64)
    config = {**SHAPE, "vocab_size": 2000, "hidden_size": 64}
    save_model(str(tmp_path / "m"), config, large.state_dict(), VOCAB, dtype="int8")
    files = ModelFiles.open(str(tmp_path / "m"))
    assert os.path.getsize(tmp_path / "m" / "model.safetensors") < 0.4 * 4 * sum(
        p.numel() for p in large.parameters()
    )
    small = Bert(BertConfig.from_dict(files.config), pooler=True).eval()
    files.load_into(small)
    packed = pack([[1, 500, 1999, 7], [44, 3]])
    with torch.inference_mode():
        assert float(torch.cosine_similarity(small(packed), large(packed)).min()) > 0.999


def test_scales_may_be_float16(model: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        name = "embeddings.word_embeddings.weight"
        tensors[name] = torch.arange(640, dtype=torch.int8).view(40, 16)
        tensors[name + ".scale"] = torch.full((40,), 0.25, dtype=torch.float16)

    rewrite(model, change)
    loaded = ModelFiles.open(str(model)).tensors()
    assert "embeddings.word_embeddings.weight.scale" not in loaded
    expected = torch.arange(640, dtype=torch.int8).view(40, 16).float() / 4
    assert torch.equal(loaded["embeddings.word_embeddings.weight"], expected)


def test_key_names_of_other_tools(model: Path) -> None:
    """A prefix, a classifier on top, TensorFlow's LayerNorm names, a buffer of integers."""

    def change(tensors: dict[str, Any]) -> None:
        for name in list(tensors):
            tensor = tensors.pop(name)
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors["bert." + name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
        tensors["classifier.weight"] = torch.randn(2, 16)
        tensors["bert.embeddings.position_ids"] = torch.arange(20)[None]

    expected = body().state_dict()
    rewrite(model, change)
    files = ModelFiles.open(str(model))
    assert "bert.embeddings.position_ids" not in files.tensors()
    fresh = Bert(BertConfig.from_dict(SHAPE), pooler=True)
    assert files.load_into(fresh) == []
    assert all(torch.equal(value, expected[name]) for name, value in fresh.state_dict().items())
    wrapped = torch.nn.Module()
    wrapped.bert = Bert(BertConfig.from_dict(SHAPE))
    assert files.load_into(wrapped) == []


def test_heads_and_poolers_that_are_absent(model: Path) -> None:
    rewrite(model, lambda tensors: [tensors.pop(name) for name in list(tensors) if "pooler" in name])
    files = ModelFiles.open(str(model))
    whole = torch.nn.Module()
    whole.bert = Bert(BertConfig.from_dict(SHAPE))
    assert files.load_into(whole) == []
    whole.cls = MlmHead(whole.bert)
    start = whole.cls.predictions.transform.dense.weight.clone()
    with pytest.raises(UserError, match=r"lacks the tensor 'cls.predictions"):
        files.load_into(whole)
    absent = files.load_into(whole, fresh=["cls."])
    assert set(absent) == {name for name in whole.state_dict() if name.startswith("cls.")}
    assert torch.equal(whole.cls.predictions.transform.dense.weight, start)
    with pytest.raises(UserError, match=r"lacks the tensor 'pooler.dense.weight'"):
        files.load_into(Bert(BertConfig.from_dict(SHAPE), pooler=True))


def test_a_misshapen_tensor(model: Path) -> None:
    name = "encoder.layer.1.intermediate.dense.weight"
    rewrite(model, lambda tensors: tensors.update({name: torch.zeros(25, 16)}))
    with pytest.raises(UserError, match=rf"'{name}' is \(25, 16\) .* \(24, 16\)"):
        ModelFiles.open(str(model)).load_into(body())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite(model: Path, tmp_path: Path, value: float) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors["pooler.dense.bias"][3] = value

    rewrite(model, change)
    with pytest.raises(UserError, match=r"tensor 'pooler.dense.bias' holds NaN or infinite"):
        ModelFiles.open(str(model)).tensors()
    with pytest.raises(UserError, match="tensor 'x' holds NaN or infinite"):
        save_model(str(tmp_path / "new"), SHAPE, {"x": torch.tensor([value])}, VOCAB)
    assert not (tmp_path / "new").exists()


def test_damaged_weights(model: Path) -> None:
    weights = model / "model.safetensors"
    data = weights.read_bytes()
    for damaged in (data[:-10], data[:100], data[:4], b"", b"\xff" * len(data), data + b"\0"):
        weights.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged or cut short"):
            ModelFiles.open(str(model)).tensors()


def test_scales_that_do_not_fit(model: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        tensors["x"] = torch.zeros(4, 4, dtype=torch.int8)
        tensors["x.scale"] = torch.zeros(5)

    rewrite(model, change)
    with pytest.raises(UserError, match="'x' and its scales do not fit"):
        ModelFiles.open(str(model)).tensors()


def test_directories_that_are_no_models(model: Path, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            ModelFiles.open(str(model))

    with pytest.raises(UserError, match=r"no model directory .*nothing is downloaded"):
        ModelFiles.open(str(tmp_path / "bert-base-uncased"))
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(json.dumps({**SHAPE, "vocab_size": 39}))
    refused("tokenizer has 40 pieces and the model 39")
    for text in ("[]", "{", '{"retrieval": 1}', "[" * 100_000):
        (model / "config.json").write_text(text)
        refused("config.json")
    (model / "config.json").unlink()
    refused("config.json")
    (model / "config.json").write_text(config)
    (model / "vocab.txt").unlink()
    refused("holds no tokenizer")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused(r"pickled weights only.*save_pretrained")
    (model / "model.safetensors.index.json").write_text("{}")
    (model / "pytorch_model.bin").unlink()
    refused("come in parts")
    (model / "model.safetensors.index.json").unlink()
    refused("holds no model.safetensors")


def test_a_model_replaces_a_model_only(model: Path, tmp_path: Path) -> None:
    before = ModelFiles.open(str(model)).identity
    other = {name: value + 1 for name, value in body().state_dict().items()}
    save_model(str(model), SHAPE, other, VOCAB)
    assert ModelFiles.open(str(model)).identity["weights"] != before["weights"]
    assert not (model / "README.md").exists()
    assert os.listdir(tmp_path) == ["model"]  # no temporary directory is left
    (model / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds 'thesis.tex', which is no part of a model"):
        save_model(str(model), SHAPE, other, VOCAB)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a directory"):
        save_model(str(tmp_path / "file"), SHAPE, other, VOCAB)


def test_a_failure_leaves_what_was_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir()}

    def broken(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for step in ("sync_directory", "_put"):
        with monkeypatch.context() as patch:
            patch.setattr(model_files, step, broken)
            with pytest.raises(Exception, match="ENOSPC"):
                save_model(str(model), SHAPE, {"x": torch.zeros(3)}, VOCAB)
        assert {file.name: file.read_bytes() for file in model.iterdir()} == before
        assert os.listdir(tmp_path) == ["model"]


def test_tokenizer_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not 'words\.txt'"):
        save_model(str(tmp_path / "m"), SHAPE, {}, VOCAB, "words.txt")


def test_finding_models(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "__file__", str(tmp_path / "index" / "model_files.py"))
    with pytest.raises(UserError, match="no small model of kind 'tilde' comes with this package"):
        shipped("tilde")
    (tmp_path / "index" / "weights").mkdir(parents=True)
    model.rename(tmp_path / "index" / "weights" / "tilde")
    assert shipped("tilde") == find_model("tilde", "") == str(tmp_path / "index" / "weights" / "tilde")
    assert find_model("tilde", "./mine") == "./mine"
