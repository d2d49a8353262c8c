"""Names, kinds, suggestions, entry points."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from retrieval import registry
from retrieval.errors import CompositionError, UnknownName


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", {})


def test_what_is_registered_is_found_by_kind() -> None:
    @registry.register("mine")
    def factory(k1: float = 0.9) -> str:
        return f"mine {k1}"

    assert registry.lookup("mine") is factory
    assert "mine" in registry.names()
    assert registry.names() == sorted(registry.names())
    assert registry.make("mine", {"k1": 2}) == "mine 2"
    with pytest.raises(UnknownName):
        registry.lookup("mine", kind="fusion")


def test_an_unknown_name_gets_a_suggestion() -> None:
    registry.register("tildev2")(str)
    with pytest.raises(UnknownName, match=r"unknown stage 'tilde2'; did you mean 'tildev2'\?"):
        registry.lookup("tilde2")


def test_parameters_that_the_factory_does_not_take_are_named() -> None:
    registry.register("mine")(lambda k1, b=0.4: None)
    with pytest.raises(CompositionError, match="unexpected keyword argument 'k9'; its parameters: k1, b"):
        registry.make("mine", {"k1": 1, "k9": 2})
    with pytest.raises(CompositionError, match="missing a required argument"):
        registry.make("mine", {})


def test_an_error_inside_a_factory_is_not_taken_for_wrong_parameters() -> None:
    def broken() -> None:
        raise TypeError("inside")

    registry.register("broken")(broken)
    with pytest.raises(TypeError, match="inside"):
        registry.make("broken", {})


def test_entry_points_are_loaded_when_their_name_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint("plugin", "collections:OrderedDict", "retrieval.stages")])

    monkeypatch.setattr(importlib.metadata, "entry_points", points.select)
    assert "plugin" in registry.names()
    assert registry.lookup("plugin").__name__ == "OrderedDict"
    with pytest.raises(UnknownName):
        registry.lookup("plugin", kind="fusion")


def test_a_method_that_an_index_lacks_can_be_added() -> None:
    error = registry.unknown_stage("tildev2", ["bm25"])
    assert str(error) == (
        "unknown stage 'tildev2'; known: bm25. It is a way to index: retrieve add DIR --sparse tildev2, or "
        "sparse = [...] in a system file"
    )
    assert "did you mean 'cross'?" in str(registry.unknown_stage("cros", ["bm25"]))
