"""Reads the arguments of one verb: argparse for the options, so that a cold search pays for nothing heavier.

typer costs 50 ms before the first line of a command and, since it validates with pydantic, 130 ms in all;
numpy itself takes 100. Positional arguments may stand anywhere between the options; after `--` nothing is an
option.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from retrieval.errors import UserError, suggest

Read = Callable[[str], Any]


class _Positional(NamedTuple):
    name: str
    metavar: str
    number: str  # "1", "?" or "*"


class Parser(argparse.ArgumentParser):
    """The options of one verb. Its errors are UserErrors."""

    def __init__(self, verb: str, description: str, *, for_help: bool = False) -> None:
        super().__init__(
            f"retrieve {verb}",
            description=description,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
        )
        self._positional: list[_Positional] = []
        self._required: dict[str, str] = {}  # what a required option is read into -> how it is written
        self._for_help = for_help  # positional arguments are argparse's only to print them
        self.flag("--debug", "show the traceback of an error")

    def positional(self, name: str, metavar: str, help: str, count: str = "1") -> None:
        """An argument without a dash: required ("1"), optional ("?", or None) or any number ("*", a list)."""
        if self._for_help:
            self.add_argument(name, metavar=metavar, help=help, nargs=None if count == "1" else count)
        self._positional.append(_Positional(name, metavar, count))

    def flag(self, name: str, help: str) -> None:
        """An option without a value."""
        self.add_argument(name, action="store_true", help=help)

    def option(
        self,
        *names: str,
        metavar: str,
        help: str,
        default: Any = None,
        read: Read = str,
        required: bool = False,
        into: str | None = None,
    ) -> None:
        """An option with a value, which `read` makes of the text; `into` names it, if the option does not."""
        action = self.add_argument(
            *names, metavar=metavar, help=help, default=default, type=read,
            required=required and self._for_help, dest=into,
        )  # fmt: skip
        if required:  # asked for in read(), together with the positional arguments
            self._required[action.dest] = f"{names[0]} {metavar}"

    def repeated(self, *names: str, metavar: str, help: str) -> None:
        """An option that may be given several times: a list, empty without it."""
        self.add_argument(
            *names, metavar=metavar, help=f"{help}; may be repeated", action="append", default=[]
        )

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values by name. Raises UserError."""
        end = list(arguments).index("--") if "--" in arguments else len(arguments)
        given, rest = self.parse_known_args(arguments[:end])
        for word in rest:
            if word.startswith("-") and word != "-":
                option = word.split("=")[0]
                near = suggest(
                    option, [name for name in self._option_string_actions if name.startswith("--")]
                )
                self.error(
                    f"no such option {option!r}; {near or 'write -- before a text that begins with a dash'}"
                )
        words = [*rest, *arguments[end + 1 :]]
        needed = [metavar for _, metavar, number in self._positional if number == "1"]
        missing = needed[len(words) :]
        missing += [written for name, written in self._required.items() if getattr(given, name) is None]
        if missing:
            self.error(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        for name, _, number in self._positional:
            setattr(given, name, words if number == "*" else words.pop(0) if words else None)
            if number == "*":
                words = []
        if words:
            self.error(f"unexpected argument {words[0]!r}")
        return given

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\nsee: {self.prog} --help")


def whole(text: str) -> int:
    """A whole number from 1 to 999,999,999."""
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 999999999")
    return int(text)
