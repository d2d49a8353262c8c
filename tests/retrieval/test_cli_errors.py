"""The command line's exit codes and messages, its help, and how it behaves as a process."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import retrieval.index
from retrieval import cli, cli_doctor, cli_interrupt
from retrieval.cli_common import note_compiling
from retrieval.data import lines as lines_module
from retrieval.errors import CorruptIndex, Locked, StorageError, UserError
from retrieval.index.index import Index
from retrieval.index.writer import Writer

Call = Callable[..., Any]
Write = Callable[[Path, list[Any]], Path]


# --- errors and exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("wrong"), 2, "error: wrong\n"),
        (CorruptIndex("rotten"), 3, "error: rotten\n"),
        (Locked("busy"), 4, "error: busy\n"),
        (StorageError("full"), 5, "error: full\n"),
        (MemoryError(), 5, "error: out of memory"),
        (OSError(28, "No space left on device"), 5, "error: cannot write to standard output: no space left"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: cannot use '/x': permission denied"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
        (ValueError("odd"), 1, "error: this is a defect in retrieve: ValueError: odd\n"),
        (UserError("a\x1b[31mb\nc\nd"), 2, "error: a\\x1b[31mb\nc d\n"),
    ],
)
def test_every_error_has_its_exit_code(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def work(given: object) -> None:
        """Raises."""
        raise error

    monkeypatch.setattr(cli_doctor, "doctor", work)
    monkeypatch.setattr(cli, "_discard_output", lambda: None)
    done = call("doctor")
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(message)
    assert done.err.count("\n") <= 2
    if code:
        shown = call("doctor", "--debug")
        assert shown.code == code
        assert "Traceback (most recent call last)" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "unknown command 'serch'; did you mean 'search'? See: retrieve --help"),
        (["xyz"], f"unknown command 'xyz'; known: {', '.join(cli.VERBS)}. See: retrieve --help"),
        (["search", "absent", "wind"], "no index at 'absent'"),
        (["search", "corpus.jsonl", "wind"], "'corpus.jsonl' is a file, not an index"),
        (["check", "corpus.jsonl"], "'corpus.jsonl' is a file, not an index"),
        (["index"], "CORPUS and --out DIR are missing"),
        (["index", "--out", "i"], "CORPUS is missing"),
        (["check", "."], ""),
        (["index", "absent.jsonl", "--out", "i"], "absent.jsonl"),
        (["index", "corpus.jsonl"], "--out"),
        (["index", "corpus.jsonl", "--out", "corpus.jsonl"], "corpus.jsonl"),
        (["index", "corpus.jsonl", "--out", "corpus.jsonl/i"], "corpus.jsonl"),
        (["index", "folder", "--out", "i"], "corpus.jsonl"),
    ],
)
def test_wrong_calls(
    call: Call, corpus: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(corpus.parent)
    (corpus.parent / "folder").mkdir()
    call(*arguments).failed(2, message)


def test_a_damaged_index_gives_no_result(call: Call, index: Path) -> None:
    victim = max((p for p in index.glob("seg-*/*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    for verb in (["check", index], ["search", index, "wind", "--json"]):
        call(*verb).failed(3, victim.name)


def test_a_second_writer_is_refused(call: Call, index: Path) -> None:
    with open(index / "LOCK") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        call("delete", index, "d1").failed(4, "")
        assert call("search", index, "wind").code == 0


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(call: Call, verb: str) -> None:
    done = call(*verb.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: retrieve {verb} ")
    assert verb in call("--help").out


def test_overviews(call: Call) -> None:
    assert call().out == call("--help").out == call("-h").out == call("help").out
    assert call("help", "data", "show").out == call("data", "show", "--help").out
    assert call("help", "data").out == call("data").out
    assert "impacts:FILE" in call("index", "--help").out
    assert "retrieve data sample" in call("data").out
    assert "retrieve search" not in call("data").out
    assert call("--version").out.startswith("retrieve ")


# --- as a process -------------------------------------------------------------------------------------------


def retrieve(root: Path, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "retrieval", *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen(words, cwd=root, **pipes)


def test_a_cold_search_imports_nothing_heavy(root: Path, index: Path) -> None:
    code = (
        "import sys; from retrieval.cli import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "search", index, "solar wind", "--json"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["results"]
    modules = set(done.stderr.split())
    assert "numpy" in modules
    heavy = {
        "numba",
        "rich",
        "typer",
        "torch",
        "transformers",
        "faiss",
        "ir_datasets",
        "pydantic",
        "tokenizers",
    }
    assert not heavy & modules


def test_output_that_nobody_reads(root: Path, index: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with retrieve(root, "search", index, "wind", env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read().splitlines()[1:] == []  # the note on the hits
    assert process.returncode == 0


def test_output_on_a_full_disk(root: Path, index: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        process = retrieve(root, "search", index, "wind", "--json", stdout=full)
        error = process.communicate()[1]
    assert process.returncode == 5
    assert error.startswith("error: cannot write to standard output")
    assert "Exception ignored" not in error


def test_interrupt(root: Path, tmp_path: Path) -> None:
    process = retrieve(root, "index", "-", "--out", tmp_path / "i", stdin=subprocess.PIPE)
    while not (tmp_path / "i" / "LOCK").exists() and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert (process.returncode, error) == (130, "interrupted\n")


def test_streams_that_are_closed(root: Path, index: Path) -> None:
    for verb, closed in (("doctor", ">&-"), ("check .", "2>&-"), ("search nowhere x", ">&- 2>&-")):
        line = f"{shlex.quote(sys.executable)} -m retrieval {verb} {closed}"
        done = subprocess.run(["sh", "-c", line], cwd=root, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0 if verb == "doctor" else 2, "", "")


def test_ctrl_c_waits_for_the_end_of_a_batch(call: Call, corpus: Path, tmp_path: Path) -> None:
    """Pressed within a batch (as in compiled code), nothing is raised there, but before the commit."""
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def add(writer: Writer, batch: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        seen.append(len(batch))  # the handler has run, and has not raised

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "add", add)
        done = call("index", corpus, "--out", tmp_path / "i")
    assert (done.code, done.out, done.err, seen) == (130, "", "interrupted\n", [4])
    assert signal.getsignal(signal.SIGINT) is before
    assert call("index", corpus, "--out", tmp_path / "i").code == 0


def test_ctrl_c_after_the_last_batch(call: Call, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed by then is said, and the code is that of an interruption all the same."""
    real = Index._open_newest

    def pressed(self: Index) -> None:
        signal.raise_signal(signal.SIGINT)
        real(self)

    monkeypatch.setattr(Index, "_open_newest", pressed)
    done = call("merge", index)
    assert (done.code, done.json, done.err) == (130, {"committed": 4, "generation": 2}, "interrupted\n")


