"""The suite casehold: which of five holdings a court's citation stands for, as re-ranking (bench/choices.py).

Data: the folder of test.csv, dev.csv and train.csv as published, or one such file; JSON lines too, with the
same fields or with LexGLUE's (context, endings, label). A line is an index, `citing_prompt`, `holding_0` to
`holding_4` and `label`, 0 to 4; files whose header does not say so have the label in the 13th column, behind
five scores. Accuracy is Success@1; the published figure is macro-F1 over the five places, which
`python -m retrieval.bench.casehold ROW.json ...` computes of rows that this suite made.

Zheng, Guha, Anderson, Henderson, Ho: When Does Pretraining Help? Assessing Self-Supervised Learning for Law
and the CaseHOLD Dataset. ICAIL 2021 (arXiv 2104.08671).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.bench.ada_leval import Question
from retrieval.bench.best_answer import ACCURACY
from retrieval.bench.choices import choice_task
from retrieval.bench.row import Row, read_rows
from retrieval.bench.suite import SuiteSettings, Task, chosen, drawn, known_options
from retrieval.data.fields import shown
from retrieval.data.jsonl import json_objects
from retrieval.data.lines import Source, text_lines
from retrieval.errors import BadLine, RetrievalError, UnknownName, UserError
from retrieval.registry import register

CHOICES = 5
LABEL = "label"  # the bucket
PLACED = "holding {} as the answer"  # secondary judgements
_SPLITS = {"test": ("test",), "dev": ("dev", "val", "validation"), "train": ("train",)}
_ENDINGS = (".csv", ".jsonl", ".json", ".jsonl.gz", ".csv.gz")
_HOLDINGS = [f"holding_{at}" for at in range(CHOICES)]


@register("casehold", kind="suite")
def casehold(settings: SuiteSettings) -> Iterator[Task]:
    """The task `holdings`. Raises UserError, BadLine, UnknownName."""
    known_options(settings, ())
    split = settings.split or "test"
    if split not in _SPLITS:
        raise UnknownName("split of casehold", split, _SPLITS)
    for name in chosen(settings.tasks, ("holdings",)):
        file = _file(settings.data, split)
        questions = read_holdings(file)
        numbers = drawn(range(1, len(questions) + 1), settings.queries, settings.seed)
        yield choice_task(
            "casehold",
            name,
            split,
            questions,
            numbers,
            file=file,
            buckets={LABEL: [str(questions[number - 1].accepted) for number in numbers]},
            secondary={PLACED.format(place): [place] * len(numbers) for place in range(CHOICES)},
            note=f"guessing: {1 / CHOICES:.3f}; published figures are macro-F1 of models that read all five",
        )


def read_holdings(path: str) -> list[Question]:
    """The questions of a file, in its order. Raises BadLine with the line, UserError."""
    with Source(path) as file:
        found = list(
            _from_json(path, text_lines(file)) if file.is_json else _from_csv(path, text_lines(file))
        )
    if not found:
        raise UserError(f"{path} holds no question; give CaseHOLD's test.csv")
    return found


def macro_f1(row: Row) -> float:
    """Macro-F1 over the five places, of a row that this suite made. Raises UserError for another row.

    Of a place's questions the share that was answered right is known by bucket, and how often a system chose
    a place from the judgements that count it as right everywhere.
    """
    buckets = row.get("buckets", {}).get(LABEL)
    if row["suite"] != "casehold" or not buckets or ACCURACY not in row["measures"]:
        raise UserError(
            f"the row {row['system']['name']!r} of {row['suite']} is none of casehold; run it again"
        )
    found: list[float] = []
    for place in range(CHOICES):
        about: Mapping[str, Any] = buckets.get(str(place), {"queries": 0, ACCURACY: 0.0})
        right = about["queries"] * about[ACCURACY]
        named = sum(row["secondary"][PLACED.format(place)][ACCURACY]["values"])
        if about["queries"] or named:  # as scikit-learn: a place that occurs nowhere does not count
            found.append(2 * right / (about["queries"] + named))
    return sum(found) / len(found)


def _file(data: str, split: str) -> str:
    place = Path(data)
    if not place.is_dir():
        return data
    for name in _SPLITS[split]:
        for ending in _ENDINGS:
            if (place / f"{name}{ending}").is_file():
                return str(place / f"{name}{ending}")
    raise UserError(f"{data!r} holds no {split}.csv; give the folder of CaseHOLD's files")


def _from_json(path: str, lines: Iterator[tuple[int, str]]) -> Iterator[Question]:
    for number, record in json_objects(path, lines):
        prompt = record.get("citing_prompt", record.get("context"))
        endings = record.get("endings", [record.get(name) for name in _HOLDINGS])
        name = record.get("example_id", record.get("index", number))
        yield _question(path, number, name, prompt, endings, record.get("label"))


def _from_csv(path: str, lines: Iterator[tuple[int, str]]) -> Iterator[Question]:
    """Rows of a csv file; a quoted cell may hold line ends, so a row is known by where it begins."""
    at = 0

    def texts() -> Iterator[str]:
        nonlocal at
        for at, line in lines:  # noqa: B007
            yield f"{line}\n"

    rows = csv.reader(texts(), strict=True)
    try:
        header = next(rows, [])
        if "citing_prompt" in header and LABEL in header and set(_HOLDINGS) <= set(header):
            places = [header.index(name) for name in ("citing_prompt", *_HOLDINGS, LABEL)]
        elif len(header) >= 13:
            places = [*range(1, 7), 12]
        else:
            raise BadLine(path, 1, "no columns citing_prompt, holding_0 to holding_4 and label")
        for row in rows:
            if len(row) != len(header):
                raise BadLine(path, at, f"{len(row)} columns, where the first line has {len(header)}")
            prompt, *endings, label = (row[place] for place in places)
            yield _question(path, at, row[0] or at, prompt, endings, label)
    except csv.Error as error:
        raise BadLine(path, at, f"not CSV ({error})") from None


def _question(path: str, line: int, name: Any, prompt: Any, endings: Any, label: Any) -> Question:
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadLine(path, line, "no citing_prompt")
    if (
        not isinstance(endings, list)
        or len(endings) != CHOICES
        or not all(isinstance(e, str) for e in endings)
    ):
        raise BadLine(path, line, f"not {CHOICES} holdings that are texts")
    if str(label).removesuffix(".0") not in {str(at) for at in range(CHOICES)}:
        raise BadLine(path, line, f"the label {shown(label)} is none of 0 to {CHOICES - 1}")
    return Question(str(name), prompt, endings, int(float(label)), [])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the accuracy and macro-F1 of rows; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.casehold", description=main.__doc__)
    parser.add_argument(
        "rows", nargs="+", metavar="ROW", help="rows of the suite casehold, or folders of them"
    )
    given = parser.parse_args(arguments)
    try:
        found = [(row, macro_f1(row)) for row in read_rows(given.rows)]
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    for row, f1 in found:
        accuracy = row["measures"][ACCURACY]["mean"]
        sys.stdout.write(f"{row['system']['name']}: accuracy {accuracy:.4f}, macro-F1 {f1:.4f}\n")


if __name__ == "__main__":
    main()
