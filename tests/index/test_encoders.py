"""Every encoder keeps the one contract, and one index holds vectors of all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval import Index
from retrieval.index.dense_spec import open_encoder, parse_dense
from retrieval.testing import check_encoder
from tests.index import m2bert_models

Models = dict[str, str]


@pytest.fixture
def models(tmp_path: Path, tiny_text_model: Path, tiny_decoder: Callable[..., Path]) -> Models:
    """Specs of tiny models by name."""
    masked = m2bert_models.directory(tmp_path / "masked", pad="masked")
    faithful = m2bert_models.directory(tmp_path / "faithful", pad="faithful")
    decoder = tiny_decoder("qwen3")
    return {
        "text": f"{tiny_text_model}",
        "cls": f"{tiny_text_model}(pooling=cls, normalise=false, length=20)",
        "m2": masked,
        "m2full": faithful,
        "last": f"{decoder}(length=40)",
        "mean": f'{decoder}(pooling=mean, attention=bidirectional, length=40, task="find it")',
        "echo": f"{decoder}(pooling=echo, length=40)",
    }


@pytest.mark.parametrize("name", ["text", "cls", "m2", "m2full", "last", "mean", "echo"])
def test_the_contract(models: Models, name: str) -> None:
    spec = parse_dense(f"{name}={models[name]}")
    # Where the processor gains from bfloat16, an encoder takes it unasked; the tolerance is float32's.
    params = {**spec.params, "precision": "float32"}
    check_encoder(lambda: open_encoder(spec.model, spec.method, params), tolerance=2e-4)


def test_one_index_of_all(tmp_path: Path, models: Models) -> None:
    dense = [f"{name}={spec}" for name, spec in models.items()]
    index = Index.create(tmp_path / "index", ["bm25"], dense)
    index.add(["the cost of a remote control", "a meeting", "buttons and a battery"])
    index.commit()
    for name in models:
        hits = index.search("a meeting", pipeline=name)
        assert len(hits) == 3
        again = Index.open(index.path).search("a meeting", pipeline=f"bm25 % 3 >> {name}")
        scores = {hit.doc_id: hit.score for hit in hits}
        assert all(scores[hit.doc_id] == pytest.approx(hit.score, abs=1e-6) for hit in again)
    assert index.search("a meeting", pipeline="text")[0].doc_id == "2"
