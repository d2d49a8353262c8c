"""A small encoder of hashed words, and what trains it: for the tests of the task `dense`."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from retrieval import registry
from retrieval.index.dense_train import DenseTask
from retrieval.index.torch_encoder import Sequences, TorchEncoder
from retrieval.index.train_loop import Loop
from retrieval.index.trainer import TaskOptions, TrainOptions, create_task

ROWS, DIM = 97, 12


class ToyEncoder(TorchEncoder):
    """Words hashed to 96 rows, averaged and turned; ids 0 and 1 stand around each text."""

    budget = 64

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.module = torch.nn.Sequential(
            torch.nn.EmbeddingBag(ROWS, DIM, mode="mean"),
            torch.nn.LayerNorm(DIM),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(DIM, DIM),
        ).requires_grad_(False)
        self.dim = DIM
        self.identity: Mapping[str, Any] = {"encoder": "toy", "seed": seed, "normalise": True}
        self.runtime: Mapping[str, Any] = {}
        self.batches: list[int] = []

    def prepare(self, texts: Sequence[str], kind: str = "passage") -> Sequences:
        ids = [
            np.array([0, *(2 + zlib.crc32(word.encode()) % (ROWS - 2) for word in text.split()), 1], np.int32)
            for text in texts
        ]
        lengths = np.array([len(one) for one in ids], np.int64)
        return Sequences(ids, np.zeros_like(lengths), lengths, np.zeros_like(lengths))

    def embed(self, sequences: Sequences) -> Any:
        self.batches.append(len(sequences.ids))
        ends = np.cumsum([0, *(len(ids) for ids in sequences.ids)])[:-1]
        flat = torch.from_numpy(np.concatenate(sequences.ids)).long()
        words, *rest = self.module.children()
        vectors = words(flat, torch.from_numpy(ends))
        for layer in rest:
            vectors = layer(vectors)
        return torch.nn.functional.normalize(vectors.float(), dim=1)

    def save(self, directory: str, **more: Any) -> None:
        Path(directory).mkdir(exist_ok=True)
        weights = {name: tensor.tolist() for name, tensor in self.module.state_dict().items()}
        (Path(directory) / "weights.json").write_text(json.dumps(weights))


TOPICS = [f"t{i}" for i in range(60)]


def example(i: int) -> dict[str, Any]:
    topic = TOPICS[i]
    filler = [f"w{(i * 7 + j) % 31}" for j in range(5)]
    return {"query": f"{topic} {filler[2]}", "positive": " ".join([filler[0], topic, *filler[1:]])}


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(example(i)) + "\n" for i in range(60)))
    return str(path)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model directory of the toy."""
    monkeypatch.setitem(
        registry._FACTORIES, ("dense encoder", "toy"), lambda path, params: ToyEncoder(params.get("seed", 0))
    )
    directory = tmp_path / "toy"
    directory.mkdir()
    (directory / "config.json").write_text('{"retrieval": {"kind": "toy"}}')
    return str(directory)


Make = Callable[..., DenseTask]


@pytest.fixture
def make(tmp_path: Path, start: str, data: str) -> Make:
    """make(out, batch=..., loss=...): a task on the toy and its examples."""

    def task(out: str = "out", **given: Any) -> DenseTask:
        names = ("batch", "teacher", "held_out", "data", "corpus")
        of_task = {name: given.pop(name) for name in names if name in given}
        options = TaskOptions(
            out=str(tmp_path / out), start=given.pop("start", start), batch=of_task.get("batch", 8),
            data=of_task.get("data", () if "corpus" in of_task else (data,)),
            corpus=of_task.get("corpus", ()), held_out=of_task.get("held_out"),
            teacher=of_task.get("teacher"),
            settings={name: str(value).lower() for name, value in {"negatives": 3, **given}.items()},
        )  # fmt: skip
        made = create_task("dense", options)
        assert isinstance(made, DenseTask)
        return made

    return task


OPTIONS = TrainOptions(epochs=4, lr=0.02, evaluate_every=6, checkpoint_every=5, keep="last")


def weights(out: Path) -> Any:
    return json.loads((out / "model" / "weights.json").read_text())


def first_gradients(task: DenseTask, out: Path, **options: Any) -> list[Any]:
    """Of one step of the trainer's loop."""
    chosen = TrainOptions(steps=1, clip=0.0, **options)
    loop = Loop(task, str(out), chosen, None, lambda: None, lambda _: None)
    loop.model.train()
    loop._one_step(loop._batches())
    return [p.grad.clone() for p in task.model.parameters() if p.grad is not None]


def close(found: list[Any], wanted: list[Any], share: float = 1e-5) -> bool:
    return len(found) == len(wanted) and all(
        float((a - b).norm()) <= share * float(b.norm()) for a, b in zip(found, wanted)
    )
