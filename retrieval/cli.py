"""The command line `retrieve`: its verbs, and what becomes of errors (one message, an exit code, no traceback).

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
from typing import Annotated

import typer

from retrieval import cli_data, cli_demo, cli_doctor, cli_eval, cli_index, cli_search
from retrieval.errors import RetrievalError
from retrieval.render import printable

app = typer.Typer(
    help="Search your own text, and measure how well it works: index, search, eval.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from retrieval import __version__

        print(f"retrieve {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error (with every verb).")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every verb; main() has taken --debug out before this is read."""


app.command("index")(cli_index.index)
app.command("add")(cli_index.add)
app.command("delete")(cli_index.delete)
app.command("merge")(cli_index.merge)
app.command("search")(cli_search.search)
app.command("explain")(cli_search.explain)
app.command("check")(cli_index.check)
app.command("eval")(cli_eval.evaluate_run)
app.add_typer(cli_data.app, name="data")
app.command("doctor")(cli_doctor.doctor)
app.command("demo")(cli_demo.demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. argv: without the program's name (default: sys.argv)."""
    with contextlib.suppress(io.UnsupportedOperation, AttributeError, ValueError, OSError):  # no real stderr
        faulthandler.enable()  # a SIGBUS or SIGSEGV at least names the place
    arguments, debug = _without_debug(list(sys.argv[1:] if argv is None else argv))
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_output()
        return 0  # whoever read our output has seen enough
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130, debug)
    except RetrievalError as error:
        return _fail(f"error: {error}", error.exit_code, debug)
    except MemoryError:
        return _fail("error: out of memory; close other programs, or lower the budget: --memory 512MB", 5, debug)
    except OSError as error:
        from retrieval.diskio import storage_error

        named = storage_error(error, "use", os.fsdecode(error.filename or "a file"))
        return _fail(f"error: {named}", named.exit_code, debug)
    except Exception as error:  # noqa: BLE001  (the last resort: a person sees a message, not a traceback)
        if hasattr(error, "format_message"):  # a usage error of typer's
            return _fail(f"error: {error.format_message()}{_see(error)}", 2, debug)
        what = f"{type(error).__name__}: {error}"
        return _fail(f"error: this is a defect in retrieve: {what}\nrun it again with --debug and report it", 1, debug)


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        # Not command.main(): it turns a closed pipe and an interrupt into exit codes of its own.
        with command.make_context("retrieve", arguments or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, which may stand anywhere before `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return kept + arguments[end:], len(kept) < end


def _see(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"\nsee: {context.command_path} --help" if context is not None else ""


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    lines = [printable(line) for line in message.split("\n")]
    with contextlib.suppress(OSError, ValueError):  # stderr is closed
        print("\n".join([*lines[:1], *(" ".join([line]) for line in lines[1:2])]), file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    return code


def _discard_output() -> None:
    """Points stdout at nothing, so that the interpreter's last flush does not fail on the closed pipe."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
