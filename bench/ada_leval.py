"""Ada-LEval's files, and what a language model's replies to them score: python -m retrieval.bench.ada_leval.

Wang et al., NAACL 2024 (arXiv 2404.06480). A file is one setting, which bounds the tokens of a prompt:
`stackselect_16k.json` is BestAnswer, `textsort_16k.json` TSort. The published scores take the first 1,000
records of a file, of settings from 32k on the first 200; those of models behind an interface 200 and 50.

The command takes such a file and JSON lines with a model's `reply` to each record, in order, and prints
accuracy with its bootstrap interval, the accuracy of guessing, and how many replies name nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from retrieval.bench.statistics import bootstrap
from retrieval.data.lines import Source, text_lines
from retrieval.diskio import disk_errors
from retrieval.errors import BadLine, RetrievalError, UserError

SETTINGS = ("1k", "2k", "4k", "6k", "8k", "12k", "16k", "32k", "64k", "128k")
SEGMENTS = 4  # of a TSort record
_NAME = re.compile(r"(stackselect|textsort)_(\d+k)\.json")


class Question(NamedTuple):
    """A question, its candidate answers as listed (A1, A2 ...), and which was accepted, counted from 0."""

    question_id: str
    text: str
    answers: list[str]
    accepted: int
    tags: list[str]


class Shuffled(NamedTuple):
    """A TSort record: the prompt with four segments, and their right order as numbers from 1."""

    record_id: str
    prompt: str
    order: list[int]


def setting_of(path: str | Path) -> str:
    """`16k` of stackselect_16k.json; empty for a file of another name."""
    found = _NAME.fullmatch(Path(path).name)
    return found[2] if found else ""


def counted(setting: str, *, less: bool = False) -> int:
    """How many records the published scores of a setting are over; less: of models behind an interface."""
    long = int(setting[:-1]) >= 32
    return (50 if less else 200) if long else (200 if less else 1000)


def read_questions(path: str | Path, most: int | None = None) -> tuple[list[Question], list[str]]:
    """(the questions, warnings) of a BestAnswer file: the first `most`, or as many as published scores take.

    Raises UserError for what is not there, no JSON list, or a record that lacks something, with its number.
    """
    records, warnings = _records(path, most)
    questions = [_question(path, number, record) for number, record in enumerate(records, 1)]
    empty = sum(not answer.strip() for question in questions for answer in question.answers)
    if empty:
        warnings.append(f"{path}: {empty} candidate answers are empty, and cannot be found by their words")
    return questions, warnings


def read_shuffled(path: str | Path, most: int | None = None) -> tuple[list[Shuffled], list[str]]:
    """(the records, warnings) of a TSort file, as read_questions reads BestAnswer's."""
    records, warnings = _records(path, most)
    found = []
    for number, record in enumerate(records, 1):
        book, offset, prompt, order = _fields(
            path, number, record, ("book_id", "para_offset", "prompt", "answer")
        )
        if isinstance(order, str):  # some files have the list as text
            order = _json_list(order)
        if not isinstance(order, list) or sorted(map(str, order)) != [str(i + 1) for i in range(SEGMENTS)]:
            raise _bad(path, number, f"the answer {order!r} is no order of 1 to {SEGMENTS}")
        if not isinstance(prompt, str):
            raise _bad(path, number, "the prompt is no text")
        offsets = "_".join(map(str, offset if isinstance(offset, list) else [offset]))
        found.append(Shuffled(f"{book}_{offsets}", prompt, [int(i) for i in order]))
    return found, warnings


def chance(questions: Sequence[Question]) -> float:
    """The accuracy of guessing: the mean of 1 / candidates."""
    return sum(1 / len(question.answers) for question in questions) / len(questions)


def parse_label(reply: str, count: int, *, compat: bool = False) -> int | None:
    """Which of `count` answers a reply names, from 0: of several labels the last-listed, else of numbers.

    Labels are read whole: of five answers "A12" is none. compat: as the released evaluation, which looks for
    the letters anywhere, and there finds A1. None where nothing is named.
    """
    for prefix in ("A", ""):
        for number in range(count, 0, -1):
            label = f"{prefix}{number}"
            if label in reply if compat else re.search(rf"(?<![\w.]){label}(?!\w|\.\d)", reply):
                return number - 1
    return None


def parse_order(reply: str) -> list[int] | None:
    """The order in a TSort reply: a JSON list (after "Answer:"), else the one whose digits come in turn.

    None where there is none, or more than one.
    """
    text = reply.partition("Answer:")[2].strip() or reply if "Answer:" in reply else reply
    found = _json_list(text)
    if found is not None:
        return found if all(isinstance(i, int) and not isinstance(i, bool) for i in found) else None
    orders = [order for order in _permutations(SEGMENTS) if re.search(".*".join(map(str, order)), text, re.S)]
    return orders[0] if len(orders) == 1 else None


def label_scores(
    questions: Sequence[Question], replies: Sequence[str], *, compat: bool = False
) -> list[float]:
    """1 for each reply that names the accepted answer, else 0. Raises UserError for too few or many."""
    _same(questions, replies)
    pairs = zip(questions, replies)
    return [
        float(parse_label(reply, len(question.answers), compat=compat) == question.accepted)
        for question, reply in pairs
    ]


def order_scores(records: Sequence[Shuffled], replies: Sequence[str]) -> list[float]:
    """1 for each reply with the whole order right, else 0. Chance is 1/24.

    The released evaluation compares only as many places as a reply has, so that an empty list counts as
    right there; here it does not. Raises UserError for too few or many replies.
    """
    _same(records, replies)
    return [float(parse_order(reply) == record.order) for record, reply in zip(records, replies)]


