"""A made-up LoCo of twelve tasks in the published layout: three pairs a task, Qasper with one more, empty."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.data.loco import TASKS

WORDS = ("amber", "basalt", "copper")


def queries(task: str) -> list[dict[str, Any]]:
    found = [
        {
            "qid": f"{task}_test_Query_{at}",
            "dataset": task,
            "query": f"what of {word}",
            "answer_pids": [f"{task}_test_Passage_{at}"],
        }
        for at, word in enumerate(WORDS)
    ]
    if task.startswith("qasper"):
        found.append({**found[0], "qid": f"{task}_test_Query_9", "answer_pids": [f"{task}_test_Passage_9"]})
    return found


def documents(task: str) -> list[dict[str, Any]]:
    texts: list[str | None] = [f"{word} and {task} " * (at + 1) for at, word in enumerate(WORDS)]
    found = [
        {"pid": f"{task}_test_Passage_{at}", "dataset": task, "passage": text}
        for at, text in enumerate(texts)
    ]
    if task.startswith("qasper"):
        found.append({"pid": f"{task}_test_Passage_9", "dataset": task, "passage": None})
    return found


def write(folder: Path) -> Path:
    """All twelve tasks, a file each."""
    for side, made in (("Queries", queries), ("Documents", documents)):
        place = folder / f"LoCoV1-{side}" / "documents"
        place.mkdir(parents=True, exist_ok=True)
        for task in TASKS:
            lines(place / f"{task}_test.jsonl", made(task))
    return folder


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
