"""Ada-LEval's BestAnswer as re-ranking: python -m retrieval.bench.best_answer stackselect_16k.json ...

The question is the query, its candidate answers are what is re-ranked, one of them was accepted. All answers
of a file are documents of one index, whose collection statistics BM25 takes; each system is a pipeline that
is given a question's candidates, as after `>>`. A re-ranker that is no representation follows one:
`--system "cross=bm25 >> cross(./model)"`. Accuracy is the share of questions whose accepted answer comes
first, RR its mean reciprocal rank; candidates that tie go by the hash of their text, so that the place in the
list helps nobody. Ada-LEval's own accuracies are of models that read the whole list at once.
A table goes to stdout, progress and warnings to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.bench.ada_leval import Question, chance, read_questions, setting_of
from retrieval.bench.arguments import positive
from retrieval.bench.evaluate import Evaluation
from retrieval.bench.learned import present, say
from retrieval.bench.learned_report import table
from retrieval.bench.learned_sets import Collection, Indexes
from retrieval.bench.pipelines import (
    add_arguments,
    one_thread,
    outcomes,
    read_systems,
    representations,
)
from retrieval.bench.statistics import paired_t
from retrieval.data.jsonl import write_corpus
from retrieval.progress import Progress
from retrieval.types import Document, Query, Run

ACCURACY, RR = "Success@1", "RR"
THIRDS = ("first", "middle", "last")  # of the list of candidates


def candidate_ids(number: int, question: Question) -> list[str]:
    """Document ids of a question's answers; their order is that of a hash, and so are ties."""
    return [
        hashlib.blake2b(f"{number} {at} {text}".encode("utf-8", "replace"), digest_size=6).hexdigest()
        + f"-{number}-A{at}"
        for at, text in enumerate(question.answers, 1)
    ]


def documents(questions: Sequence[Question]) -> Iterator[Document]:
    """All candidate answers; an empty one is a full stop, since a document has a text."""
    for number, question in enumerate(questions, 1):
        for name, text in zip(candidate_ids(number, question), question.answers, strict=True):
            yield Document(name, text if text.strip() else ".")


def as_collection(questions: Sequence[Question], label: str, work: Path) -> tuple[Collection, dict[str, Run]]:
    """(queries and judgements, with the answers as a corpus below `work`; each query's candidates)."""
    content = repr([question.answers for question in questions]).encode("utf-8", "replace")
    folder = work / f"{label}-{hashlib.blake2b(content, digest_size=6).hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "corpus.jsonl.gz").exists():
        write_corpus(documents(questions), folder / "corpus.jsonl.gz")
    queries, judged, candidates = [], {}, {}
    for number, question in enumerate(questions, 1):
        query = Query(f"{number}-{question.question_id}", question.text)
        names = candidate_ids(number, question)
        queries.append(query)
        judged[query.query_id] = {names[question.accepted]: 1}
        candidates[query.query_id] = Run.from_dict(
            {query.query_id: dict.fromkeys(names, 0.0)}, {query.query_id: query.text}
        )
    return Collection(label, "test", folder, queries, judged, len(queries)), candidates


def measure(path: str, work: Path, settings: argparse.Namespace) -> dict[str, Any]:
    """What one file gives: {"setting", "questions", "chance", "systems": label -> as of figures(), ...}."""
    questions, warnings = read_questions(path, settings.questions)
    for warning in warnings:
        say(f"warning: {warning}")
    label = setting_of(path) or Path(path).stem
    indexes = Indexes(work, representations(settings), settings.memory << 20, settings.dense)
    systems = read_systems(settings.system, list(indexes.settings))
    collection, candidates = as_collection(questions, label, work)
    with ExitStack() as stack:
        bar = Progress(f"{label}: indexing", sum(len(q.answers) for q in questions), unit="answers")
        index = indexes.open(collection, lambda _: stack.enter_context(bar).update)
        stack.callback(index.close)
        searching = Progress(f"{label}: re-ranking", len(systems) * len(questions), unit="questions")
        found = outcomes(
            index, collection.queries, collection.judgements, systems, (ACCURACY, RR),
            candidates=lambda query: candidates[query.query_id],
            progress=stack.enter_context(searching).update,
        )  # fmt: skip
    first, *_ = (outcome.evaluation for outcome in found.values())
    return {
        "file": Path(path).name, "setting": label, "questions": len(questions), "warnings": warnings,
        "candidates": float(np.mean([len(question.answers) for question in questions])),
        "chance": chance(questions),
        "pipelines": {system.label: system.pipeline for system in systems},
        "systems": {
            name: {
                **figures(outcome.evaluation, questions, first, settings.seed),
                "ms": outcome.milliseconds, "tokens_dropped": outcome.dropped,
            }
            for name, outcome in found.items()
        },
    }  # fmt: skip


def figures(found: Evaluation, questions: Sequence[Question], first: Evaluation, seed: int) -> dict[str, Any]:
    """accuracy and rr: mean, low, high and, of another than `first`, p against it; by_place: see below.

    by_place: the third of the list where the accepted answer stands -> number of questions, accuracy there.
    """
    about: dict[str, Any] = {}
    for name, measure in (("accuracy", ACCURACY), ("rr", RR)):
        about[name] = found.interval(measure, seed=seed)._asdict()
        if found is not first:
            about[name]["p"] = paired_t(found.values[measure], first.values[measure]).p
    third = np.array([3 * question.accepted // len(question.answers) for question in questions])
    about["by_place"] = {
        name: {
            "questions": int((third == at).sum()),
            "accuracy": float(found.values[ACCURACY][third == at].mean()) if (third == at).any() else None,
        }
        for at, name in enumerate(THIRDS)
    }
    return about


def markdown(results: Mapping[str, Any]) -> str:
    """A row for each file and system."""
    rows = []
    for found in results["files"]:
        for label, one in found["systems"].items():
            places = [one["by_place"][name]["accuracy"] for name in THIRDS]
            rows.append([
                found["setting"], f"{found['questions']:,}", f"{found['candidates']:.1f}",
                f"{found['chance']:.3f}", label, _interval(one["accuracy"]), _interval(one["rr"]),
                " / ".join("-" if value is None else f"{value:.3f}" for value in places),
                f"{one['ms']:.2f}", f"{one['tokens_dropped']:,}",
            ])  # fmt: skip
    head = ["setting", "questions", "candidates", "chance", "system", "accuracy (95 %)", "RR (95 %)"]
    head += ["accuracy, accepted answer in first / middle / last third", "ms a question", "tokens dropped"]
    pipelines = {name: text for found in results["files"] for name, text in found["pipelines"].items()}
    notes = [f"- {label}: `{text}`" for label, text in pipelines.items()]
    notes += [f"- {warning}." for found in results["files"] for warning in found["warnings"]]
    return table(head, rows) + "\n\n" + "\n".join(notes) + "\n"


def _interval(found: Mapping[str, float]) -> str:
    p = f", p {found['p']:.3f}" if "p" in found else ""
    return f"{found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f}{p})"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.best_answer", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="stackselect_1k.json and so on")
    parser.add_argument("--questions", type=positive, metavar="N", help="the first N (default: as published)")
    add_arguments(parser)
    settings = parser.parse_args(arguments)

    def work(folder: Path) -> dict[str, Any]:
        one_thread()
        return {"files": [measure(path, folder, settings) for path in settings.files]}

    present(settings, work, markdown)


if __name__ == "__main__":
    main()
