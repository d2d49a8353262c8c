"""Small collections in the layouts that suites read, and system files, for the tests of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

WORDS = [a + b + c for a in "bdg" for b in "aei" for c in "mn"]


def texts(count: int, seed: int) -> list[str]:
    """Documents of random words; d0 and d1 are equal, so that scores tie."""
    rng = np.random.default_rng(seed)
    found = [" ".join(rng.choice(WORDS, rng.integers(3, 30)).tolist()) for _ in range(count)]
    return [found[0], *found[:-1]]


def write_beir(folder: Path, seed: int = 0, *, count: int = 40, splits: Sequence[str] = ("test",)) -> None:
    """Documents d0 and so on, queries q0 and so on, and a query called d3, as one document is."""
    rng = np.random.default_rng(seed)
    (folder / "qrels").mkdir(parents=True)
    documents = texts(count, seed)
    write_jsonl(folder / "corpus.jsonl", {f"d{i}": text for i, text in enumerate(documents)})
    asked = {f"q{i}": " ".join(documents[i].split()[:2]) for i in range(12)} | {"d3": documents[3]}
    write_jsonl(folder / "queries.jsonl", asked)
    for split in splits:
        lines = ["query-id\tcorpus-id\tscore"]
        for query in asked:
            for doc in rng.choice(count, rng.integers(1, 15), replace=False).tolist():
                lines.append(f"{query}\td{doc}\t{rng.integers(0, 3)}")
            lines.append(f"{query}\td5\t1" if f"{query}\td5" not in "\n".join(lines) else "")
        text = "\n".join(line for line in lines if line)
        (folder / "qrels" / f"{split}.tsv").write_text(text + "\n")


def write_jsonl(path: Path, records: Mapping[str, str]) -> None:
    """One record a line."""
    path.write_text("".join(json.dumps({"_id": key, "text": text}) + "\n" for key, text in records.items()))


def write_system(folder: Path, name: str, pipeline: str, *more: str) -> Path:
    """A system file; more: further lines."""
    path = folder / f"{''.join(filter(str.isalnum, name))}.toml"
    path.write_text("\n".join([f'name = "{name}"', f'pipeline = "{pipeline}"', *more]) + "\n")
    return path


def write_marco(folder: Path) -> None:
    """Passages (one encoded twice), dev and dl19 with their candidates, under MS MARCO's own names."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{i}\t{text}\n" for i, text in enumerate(texts(30, 1))]
    rows.append("30\tcafé bam\n".encode().decode("latin-1"))
    (folder / "collection.tsv").write_text("".join(rows), encoding="utf-8")
    asked = [f"{100 + i}\t{' '.join(texts(30, 1)[i].split()[:3])}\n" for i in range(6)]
    (folder / "queries.dev.small.tsv").write_text("".join(asked))
    (folder / "qrels.dev.small.tsv").write_text("".join(f"{100 + i}\t0\t{i}\t1\n" for i in range(6)))
    (folder / "msmarco-test2019-queries.tsv").write_text("".join(asked))
    judged = [f"{100 + i} Q0 {doc} {doc % 4}\n" for i in range(4) for doc in range(i, 30, 3)]
    (folder / "2019qrels-pass.txt").write_text("".join(judged))
    top = [f"{100 + i}\t{doc}\ta query\ta passage\n" for i in range(6) for doc in range(i % 2, 30, 2)]
    (folder / "top1000.dev").write_text("".join(top))
    (folder / "msmarco-passagetest2019-top1000.tsv").write_text("".join(top))
