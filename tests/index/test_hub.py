"""Paths stay paths; a hub id touches no network unless it is fetched; a hub's answers get a sentence each."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import MissingExtra, StorageError, UserError
from retrieval.index.hub import fetch, resolve


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every attempt to open a socket fails the test, and the hub's cache is empty."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
def test_an_id_without_permission(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == str(tmp_path)
    for model in ("no-such-owner/no-such-model-9", "no-such-model-9@main"):
        with pytest.raises(UserError, match="retrieve model fetch"):
            resolve(model)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("model", ["./absent", "/absent/model", "~/m", "a/b/c", "a b", "", "../m"])
def test_paths_that_are_absent_are_no_ids(model: str) -> None:
    with pytest.raises(UserError, match="no model directory"):
        resolve(model)
    with pytest.raises(UserError, match="is no hub id"):
        fetch(model)


def test_what_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **rest: Any) -> str:
        asked.append({"name": name, **rest})
        return "/cache/model"

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert fetch("owner/name@v2") == "/cache/model"
    assert asked[0]["name"] == "owner/name"
    assert asked[0]["revision"] == "v2"
    assert asked[0]["local_files_only"] is False
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked[0]["allow_patterns"])
    assert resolve("owner/name") == "/cache/model"
    assert asked[1]["local_files_only"] is True
    assert asked[1]["revision"] is None


def test_what_a_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    errors = pytest.importorskip("huggingface_hub.errors")
    absent = errors.LocalEntryNotFoundError("not there")
    cases = (
        (absent, StorageError, "cannot reach the hub"),
        (OSError("disk full"), StorageError, "cannot fetch"),
    )
    for raised, kind, message in cases:

        def fail(*_: Any, raised: Exception = raised, **__: Any) -> str:
            raise raised

        monkeypatch.setattr(hub, "snapshot_download", fail)
        with pytest.raises(kind, match=message):
            fetch("owner/name")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"retrieval\[models\]"):
        resolve("owner/name")
