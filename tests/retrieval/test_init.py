"""The public names: sorted, loaded when first used."""

from __future__ import annotations

import importlib

import pytest

import retrieval


def test_public_names_are_sorted_and_listed() -> None:
    assert retrieval.__all__ == sorted(set(retrieval.__all__))
    assert set(retrieval.__all__) <= set(dir(retrieval))


@pytest.mark.parametrize("name", sorted(retrieval._HOME))
def test_each_public_name_is_defined_where_it_is_said_to_be(name: str) -> None:
    value = getattr(retrieval, name)
    assert value.__module__ == f"retrieval.{retrieval._HOME[name]}"
    assert value.__name__ == name
    assert getattr(importlib.import_module(value.__module__), name) is value


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Indx'"):
        retrieval.Indx  # noqa: B018
