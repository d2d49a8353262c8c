"""Training TILDE: its loss is the model's, grouping changes nothing, and the index takes what it saves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from retrieval.errors import UnknownName, UserError  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.tilde_model import bidirectional_loss, term_sets  # noqa: E402
from retrieval.index.tilde_train import TildeTask, create, shuffled, soft_cross_entropy  # noqa: E402
from retrieval.index.trainer import TaskOptions, TrainOptions, train  # noqa: E402

WORDS = ["red", "green", "blue", "apple", "pear", "plum", "house", "tree", "river", "stone", "bread", "cloud"]


@pytest.fixture
def start(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("tilde", name="start", words=WORDS))


def options(tmp_path: Path, start: str, pairs: list[tuple[str, str]], **more: Any) -> TaskOptions:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{query}\t{passage}\n" for query, passage in pairs))
    settings = {key: str(value) for key, value in more.pop("settings", {}).items()}
    return TaskOptions(
        out=str(tmp_path / "out"), start=start, data=(str(path),), settings=settings, **{"batch": 8, **more}
    )


def random_pairs(count: int) -> list[tuple[str, str]]:
    """A passage names one word; its query the word that stands four places further in the list."""
    draw = np.random.default_rng(0)
    pairs = []
    for number in range(count):
        at = int(draw.integers(len(WORDS)))
        filler = "".join(draw.choice([*"abcdefghij"], 3))
        pairs.append((WORDS[(at + 4) % len(WORDS)], f"{WORDS[at]} {filler} {number}"))
    return pairs


def batch_of(task: TildeTask) -> Any:
    return next(task.batches(0, 0))


def test_the_loss_is_the_bidirectional_one(tmp_path: Path, start: str) -> None:
    task = create(options(tmp_path, start, random_pairs(8), held_out=0))
    batch = batch_of(task)
    loss, _ = task.loss(batch)
    examples = [task.units[unit][0] for unit in batch]
    passages = [task.passages[int(task.prepared.positive[i])] for i in examples]
    queries = [task.queries[i] for i in examples]
    expected = bidirectional_loss(
        task._logits(passages, task.markers.document),
        task._logits(queries, task.markers.query),
        term_sets(queries, task.valid),
        term_sets(passages, task.valid),
        torch.from_numpy(task.valid),
    )
    per_term = 2 * int(task.valid.sum())
    assert loss.item() * 2 * len(batch) / per_term == pytest.approx(expected.item(), rel=1e-5)


def test_at_logits_of_zero_every_term_costs_ln_2() -> None:
    valid = torch.tensor([True, True, False, True])
    rows, ids = torch.tensor([0, 1]), torch.tensor([0, 3])
    loss = soft_cross_entropy(torch.zeros(2, 4), rows, ids, torch.ones(2), valid)
    torch.testing.assert_close(loss, torch.full((2,), 3 * np.log(2), dtype=torch.float32))
    extreme = soft_cross_entropy(torch.full((2, 4), 100.0), rows, ids, torch.ones(2), valid)
    assert torch.isfinite(extreme).all()


def test_a_passage_with_several_queries_is_the_mean_of_its_pairs(tmp_path: Path, start: str) -> None:
    pairs = [("red apple", "house river"), ("blue red", "house river"), ("plum", "house river")]
    task = create(options(tmp_path, start, pairs, held_out=0))
    assert [task.units[at].tolist() for at in range(len(task.units))] == [[0, 1, 2]]
    loss, _ = task.loss(np.array([0]))
    loss.backward()
    table = task.model.bert.embeddings.word_embeddings.weight
    assert table.grad is not None
    gradient = table.grad.clone()
    task.model.zero_grad()
    passage = task.passages[0]
    for at in range(3):
        one, _ = task._loss([passage], [task.queries[at]], np.array([0]))
        (one / 3).backward()
    torch.testing.assert_close(table.grad, gradient)


def test_one_direction_is_half_of_it(tmp_path: Path, start: str) -> None:
    task = create(options(tmp_path, start, random_pairs(8), held_out=0, settings={"both": "false"}))
    loss, figures = task.loss(batch_of(task))
    assert loss.item() == pytest.approx(figures["document"])


def test_it_learns_which_words_go_together(tmp_path: Path, start: str) -> None:
    settings = {"window": 16, "query_tokens": 8, "dtype": "float16", "both": "false"}
    given = options(tmp_path, start, random_pairs(240), held_out=12, batch=16, settings=settings)
    task = create(given)
    found = train(task, str(tmp_path / "out"), TrainOptions(epochs=14, lr=0.01, threads=1))
    rows = [json.loads(line) for line in (tmp_path / "out" / "curve.jsonl").read_text().splitlines()]
    before = next(row["held_out"] for row in rows if "held_out" in row)
    assert found["held_out"]["loss"] < 0.1 * before["loss"]
    files = ModelFiles.open(found["model"])
    assert files.settings == {"kind": "tilde", "window": 16, "precision": "float32"}
    from retrieval.index.tilde import TildeMethod

    method = TildeMethod.create(found["model"], "english", {})
    texts = [f"{word} abc" for word in WORDS]
    encoded = method.load(files).encode(texts)
    terms = files.vocabulary.pieces
    right = 0
    for at in range(len(WORDS)):
        span = slice(*encoded.weights.ends[at : at + 2])
        weight = {
            terms[t]: w
            for t, w in zip(encoded.weights.terms[span].tolist(), encoded.weights.weights[span].tolist())
        }
        right += max(WORDS, key=lambda word: weight.get(word, 0)) == WORDS[(at + 4) % len(WORDS)]
    assert right >= 10


def test_a_new_head_begins_with_what_queries_hold(tmp_path: Path, start: str) -> None:
    from safetensors.torch import load_file, save_file

    file = Path(start) / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n.startswith("bert.")}, file)
    pairs = [("red", f"house {i}") for i in range(9)] + [("blue", "river")]
    task = create(options(tmp_path, start, pairs, held_out=0))
    bias = task.model.cls.predictions.bias.detach()
    red, blue, tree = (bias[task.vocabulary.id(word)] for word in ("red", "blue", "tree"))
    assert red > 1
    assert red > blue > tree
    assert torch.sigmoid(blue) == pytest.approx(0.1, abs=0.02)


def test_an_epoch_sees_every_number_at_most_once() -> None:
    numbers = np.arange(23)
    batches = list(shuffled(numbers, 5, 0, 0))
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    assert len({n for batch in batches for n in batch.tolist()}) == 20
    assert [b.tolist() for b in shuffled(numbers, 5, 0, 0)] == [b.tolist() for b in batches]
    assert [b.tolist() for b in shuffled(numbers, 5, 1, 0)] != [b.tolist() for b in batches]
    assert [len(batch) for batch in shuffled(numbers, 50, 0, 0)] == [23]
    assert list(shuffled(numbers[:0], 5, 0, 0)) == []


def test_what_is_refused(tmp_path: Path, start: str) -> None:
    pairs = random_pairs(8)
    for settings, message in (
        ({"dtype": "int4"}, "--set dtype=int4"),
        ({"precision": "int8"}, "--set precision=int8"),
        ({"window": 2}, "--set window=2: give 3 tokens or more"),
        ({"dropout": 1.0}, "--set dropout=1.0"),
    ):
        with pytest.raises(UserError, match=message):
            create(options(tmp_path, start, pairs, settings=settings))
    with pytest.raises(UnknownName, match="unknown setting of tilde 'windw'; did you mean 'window'"):
        create(options(tmp_path, start, pairs, settings={"windw": 2}))
    with pytest.raises(UserError, match="uses a teacher only to mine queries"):
        create(options(tmp_path, start, pairs, teacher=start))
    with pytest.raises(UserError, match="name a model to start from"):
        create(options(tmp_path, None, pairs))  # type: ignore[arg-type]
