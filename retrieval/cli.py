"""The command line `retrieve`: its verbs, and what an error becomes: one message and an exit code.

Exit codes: 0 ok, 2 user or input, 3 corrupt or unsupported index, 4 locked, 5 I/O or memory, 130 interrupted;
1 is a defect of this program. Each verb lives in cli_*.py and imports what it works with when it is called.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from retrieval.cli_parser import Parser
from retrieval.errors import RetrievalError, UserError, is_memory, suggest
from retrieval.render import columns, printable

_NO_MEMORY = "error: out of memory; close other programs, or lower the budget: --memory 512MB"

# Verb -> its module and function (whose options are read by FUNCTION_options), and what it does.
VERBS = {
    "demo": ("cli_demo.demo", "index, search and measure the packaged sample"),
    "index": ("cli_index.index", "index a corpus"),
    "search": ("cli_search.search", "search an index: one query, or a file of them"),
    "eval": ("cli_eval.evaluate_run", "measure a run against judgements"),
    "bench": ("cli_bench.bench", "measure systems on a benchmark's tasks: quality, times, a row for each"),
    "leaderboard": ("cli_leaderboard.leaderboard", "write one page of rows: intervals, paired tests, plots"),
    "verify": ("cli_leaderboard.verify", "recompute a sample of a row and say where it differs"),
    "explain": ("cli_search.explain", "show why a document has its rank and score"),
    "add": ("cli_index.add", "build a further representation from the stored text"),
    "delete": ("cli_index.delete", "delete documents by id"),
    "merge": ("cli_index.merge", "make one segment of all, without deleted documents"),
    "export": ("cli_export.export", "write a representation for other tools: CIFF, JSON vectors, .npy"),
    "check": ("cli_index.check", "verify every byte of an index, or roll it back"),
    "tune": ("cli_tune.tune", "find the best pipeline within a time budget, from queries with judgements"),
    "train": ("cli_train.train", "train a model: dense, m2bert, smith, tilde, tildev2, bprop, cross, parade"),
    "model show": ("cli_model.show_model", "show what an encoder is, and how it computes"),
    "model save": (
        "cli_model.save_model",
        "write an encoder, a GGUF file say, as a directory that opens fast",
    ),
    "model fetch": ("cli_model.fetch_model", "fetch a model of the hub (nothing else connects)"),
    "model convert": ("cli_model.convert_model", "convert a published M2-BERT checkpoint"),
    "data list": ("cli_data.list_data", "list the collections that are known by name"),
    "data show": ("cli_data.show_data", "print the first documents of a corpus"),
    "data sample": ("cli_data.sample", "print where the packaged sample is, or copy it"),
    "doctor": ("cli_doctor.doctor", "show versions, extras, processor, caches, free space"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. argv: without the program's name (default: sys.argv)."""
    _open_missing_streams()
    with contextlib.suppress(io.UnsupportedOperation, AttributeError, ValueError, OSError):  # no real stderr
        faulthandler.enable()  # a SIGBUS or SIGSEGV at least names the place
    with contextlib.suppress(
        AttributeError, ValueError
    ):  # a terminal that cannot show a character gets its code
        output: Any = sys.stdout
        output.reconfigure(errors="backslashreplace")
    arguments, debug = _without_debug(list(sys.argv[1:] if argv is None else argv))
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return 0  # whoever read our output has seen enough
    except KeyboardInterrupt:
        return _fail("interrupted", 130, debug)
    except RetrievalError as error:
        return _fail(f"error: {error}", error.exit_code, debug)
    except MemoryError:
        return _fail(_NO_MEMORY, 5, debug)
    except OSError as error:
        from retrieval.diskio import storage_error

        named = storage_error(
            error, "use" if error.filename else "write", os.fsdecode(error.filename or "the output")
        )
        message = str(named).replace("cannot write 'the output'", "cannot write to standard output")
        return _fail(f"error: {message}", named.exit_code, debug)
    except Exception as error:  # noqa: BLE001  (the last resort: a person sees a message, not a traceback)
        if is_memory(error):
            return _fail(_NO_MEMORY, 5, debug)
        what = f"{type(error).__name__}: {error}"
        return _fail(
            f"error: this is a defect in retrieve: {what}\nrun it again with --debug and report it", 1, debug
        )


def _open_missing_streams() -> None:
    """A stream that was closed before the start is None, and print(file=None) would take the other one."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115


def _invoke(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(_overview(VERBS))
        return 0
    if first == "--version":
        from retrieval import __version__

        print(f"retrieve {__version__}")
        return 0
    verb, rest = first, arguments[1:]
    group = {name: what for name, what in VERBS.items() if name.startswith(f"{verb} ")}
    if group:
        if not rest or rest[0] in ("-h", "--help"):
            print(_overview(group))
            return 0
        verb, rest = f"{verb} {rest[0]}", rest[1:]
    if verb not in VERBS:
        known = list(group or VERBS)
        advice = suggest(verb, known) or f"known: {', '.join(known)}."
        raise UserError(f"unknown command {verb!r}; {advice} See: retrieve --help")
    module, name = VERBS[verb][0].split(".")
    functions = import_module(f"retrieval.{module}")
    work, options = getattr(functions, name), getattr(functions, f"{name}_options")
    asked = {"-h", "--help"} & {*rest[: rest.index("--") if "--" in rest else None]}
    parser = Parser(verb, work.__doc__, for_help=bool(asked))
    options(parser)
    if asked:
        print(parser.format_help(), end="")
        return 0
    work(parser.read(rest))
    return 0


def _overview(verbs: dict[str, tuple[str, str]]) -> str:
    lines = columns([(f"  retrieve {name}", what) for name, (_, what) in verbs.items()])
    return "\n".join(
        [
            "Search your own text, and measure how well it works.",
            "",
            *lines,
            "",
            "retrieve VERB --help shows a verb's options; --debug, with any verb, the traceback of an error.",
            "Exit codes: 0 ok, 2 user or input, 3 corrupt index, 4 locked, 5 input/output or memory,",
            "130 interrupted.",
        ]
    )


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, which may stand anywhere before `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    first, *rest = message.split("\n")
    lines = [printable(first), *([printable(" ".join(rest))] if rest else [])]
    with contextlib.suppress(OSError, ValueError):  # stderr is closed
        print("\n".join(lines), file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _discard_output()
    return code


def _discard_output() -> None:
    """Points stdout at nothing, so that the interpreter's last flush does not fail as ours did."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
