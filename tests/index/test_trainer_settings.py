"""--set: values are read as their defaults are."""

from __future__ import annotations

import pytest

from retrieval.errors import UnknownName, UserError
from retrieval.index.trainer import read_settings


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
