"""The trainer: the same bits from one run and from many, schedules, accumulation, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from retrieval.errors import Locked, UnknownName, UserError
from retrieval.index import train_loop
from retrieval.index.train_state import locked, states
from retrieval.index.trainer import (
    TrainOptions,
    rate_at,
    train,
)
from retrieval.progress import Progress


class Toy:
    """Learns a linear map of 40 points, with dropout, so that every draw counts."""

    name = "toy"
    better: Literal["higher", "lower"] = "lower"
    recipe: Mapping[str, Any] = {"lr": 0.5, "epochs": 7}

    def __init__(self, *, batch: int = 4, dropout: float = 0.3, points: int = 40, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.LayerNorm(8), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1)
        )
        self.facts: Mapping[str, Any] = {"batch": batch}
        self._batch = batch
        generator = torch.Generator().manual_seed(1)
        self.points = torch.randn(points, 3, generator=generator)
        self.values = self.points @ torch.tensor([1.0, -2.0, 0.5])
        self.evaluations: list[float] | None = None
        self.losses = 0
        self.fail_at = -1
        self.zeros: float | None = None

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        order = torch.randperm(len(self.points), generator=torch.Generator().manual_seed(seed * 1000 + epoch))
        yield from order.split(self._batch) if len(order) else ()

    def loss(self, batch: Any) -> tuple[Any, dict[str, float]]:
        self.losses += 1
        if self.losses == self.fail_at:
            raise RuntimeError("killed")
        error = (self.model(self.points[batch])[:, 0] - self.values[batch]).square().mean()
        return error, {} if self.zeros is None else {"zeros": self.zeros}

    def evaluate(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        if self.evaluations is not None:
            return {"figure": self.evaluations.pop(0)}
        return {"loss": float((self.model(self.points)[:, 0] - self.values).square().mean())}

    def save(self, directory: str) -> None:
        Path(directory).mkdir(exist_ok=True)
        weights = {name: tensor.tolist() for name, tensor in self.model.state_dict().items()}
        (Path(directory) / "weights.json").write_text(json.dumps(weights))


OPTIONS = TrainOptions(epochs=3, lr=0.01, evaluate_every=10, checkpoint_every=6, keep="last")


def weights(out: Path) -> Any:
    return json.loads((out / "model" / "weights.json").read_text())


def stopping(after: int) -> Callable[[], None]:
    left = [after]

    def stop() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_an_interrupted_training_gives_the_same_bits(tmp_path: Path, optimizer: str, accumulate: int) -> None:
    options = replace(OPTIONS, optimizer=optimizer, accumulate=accumulate, epochs=2 * accumulate)
    straight, parts = tmp_path / "a", tmp_path / "b"
    train(Toy(), str(straight), options)
    for done in (0, 4, 9):  # Ctrl-C after 1, 6 and 16 steps
        with pytest.raises(KeyboardInterrupt):
            train(Toy(seed=5), str(parts), options, stop=stopping(done))
    task = Toy(seed=9)  # what it starts with does not matter any more
    found = train(task, str(parts), options)
    assert found["steps"] == 20
    assert task.losses == (20 - 16) * accumulate
    # The first part began with seed 5; compare with a straight run from there.
    other = tmp_path / "c"
    train(Toy(seed=5), str(other), options)
    assert weights(parts) == weights(other)
    assert weights(parts) != weights(straight)
    lines = [json.loads(line) for line in (parts / "curve.jsonl").read_text().splitlines()]
    assert lines == [json.loads(line) for line in (other / "curve.jsonl").read_text().splitlines()]


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    straight, killed = tmp_path / "a", tmp_path / "b"
    train(Toy(), str(straight), OPTIONS)
    task = Toy()
    task.fail_at = 16  # steps 13 to 15 are lost; 12 was kept
    with pytest.raises(RuntimeError):
        train(task, str(killed), OPTIONS)
    shutil.copytree(killed / "checkpoint-12", killed / ".checkpoint-15.01234567")  # half-written
    said: list[str] = []
    task = Toy()
    train(task, str(killed), OPTIONS, say=said.append)
    assert task.losses == 30 - 12
    assert weights(killed) == weights(straight)
    assert "after step 12" in said[0]
    assert not list(killed.glob(".check*"))
    rows = [json.loads(line) for line in (killed / "curve.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "lr" in row] == list(range(1, 31))


def test_interruption_leaves_one_checkpoint_of_the_step_that_was_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Toy(), str(tmp_path), OPTIONS, stop=stopping(7))
    assert [step for step, _ in states(str(tmp_path), "checkpoint")] == [8]


def test_a_checkpoint_that_lacks_its_position(tmp_path: Path) -> None:
    train(Toy(), str(tmp_path), OPTIONS)
    facts = Path(states(str(tmp_path), "checkpoint")[-1][1], "state.json")
    stored = json.loads(facts.read_text())
    del stored["total"]
    facts.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"is damaged \(no total\); delete it"):
        train(Toy(), str(tmp_path), OPTIONS)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    train(Toy(), str(tmp_path), OPTIONS)
    before, task = weights(tmp_path), Toy(seed=3)
    found = train(task, str(tmp_path), OPTIONS)
    assert (task.losses, weights(tmp_path), found["steps"]) == (0, before, 30)


def test_evaluations_and_checkpoints_change_nothing(tmp_path: Path) -> None:
    train(Toy(), str(tmp_path / "a"), replace(OPTIONS, evaluate_every=1, checkpoint_every=1))
    train(Toy(), str(tmp_path / "b"), replace(OPTIONS, evaluate_every=30, checkpoint_every=30))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_seeds_matter(tmp_path: Path) -> None:
    train(Toy(), str(tmp_path / "a"), OPTIONS)
    train(Toy(), str(tmp_path / "b"), replace(OPTIONS, seed=1))
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=None, steps=8)
    train(Toy(batch=8, dropout=0), str(tmp_path / "a"), options)
    train(Toy(batch=2, dropout=0), str(tmp_path / "b"), replace(options, accumulate=4))
    large, small = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name in large:
        torch.testing.assert_close(torch.tensor(large[name]), torch.tensor(small[name]), rtol=1e-4, atol=1e-5)


def test_every_batch_is_seen_once_an_epoch_and_gradients_are_means(tmp_path: Path) -> None:
    def first_step(batch: int, accumulate: int) -> tuple[list[int], Any]:
        task, seen = Toy(batch=batch, dropout=0), []
        real = task.loss
        task.loss = lambda chosen: (seen.extend(chosen.tolist()), real(chosen))[1]  # type: ignore
        options = replace(OPTIONS, accumulate=accumulate, clip=0.0, epochs=None, steps=1)
        loop = train_loop.Loop(task, str(tmp_path), options, None, lambda: None, lambda _: None)
        loop._one_step(loop._batches())
        return seen, [parameter.grad for parameter in task.model.parameters()]

    seen, whole = first_step(40, 1)
    assert sorted(seen) == list(range(40))
    seen, parts = first_step(10, 4)
    assert sorted(seen) == list(range(40))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_it_learns(tmp_path: Path) -> None:
    found = train(Toy(dropout=0), str(tmp_path), replace(OPTIONS, epochs=20, lr=0.03, keep="best"))
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    first = next(row["held_out"]["loss"] for row in rows if "held_out" in row)
    assert found["best"]["value"] < 0.05 * first
    assert found["loss"] < 0.2 * first


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_best_evaluation_is_kept(tmp_path: Path, better: Literal["higher", "lower"]) -> None:
    def trained(out: str, **options: Any) -> tuple[dict[str, Any], Any]:
        task = Toy()
        task.better = better
        figures = [1.0, 3.0, math.nan, 2.0] if better == "higher" else [3.0, 1.0, math.nan, 2.0]
        task.evaluations = figures  # after 0, 10, 20 and 30 steps
        return train(task, str(tmp_path / out), replace(OPTIONS, **options)), weights(tmp_path / out)

    found, best = trained("best", keep="best")
    assert found["best"] == {"step": 10, "figure": "figure", "value": 3.0 if better == "higher" else 1.0}
    assert [step for step, _ in states(str(tmp_path / "best"), "best")] == [10]
    _, last = trained("last")
    assert best != last
    with pytest.raises(KeyboardInterrupt):
        train(Toy(), str(tmp_path / "ten"), OPTIONS, stop=stopping(9))
    from retrieval.index.train_state import load_state, model_tensors

    tensors, _ = load_state(str(tmp_path / "ten" / "checkpoint-10"))
    model = Toy().model
    assert {name: tensors[name].tolist() for name in model_tensors(model)} == {
        f"model.{name}": value for name, value in best.items()
    }


def test_the_rate_rises_and_falls() -> None:
    options = TrainOptions(lr=2.0, warmup=0.4)
    rates = [rate_at(step, 10, options) for step in range(10)]
    assert rates == pytest.approx([0.4, 0.8, 1.2, 1.6, 2, 10 / 6, 8 / 6, 1, 4 / 6, 2 / 6])
    constant = replace(options, schedule="constant")
    assert [rate_at(step, 10, constant) for step in (4, 9)] == [2.0, 2.0]
    assert rate_at(0, 10, replace(options, warmup=0.0)) == 2.0
    assert all(0 < rate_at(step, 3, replace(options, warmup=1.0)) <= 2.0 for step in range(3))


def test_biases_and_norms_are_not_decayed(tmp_path: Path) -> None:
    optimizer = train_loop._optimizer(Toy().model, TrainOptions(), torch.device("cpu"))
    decayed, free = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(8, 3), (1, 8)]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    assert all(p.ndim == 1 for p in free["params"])
    lamb = train_loop._optimizer(Toy().model, TrainOptions(optimizer="lamb"), torch.device("cpu"))
    assert [group["adapt"] for group in lamb.param_groups] == [True, False]


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_a_step_shows_in_the_version_of_a_parameter(tmp_path: Path, optimizer: str) -> None:
    task = Toy()  # encoders keep what they made of their weights by these versions
    options = replace(OPTIONS, optimizer=optimizer)
    loop = train_loop.Loop(task, str(tmp_path), options, None, lambda: None, lambda _: None)
    before = [parameter._version for parameter in task.model.parameters()]
    loop._one_step(loop._batches())
    after = [parameter._version for parameter in task.model.parameters()]
    assert all(new > old for old, new in zip(before, after, strict=True))


def test_gradients_are_clipped(tmp_path: Path) -> None:
    task = Toy()
    task.values = task.values * 1e4
    seen: list[float] = []
    real = torch.optim.AdamW.step

    class Watched(torch.optim.AdamW):
        def step(self, *args: Any) -> Any:
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            seen.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))))
            return real(self, *args)

    loop = train_loop.Loop(
        task, str(tmp_path), replace(OPTIONS, clip=0.5), None, lambda: None, lambda _: None
    )
    loop.optimizer.__class__ = Watched
    loop.run()
    assert max(seen) == pytest.approx(0.5, rel=1e-4)


def test_bfloat16_on_the_processor(tmp_path: Path) -> None:
    found = train(Toy(dropout=0), str(tmp_path), replace(OPTIONS, precision="bf16"))
    assert math.isfinite(found["loss"])
    train(Toy(dropout=0), str(tmp_path / "b"), OPTIONS)
    assert weights(tmp_path) != weights(tmp_path / "b")
    with pytest.raises(UserError, match="fp16 needs a CUDA device"):
        train(Toy(), str(tmp_path / "c"), replace(OPTIONS, precision="fp16", device="cpu"))


def test_other_options_are_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Toy(), str(tmp_path), OPTIONS, stop=stopping(3))
    with pytest.raises(UserError, match=r"other options \(lr was 0.01, is 0.02\)"):
        train(Toy(), str(tmp_path), replace(OPTIONS, lr=0.02))
    with pytest.raises(UserError, match="batch was 4, is 5"):
        train(Toy(batch=5), str(tmp_path), OPTIONS)
    train(Toy(), str(tmp_path), replace(OPTIONS, checkpoint_every=1, threads=1, device="cpu"))


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Diverging(Toy):
        def loss(self, batch: Any) -> tuple[Any, dict[str, float]]:
            value, figures = super().loss(batch)
            return (value * math.nan if self.losses == 9 else value), figures

    with pytest.raises(UserError, match=r"the loss is nan at step 9; the last good checkpoint is .*point-6'"):
        train(Diverging(), str(tmp_path), OPTIONS)
    assert [step for step, _ in states(str(tmp_path), "checkpoint")] == [6]

    class Exploding(Toy):
        def loss(self, batch: Any) -> tuple[Any, dict[str, float]]:
            value, figures = super().loss(batch)
            return (value * 0 + (value - value.detach()).sqrt()), figures  # 0, with an infinite slope

    with pytest.raises(UserError, match=r"the gradient is (nan|inf) at step 1; there is no checkpoint yet"):
        train(Exploding(), str(tmp_path / "b"), OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1, "steps": 2}, "not both"),
        ({"lr": 0.0}, "learning rate is 0.0"),
        ({"lr": math.nan}, "learning rate is nan"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"clip": -1.0}, "clip is -1.0"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; did you mean 'adamw'"),
        ({"schedule": "cosine"}, "unknown schedule 'cosine'"),
        ({"accumulate": 31, "epochs": 3}, "30 batches, fewer than one step needs"),
    ],
)
def test_options_of_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((UserError, UnknownName), match=message):
        train(Toy(), str(tmp_path), replace(OPTIONS, **options))


def test_data_without_a_batch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no batch"):
        train(Toy(points=0), str(tmp_path), TrainOptions(steps=2))


def test_dying_outputs_are_told_once(tmp_path: Path) -> None:
    said: list[str] = []
    task = Toy()
    task.zeros = 0.97
    train(task, str(tmp_path), OPTIONS, say=said.append)
    assert [text[:40] for text in said] == ["warning: 97.0% of the outputs are 0 at s"]
    said.clear()
    task = Toy()
    task.zeros = 0.9
    train(task, str(tmp_path / "b"), OPTIONS, say=said.append)
    assert said == []


def test_two_trainings_do_not_share_a_directory(tmp_path: Path) -> None:
    with locked(str(tmp_path)), pytest.raises(Locked, match="another process trains"):
        train(Toy(), str(tmp_path), OPTIONS)


def test_the_curve_can_be_looked_at(tmp_path: Path) -> None:
    train(Toy(), str(tmp_path), OPTIONS)
    root = ElementTree.parse(tmp_path / "curve.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    texts = [element.text or "" for element in root.iter(f"{space}text")]
    assert "toy: 30 of 30 steps" in texts
    assert texts.count("step") == 2
    assert {"loss", "learning rate"} <= set(texts)
    assert any(text.startswith("held-out loss ") for text in texts)
    lines = list(root.iter(f"{space}polyline"))
    assert [len(line.attrib["points"].split()) for line in lines] == [30, 4, 30]
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 720
            assert 0 <= y <= 30 + 2 * 260


def test_progress_shows_the_loss_and_counts_from_where_it_went_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Toy(), str(tmp_path), OPTIONS, stop=stopping(7))
    with Progress("training", unit="steps", quiet=True) as bar:
        train(Toy(), str(tmp_path), OPTIONS, bar)
        assert (bar.done, bar.total) == (30, 30)
        assert bar.label.startswith("training, loss ")
        assert ", 22/s, " in bar.line(1.0)
