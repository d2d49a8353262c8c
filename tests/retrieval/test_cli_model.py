"""`retrieve model`: show, fetch, convert; and that nothing else connects to anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval.cli import main
from retrieval.index.dense_spec import open_encoder

torch = pytest.importorskip("torch")


def command(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_show_says_what_decides_about_a_vector(
    tiny_text_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("model", "show", tiny_text_model, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["identity"]["encoder"] == "bert"
    assert facts["identity"]["pooling"] == "mean"
    assert facts["runtime"]["backend"] == "torch"
    assert command("model", "show", f"{tiny_text_model}(pooling=cls)") == 0
    assert "cls" in capsys.readouterr().out
    assert command("model", "show", f"{tiny_text_model}(puling=cls)") == 2
    assert "puling" in capsys.readouterr().err


def test_fetch_is_refused_for_a_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("model", "fetch", tmp_path) == 2
    assert "no hub id" in capsys.readouterr().err


def test_convert_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("model", "convert", tmp_path / "absent", tmp_path / "out") == 2
    assert "absent" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare")
def test_index_and_search_do_without_a_network(tiny_text_model: Path, tmp_path: Path) -> None:
    """In a network namespace of their own, where there is nothing to connect to, not even loopback."""
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace may be made here")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"_id": "a", "text": "red wine"}\n{"_id": "b", "text": "a blue sky"}\n')
    retrieve: list[str | Path] = [*alone, sys.executable, "-m", "retrieval"]
    index = [*retrieve, "index", corpus, "--out", tmp_path / "i", "--sparse", "bm25"]
    made = subprocess.run(
        [*index, "--dense", f"tiny={tiny_text_model}"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    search = [*retrieve, "search", tmp_path / "i", "blue", "--pipeline", "bm25 + tiny", "--json"]
    found = subprocess.run(search, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["results"][0]["id"] == "b"
    absent = subprocess.run(
        [*retrieve, "index", corpus, "--out", tmp_path / "j", "--dense", "owner/model"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert absent.returncode == 2
    assert "retrieve model fetch owner/model" in absent.stderr


def test_save_writes_what_opens_as_the_same(
    tiny_text_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("model", "save", f"{tiny_text_model}(pooling=cls)", tmp_path / "saved") == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(tmp_path / "saved"), "dim": 16}
    vectors = [
        open_encoder(str(path), params=params).encode(["red wine"]).rows
        for path, params in ((tiny_text_model, {"pooling": "cls"}), (tmp_path / "saved", {}))
    ]
    assert abs(vectors[0] - vectors[1]).max() < 1e-6


def test_show_knows_cross_encoders(
    tiny_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("model", "show", f"cross:{tiny_model('cross')}", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["identity"]["model"]["name"] == "cross"
    assert facts["runtime"] == {"length": 64, "special": 3, "batches": "packed", "precision": "float32"}
    assert command("model", "show", f"cross:{tiny_model('tilde')}") == 2
    assert "kind 'tilde'" in capsys.readouterr().err
