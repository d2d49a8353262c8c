"""TILDEv2: models, files and parameters that are refused, with one clear sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrieval import CorruptIndex, Index, MissingExtra, UserError

torch = pytest.importorskip("torch")

from retrieval.index.model_files import ModelFiles, save_model  # noqa: E402
from retrieval.rerank.cross import Cross  # noqa: E402

TEXTS = {
    "d0": "abc of the cab, bad cabs",
    "d1": "what definition of zq and zw. zebra zoo",
    "d2": "quick fox jumps",
    "d3": "cab zoo fox " * 40,
    "d4": ".",
    "d5": "the fox and the cab",
}


def index_of(tmp_path: Path, model: Path, name: str = "index", **options: Any) -> Index:
    index = Index.create(tmp_path / name, [f"tildev2:{model}", "bm25"], **options)
    index.add([{"id": doc_id, "text": text} for doc_id, text in TEXTS.items()])
    index.commit()
    return index


def add_one(index: Index) -> None:
    index.add([{"id": "new", "text": "cab"}])


def test_later_documents_need_the_same_model(
    tmp_path: Path, pair: Callable[..., Path], tiny_model: Any
) -> None:
    model = pair()
    index_of(tmp_path, model).close()
    moved = tmp_path / "moved"
    model.rename(moved)
    with pytest.raises(UserError, match="no model directory"):
        add_one(Index.open(tmp_path / "index"))
    pair(seed=9)
    with pytest.raises(UserError, match=r"whose weights differ from those of .*tildev2"):
        add_one(Index.open(tmp_path / "index"))
    shutil.rmtree(model)
    pair(words=["newword"])
    with pytest.raises(UserError, match="whose tokenizer differs from"):
        add_one(Index.open(tmp_path / "index"))
    shutil.rmtree(model)
    pair(windows=3)
    with pytest.raises(UserError, match="whose config differs from"):
        add_one(Index.open(tmp_path / "index"))
    shutil.rmtree(model)
    moved.rename(model)
    tiny_model("tilde", seed=77)
    with pytest.raises(UserError, match="made with expansion"):
        add_one(Index.open(tmp_path / "index"))
    tiny_model("tilde", seed=3)
    index = Index.open(tmp_path / "index")
    add_one(index)
    index.commit()
    assert len(index) == len(TEXTS) + 1


def test_an_expander_of_another_vocabulary_is_refused(
    tmp_path: Path, pair: Callable[..., Path], tiny_model: Callable[..., Path]
) -> None:
    model = pair()
    tiny_model("tilde", words=["other"])
    with pytest.raises(UserError, match="another vocabulary"):
        Index.create(tmp_path / "index", [f"tildev2:{model}"])


def test_an_expander_that_is_absent_or_of_another_kind(
    tmp_path: Path, pair: Callable[..., Path], tiny_model: Callable[..., Path]
) -> None:
    model = pair()
    shutil.rmtree(tmp_path / "tilde")
    with pytest.raises(UserError, match=r"expands documents by .* not there"):
        Index.create(tmp_path / "index", [f"tildev2:{model}"])
    tiny_model("tildev2", name="tilde")
    with pytest.raises(UserError, match="kind 'tildev2', and tilde needs"):
        Index.create(tmp_path / "index", [f"tildev2:{model}"])
    bad = tiny_model("tildev2", name="bad", expansion={"top": 3})
    with pytest.raises(UserError, match="expansion of"):
        Index.create(tmp_path / "index", [f"tildev2:{bad}"])


def test_a_model_of_another_kind_is_refused(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="kind 'tilde', and tildev2 needs"):
        Index.create(tmp_path / "index", [f"tildev2:{tiny_model('tilde')}"])


@pytest.mark.parametrize("kind", ["tilde", "tildev2", "bprop"])
@pytest.mark.parametrize("value", ["64", None, [64], 1.5, 2, 10**30])
def test_a_number_of_positions_that_is_none(
    tmp_path: Path, tiny_model: Callable[..., Path], kind: str, value: Any
) -> None:
    model = tiny_model(kind, maximum=1.0)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": value}))
    with pytest.raises(UserError, match="gives max_position_embeddings as"):
        Index.create(tmp_path / "index", [f"{kind}:{model}"])
    if kind == "bprop":
        with pytest.raises(UserError, match="gives max_position_embeddings as"):
            Cross(str(model))


def test_an_expander_with_more_rows_than_the_vocabulary(tmp_path: Path, pair: Callable[..., Path]) -> None:
    model = pair()
    files = ModelFiles.open(str(tmp_path / "tilde"))
    rows, tensors = files.vocabulary.size + 5, files.tensors()
    for name, most in (("bert.embeddings.word_embeddings.weight", 0.0), ("cls.predictions.bias", 50.0)):
        extra = torch.full((5, *tensors[name].shape[1:]), most)  # and these are the likeliest terms
        tensors[name] = torch.cat([tensors[name], extra])
    save_model(str(tmp_path / "tilde"), {**files.config, "vocab_size": rows}, tensors, files.vocabulary.data)
    index = index_of(tmp_path, model)
    assert len(index) == len(TEXTS)
    assert index.search("cab", 3, pipeline="tildev2")


def test_a_model_without_the_head_is_refused(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    files = ModelFiles.open(str(tiny_model("tilde")))
    config = {key: value for key, value in files.config.items() if key != "retrieval"}
    bare = tmp_path / "bare"
    save_model(str(bare), {**config, "retrieval": {"maximum": 1.0}}, files.tensors(), files.vocabulary.data)
    index = Index.create(tmp_path / "index", [f"tildev2:{bare}"])
    with pytest.raises(UserError, match="tok_proj"):
        add_one(index)


def test_weights_that_are_nan_are_refused(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_model("tildev2", maximum=1.0)
    tensors = load_file(model / "model.safetensors")
    tensors["tok_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors")
    index = Index.create(tmp_path / "index", [f"tildev2:{model}"])
    with pytest.raises(UserError, match=r"tok_proj\.weight.*NaN"):
        add_one(index)


@pytest.mark.parametrize("params", [{"idf": 2}, {"k1": 1}, {"idf": "yes"}])
def test_query_parameters_that_are_refused(
    tmp_path: Path, pair: Callable[..., Path], params: dict[str, Any]
) -> None:
    index = index_of(tmp_path, pair())
    with pytest.raises(UserError, match="it has idf"):
        index.stage("tildev2", **params)


def test_without_torch_encoding_names_the_extra(
    tmp_path: Path, pair: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pair()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"retrieval\[models\]"):
        Index.create(tmp_path / "index", [f"tildev2:{model}"])


def test_a_tokenizer_that_is_not_the_models(tmp_path: Path, pair: Callable[..., Path]) -> None:
    from retrieval.index.method import restore_method

    index = index_of(tmp_path, pair())
    settings_ = dict(index.representations["tildev2"])
    data = index.stage("tildev2").method.assets["vocab.txt"]  # type: ignore[attr-defined]
    for assets in ({"vocab.txt": bytes(data) + b"more\n"}, {"vocab.txt": b"\xff"}):
        with pytest.raises(CorruptIndex, match="tokenizer"):
            restore_method(settings_, assets).query("cab")  # type: ignore[attr-defined]