def test_ctrl_c_while_reading() -> None:
    def lines() -> None:
        signal.raise_signal(signal.SIGINT)

    place = str(Path(lines_module.__file__))
    reading = types.FunctionType(lines.__code__.replace(co_filename=place), {"signal": signal})
    with pytest.raises(KeyboardInterrupt), cli_interrupt.interrupts():
        reading()


def test_the_second_ctrl_c_ends_at_once_even_in_compiled_code(root: Path) -> None:
    """sort() of a big array stands for it: no Python handler runs before it returns."""
    code = (
        "import os, signal, threading, time, numpy\n"
        "from retrieval.cli_interrupt import interrupts\n"
        "def press():\n"
        "    for _ in range(2):\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(0.05)\n"
        "    time.sleep(60)\n"
        "numbers = numpy.random.default_rng(1).random(1 << 24)\n"
        "with interrupts():\n"
        "    threading.Thread(target=press, daemon=True).start()\n"
        "    numbers.sort(kind='stable')\n"
        "    print('sorted', flush=True)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_what_compiles_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    (tmp_path / "index").mkdir()
    monkeypatch.setattr(retrieval.index, "__file__", str(tmp_path / "index" / "__init__.py"))
    note_compiling()
    assert capsys.readouterr().err == ""  # nobody is there to read it
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    note_compiling()
    assert capsys.readouterr().err == "compiling for this machine, once (about 20 s)\n"
    (tmp_path / "index_0a").mkdir()
    (tmp_path / "index_0a" / "kernels.add-1.py311.nbi").touch()
    note_compiling()
    assert capsys.readouterr().err == ""


def test_json_on_a_narrow_terminal_encoding(root: Path, tmp_path: Path, call: Call, write: Write) -> None:
    corpus = write(tmp_path / "c.jsonl", [{"_id": "ä", "text": "größe \U0001f600"}])
    assert call("index", corpus, "--out", tmp_path / "i").code == 0
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = retrieve(root, "search", tmp_path / "i", "größe", "--json", env=environment)
    out, error = process.communicate()
    assert json.loads(out)["results"][0]["text"] == "größe \U0001f600"
    assert error == ""
    process = retrieve(root, "search", tmp_path / "i", "größe", env=environment)
    out, error = process.communicate()
    assert (process.returncode, "Traceback" in error) == (0, False)
    assert "gr\\xf6\\xdfe" in out
