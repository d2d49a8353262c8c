"""Checkpoints: whole or not at all, every damage named, nothing of another training taken up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from retrieval.errors import Locked, UserError
from retrieval.index import train_state
from retrieval.index.train_state import (
    claim,
    load_state,
    locked,
    model_tensors,
    optimizer_tensors,
    remove_others,
    restore_model,
    restore_optimizer,
    save_state,
    states,
)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.second = torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("kept", torch.randn(2))
        self.register_buffer("derived", torch.randn(2), persistent=False)


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(4, 3).T, "b": torch.tensor(3.5), "c": torch.arange(3)}
    path = save_state(str(tmp_path), "checkpoint-3", tensors, {"step": 3, "loss": 0.1})
    found, facts = load_state(path)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
    assert (facts["step"], facts["loss"]) == (3, 0.1)
    assert sorted(os.listdir(path)) == ["state.json", "state.safetensors"]


def test_shared_weights_are_kept_once_and_come_back() -> None:
    model, other = Tied(), Tied()
    tensors = model_tensors(model)
    assert set(tensors) == {"model.first.weight", "model.first.bias", "model.second.bias", "model.kept"}
    restore_model(other, tensors, "x")
    found, expected = other.state_dict(), model.state_dict()
    assert torch.equal(found["second.weight"], expected["first.weight"])
    assert torch.equal(found["kept"], expected["kept"])
    with pytest.raises(UserError, match="of another model"):
        restore_model(torch.nn.Linear(3, 4), tensors, "x")


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_goes_on_with_the_same_bits(tmp_path: Path, fused: bool) -> None:
    def stepped(model: Any, optimizer: Any, times: int) -> None:
        for _ in range(times):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    stepped(model, optimizer, 3)
    tensors = {**model_tensors(model), **optimizer_tensors(optimizer)}
    path = save_state(str(tmp_path), "checkpoint-3", tensors, {})
    stepped(model, optimizer, 3)
    twin = torch.nn.Linear(3, 3)
    other = torch.optim.AdamW(twin.parameters(), lr=0.1, fused=fused)
    tensors, _ = load_state(path)
    restore_model(twin, tensors, path)
    restore_optimizer(other, tensors)
    stepped(twin, other, 3)
    assert torch.equal(model.weight, twin.weight)
    assert torch.equal(model.bias, twin.bias)


@pytest.mark.parametrize("damage", ["flip", "cut", "no facts", "no tensors", "no json", "a link"])
def test_damage_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = Path(save_state(str(tmp_path), "checkpoint-3", {"a": torch.randn(100)}, {"step": 3}))
    tensors, facts = path / "state.safetensors", path / "state.json"
    data = bytearray(tensors.read_bytes())
    if damage == "flip":
        data[-7] ^= 1
        tensors.write_bytes(data)
    elif damage == "cut":
        tensors.write_bytes(data[:-9])
    elif damage == "no facts":
        facts.unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no json":
        facts.write_text("[]")
    else:
        tensors.rename(path / "elsewhere")
        tensors.symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"the checkpoint '.*checkpoint-3' is damaged .*; delete it"):
        load_state(str(path))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_state(str(tmp_path), "best-3", {"a": torch.zeros(2)}, {"step": 3})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train_state, "write_all", full)
    with pytest.raises(Exception, match="no space left"):
        save_state(str(tmp_path), "best-3", {"a": torch.ones(2)}, {"step": 3})
    assert load_state(path)[0]["a"].tolist() == [0, 0]
    assert os.listdir(tmp_path) == ["best-3"]


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "best-4", "best-9"):
        save_state(str(tmp_path), name, {}, {})
    (tmp_path / ".checkpoint-11.0123abcd").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert [step for step, _ in states(str(tmp_path), "checkpoint")] == [9, 10]
    remove_others(str(tmp_path), {str(tmp_path / "checkpoint-10"), str(tmp_path / "best-4")})
    assert sorted(os.listdir(tmp_path)) == ["best-4", "checkpoint-10", "checkpoint-x"]


def test_a_directory_is_claimed_once(tmp_path: Path) -> None:
    out = str(tmp_path / "a" / "b")
    claim(out, "training.json", {"lr": 0.1, "data": ("x",)})
    claim(out, "training.json", {"lr": 0.1, "data": ["x"]})
    with pytest.raises(UserError, match=r"other options \(lr was 0.1, is 0.2; seed was not given, is 3\)"):
        claim(out, "training.json", {"lr": 0.2, "data": ["x"], "seed": 3})
    (tmp_path / "a" / "b" / "training.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        claim(out, "training.json", {"lr": 0.1})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a part of the path is not a directory"):
        claim(str(tmp_path / "file" / "x"), "training.json", {})


def test_the_lock_is_given_back(tmp_path: Path) -> None:
    with locked(str(tmp_path)), pytest.raises(Locked), locked(str(tmp_path)):
        pass
    with locked(str(tmp_path)):
        pass


def test_what_is_not_trained_is_in_no_checkpoint() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    model[0].requires_grad_(False)
    names = {name.removeprefix("model.") for name in model_tensors(model)}
    assert names == {"1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"}
