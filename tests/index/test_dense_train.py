"""The training task `dense`, with a small encoder: what it learns, draws, masks, refuses, and resumes."""

# ruff: noqa: F811 (fixtures are imported, and named as arguments)

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.dense_data import distinct_batches, teacher_scores
from retrieval.index.dense_spec import open_encoder
from retrieval.index.trainer import TrainOptions, train
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

# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["infonce", "mnrl", "opl"])
def test_it_learns(tmp_path: Path, make: Make, loss: str) -> None:
    task = make(loss=loss)
    options = TrainOptions(epochs=3 if loss == "opl" else 12, lr=0.02, evaluate_every=50)
    found = train(task, str(tmp_path / "out"), options)
    rows = [json.loads(line) for line in (tmp_path / "out" / "curve.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    assert found["best"]["figure"] == "mrr"
    assert set(found["held_out"]) == {"mrr", "ndcg@10", "accuracy"}
    assert (tmp_path / "out" / "model" / "weights.json").exists()


@pytest.mark.parametrize("given", [{}, {"chunk": 2, "dropout": 0.3}, {"loss": "opl", "batch": 16}])
def test_an_interrupted_training_gives_the_same_bits(tmp_path: Path, make: Make, given: Any) -> None:
    def stopping(after: int) -> Callable[[], None]:
        left = [after]

        def stop() -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        return stop

    train(make("a", **given), str(tmp_path / "a"), OPTIONS)
    for done in (3, 8):
        with pytest.raises(KeyboardInterrupt):
            train(make("b", **given), str(tmp_path / "b"), OPTIONS, stop=stopping(done))
    task = make("b", **given)
    losses: list[Any] = []
    real = task.loss
    task.loss = lambda batch: (losses.append(batch), real(batch))[1]  # type: ignore
    done = train(task, str(tmp_path / "b"), OPTIONS)["steps"]
    assert len(losses) == done - 13  # the first 4, then 9 more, were not done again
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_the_gradient_cache_changes_no_gradient(tmp_path: Path, make: Make) -> None:
    plain = first_gradients(make("a"), tmp_path)
    task = make("b", chunk=2)
    assert close(first_gradients(task, tmp_path), plain)
    assert max(task.encoder.batches) <= 2  # type: ignore[attr-defined]
    assert close(first_gradients(make("c", budget=10), tmp_path), plain)
    cast = first_gradients(make("d", chunk=2), tmp_path, precision="bf16")
    assert close(cast, first_gradients(make("e"), tmp_path, precision="bf16"), 0.05)
    summed = first_gradients(make("f", chunk=3, batch=4), tmp_path, accumulate=2)
    assert close(summed, first_gradients(make("g", batch=4), tmp_path, accumulate=2))


def test_opl_streamed_pair_by_pair_is_the_batch(tmp_path: Path, make: Make) -> None:
    whole = first_gradients(make("a", loss="opl", batch=24), tmp_path)
    task = make("b", loss="opl", batch=1)
    assert close(first_gradients(task, tmp_path, accumulate=24), whole)
    assert max(task.encoder.batches) == 2  # type: ignore[attr-defined]


def test_both_halves_of_an_epoch_see_every_pair_once(make: Make) -> None:
    task = make(loss="opl", batch=7, negatives=2, random=1)
    pairs = np.concatenate(list(task.batches(0, 0)))
    assert len({tuple(pair) for pair in pairs.tolist()}) == len(pairs)
    answers = pairs[pairs[:, 2] == 1]
    assert len(answers) >= len(task.training) - 7
    assert (task.prepared.positive[answers[:, 0]] == answers[:, 1]).all()
    wrong = pairs[pairs[:, 2] == 0]
    assert (task.prepared.positive[wrong[:, 0]] != wrong[:, 1]).all()
    again = np.concatenate(list(task.batches(0, 0)))
    assert (again == pairs).all()
    assert {tuple(pair) for pair in np.concatenate(list(task.batches(1, 0))).tolist()} != {
        tuple(pair) for pair in pairs.tolist()
    }


# --- batches and negatives ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 8), st.integers(0, 99))
def test_no_batch_has_a_key_twice_and_no_example_comes_twice(keys: list[int], size: int, seed: int) -> None:
    column = np.array(keys, np.int64)
    order = np.random.default_rng(seed).permutation(len(keys))
    batches = list(distinct_batches(order, column, size))
    size = min(size, len(set(keys)))
    for batch in batches:
        assert len(batch) == size == len({keys[at] for at in batch.tolist()})
    seen = [at for batch in batches for at in batch.tolist()]
    assert len(set(seen)) == len(seen)
    left = [keys[at] for at in range(len(keys)) if at not in set(seen)]
    assert size == 0 or len(set(left)) < size  # what is left makes no further batch
    assert batches or not keys
    if len(set(keys)) == len(keys):
        assert seen == order[: len(seen)].tolist()  # nobody waits without need


def repeated(tmp_path: Path) -> str:
    """Examples whose queries have two positives each, one of which is the negative of the other."""
    lines = []
    for i in range(30):
        first, second = example(i)["positive"], example(i + 30)["positive"]
        other = example((i + 1) % 30)["positive"]
        lines += [
            {"query": f"both {i}", "positive": first, "negatives": [second, other]},
            {"query": f"both {i}", "positive": second, "negatives": [other, first]},
        ]
    path = tmp_path / "repeated.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_passage_that_answers_is_nobodys_negative(tmp_path: Path, make: Make) -> None:
    task = make(data=(repeated(tmp_path),), negatives=2, random=4)
    for examples, draw in task.batches(0, 0):
        groups = task.drawing.groups(examples, draw)
        ignored = task.drawing.ignored(examples, groups.numbers, groups.place)
        for row, at in enumerate(examples.tolist()):
            relevant = set(task.prepared.relevant(np.array([at]))[0].tolist())
            assert len(relevant) == 2
            own = groups.place[row]
            assert groups.numbers[own[0]] == task.prepared.positive[at]
            negatives = groups.numbers[own[1:][own[1:] >= 0]].tolist()
            assert negatives
            assert not relevant & set(negatives)
            assert not ignored[row, own[0]]
            positive = int(task.prepared.positive[at])
            assert set(groups.numbers[ignored[row]].tolist()) == (
                relevant & set(groups.numbers.tolist()) - {positive}
            )


def test_random_negatives_are_what_was_asked_for(make: Make) -> None:
    task = make(negatives=0, random=5)
    groups = task.drawing.groups(task.training[:8], (0, 0))
    assert groups.place.shape == (8, 6)
    assert (groups.place >= 0).all()
    assert all(len(set(row)) == 6 for row in groups.place.tolist())
    other = task.drawing.groups(task.training[:8], (0, 1))
    assert set(other.numbers.tolist()) != set(groups.numbers.tolist())


def test_scores_that_came_with_the_data(tmp_path: Path, make: Make) -> None:
    lines = []
    for i in range(40):
        negatives = [example((i + j) % 60)["positive"] for j in (1, 2, 3)]
        lines.append({**example(i), "negatives": negatives, "scores": [9.0, 1.0, 8.99, 3.0]})
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = make("out", data=(str(path),), loss="infonce+0.5*kl+0.25*margin", negatives=2, random=1)
    examples, draw = next(iter(task.batches(0, 0)))
    groups = task.drawing.groups(examples, draw)
    found = teacher_scores(task.prepared, examples, groups)
    assert found is not None
    assert np.isnan(found[:, -1]).all()  # a random one has no score
    ignored = task.drawing.ignored(examples, groups.numbers, groups.place)
    for row, at in enumerate(examples.tolist()):
        assert found[row, 0] == 9.0
        hard = task.prepared.negatives[at].tolist()
        for column in (1, 2):
            passage = int(groups.numbers[groups.place[row, column]])
            assert found[row, column] == np.float32([1.0, 8.99, 3.0][hard.index(passage)])
            assert ignored[row, groups.place[row, column]] == (found[row, column] > 8.5)
    loss, figures = task.loss((examples, draw))
    parts = figures["infonce"] + 0.5 * figures["kl"] + 0.25 * figures["margin"]
    assert float(loss.detach()) == pytest.approx(parts, rel=1e-5)
    assert min(figures[name] for name in ("infonce", "kl", "margin")) > 0


def test_a_teachers_vectors_are_prototypes_and_its_cosines_targets(
    tmp_path: Path, make: Make, tiny_model: Callable[..., Path]
) -> None:
    teacher = str(tiny_model("tilde", seed=3))  # 16 wide, the student 12
    task = make(loss="prototype", teacher=teacher, tolerance=0)
    assert task._map is not None
    assert task._map.shape == (16, DIM)
    first = float(task.loss(next(iter(task.batches(0, 0))))[0].detach())
    found = train(task, str(tmp_path / "out"), TrainOptions(epochs=8, lr=0.02, evaluate_every=99))
    assert found["loss"] < 0.5 * first
    stored = next(Path(task.prepared.directory).glob("width-*"))
    stored.write_bytes(np.full((16, DIM), 0.5, np.float32).tobytes())
    again = make(loss="prototype", teacher=teacher, tolerance=0)  # made once
    assert again._map is not None
    assert (again._map == 0.5).all()
    both = make(loss="kl+margin", teacher=teacher, tolerance=0.05)
    examples, draw = next(iter(both.batches(0, 0)))
    groups = both.drawing.groups(examples, draw)
    ignored = both.drawing.ignored(examples, groups.numbers, groups.place)
    cosines = both.prepared.teacher(examples, groups.numbers)
    assert cosines is not None
    rows = np.arange(len(examples))
    near = cosines >= cosines[rows, groups.place[:, 0]][:, None] - 0.05
    near[rows, groups.place[:, 0]] = False
    assert (ignored == near).all()
    _, figures = both.loss((examples, draw))
    assert figures["kl"] > 0
    assert figures["margin"] > 0


def test_the_positive_is_ranked_among_all_held_out_passages(make: Make) -> None:
    task = make(held_out=3, negatives=2)
    assert len(task.held_out) == 3
    encoder = task.encoder
    task.model.eval()
    with torch.no_grad():
        found = task.evaluate()
    prepared, ranks = task.prepared, []
    pool = set(prepared.positive[task.held_out].tolist()) | set(prepared.negatives[task.held_out].ravel())
    numbers = sorted(pool - {-1})
    texts = [prepared.passages[at]["text"] for at in numbers]
    for at in task.held_out.tolist():
        query = encoder.encode([prepared.queries[at]], "query").rows[0]
        scores = encoder.encode(texts).rows @ query
        own = scores[numbers.index(int(prepared.positive[at]))]
        ranks.append(1 + int((scores > own + 1e-7).sum()))
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert found["ndcg@10"] == pytest.approx(np.mean([1 / np.log2(1 + rank) for rank in ranks if rank <= 10]))
    assert make("none", held_out=0).evaluate() == {}


@pytest.mark.parametrize("chunk", [0, 2])
def test_a_bert_is_evaluated_and_saved_as_it_was_trained(
    tmp_path: Path, make: Make, tiny_model: Callable[..., Path], chunk: int
) -> None:
    task = make(start=str(tiny_model("tilde")), chunk=chunk, length=24)
    texts = [example(i)["positive"] for i in range(4)]
    before = task.encoder.encode(texts).rows  # what the encoder keeps of its weights is made here
    seen: list[Any] = []
    real = task.evaluate
    task.evaluate = lambda: (seen.append(task.encoder.encode(texts).rows), real())[1]  # type: ignore
    options = TrainOptions(steps=3, lr=0.01, keep="last", evaluate_every=1)
    found = train(task, str(tmp_path / "out"), options)
    after = open_encoder(found["model"], params={"precision": "float32"}).encode(texts).rows
    assert np.abs(seen[0] - before).max() == 0
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_allclose(seen[-1], after, atol=1e-5)
    assert (tmp_path / "out" / "model" / "modules.json").exists()
