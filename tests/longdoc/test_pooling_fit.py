"""Weights fitted on an index: they rank its training queries, and the stage takes their file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index
from retrieval.errors import UserError
from retrieval.longdoc.pooling import fit, save_weights
from retrieval.longdoc.pooling_fit import fit_stage
from retrieval.types import Document, Query

WORDS = [f"w{at}" for at in range(8)]
QUERIES = [Query(f"q{at}", word) for at, word in enumerate(WORDS)]


def texts() -> dict[str, str]:
    """Four sentences each, a block each; every other document has a word in two of them."""
    rng = random.Random(3)
    found = {}
    for at in range(60):
        mine, *others = rng.sample(WORDS, 4)
        chosen = [mine, mine, *others[:2]] if at % 2 else [mine, *others]
        rng.shuffle(chosen)
        found[f"d{at}"] = " ".join(f"{word.capitalize()} and so on." for word in chosen)
    return found


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made = Index.create(tmp_path / "index", sparse=["bm25", "parts=bm25(blocks=sentences, tokens=4)"])
    made.add([Document(*each) for each in texts().items()])
    made.commit()
    return made


@pytest.mark.parametrize("how", ["learned", "kernel"])
def test_fitted_on_an_index(index: Index, tmp_path: Path, how: str) -> None:
    """Relevant is what has the query's word twice, which MaxP over blocks cannot tell."""
    run = (index.bm25() % 60)(QUERIES)
    documents = texts()
    judgements = {
        query.query_id: {
            name: int(text.count(f"{query.text.capitalize()} ") > 1) for name, text in documents.items()
        }
        for query in QUERIES
    }
    plain: Any = index.stage("parts")
    weights = fit_stage(plain, run, judgements, how, 2)
    path = str(tmp_path / "weights.json")
    save_weights(path, weights)
    ranked = index.stage("parts", aggregate=how, weights=path)(QUERIES, run)
    for name, hits in ranked.items():
        grades = [judgements[name][hit.doc_id] for hit in hits]
        assert grades == sorted(grades, reverse=True)
        assert 0 < sum(grades) < len(grades)
    # By hand: the blocks of each candidate, scored by their ids.
    ids = [f"{hit.doc_id}#{at}" for hits in run.values() for hit in hits for at in range(4)]
    scores, _ = plain.inner.scores(QUERIES, 4 * run.offsets, plain.blocks.find_many(ids).astype(np.int32))
    relevant = [bool(judgements[name][hit.doc_id]) for name, hits in run.items() for hit in hits]
    wanted = fit(scores, np.arange(0, len(ids) + 1, 4), run.offsets, np.array(relevant), how, 2)
    np.testing.assert_allclose(weights.weights, wanted.weights, rtol=1e-6)


def test_nothing_to_fit(index: Index) -> None:
    stage: Any = index.stage("parts")
    with pytest.raises(UserError, match="nothing to fit"):
        fit_stage(stage, (index.bm25() % 5)(QUERIES), {})
