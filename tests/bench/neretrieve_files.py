"""A made-up NERetrieve in the published schema: bz2 JSON lines under the misspelt names."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

ENTITIES: dict[str, tuple[str, ...]] = {  # entity -> types
    "Amber Stone": ("FilmDirector", "US_politician"),
    "Basil Hill": ("FilmDirector",),
    "Coral Reed": ("US_politician",),
    "Lake Corin": ("Lake",),
}


def paragraph(number: int, names: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the paragraph, its label): a sentence for each entity, then filler."""
    content = ""
    tagged: dict[str, dict[str, Any]] = {}
    for name in names:
        place = len(content.split(" ")) if content else 0
        content += f"{' ' if content else ''}{name}, it is said, was there."
        for kind in ENTITIES[name]:
            places = [[place, place + 1]]
            tagged.setdefault(kind, {})[name] = {name: places, f"{name} Junior": []}
    content = content or f"nothing of note happened in year {number}"
    about = {
        "id": number,
        "doc_id": f"Page-{number}",
        "title": "Page",
        "page_id": 7,
        "para_index": number,
    }
    label = {**about, "tagged_entities": tagged, "tagged_entity_types": sorted(tagged)}
    return {**about, "content": content}, label


def write(folder: Path, paragraphs: int = 60) -> Path:
    """12 paragraphs mention Amber Stone, 8 Basil Hill, 5 Coral Reed; 20, of the train split, Lake Corin."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, test, train = [], [], []
    for number in range(paragraphs):
        names = ["Amber Stone"] * (number < 12) + ["Basil Hill"] * (8 <= number < 16)
        names += ["Coral Reed"] * (41 <= number < 46)
        lakes = ["Lake Corin"] * (20 <= number < 40)
        corpus.append(paragraph(number, names + lakes)[0])
        test.append(paragraph(number, names)[1])
        train.append(paragraph(number, lakes)[1])
    for what, records in (("corpus", corpus), ("test", test), ("train", train)):
        lines(folder, what, records)
    return folder


def lines(folder: Path, what: str, records: list[dict[str, Any]]) -> Path:
    path = folder / f"NERetrive_IR_{what}.jsonl.bz2"
    path.write_bytes(bz2.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    return path