def order_bias(
    records: Sequence[Shuffled], orders: Sequence[Sequence[int] | None]
) -> dict[str, list[list[float]]]:
    """{"named", "right"}: at each place of an order, how large a share of records has part 1, 2, 3, 4 there.

    A model that looks at the texts names parts at a place about as often as they are right there; orders
    that name nothing are left out of `named`.
    """

    def shares(found: Sequence[Sequence[int]]) -> list[list[float]]:
        return [
            [
                sum(order[place] == part for order in found) / max(1, len(found))
                for part in range(1, SEGMENTS + 1)
            ]
            for place in range(SEGMENTS)
        ]

    whole = [order for order in orders if order is not None and sorted(order) == [*range(1, SEGMENTS + 1)]]
    return {"named": shares(whole), "right": shares([record.order for record in records])}


def _same(records: Sequence[Any], replies: Sequence[str]) -> None:
    if len(records) != len(replies):
        raise UserError(
            f"{len(replies)} replies to {len(records)} records; give one each, in the file's order"
        )


def _permutations(count: int) -> list[list[int]]:
    if count == 0:
        return [[]]
    return [[*rest[:at], count, *rest[at:]] for rest in _permutations(count - 1) for at in range(count)]


def _json_list(text: str) -> list[Any] | None:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, list) else None


def _records(path: str | Path, most: int | None) -> tuple[list[Any], list[str]]:
    with disk_errors("read", path):
        data = Path(path).read_bytes()
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}); give a file of Ada-LEval as published") from None
    if not isinstance(found, list) or not found:
        raise UserError(f"{path} holds no list of records; give a file of Ada-LEval as published")
    warnings = []
    setting = setting_of(path)
    if setting not in SETTINGS:
        warnings.append(
            f"{path} is not named as a published setting (stackselect_1k.json and so on); all its "
            f"{len(found)} records are read"
        )
    elif most is None:
        most = counted(setting)
        if len(found) < most:
            warnings.append(
                f"{path} has {len(found)} records, where published scores of {setting} are over {most}; "
                "figures do not compare with those"
            )
    return found[:most], warnings


def _question(path: str | Path, number: int, record: Any) -> Question:
    name, text, answers, answer, tags = _fields(
        path, number, record, ("question_id", "question", "all_answers", "answer", "tags")
    )
    if not isinstance(text, str) or not text.strip():
        raise _bad(path, number, "the question is no text")
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
        raise _bad(path, number, "all_answers is no list of texts")
    found = re.fullmatch(r"A(\d+)", str(answer))
    if found is None or not 1 <= int(found[1]) <= len(answers):
        raise _bad(path, number, f"the answer {answer!r} is none of A1 to A{len(answers)}")
    listed = [str(tag) for tag in tags] if isinstance(tags, list) else []
    return Question(str(name), text, answers, int(found[1]) - 1, listed)


def _fields(path: str | Path, number: int, record: Any, names: Sequence[str]) -> list[Any]:
    if not isinstance(record, Mapping):
        raise _bad(path, number, "it is no object")
    missing = [name for name in names if name not in record]
    if missing:
        raise _bad(path, number, f"it has no {' and no '.join(missing)}")
    return [record[name] for name in names]


def _bad(path: str | Path, number: int, problem: str) -> UserError:
    return UserError(f"{path}, record {number}: {problem}; give a file of Ada-LEval as published")


def read_replies(path: str) -> list[str]:
    """The `reply` of each JSON line. Raises BadLine for a line without one, UserError."""
    found = []
    with Source(path) as file:
        for number, line in text_lines(file):
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise BadLine(path, number, f"not JSON: {error.msg}") from None
            if not isinstance(record, dict) or not isinstance(record.get("reply"), str):
                raise BadLine(path, number, 'no reply; a line is {"reply": "..."}')
            found.append(record["reply"])
    return found


def score(path: str, replies: Sequence[str], *, less: bool = False, compat: bool = False) -> dict[str, Any]:
    """{"records", "accuracy", "low", "high", "chance", "unread", "warnings"} of replies to a file.

    Of TSort also order_bias().
    """
    setting = setting_of(path)
    most = counted(setting, less=True) if less and setting in SETTINGS else None
    more: dict[str, Any] = {}
    if Path(path).name.startswith("textsort"):
        records, warnings = read_shuffled(path, most)
        more = order_bias(records, [parse_order(reply) for reply in replies])
        values, guess = order_scores(records, replies), 1 / math.factorial(SEGMENTS)
        unread = sum(parse_order(reply) is None for reply in replies)
    else:
        questions, warnings = read_questions(path, most)
        values, guess = label_scores(questions, replies, compat=compat), chance(questions)
        unread = sum(
            parse_label(reply, len(question.answers), compat=compat) is None
            for question, reply in zip(questions, replies)
        )
    mean, low, high = bootstrap(values)
    return {
        "records": len(values), "accuracy": mean, "low": low, "high": high, "chance": guess, "unread": unread,
        **more, "warnings": warnings,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.ada_leval", description=__doc__)
    add = parser.add_argument
    add("file", metavar="FILE", help="stackselect_1k.json, textsort_2k.json and so on")
    add("replies", metavar="REPLIES", help='JSON lines, {"reply": "..."} for each record in order')
    add("--less", action="store_true", help="200 records, from 32k on 50")
    add("--compat", action="store_true", help="find labels as the released evaluation does")
    given = parser.parse_args(arguments)
    try:
        found = score(given.file, read_replies(given.replies), less=given.less, compat=given.compat)
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
