"""Filters on metadata: `year >= 2020 and not (section in ("games", "doc") or draft = true)`.

    filter     = all { "or" all }
    all        = one { "and" one }
    one        = "not" one | "(" filter ")" | field test
    test       = ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value | [ "not" ] "in" "(" value { "," value } ")"
    value      = "text" | 'text' | number | true | false | word
A field is a word or a quoted text. In quotes a backslash takes the next character as it is. A bare word is a
text. A list matches when any of its elements does; a document without the field matches no test, so that `!=`
and `not` find it. Texts compare by code point. A filter is read from left to right in linear time.
"""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnknownName, UserError
from retrieval.index.metadata import Column

LONGEST = 1 << 20
DEEPEST = 100
_KEYWORDS = ("and", "or", "not", "in")
_SYMBOLS = ("<=", ">=", "!=", "==", "<", ">", "=", "(", ")", ",")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_KIND_NAMES = {
    "numbers": "numbers", "flags": "true and false", "strings": "texts", "other": "lists or objects",
}  # fmt: skip

Value: TypeAlias = str | float | bool
Schema: TypeAlias = Mapping[str, set[str]]
Mask: TypeAlias = NDArray[np.bool_]


class Columns(Protocol):
    """What a mask is computed from; a DocumentsReader is one."""

    def __len__(self) -> int: ...
    @property
    def fields(self) -> Mapping[str, set[str]]: ...
    def column(self, field: str) -> Column | None: ...


class _Token(NamedTuple):
    kind: str  # "word", "quoted", "symbol", "end"
    text: str
    at: int


def schema(readers: Iterable[Columns]) -> dict[str, set[str]]:
    """Field -> kinds of values over several parts, for Filter.mask."""
    fields: dict[str, set[str]] = {}
    for reader in readers:
        for name, kinds in reader.fields.items():
            fields.setdefault(name, set()).update(kinds)
    return fields


class Filter:
    """A parsed filter; `text` is what it was parsed from."""

    def __init__(self, text: str, root: _Node) -> None:
        self.text = text
        self._root = root

    def check(self, fields: Schema) -> None:
        """Raise UnknownName for a field that nobody has, UserError for values of another kind."""
        self._root.check(fields)

    def mask(self, reader: Columns, fields: Schema | None = None) -> Mask:
        """bool[n]: which documents of a part match.

        fields: the schema of the whole index, so that a part which lacks a field simply has no match; the
        part's own if not given. Raises as check() does.
        """
        self.check(reader.fields if fields is None else fields)
        return self._root.mask(reader)

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"


class _Node(Protocol):
    def check(self, fields: Schema) -> None: ...
    def mask(self, reader: Columns) -> Mask: ...


class _Join:
    """All of, or any of, several filters."""

    def __init__(self, every: bool, nodes: list[_Node]) -> None:
        self._every = every
        self._nodes = nodes

    def check(self, fields: Schema) -> None:
        for node in self._nodes:
            node.check(fields)

    def mask(self, reader: Columns) -> Mask:
        found = self._nodes[0].mask(reader)
        for node in self._nodes[1:]:
            if self._every:
                found &= node.mask(reader)
            else:
                found |= node.mask(reader)
        return found


class _Not:
    def __init__(self, node: _Node) -> None:
        self._node = node

    def check(self, fields: Schema) -> None:
        self._node.check(fields)

    def mask(self, reader: Columns) -> Mask:
        return ~self._node.mask(reader)


class _Test:
    """One field against values: equal to any of them (sign "="), or on one side of the only one."""

    def __init__(self, field: str, sign: str, values: list[Value]) -> None:
        self._field = field
        self._sign = sign
        self._values = values

    def check(self, fields: Schema) -> None:
        kinds = fields.get(self._field)
        if kinds is None:
            raise UnknownName("metadata field", self._field, fields)
        for value in self._values:
            kind = _kind(value)
            if kind not in kinds:
                held = " and ".join(_KIND_NAMES[each] for each in sorted(kinds)) or "nothing"
                advice = "put a text in quotes" if "strings" in kinds else "write the value without quotes"
                if not kinds - {"other"}:
                    advice = "filter by another field"
                raise UserError(f"metadata field {self._field!r} holds {held}, not {_shown(value)}; {advice}")

    def mask(self, reader: Columns) -> Mask:
        found = np.zeros(len(reader), np.bool_)
        column = reader.column(self._field)
        if column is None:
            return found
        if self._sign != "=":
            self._compare(column, found)
            return found
        numbers = [value for value in self._values if _kind(value) == "numbers"]
        flags = [value for value in self._values if isinstance(value, bool)]
        codes = [_code(column, value) for value in self._values if isinstance(value, str)]
        if numbers:
            found[column.number_docs[_any_of(column.numbers, numbers)]] = True
        if flags:
            found[column.flag_docs[_any_of(column.flags, flags)]] = True
        if codes:
            found[column.string_docs[_any_of(column.codes, codes)]] = True
        return found

    def _compare(self, column: Column, found: Mask) -> None:
        value = self._values[0]
        if isinstance(value, str):
            side = bisect_left if self._sign in ("<", ">=") else bisect_right
            bound = side(column.values, value)  # codes are in the order of the values
            below = column.codes < bound
            found[column.string_docs[below if self._sign in ("<", "<=") else ~below]] = True
        else:
            found[column.number_docs[_COMPARE[self._sign](column.numbers, value)]] = True


