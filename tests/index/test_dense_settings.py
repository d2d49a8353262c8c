"""Settings of the training task `dense`: lengths, dropout, what is trained, what is refused."""

# ruff: noqa: F811 (fixtures are imported, and named as arguments)

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from retrieval import registry
from retrieval.errors import UnknownName, UserError
from retrieval.index.dense_data import cut, joined
from retrieval.index.dense_start import set_dropout
from retrieval.index.dense_train import DenseTask
from retrieval.index.torch_encoder import Sequences
from retrieval.index.trainer import TaskOptions, TrainOptions, create_task, train, with_recipe
from tests.index.toy_training import (  # noqa: F401
    DIM,
    OPTIONS,
    ROWS,
    TOPICS,
    Make,
    ToyEncoder,
    close,
    data,
    example,
    first_gradients,
    make,
    start,
    weights,
)

# --- lengths, dropout, what is trained ----------------------------------------------------------------------


def test_lengths_are_cut_in_front_of_the_last_token() -> None:
    ids = [np.arange(5, dtype=np.int32), np.arange(9, dtype=np.int32)]
    lengths = np.array([5, 9], np.int64)
    whole = Sequences(ids, np.array([0, 2], np.int64), lengths, np.array([0, 4], np.int64))
    assert cut(whole, 0) is whole
    found = cut(whole, 6)
    assert [one.tolist() for one in found.ids] == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 8]]
    assert found.dropped.tolist() == [0, 7]
    assert found.tokens.tolist() == [5, 9]
    with pytest.raises(UserError, match="3 tokens leave nothing of a text beside its prompt"):
        cut(whole, 3)
    both = joined([whole, found])
    assert [len(one) for one in both.ids] == [5, 9, 5, 6]
    assert both.skip.tolist() == [0, 2, 0, 2]


def test_queries_and_passages_have_lengths_of_their_own(make: Make) -> None:
    task = make(query_tokens=3, length=4)
    assert {len(ids) for ids in task._queries(task.training).ids} == {3}
    assert {len(ids) for ids in task._passages(np.arange(10)).ids} == {4}


def test_dropout_is_what_the_setting_says(make: Make) -> None:
    def share(task: DenseTask) -> float:
        return next(part.p for part in task.model.modules() if isinstance(part, torch.nn.Dropout))

    assert share(make("a")) == 0.0
    assert share(make("b", dropout=0.4)) == 0.4
    assert share(make("c", dropout=-1)) == 0.1

    class Attention(torch.nn.Module):
        attention_dropout = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.attention_dropout = 0.1

    attention = Attention()
    set_dropout(torch.nn.ModuleList([attention]), 0.25)
    assert attention.attention_dropout == 0.25


def test_an_encoder_may_say_what_is_trained(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Mapping[str, Any]] = []

    def trainable(self: ToyEncoder, given: Mapping[str, Any]) -> None:
        seen.append(given)
        self.module.get_submodule("3").requires_grad_(True)

    monkeypatch.setattr(ToyEncoder, "trainable", trainable, raising=False)
    task = make(lora=4, targets="q,v")
    assert (seen[0]["lora"], seen[0]["targets"]) == (4, "q,v")
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    train(task, str(tmp_path / "out"), TrainOptions(steps=2, lr=0.1, keep="last"))
    changed = {name for name, tensor in task.model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"3.weight", "3.bias"}
    assert task.recipe["lr"] == 1e-4


def test_whole_documents_of_a_corpus(tmp_path: Path, make: Make) -> None:
    corpus = tmp_path / "corpus.jsonl"
    sentences = [f"Word{j} stands here with {TOPICS[j]} and more." for j in range(50)]
    records = [
        {"_id": str(i), "title": f"doc {i}", "text": " ".join([f"Start{i}.", *sentences])} for i in range(8)
    ]
    corpus.write_text("".join(json.dumps(record) + "\n" for record in records))
    whole = make("a", corpus=(str(corpus),), words=0, remove=0, batch=4)
    lengths = [len(record["text"].split()) for record in whole.prepared.passages]
    assert len(lengths) == 8
    assert min(lengths) > 300
    parts = make("b", corpus=(str(corpus),), remove=0, batch=4)
    assert len(parts.prepared.passages) > 8


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "opl+infonce"}, "opl is learned from pairs"),
        ({"loss": "infonce+infonce"}, "infonce stands there twice"),
        ({"loss": "0*infonce"}, "the weight of infonce is a number above 0"),
        ({"loss": "x*infonce"}, "the weight of infonce is a number above 0"),
        ({"loss": "prototype"}, "give --teacher DIR"),
        ({"loss": "kl"}, "need a teacher"),
        ({"temperature": 0}, "temperature=0.0: give a number above 0"),
        ({"chunk": -1}, "chunk=-1: give 0 or more"),
        ({"dropout": 1}, "give a share below 1"),
        ({"similarity": "l2"}, "similarity=l2: give cosine or dot"),
        ({"lora": 8}, "this encoder has no lora"),
        ({"checkpointing": True}, "this encoder has no checkpointing"),
    ],
)
def test_settings_of_no_sense(make: Make, given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("+", r"\+").replace("*", r"\*")):
        make(**given)


def test_unknown_names(make: Make) -> None:
    with pytest.raises(UnknownName, match="infonse"):
        make(loss="infonse")
    with pytest.raises(UnknownName, match="temprature"):
        make(temprature=1)


def test_the_model_to_start_from(tmp_path: Path, make: Make, data: str, start: str) -> None:
    with pytest.raises(UserError, match="name an encoder to start from"):
        create_task("dense", TaskOptions(out=str(tmp_path / "a"), data=(data,)))
    assert make(start=f"toy:{start}(seed=5)").facts["start"]["seed"] == 5


def test_weights_that_are_not_float32(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def trainable(self: ToyEncoder, given: Mapping[str, Any]) -> None:
        self.module.bfloat16().requires_grad_(True)

    monkeypatch.setattr(ToyEncoder, "trainable", trainable, raising=False)
    with pytest.raises(UserError, match="are bfloat16; training wants float32"):
        make()


def test_an_encoder_without_torch(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._FACTORIES, ("dense encoder", "toy"), lambda path, params: object())
    with pytest.raises(UserError, match="does not run on torch and cannot be trained"):
        make()


def test_another_model_or_setting_is_another_training(tmp_path: Path, make: Make, start: str) -> None:
    options = with_recipe(make(), {"steps": 2})
    assert options.lr == 2e-5
    train(make(), str(tmp_path / "out"), options)
    with pytest.raises(UserError, match="holds a training with other options"):
        train(make(temperature=0.1), str(tmp_path / "out"), options)
    with pytest.raises(UserError, match="holds a training with other options"):
        train(make(start=f"toy:{start}(seed=5)"), str(tmp_path / "out"), options)
