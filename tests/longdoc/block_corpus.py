"""Documents for tests of representations of blocks, and their blocks as documents."""

from __future__ import annotations

import random
from typing import Any

from retrieval.longdoc.splitter import Splitter, take_settings
from retrieval.types import Document

WORDS = [f"w{i}" for i in range(12)]
SPLIT = "blocks=sentences, tokens=6"
QUERIES = ["w1 w2", "w3", "w4 w5 w1", "w0 w0 w11", "unknown"]


def documents(n: int, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 9))).capitalize() + "."

    found = []
    for i in range(n):
        title = rng.choice(["", "w1", "Title w2"])
        text = " ".join(sentence() for _ in range(rng.randint(0 if title else 1, 5)))
        found.append(Document(f"d{i}", text, title, {"year": i}))
    return found


def split(kept: list[Document], **options: Any) -> list[Document]:
    """The blocks as documents."""
    splitter = Splitter(take_settings("x", {"blocks": "sentences", "tokens": 6, **options}))
    pairs = zip(kept, splitter.blocks(kept), strict=True)
    return [part for document, blocks in pairs for part in splitter.documents(document, blocks)]
