"""The dense encoder `hashing`: a text's vector counts the words that fall into each of its places.

Its model is a file that every text is noted in as it is encoded; words count by a hash, so that texts that
share words are close. As a script it is the command line with that encoder known, slow, to be killed.
"""

from __future__ import annotations

import os
import random
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import Index, registry
from retrieval.encoder import Kind, Vectors
from retrieval.errors import UserError
from retrieval.stage import Param

DIM = 8


class Hashing:
    """Unit vectors of word counts; params: dim, salt, length (words), raw=true (not normalised)."""

    pause = 0.0  # seconds a text

    def __init__(self, path: str, params: Mapping[str, Param]) -> None:
        for key in params:
            if key not in ("dim", "salt", "length", "raw", "backend"):
                raise UserError(f"hashing has no parameter {key!r}; it has dim, salt, length, raw")
        self.log = Path(path)
        self.dim = int(params.get("dim", DIM))
        self.salt = int(params.get("salt", 0))
        self.length = int(params.get("length", 1000))
        self.raw = bool(params.get("raw", False))
        self.identity: dict[str, Any] = {
            "encoder": "hashing", "model": {"name": self.log.name, "weights": str(self.salt)},
            "dim": self.dim, "length": self.length, "normalise": not self.raw,
        }  # fmt: skip
        self.runtime: dict[str, Any] = {"backend": "none", "precision": "float32"}

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        with self.log.open("a", encoding="utf-8") as log:
            log.write("".join(f"{kind} {text}\n" for text in texts))
        rows = np.zeros((len(texts), self.dim), np.float32)
        tokens = np.zeros(len(texts), np.int64)
        for row, text in enumerate(texts):
            words = text.split()
            tokens[row] = len(words)
            for word in words[: self.length]:
                rows[row, zlib.crc32(f"{self.salt} {word}".encode()) % self.dim] += 1
            if "NAN" in words:
                rows[row, 0] = np.nan
            time.sleep(self.pause)
        if not self.raw:
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        return Vectors(rows, tokens, np.maximum(tokens - self.length, 0))


def model(folder: Path, name: str = "hashing") -> str:
    """A model of it in a folder, as --dense names it."""
    path = folder / f"{name}.log"
    path.touch()
    return f"hashing:{path}"


def install() -> None:
    """Makes the encoder known."""
    registry.register("hashing", kind="dense encoder")(Hashing)


def remove() -> None:
    """Makes it unknown again."""
    registry._FACTORIES.pop(("dense encoder", "hashing"), None)


WORDS = [f"w{i}" for i in range(30)]


def corpus(n: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"id": f"d{i}", "text": " ".join(rng.choices(WORDS, k=rng.randint(1, 12))), "year": i}
        for i in range(n)
    ]


def brute(documents: list[dict[str, Any]], query: str, k: int, **params: Any) -> list[tuple[str, float]]:
    """The k best by inner product, ties by id descending."""
    encoder = Hashing("/dev/null", params)
    rows = encoder.encode([d["text"] for d in documents]).rows.astype(np.float64)
    scores = (rows @ encoder.encode([query], "query").rows[0].astype(np.float64)).astype(np.float32)
    found = sorted(((float(s), d["id"]) for s, d in zip(scores, documents)), reverse=True)[:k]
    return [(doc_id, score) for score, doc_id in found]


def made(path: Path, documents: list[dict[str, Any]], spec: str = "", **options: Any) -> Index:
    index = Index.create(path / "index", dense=[f"vec={spec or model(path)}"], **options)
    index.add(documents)
    index.commit()
    return index


def hits(index: Index, query: str, k: int = 10, **options: Any) -> list[tuple[str, float]]:
    return [(hit.doc_id, hit.score) for hit in index.search(query, k, **options)]


if __name__ == "__main__":
    from retrieval.cli import main

    install()
    Hashing.pause = float(os.environ.get("HASHING_PAUSE", "0.01"))
    sys.exit(main())
