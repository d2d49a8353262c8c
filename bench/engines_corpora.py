"""The corpora of the engine comparison: two synthetic ones and one of real text, made once into a folder.

A folder holds corpus.json (name, kind, docs, tokens or postings), queries.jsonl and either docs.tsv (kind
`text`: id, tab, words between single spaces) or offsets.npy, terms.npy, weights.npy (kind `impacts`).
Everything is drawn from fixed seeds, so that two machines compare on the same bytes.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.engines_files import finish, load_queries

VOCABULARY = 200_000
TOPICS = 500
IMPACT_TERMS = 30_522
REAL = ("debtags", "tldr-man", "medquad")
CHUNK = 50_000
WORD = re.compile(r"[a-z0-9]+")


def passages(work: Path, docs: int, queries: int = 1000) -> Path:
    """Short passages: Zipf over 200k words, 40 % of the words from one of 500 topics, about 60 words each."""
    folder = work / f"passages-{docs}-{queries}"
    if (folder / "corpus.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(12345)
    share = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
    cdf = np.cumsum(share / share.sum())
    topic_words = np.minimum(np.searchsorted(cdf, rng.random((TOPICS, 200))), VOCABULARY - 1)
    names = np.array([word(i) for i in rng.permutation(VOCABULARY)], dtype=object)
    wanted = set(np.random.default_rng(7).choice(docs, min(queries, docs), replace=False).tolist())
    tokens, asked = 0, []
    with open(folder / "docs.tsv", "w", encoding="ascii") as out:
        for start in range(0, docs, CHUNK):
            count = min(CHUNK, docs - start)
            lengths = np.clip(rng.normal(60, 12, count), 20, 120).astype(np.int64)
            drawn = np.minimum(np.searchsorted(cdf, rng.random(lengths.sum())), VOCABULARY - 1)
            topic = np.repeat(rng.integers(0, TOPICS, count), lengths)
            on_topic = rng.random(drawn.size) < 0.4
            place = (rng.random(int(on_topic.sum())) ** 2 * 200).astype(np.int64)
            drawn[on_topic] = topic_words[topic[on_topic], place]
            words = names[drawn].tolist()
            end = 0
            for i, length in enumerate(lengths.tolist()):
                begin, end = end, end + length
                out.write(f"d{start + i}\t{' '.join(words[begin:end])}\n")
                if start + i in wanted:
                    asked.append(words[begin:end])
            tokens += drawn.size
    rng = np.random.default_rng(8)
    texts = [" ".join(pick(rng, sorted(set(doc)), int(rng.integers(2, 9)))) for doc in asked]
    return finish(folder, "text", texts, {"docs": docs, "tokens": tokens})


def word(number: int) -> str:
    """Three letters or more, a different word for every number."""
    letters = ""
    number += 26 * 26
    while number:
        number, rest = divmod(number, 26)
        letters = chr(97 + rest) + letters
    return letters


def pick(rng: np.random.Generator, words: list[str], count: int) -> list[str]:
    return [words[i] for i in rng.choice(len(words), min(count, len(words)), replace=False)]


def real(work: Path, collections: Path, queries: int = 1000) -> Path:
    """Three real collections as one; words are runs of a-z and 0-9: every engine sees the same tokens."""
    folder = work / f"real-{queries}"
    if (folder / "corpus.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    docs = tokens = 0
    with open(folder / "docs.tsv", "w", encoding="ascii") as out:
        for name in REAL:
            for record in records(collections / name / "corpus.jsonl.gz"):
                words = WORD.findall(f"{record.get('title', '')} {record['text']}".lower())
                out.write(f"d{docs}\t{' '.join(words)}\n")
                docs, tokens = docs + 1, tokens + len(words)
    texts = []
    for name in REAL:
        texts += [
            " ".join(WORD.findall(r["text"].lower()))
            for r in records(collections / name / "queries.jsonl.gz")
        ]
    texts = sorted({text for text in texts if text})
    rng = np.random.default_rng(9)
    texts = [texts[i] for i in sorted(rng.choice(len(texts), min(queries, len(texts)), replace=False))]
    return finish(folder, "text", texts, {"docs": docs, "tokens": tokens})


def records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def impacts(work: Path, docs: int, queries: int = 1000) -> Path:
    """Learned-sparse weights: about 100 of 30,522 terms a document, 1..255; queries of 5 to 30 terms."""
    folder = work / f"impacts-{docs}-{queries}"
    if (folder / "corpus.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(54321)
    share = 1 / (np.arange(IMPACT_TERMS) + 40.0) ** 0.8
    cdf = np.cumsum(share / share.sum())
    topic_terms = np.minimum(np.searchsorted(cdf, rng.random((TOPICS, 400))), IMPACT_TERMS - 1)
    order = rng.permutation(IMPACT_TERMS)
    counts, terms, weights = [], [], []
    for start in range(0, docs, CHUNK):
        count = min(CHUNK, docs - start)
        lengths = np.clip(rng.normal(112, 25, count), 30, 220).astype(np.int64)
        owner = np.repeat(np.arange(count), lengths)
        drawn = np.minimum(np.searchsorted(cdf, rng.random(owner.size)), IMPACT_TERMS - 1)
        on_topic = rng.random(drawn.size) < 0.5
        topic = rng.integers(0, TOPICS, count)[owner]
        place = (rng.random(int(on_topic.sum())) ** 2 * 400).astype(np.int64)
        drawn[on_topic] = topic_terms[topic[on_topic], place]
        keys = np.unique(owner * IMPACT_TERMS + order[drawn])
        counts.append(np.bincount(keys // IMPACT_TERMS, minlength=count))
        terms.append((keys % IMPACT_TERMS).astype(np.uint16))
        weights.append(np.clip(rng.gamma(1.6, 32, keys.size), 1, 255).astype(np.uint8))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    all_terms, all_weights = np.concatenate(terms), np.concatenate(weights)
    np.save(folder / "offsets.npy", offsets)
    np.save(folder / "terms.npy", all_terms)
    np.save(folder / "weights.npy", all_weights)
    asked = list(impact_queries(offsets, all_terms, all_weights, queries))
    return finish(folder, "impacts", asked, {"docs": docs, "postings": int(offsets[-1])})


def impact_queries(
    offsets: NDArray[np.int64], terms: NDArray[np.uint16], weights: NDArray[np.uint8], queries: int
) -> Iterator[dict[str, int]]:
    """Terms of one document, the heavier the likelier, with weights of their own."""
    rng = np.random.default_rng(10)
    for doc in rng.choice(offsets.size - 1, min(queries, offsets.size - 1), replace=False):
        span = slice(offsets[doc], offsets[doc + 1])
        chance = weights[span].astype(np.float64)
        count = min(int(rng.integers(5, 31)), chance.size)
        chosen = rng.choice(terms[span], count, replace=False, p=chance / chance.sum())
        scale = np.clip(rng.gamma(1.5, 20, count), 1, 100).astype(int)
        yield {f"t{term}": int(weight) for term, weight in zip(chosen, scale)}


def cut(folder: Path, docs: int) -> Path:
    """The first documents of an `impacts` corpus, with the same queries."""
    out = folder.with_name(f"{folder.name}-cut-{docs}")
    if (out / "corpus.json").exists():
        return out
    out.mkdir(exist_ok=True)
    offsets = np.load(folder / "offsets.npy")[: docs + 1]
    np.save(out / "offsets.npy", offsets)
    for name in ("terms", "weights"):
        np.save(out / f"{name}.npy", np.load(folder / f"{name}.npy", mmap_mode="r")[: offsets[-1]])
    return finish(out, "impacts", list(load_queries(folder)), {"docs": docs, "postings": int(offsets[-1])})
