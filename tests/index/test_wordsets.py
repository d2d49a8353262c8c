"""PROP's word sets: lengths, language model, pairs; the checks of the specification, section 2.10."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.index.wordsets import (
    Collection,
    LanguageModel,
    keep_probability,
    make_pair,
    poisson_sizes,
)

WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30)


def collection(documents: list[list[str]]) -> Collection[str]:
    found: Collection[str] = Collection()
    for words in documents:
        found.add(words)
    return found


def test_sizes_are_a_zero_truncated_poisson() -> None:
    sizes = poisson_sizes(200_000, np.random.default_rng(1), 3.0)
    assert sizes.min() == 1
    assert abs(sizes.mean() - 3 / (1 - math.exp(-3))) < 0.01
    for size in (1, 2, 5):
        expected = 3.0**size * math.exp(-3) / math.factorial(size) / (1 - math.exp(-3))
        assert abs(float((sizes == size).mean()) - expected) < 0.005


@pytest.mark.parametrize("source", ["df", "tf"])
@given(documents=st.lists(WORDS, min_size=1, max_size=6))
def test_background_counts_what_it_says(source: Any, documents: list[list[str]]) -> None:
    documents = [*documents, ["z", "z", "y"]]
    found = collection(documents).background(source, least=2)
    tf = Counter(word for words in documents for word in words)
    df = Counter(word for words in documents for word in set(words))
    counts = {word: (df if source == "df" else tf)[word] for word in tf if tf[word] >= 2}
    total = sum(counts.values())
    assert found == pytest.approx({word: count / total for word, count in counts.items()})
    assert sum(found.values()) == pytest.approx(1)


def test_background_of_rare_words_alone_is_refused() -> None:
    with pytest.raises(UserError, match="no word occurs 10 times in the 1 documents"):
        collection([["a", "b"]]).background()


@given(st.lists(WORDS, min_size=2, max_size=6))
def test_shards_count_as_one_collection(documents: list[list[str]]) -> None:
    joined = collection(documents[:1])
    joined.merge(collection(documents[1:]))
    whole = collection(documents)
    assert (joined.tf, joined.df) == (whole.tf, whole.df)
    assert (joined.documents, joined.mean_length) == (whole.documents, whole.mean_length)


@given(st.lists(WORDS, min_size=1, max_size=5), st.floats(0.1, 100))
def test_dirichlet_model_sums_to_one_and_has_both_limits(documents: list[list[str]], mu: float) -> None:
    whole = collection(documents)
    background = whole.background(least=1)
    words = list(background)
    counts = Counter(documents[0])
    smoothed = LanguageModel(background, mu).probability(counts, words)
    assert smoothed.sum() == pytest.approx(1)
    length = len(documents[0])
    by_hand = [(counts[w] + mu * background[w]) / (length + mu) for w in words]
    assert smoothed == pytest.approx(by_hand)
    assert LanguageModel(background, 1e-12).probability(counts, words) == pytest.approx(
        [counts[w] / length for w in words], abs=1e-9
    )
    assert LanguageModel(background, 1e12).probability(counts, words) == pytest.approx(
        [background[w] for w in words], abs=1e-9
    )


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(0, 99))
def test_pairs_are_equal_in_size_and_ordered_by_likelihood(documents: list[list[str]], seed: int) -> None:
    whole = collection(documents)
    model = LanguageModel(whole.background(least=1), whole.mean_length)
    found = model.pairs(documents[0], 8, np.random.default_rng(seed))
    assert len(found) <= 8
    for pair in found:
        assert len(pair.better) == len(pair.worse) >= 1
        counts = Counter(documents[0])
        scores = [np.log(model.probability(counts, side)).sum() for side in (pair.better, pair.worse)]
        assert scores[0] > scores[1]
        assert pair.margin == pytest.approx(scores[0] - scores[1])
    assert found == model.pairs(documents[0], 8, np.random.default_rng(seed))


def test_likely_words_are_drawn_more_often() -> None:
    background = {f"w{i}": 0.001 for i in range(1000)}
    model = LanguageModel(background, mu=10.0)
    rng = np.random.default_rng(5)
    pairs = [pair for _ in range(300) for pair in model.pairs(["w1"] * 5 + ["w2"] * 15, 5, rng)]
    drawn = Counter(word for pair in pairs for side in (pair.better, pair.worse) for word in side)
    total = sum(drawn.values())
    # (tf + mu P(w|C)) / (|d| + mu), and the drawn vocabulary leaves out part of the rest
    rest = total - drawn["w1"] - drawn["w2"]
    assert drawn["w2"] / drawn["w1"] == pytest.approx(3, abs=0.3)
    assert 0.1 < rest / total < 0.35


def test_the_vocabulary_of_a_document_has_room_for_others() -> None:
    background = {f"w{i}": 1 / 5000 for i in range(5000)}
    rng = np.random.default_rng(0)
    short = LanguageModel(background, 1.0).vocabulary({"w1": 1, "unknown": 2}, rng)
    assert "w1" in short
    assert "unknown" not in short
    assert 400 < len(short) <= 500
    long = LanguageModel(background, 1.0).vocabulary({f"w{i}": 1 for i in range(600)}, rng)
    assert 600 < len(long) <= 700
    assert len(set(long)) == len(long)


def test_keep_probability_is_word2vecs() -> None:
    found = keep_probability([1e-5, 2.618e-4, 1e-3, 1e-2], 1e-4)
    assert found == pytest.approx([1, 1, 0.416, 0.110], abs=1e-3)
    assert keep_probability([0.5, 0.0], 0.0).tolist() == [1.0, 1.0]


def test_frequent_words_are_drawn_less_with_subsampling() -> None:
    background = {"the": 0.9, **{f"w{i}": 0.001 for i in range(100)}}
    words = ["the"] * 5 + ["w1"] * 5
    shares = []
    for subsample in (0.0, 1e-3):
        model = LanguageModel(background, 5.0, subsample=subsample)
        rng = np.random.default_rng(3)
        pairs = [pair for _ in range(200) for pair in model.pairs(words, 3, rng)]
        drawn = Counter(word for pair in pairs for word in (*pair.better, *pair.worse))
        shares.append(drawn["the"] / sum(drawn.values()))
    assert shares[1] < shares[0] / 5


def test_words_of_ten_to_ninety_nine_occurrences_can_be_subsampled() -> None:
    # Defect of the published sampler: its table of keep probabilities lacked them (KeyError in a worker).
    documents = [["seldom", *("often",) * 30] for _ in range(50)]
    whole = collection(documents)
    assert whole.tf["seldom"] == 50
    model = LanguageModel(whole.background(least=10), whole.mean_length, subsample=1e-4)
    pairs = model.pairs(documents[0], 50, np.random.default_rng(0))
    assert any("seldom" in pair.better + pair.worse for pair in pairs)


@given(st.lists(st.floats(-20, 0), min_size=2, max_size=8), st.data())
def test_labels_are_antisymmetric_and_scores_additive(scores: list[float], data: Any) -> None:
    size = data.draw(st.integers(1, 4))
    places = st.lists(st.integers(0, len(scores) - 1), min_size=size, max_size=size)
    first, second = np.array(data.draw(places)), np.array(data.draw(places))
    words = [str(i) for i in range(len(scores))]
    table = np.array(scores)
    one, other = make_pair(words, table, first, second), make_pair(words, table, second, first)
    assert one == other
    if sorted(table[first]) == sorted(table[second]):
        assert one is None
    if one is not None:
        sums = [sum(scores[int(word)] for word in side) for side in (one.better, one.worse)]
        assert one.margin == pytest.approx(sums[0] - sums[1], abs=1e-9)
        assert one.margin > 0


def test_a_document_without_known_words_has_no_pairs() -> None:
    model = LanguageModel({"a": 1.0}, 3.0)
    assert model.pairs(["x", "y"], 5, np.random.default_rng(0)) == []
    assert model.pairs(["a"], 5, np.random.default_rng(0)) == []  # one word only: every pair is a tie
