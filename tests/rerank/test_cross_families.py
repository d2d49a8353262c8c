"""Cross-encoders of other families than BERT: scores are transformers' pair by pair; what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.testing import check_stage
from retrieval.types import Document, Query, Run

pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval.rerank.cross import Cross, open_reader
from retrieval.rerank.cross_other import OtherReader, padded_batches
from retrieval.rerank.cross_packed import FamilyReader
from tests.rerank.cross_models import LENGTH, OTHER, PACKED, by_transformers, write_cross

TEXTS = {
    "d0": "the wind of the sun", "d1": "a", "d2": "", "d3": "the sea . a ship blows over the sea",
    "d4": "x y " * 40, "d5": "unknown : wind",
}  # fmt: skip
QUERIES = [Query("1", "wind of sun"), Query("2", "q"), Query("3", ""), Query("4", "sea " * 50)]


def lookup(names: Any) -> list[Document]:
    return [Document(name, TEXTS[name]) for name in names]


def everything() -> Run:
    return Run.from_dict({query.query_id: dict.fromkeys(TEXTS, 1.0) for query in QUERIES})


@pytest.mark.parametrize("kind", [*PACKED, *OTHER])
def test_scores_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    labels = 2 if kind in ("roberta", "electra") else 1
    model = write_cross(tmp_path, kind, labels)
    reader = open_reader(str(tmp_path))
    assert isinstance(reader, FamilyReader if kind in PACKED else OtherReader)
    stage = Cross(str(tmp_path)).with_documents(lookup)
    found = stage(QUERIES, everything())
    room = stage._length - reader.frame.size
    for query in QUERIES[:3]:
        for doc_id, score in found.to_dict()[query.query_id].items():
            text = " ".join(TEXTS[doc_id].split()[: room - len(query.text.split())])
            wanted = by_transformers(model, tmp_path, query.text, text)
            assert score == pytest.approx(wanted, abs=1e-4), (query, doc_id)
    cut = " ".join(["sea"] * (stage._length // 2 - len(reader.frame.before) - len(reader.frame.between)))
    wanted = by_transformers(model, tmp_path, cut, "a")
    assert found.to_dict()["4"]["d1"] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind", ["xlm-roberta", "electra"])
def test_they_are_good_stages_and_count_what_they_drop(tmp_path: Path, kind: str) -> None:
    write_cross(tmp_path, kind)
    stage = Cross(str(tmp_path), length=24).with_documents(lookup)
    check_stage(stage, QUERIES[:3], everything())
    found = stage(QUERIES[:1], everything())
    size = open_reader(str(tmp_path)).frame.size
    assert found.trace[-1].tokens_dropped == 80 - (24 - size - 3)
    assert set(stage.identity) == {"name", "weights", "tokenizer", "config"}
    assert len(stage.identity["weights"]) == 64


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra"])
def test_what_has_no_classifier_or_too_large_a_one_is_refused(tmp_path: Path, kind: str) -> None:
    write_cross(tmp_path / "body", kind, head=False)
    with pytest.raises(UserError, match=r"classifier.*(absent|no \w+ model for sequence classification)"):
        Cross(str(tmp_path / "body")).with_documents(lookup)(QUERIES, everything())
    write_cross(tmp_path / "many", kind, labels=3)
    with pytest.raises(UserError, match=r"has a classifier of .*one label, or two"):
        Cross(str(tmp_path / "many")).with_documents(lookup)(QUERIES, everything())


def test_pickles_and_code_are_refused(tmp_path: Path) -> None:
    write_cross(tmp_path, "electra")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights only"):
        Cross(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    code = {**config, "model_type": "mine", "auto_map": {"AutoConfig": "configuration.Mine"}}
    (tmp_path / "config.json").write_text(json.dumps(code))
    (tmp_path / "pytorch_model.bin").rename(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"its own code .* is not run"):
        Cross(str(tmp_path))


def test_a_length_beyond_the_positions_is_refused(tmp_path: Path) -> None:
    write_cross(tmp_path, "electra")
    with pytest.raises(UserError, match=f"reads 8 to {LENGTH + 2} tokens"):
        Cross(str(tmp_path), length=LENGTH + 3)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_padded_batches_keep_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = padded_batches(lengths, budget)
    assert sorted(np.concatenate([*batches, np.empty(0, np.int64)]).tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    for batch, after in pairwise(batches):  # none is closed before the next one would not fit
        assert lengths[after[0]] * (len(batch) + 1) > budget
