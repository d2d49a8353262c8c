"""`retrieve train`: from a corpus to a model in one command, resumed, and every refusal in a sentence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from retrieval.cli import main
from retrieval.index.model_files import ModelFiles

Capture = pytest.CaptureFixture[str]
WORDS = ["red", "green", "blue", "apple", "pear", "plum", "house", "tree", "river", "stone", "bread", "cloud"]


@pytest.fixture
def start(tiny_model: Callable[..., Path]) -> str:
    return str(tiny_model("tilde", name="start", words=WORDS))


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.jsonl"
    with open(path, "w") as file:
        for number in range(24):
            words = WORDS[number % 12 :] + WORDS[: number % 12]
            text = f"{' '.join(words[:7])} {number}. {' '.join(words[5:])} {number}."
            file.write(
                json.dumps({"_id": f"d{number}", "title": f"{words[0]} {words[1]}", "text": text}) + "\n"
            )
    return str(path)


def run(*arguments: str) -> int:
    return main(["train", *arguments, "--threads", "1"])


def common(tmp_path: Path, start: str, corpus: str) -> list[str]:
    return [
        "--out", str(tmp_path / "out"), "--start", start, "--corpus", corpus, "--batch", "4",
        "--set", "window=24", "--set", "query_tokens=12",
    ]  # fmt: skip


def test_tilde_then_tildev2_then_an_index(tmp_path: Path, start: str, corpus: str, capsys: Capture) -> None:
    steps = ["--steps", "6", "--held-out", "2", "--lr", "0.01"]
    assert run("tilde", *common(tmp_path, start, corpus), *steps) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 6
    assert found["model"] == str(tmp_path / "out" / "model")
    assert ModelFiles.open(found["model"]).settings["kind"] == "tilde"
    second = common(tmp_path, start, corpus)
    second[1] = str(tmp_path / "v2")
    second += ["--set", f"tilde={found['model']}", "--set", "kl=1", "--set", "length=40", "--set", "top=20"]
    assert run("tildev2", *second, *steps, "--teacher", start, "--optimizer", "lamb") == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert {"curve.jsonl", "curve.svg", "examples", "model"} <= set(os.listdir(tmp_path / "v2"))
    index = str(tmp_path / "ix")
    assert main(["index", corpus, "--out", index, "--sparse", f"tildev2:{model}"]) == 0
    assert json.loads(capsys.readouterr().out)["committed"] == 24
    assert main(["search", index, "red green", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["query"] == "red green"


def test_the_same_command_goes_on_after_a_kill(
    tmp_path: Path, start: str, corpus: str, capsys: Capture
) -> None:
    options = [
        *common(tmp_path, start, corpus),
        "--steps",
        "40",
        "--checkpoint-every",
        "4",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "retrieval", "train", "tilde", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out = tmp_path / "out"
    while process.poll() is None and not list(out.glob("checkpoint-*")):
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted"
    step = int(next(out.glob("checkpoint-*")).name.split("-")[1])
    assert 4 <= step < 40
    assert main(["train", "tilde", *options]) == 0
    captured = capsys.readouterr()
    assert f"going on after step {step} of 40" in captured.err
    straight = common(tmp_path, start, corpus)
    straight[1] = str(tmp_path / "straight")
    assert run("tilde", *straight, "--steps", "40", "--checkpoint-every", "40") == 0
    weights = [tmp_path / name / "model" / "model.safetensors" for name in ("out", "straight")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def refused(capsys: Capture, *arguments: str) -> str:
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_what_is_refused(tmp_path: Path, start: str, corpus: str, capsys: Capture) -> None:
    options = common(tmp_path, start, corpus)
    for more, message in (
        (["--set", "windw=3"], "unknown setting of tilde 'windw'; did you mean 'window'"),
        (["--set", "top"], "--set 'top': write KEY=VALUE"),
        (["--set", "window=9"], "--set window is given twice"),
        (["--steps", "2", "--epochs", "1"], "give --steps or --epochs, not both"),
        (["--steps", "0"], "no whole number"),
        (["--lr", "x"], "no number of 0 or more"),
        (["--optimizer", "sgd", "--steps", "1"], "unknown optimizer 'sgd'"),
        (["--data", str(tmp_path / "none.tsv")], "no such file"),
        (["--corpus", str(tmp_path / "none")], "no such file or folder"),
        (["--device", "cuda:1", "--steps", "1"], "unknown device"),
    ):
        assert message in refused(capsys, "tilde", *options, *more), more
    assert "unknown training task 'tilda'; did you mean 'tilde'" in refused(capsys, "tilda", *options)
    assert "--out DIR is missing" in refused(capsys, "tilde")
    assert "--out is empty" in refused(capsys, "tilde", "--out", "", "--start", start, "--corpus", corpus)
    assert "nothing to train on" in refused(capsys, "tilde", "--out", str(tmp_path / "o"), "--start", start)
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file" in refused(capsys, "tilde", "--out", str(file), "--start", start, "--corpus", corpus)
    assert "no model directory" in refused(
        capsys, "tilde", "--out", str(tmp_path / "o"), "--start", str(tmp_path / "no"), "--corpus", corpus
    )


def test_a_bad_line_is_named_and_the_next_run_begins_afresh(
    tmp_path: Path, start: str, capsys: Capture
) -> None:
    bad = tmp_path / "bad.tsv"
    bad.write_text("red\tred apple 1\nblue\tblue river 2\noops\n")
    options = [
        "--out", str(tmp_path / "out"), "--start", start, "--data", str(bad), "--batch", "2", "--steps", "1",
        "--set", "window=24",
    ]  # fmt: skip
    assert f"{bad}:3: 1 column; a line is" in refused(capsys, "tilde", *options)
    bad.write_text("red\tred apple 1\nblue\tblue river 2\n")
    assert run("tilde", *options) == 0
    capsys.readouterr()
    assert "other options (lr was" in refused(capsys, "tilde", *options, "--lr", "1")


def test_help_lists_the_options(capsys: Capture) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--out", "--teacher", "--held-out", "--set", "--accumulate", "--precision", "KIND"):
        assert option in text
