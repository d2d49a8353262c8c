"""The text and TOML forms of a pipeline: what `repr` of a stage prints, read back.

    bm25 % 1000 >> tildev2 % 100 >> 0.3 * bm25(k1=0.9, b=0.4) + cross(./models/minilm) % 10

Operators bind as in Python: `*` and `%` before `+` before `>>`. In the brackets stand `name=value` pairs;
one value without a name, the first, is the parameter `model`. Values are numbers, true, false, paths and
hub ids as they are, or any string in double quotes with JSON's escapes. In TOML, parameters may stand in a
table for each stage:

    pipeline = "bm25 % 1000 >> cross % 10"
    [stages.cross]
    model = "./models/minilm"
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from retrieval import registry
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.stage import BARE, Param, Stage, Weighted, read_value

Resolve: TypeAlias = Callable[[str, dict[str, Param]], Stage]

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.-])")
_NAME = re.compile(r"\w[\w.-]*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_DEEPEST = 50  # parentheses within parentheses


def parse(text: str, resolve: Resolve = registry.make, *, given: bool = False) -> Stage:
    """The stage that the text describes.

    `resolve(name, params)` supplies the leaves, by default from the registry. given=True accepts a text
    that begins with a re-ranker, for callers that will pass a run to it. Raises CompositionError, with the
    position, for a text that does not parse or stages that do not fit together, and whatever `resolve`
    raises.
    """
    stage = _Parser(text, resolve).whole()
    if stage.needs_run and not given:
        raise CompositionError(f"{stage!r} re-ranks and needs a run; put a retriever and >> before it")
    return stage


def parse_params(text: str) -> dict[str, Param]:
    """What stands in brackets, without them: `precision=bfloat16, ann=hnsw`. Raises CompositionError."""
    parser = _Parser(f"{text})", registry.make)
    params = parser.parameters()
    if not parser.end():
        raise parser.wrong("the end")
    return params


def to_toml(stage: Stage) -> str:
    """One line of TOML with the pipeline's text, parameters included."""
    text = json.dumps(repr(stage), ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"pipeline = {text}\n"


def from_toml(toml: str, resolve: Resolve = registry.make, *, given: bool = False) -> Stage:
    """The stage that a TOML text describes: `pipeline`, and parameters for all stages of a name.

    What stands in the pipeline's own brackets wins over the table. Raises what `parse` does, and UserError
    for TOML that does not read or a table that no stage uses.
    """
    import tomllib  # seldom needed

    try:
        content = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the pipeline file is not TOML: {error}") from None
    for key in content:
        if key not in ("pipeline", "stages"):
            raise UnknownName("key of a pipeline file", key, ["pipeline", "stages"])
    text, tables = content.get("pipeline"), content.get("stages", {})
    if not isinstance(text, str):
        raise UserError('the pipeline file has no text; begin it with a line like pipeline = "bm25 % 10"')
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UserError("the pipeline file: parameters stand in tables like [stages.bm25]")
    used: set[str] = set()

    def filled(name: str, params: dict[str, Param]) -> Stage:
        used.add(name)
        return resolve(name, _plain(name, tables.get(name, {})) | params)

    stage = parse(text, filled, given=given)
    for name in tables:
        if name not in used:
            raise UnknownName("stage in the table", f"stages.{name}", [f"stages.{one}" for one in used])
    return stage


def _plain(name: str, table: Mapping[str, object]) -> dict[str, Param]:
    plain = {key: value for key, value in table.items() if isinstance(value, (bool, int, float, str))}
    for key in table.keys() - plain.keys():
        raise UserError(f"[stages.{name}]: {key} = {table[key]!r} is no number, text, true or false")
    return plain


class _Parser:
    """Recursive descent over one text; a method a rule, `at` is where it stands."""

    def __init__(self, text: str, resolve: Resolve) -> None:
        self.text = text
        self.resolve = resolve
        self.at = 0
        self.depth = 0

    def whole(self) -> Stage:
        found = self.pipeline()
        if not self.end():
            raise self.wrong("an operator (>> % + *) or the end")
        if isinstance(found, Weighted):
            raise found.misplaced()
        return found

    def pipeline(self) -> Stage | Weighted:
        """sum (">>" sum)*"""
        found = self.sum()
        while self.take(">>"):
            found = found >> self.sum()
        return found

    def sum(self) -> Stage | Weighted:
        """product ("+" product)*"""
        found = self.product()
        while self.take("+"):
            found = found + self.product()
        return found

    def product(self) -> Stage | Weighted:
        """[number "*"] atom ("%" number | "*" number)*"""
        found: Stage | Weighted
        weight = self.number()
        if weight is not None:
            if not self.take("*"):
                raise self.wrong("'*' after a weight")
            found = self.atom() * float(weight)
        else:
            found = self.atom()
        while True:
            if self.take("%"):
                k = self.number()
                if k is None or not k.isdecimal() or len(k) > 10:
                    raise self.wrong("a whole number of documents after '%'", self.at - len(k or ""))
                found = found % int(k)
            elif self.take("*"):
                weight = self.number()
                if weight is None:
                    raise self.wrong("a number after '*'")
                found = found * float(weight)
            else:
                return found

    def atom(self) -> Stage | Weighted:
        """name ["(" parameters ")"] | "(" pipeline ")" """
        start = self.at
        if self.take("("):
            self.depth += 1
            if self.depth > _DEEPEST:
                raise self.wrong(f"no more than {_DEEPEST} parentheses within each other", start)
            found = self.pipeline()
            if not self.take(")"):
                raise self.wrong("an operator (>> % + *) or ')'")
            self.depth -= 1
            return found
        name = self.match(_NAME)
        if name is None:
            raise self.wrong("a stage")
        return self.resolve(name, self.parameters() if self.take("(") else {})

    def parameters(self) -> dict[str, Param]:
        """[value | name "=" value] ("," name "=" value)* ")" """
        params: dict[str, Param] = {}
        while not self.take(")"):
            if params and not self.take(","):
                raise self.wrong("',' or ')'")
            self.end()
            start = self.at
            quoted = self.text.startswith('"', start)
            key: Param = self.value()
            if not quoted and self.take("="):
                key = self.text[start : self.at - 1].strip()
                if not key.isidentifier():
                    raise self.wrong("the name of a parameter", start)
                value = self.value()
            elif params:
                raise self.wrong("name=value (only the first parameter goes without its name)", start)
            else:
                key, value = "model", key
            if key in params:
                raise self.wrong(f"{key!r} only once", start)
            params[key] = value
        return params

    def value(self) -> Param:
        quoted = self.match(_QUOTED)
        if quoted is not None:
            try:
                return str(json.loads(quoted))
            except ValueError:
                raise self.wrong("a string with JSON's escapes", self.at - len(quoted)) from None
        word = self.match(BARE)
        if word is None:
            raise self.wrong("a value")
        return read_value(word)

    def number(self) -> str | None:
        return self.match(_NUMBER)

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.end()
        match = pattern.match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[0]

    def take(self, token: str) -> bool:
        self.end()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def end(self) -> bool:
        """Skips white space; whether nothing follows."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.at == len(self.text)

    def wrong(self, expected: str, at: int | None = None) -> CompositionError:
        at = self.at if at is None else at
        rest = self.text[at : at + 20]
        found = f"found {rest!r}" if rest else "the text ends"
        near = self.text[max(0, at - 40) : at + 40].strip()
        return CompositionError(
            f"pipeline {near!r}, character {at + 1}: expected {expected}, {found}; "
            "write it like bm25 % 1000 >> cross(./model) % 10"
        )
