"""Questions with candidate answers, one of which is right, as re-ranking: the suite best-answer; casehold.

A question is a query, its answers are the candidates, and all answers of a file are the documents of one
index, whose collection statistics BM25 takes. Success@1 is accuracy; answers that tie go by the hash of their
text, so that the place in the list helps nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from retrieval.bench.ada_leval import SETTINGS, Question, chance, read_questions, setting_of
from retrieval.bench.best_answer import ACCURACY, RR, THIRDS, candidate_ids, documents
from retrieval.bench.suite import SuiteSettings, Task, chosen, drawn, known_options
from retrieval.errors import UnknownName, UserError
from retrieval.registry import register
from retrieval.types import Query

MEASURES = (ACCURACY, RR)
PLACES = "place of the accepted answer"


@register("best-answer", kind="suite")
def best_answer(settings: SuiteSettings) -> Iterator[Task]:
    """Ada-LEval's BestAnswer: a task each file `stackselect_1k.json` and so on, named by its setting.

    Data: such a file, or the folder of them. The first records of a file count, as many as published scores
    take. Raises UserError, UnknownName.
    """
    known_options(settings, ())
    if settings.split not in (None, "test"):
        raise UnknownName("split of best-answer", str(settings.split), ("test",))
    place = Path(settings.data)
    found = sorted(place.glob("stackselect_*.json")) if place.is_dir() else [place]
    if not found:
        raise UserError(f"{settings.data!r} holds no stackselect_1k.json or the like; give Ada-LEval's files")
    named = {setting_of(path) or path.stem: path for path in found}
    order = sorted(named, key=lambda name: (SETTINGS.index(name) if name in SETTINGS else -1, name))
    for name in chosen(settings.tasks, order):
        questions, warnings = read_questions(named[name])
        numbered = drawn(list(enumerate(questions, 1)), settings.queries, settings.seed)
        asked = [question for _, question in numbered]
        notes = [f"guessing: {chance(asked):.3f}", *warnings]
        yield choice_task(
            "best-answer",
            name,
            "test",
            questions,
            [number for number, _ in numbered],
            file=str(named[name]),
            buckets={PLACES: [_third(question) for question in asked]},
            note="; ".join(notes),
        )


def choice_task(
    suite: str,
    name: str,
    split: str,
    questions: Sequence[Question],
    numbers: Sequence[int],
    *,
    file: str,
    buckets: Mapping[str, Sequence[str]],
    note: str,
    secondary: Mapping[str, Sequence[int]] | None = None,
) -> Task:
    """The task of asking some of the questions, by their numbers from 1; all are the corpus.

    buckets, secondary: name -> of each question asked a label, or the answer that counts as right
    """
    ids = {number: candidate_ids(number, questions[number - 1]) for number in numbers}
    queries = [
        Query(_query_id(number, questions[number - 1]), questions[number - 1].text) for number in numbers
    ]
    names = [query.query_id for query in queries]
    return Task(
        suite=suite,
        name=name,
        split=split,
        documents=lambda: documents(questions),
        queries=queries,
        judgements={
            query: {ids[number][questions[number - 1].accepted]: 1}
            for query, number in zip(names, numbers, strict=True)
        },
        measures=MEASURES,
        depth=max(len(question.answers) for question in questions),
        candidates={query: ids[number] for query, number in zip(names, numbers, strict=True)},
        buckets={label: dict(zip(names, values, strict=True)) for label, values in buckets.items()},
        secondary={
            label: {
                query: {ids[number][place]: 1}
                for query, number, place in zip(names, numbers, places, strict=True)
            }
            for label, places in (secondary or {}).items()
        },
        files=[file],
        note=note,
        of=len(questions),
    )


def _query_id(number: int, question: Question) -> str:
    return f"{number}-{'_'.join(question.question_id.split())}"


def _third(question: Question) -> str:
    return THIRDS[3 * question.accepted // len(question.answers)]
