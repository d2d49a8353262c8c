"""The sparse method `counting`, with a slow model: it notes every text that it encodes in a file.

As a script it is the command line with that method known: `counting_method.py VERB ...`, to be killed.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval import registry
from retrieval.index.encoded import Cache, encoder_of, text_key
from retrieval.index.method import SparseMethod
from retrieval.index.postings import Postings
from retrieval.index.postings_writer import PostingsWriter
from retrieval.index.scoring import ImpactScoring
from retrieval.index.statistics import Statistics
from retrieval.part import Part
from retrieval.types import Document

BATCH = 8
ASSETS = {"vocab.txt": b"a b c"}


@registry.register("counting", kind="sparse method")
class Counting(SparseMethod):
    """The method; its model is the file that the texts are noted in. A weight is a frequency."""

    kind = "counting"
    most = 255.0
    encodes = True
    pause = 0.0  # seconds a batch

    def __init__(self, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> None:
        self.settings = settings
        self.assets = assets

    @classmethod
    def create(cls, model: str, analyzer: str, options: Mapping[str, Any]) -> Counting:
        return cls({"kind": "counting", "log": model, "compact": False, "forward": True}, ASSETS)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], assets: Mapping[str, bytes]) -> Counting:
        if dict(assets) != ASSETS:
            raise ValueError(assets)
        return cls(settings, assets)

    def builder(self, scratch: str, budget: int, cache: Cache | None = None) -> Builder:
        assert cache is not None
        return Builder(self, scratch, budget, cache)

    def query(self, text: str) -> dict[str, float]:
        return dict(Counter(text.split()))

    def weigh(self, query: Mapping[str, float], statistics: Statistics) -> dict[str, float]:
        return dict(query)

    def scoring(self, postings: Postings, statistics: Statistics, params: Mapping[str, Any]) -> ImpactScoring:
        return ImpactScoring(postings)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        return []


class Builder:
    """Encodes a batch at a time, unless the journal has it."""

    def __init__(self, method: Counting, scratch: str, budget: int, cache: Cache) -> None:
        self.method = method
        self.cache = cache
        self.writer = PostingsWriter(scratch, budget, weighted=True)
        self.terms: dict[str, int] = {}

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        with open(self.method.settings["log"], "a", encoding="utf-8") as log:
            log.write("".join(f"{text}\n" for text in texts))
        time.sleep(self.method.pause)
        return [text.encode() for text in texts]

    def add(self, documents: Sequence[Document]) -> None:
        for start in range(0, len(documents), BATCH):
            texts = [document.full_text() for document in documents[start : start + BATCH]]
            keys = [text_key(encoder_of(self.method), text) for text in texts]
            known = dict(zip(keys, self.cache.get(keys), strict=True))
            missing = [at for at, key in enumerate(keys) if known[key] is None]
            made = self.encode([texts[at] for at in missing]) if missing else []
            self.cache.put([keys[at] for at in missing], made)
            known.update(zip((keys[at] for at in missing), made, strict=True))
            counts = [Counter((known[key] or b"").decode().split()) for key in keys]
            ends = np.cumsum([0, *map(len, counts)]).astype(np.int64)
            tokens = [self.terms.setdefault(term, len(self.terms)) for count in counts for term in count]
            weights = [weight for count in counts for weight in count.values()]
            self.writer.add(ends, np.array(tokens, np.int32), np.array(weights, np.uint8))

    def finish(self, part: Part) -> None:
        self.writer.finish(part, list(self.terms), compact=False, forward=True)


if __name__ == "__main__":
    from retrieval.cli import main

    Counting.pause = 0.01
    sys.exit(main())