def _any_of(values: NDArray[Any], wanted: list[Any]) -> Mask:
    return values == wanted[0] if len(wanted) == 1 else np.isin(values, wanted)


def _code(column: Column, value: str) -> int:
    place = bisect_left(column.values, value)
    return place if place < len(column.values) and column.values[place] == value else -1


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "flags"
    return "strings" if isinstance(value, str) else "numbers"


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"the text {value!r}" if isinstance(value, str) else f"the number {value:g}"


def parse(text: str) -> Filter:
    """Parse a filter. Raises UserError that points at the place."""
    if len(text) > LONGEST:
        raise UserError(f"a filter of {len(text)} characters is too long; the limit is {LONGEST}")
    parser = _Parser(text)
    root = parser.any_of(0)
    if parser.token.kind != "end":
        raise parser.error("'and', 'or' or the end")
    return Filter(text, root)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._place = 0

    @property
    def token(self) -> _Token:
        return self._tokens[self._place]

    def error(self, expected: str) -> UserError:
        token = self.token
        found = "the end" if token.kind == "end" else repr(token.text)
        return _error(self._text, token.at, f"expected {expected}, found {found}")

    def _word(self, *words: str) -> bool:
        token = self.token
        if token.kind in ("word", "symbol") and token.text.lower() in words:
            self._place += 1
            return True
        return False

    def any_of(self, depth: int) -> _Node:
        nodes = [self._all_of(depth)]
        while self._word("or"):
            nodes.append(self._all_of(depth))
        return nodes[0] if len(nodes) == 1 else _Join(False, nodes)

    def _all_of(self, depth: int) -> _Node:
        nodes = [self._one(depth)]
        while self._word("and"):
            nodes.append(self._one(depth))
        return nodes[0] if len(nodes) == 1 else _Join(True, nodes)

    def _one(self, depth: int) -> _Node:
        if depth > DEEPEST:
            raise _error(self._text, self.token.at, f"more than {DEEPEST} parentheses in one another")
        negated = False
        while self._word("not"):
            negated = not negated
        if self._word("("):
            node = self.any_of(depth + 1)
            if not self._word(")"):
                raise self.error("'and', 'or' or ')'")
        else:
            node = self._test()
        return _Not(node) if negated else node

    def _test(self) -> _Node:
        token = self.token
        if token.kind not in ("word", "quoted") or (token.kind == "word" and token.text.lower() in _KEYWORDS):
            raise self.error("a field, 'not' or '('")
        self._place += 1
        field, negated = token.text, self._word("not")
        if self._word("in"):
            if not self._word("("):
                raise self.error("'('")
            values = [self._value()]
            while self._word(","):
                values.append(self._value())
            if not self._word(")"):
                raise self.error("',' or ')'")
            node: _Node = _Test(field, "=", values)
            return _Not(node) if negated else node
        sign = self.token.text
        if negated or self.token.kind != "symbol" or sign in ("(", ")", ","):
            raise self.error("'in'" if negated else "=, !=, <, <=, >, >= or 'in'")
        self._place += 1
        at = self.token.at
        value = self._value()
        if sign in _COMPARE and isinstance(value, bool):
            raise _error(self._text, at, f"{sign} needs a number or a text, found {_shown(value)}")
        if sign in _COMPARE:
            return _Test(field, sign, [value])
        node = _Test(field, "=", [value])
        return _Not(node) if sign == "!=" else node

    def _value(self) -> Value:
        token = self.token
        if token.kind not in ("word", "quoted") or (token.kind == "word" and token.text.lower() in _KEYWORDS):
            raise self.error("a value (a text in quotes, a number, true or false)")
        self._place += 1
        if token.kind == "quoted":
            return token.text
        if token.text.lower() in ("true", "false"):
            return token.text.lower() == "true"
        if token.text[0] in "+-.0123456789":
            try:
                number = float(token.text)
            except ValueError:
                return token.text  # a word such as 2nd or 2024-05-01
            if number - number == 0:
                return number
        return token.text


def _error(text: str, at: int, problem: str) -> UserError:
    start = max(0, at - 30)
    shown = text[start : at + 30]
    before, after = shown[: at - start], shown[at - start :]
    return UserError(f"filter: {problem} at character {at + 1}: {before!r} >>> {after!r}")


def _tokens(text: str) -> list[_Token]:
    """Words, quoted texts and signs, ended by one "end"."""
    tokens = []
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char.isspace():
            at += 1
        elif char in "\"'":
            end, parts = _quoted(text, at)
            tokens.append(_Token("quoted", parts, at))
            at = end
        elif symbol := next((each for each in _SYMBOLS if text.startswith(each, at)), ""):
            tokens.append(_Token("symbol", symbol, at))
            at += len(symbol)
        else:
            end = at
            while end < size and not text[end].isspace() and text[end] not in "\"'()<>=!,":
                end += 1
            if end == at:
                raise _error(text, at, f"unexpected {char!r}")
            tokens.append(_Token("word", text[at:end], at))
            at = end
    tokens.append(_Token("end", "", size))
    return tokens


def _quoted(text: str, at: int) -> tuple[int, str]:
    """The end of the quoted text that begins at `at`, and what it says."""
    parts: list[str] = []
    quote, place = text[at], at + 1
    while place < len(text):
        char = text[place]
        if char == quote:
            return place + 1, "".join(parts)
        if char == "\\" and place + 1 < len(text):
            place += 1
            char = text[place]
        parts.append(char)
        place += 1
    raise _error(text, at, "this quote is not closed")
