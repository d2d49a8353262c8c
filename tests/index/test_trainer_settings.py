"""Tasks are found by name; --set: values are read as their defaults are; recipes and what the user says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from retrieval import registry
from retrieval.errors import MissingExtra, UnknownName, UserError
from retrieval.index.trainer import TaskOptions, TrainOptions, create_task, read_settings, with_recipe


class Toy:
    """As much of a task as its name and its recipe."""

    name = "toy"
    recipe: ClassVar[Mapping[str, Any]] = {"lr": 0.5, "epochs": 7}

    def __init__(self, options: TaskOptions | None = None) -> None:
        self.options = options


def test_settings_are_read_as_their_defaults_are() -> None:
    defaults = {"a": 1, "b": 0.5, "c": True, "d": "x"}
    given = {"a": "3", "b": "2", "c": "false", "d": "1"}
    assert read_settings("toy", defaults, given) == {"a": 3, "b": 2.0, "c": False, "d": "1"}
    assert read_settings("toy", defaults, {}) == defaults
    for name, text, message in (
        ("a", "1.5", "give a whole number, such as 1"),
        ("b", "x", "give a number, such as 0.5"),
        ("b", "nan", "give a number"),
        ("c", "yes", "give true or false"),
    ):
        with pytest.raises(UserError, match=f"--set {name}={text}: {message}"):
            read_settings("toy", defaults, {name: text})
    with pytest.raises(UnknownName, match="unknown setting of toy 'e'; known: a, b, c, d"):
        read_settings("toy", defaults, {"e": "1"})


def test_tasks_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    pytest.importorskip("torch")
    monkeypatch.setitem(registry._FACTORIES, ("training task", "toy"), Toy)
    assert create_task("toy", TaskOptions(out="x")).name == "toy"
    with pytest.raises(UnknownName, match="unknown training task 'tildee'; did you mean 'tilde'"):
        create_task("tildee", TaskOptions(out="x"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'retrieval\[models\]'"):
        create_task("toy", TaskOptions(out="x"))


def test_a_task_s_recipe_stands_behind_what_the_user_says() -> None:
    task: Any = Toy()
    assert with_recipe(task, {}) == TrainOptions(lr=0.5, epochs=7)
    assert with_recipe(task, {"steps": 3, "lr": 1.0}) == TrainOptions(lr=1.0, steps=3)
