"""BERT laid out for inference: the rows of first tokens are those of the whole network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from retrieval.index import packed as packing  # noqa: E402
from retrieval.index.bert import Bert, BertConfig, pack  # noqa: E402
from retrieval.index.fused import FusedBert, usual_rows  # noqa: E402, usual_rows

LENGTHS = [7, 1, 24, 3, 7, 23, 12, 7, 2, 24]
SHAPE: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 24, "initializer_range": 0.4,
}  # fmt: skip


def bert(**changes: Any) -> Bert:
    torch.manual_seed(1)
    made = Bert(BertConfig(**{**SHAPE, **changes})).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # biases that are not 0
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return made


def batch() -> Any:
    rng = np.random.default_rng(0)
    return pack([rng.integers(0, 50, length) for length in LENGTHS])


@pytest.mark.parametrize("waste", [0, 300, 1 << 20], ids=["even blocks", "some padding", "one block"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"num_hidden_layers": 1, "hidden_act": "relu"}, {"relative_buckets": 8}, {"num_attention_heads": 1}],
    ids=["bert", "one layer", "bias by distance", "one head"],
)
def test_first_tokens_are_those_of_the_network(
    monkeypatch: pytest.MonkeyPatch, waste: int, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr(packing, "_WASTE_CPU", waste)
    made, packed = bert(**changes), batch()
    with torch.inference_mode():
        wanted = made(packed)[packed.offsets[:-1]]
        fused = FusedBert(made)
        assert (fused.first(packed) - wanted).abs().max() < 1e-5
        assert (fused(packed)[packed.offsets[:-1]] - wanted).abs().max() < 1e-5
        near = FusedBert(made, torch.bfloat16).first(packed)
        assert torch.cosine_similarity(near, wanted).min() > 0.999


def test_rows_are_of_few_numbers() -> None:
    found = [usual_rows(rows) for rows in range(1, 8193)]
    assert all(rows <= usual <= 1.125 * rows for rows, usual in enumerate(found, 1))
    assert len(set(found)) <= 130
    assert found == sorted(found)
