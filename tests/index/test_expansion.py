"""TILDE as an expander: the rules of which terms a passage gains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.index.expansion import expand, expanded_sequence, id_mask, top_ids

torch = pytest.importorskip("torch")
SIZE = 40


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, list[np.ndarray], np.ndarray]:
    """(logits with many ties, passages, excluded)."""
    rows = draw(st.integers(1, 3))
    few = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.integers(0, 5, (rows, SIZE)).astype(np.float32) if few else rng.normal(size=(rows, SIZE))
    passages = [rng.integers(0, SIZE, rng.integers(0, 12)).astype(np.int32) for _ in range(rows)]
    excluded = rng.random(SIZE) < 0.3
    return torch.tensor(logits, dtype=torch.float32), passages, excluded


def plain(logits: Any, passage: np.ndarray, m: int, excluded: np.ndarray) -> list[int]:
    """The rule in words: sort by likelihood, take m, drop what is there or excluded."""
    order = sorted(range(SIZE), key=lambda term: (-float(logits[term]), term))[:m]
    return [term for term in order if term not in set(passage.tolist()) and not excluded[term]]


@given(cases(), st.integers(0, SIZE + 5))
def test_it_is_the_rule(case: Any, m: int) -> None:
    logits, passages, excluded = case
    found = expand(logits, passages, m, excluded)
    assert [one.tolist() for one in found] == [
        plain(row, passage, m, excluded) for row, passage in zip(logits, passages)
    ]
    for one, passage, row in zip(found, passages, logits):
        assert len(one) <= m
        assert len(set(one.tolist())) == len(one)
        assert not set(one.tolist()) & set(passage.tolist())
        assert not excluded[one].any()
        assert (np.diff(row[one.astype(np.int64)].numpy()) <= 0).all()


@given(cases(), st.integers(0, SIZE), st.integers(0, SIZE))
def test_fewer_terms_begin_more(case: Any, a: int, b: int) -> None:
    logits, passages, excluded = case
    less, more = (expand(logits, passages, m, excluded) for m in sorted((a, b)))
    for one, other in zip(less, more):
        assert one.tolist() == other[: len(one)].tolist()


def test_m_counts_before_the_filter() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    passage, excluded = [np.array([0], np.int32)], id_mask(5, [1])
    assert expand(logits, passage, 2, excluded)[0].tolist() == []
    assert expand(logits, passage, 3, excluded)[0].tolist() == [2]


def test_no_terms_leave_the_passage_as_it_is() -> None:
    none = expand(torch.zeros(2, 5), [np.array([1]), np.array([2])], 0, np.zeros(5, bool))
    assert [one.tolist() for one in none] == [[], []]
    assert expanded_sequence(np.array([7, 8]), none[0], 1, 2, 10).tolist() == [1, 7, 8, 2]


def test_a_full_window_pushes_the_least_likely_out() -> None:
    passage, gained = np.array([7, 8, 9]), np.array([20, 21, 22])
    assert expanded_sequence(passage, gained, 1, 2, 20).tolist() == [1, 7, 8, 9, 2, 20, 21, 22, 2]
    assert expanded_sequence(passage, gained, 1, 2, 8).tolist() == [1, 7, 8, 9, 2, 20, 21, 2]
    assert expanded_sequence(passage, gained, 1, 2, 5).tolist() == [1, 7, 8, 9, 2]


def test_ids_of_a_large_vocabulary_survive() -> None:
    """The official index keeps ids in int16, where 40000 is -25536."""
    logits = torch.zeros(1, 50_000)
    logits[0, 40_000] = 1
    assert expand(logits, [np.array([1])], 1, np.zeros(50_000, bool))[0].tolist() == [40_000]


def test_ties_at_the_border_of_many_equal_terms() -> None:
    assert top_ids(torch.zeros(1, 1000), 3).tolist() == [[0, 1, 2]]


def test_parity(parity: Path) -> None:
    expected = json.loads((parity / "tilde" / "expected.json").read_text())
    from safetensors.numpy import load_file

    given_ = load_file(parity / "tilde" / "tilde_expected.safetensors")
    passages = [
        row[mask == 1] for row, mask in zip(given_["passage_input_ids"], given_["passage_attention_mask"])
    ]
    logits = torch.from_numpy(given_["passage_logits_cls"])
    excluded = id_mask(logits.shape[1], expected["expansion_excluded_ids"])
    found = expand(logits, passages, expected["topk"], excluded)
    assert [one.tolist() for one in found] == expected["expansion_ids"]


def test_the_plural_piece_is_looked_up(tiny_model: Any) -> None:
    """The official rule excludes id 2015 whatever stands there."""
    from retrieval.index.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(str(tiny_model("tilde", words=[f"w{i}" for i in range(2100)])))
    plural = vocabulary.id("##s")
    assert plural is not None
    assert plural != 2015
    assert plural in vocabulary.expansion_stop
    assert 2015 not in vocabulary.expansion_stop
    for word in ("what", "definition", "the"):
        assert vocabulary.id(word) in vocabulary.expansion_stop
    assert vocabulary.id("what") not in vocabulary.index_stop
