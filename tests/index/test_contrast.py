"""B-PROP's contrast: parity with the published code, and the checks of the specification, section 2.10."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UnknownName, UserError
from retrieval.index.contrast import (
    RandomProcess,
    contrast,
    contrastive_pairs,
    normalised,
    perplexity,
    sampling,
    saturated,
    summed,
    temperature_for,
    without_replacement,
)

WEIGHTS = st.dictionaries(st.integers(0, 20), st.floats(0.01, 1), min_size=1, max_size=12)


def process(documents: list[dict[int, float]]) -> RandomProcess:
    found = RandomProcess()
    for weights in documents:
        words = sorted(weights)
        found.add(np.array(words, np.int64), np.array([weights[word] for word in words]))
    return found


class Parity:
    """The case of the published code, read."""

    def __init__(self, folder: Path) -> None:
        self.wanted = json.loads((folder / "bprop" / "expected.json").read_text())
        self.words = sorted({word for each in self.wanted["documents"] for word in each["words"]})
        number = {word: i for i, word in enumerate(self.words)}
        self.rand = RandomProcess()
        self.documents = {}
        for each in self.wanted["documents"]:
            places = np.array([number[word] for word in each["words"]])
            words, sums = summed(places, np.array(each["cls_attention"]))
            weights = saturated(sums)
            self.rand.add(words, weights)
            self.documents[each["id"]] = words, weights

    def named(self, words: np.ndarray[Any, Any], values: np.ndarray[Any, Any]) -> dict[str, float]:
        return {self.words[word]: float(value) for word, value in zip(words, values, strict=True)}


@pytest.fixture
def case(parity: Path) -> Parity:
    return Parity(parity)


def test_parity_of_saturated_weights_and_random_distribution(case: Parity) -> None:
    for name, (words, weights) in case.documents.items():
        assert case.named(words, weights) == pytest.approx(case.wanted["saturated"][name], abs=1e-4)
    everything = np.arange(len(case.words))
    found = case.named(everything, case.rand.distribution(len(everything)))
    assert found == pytest.approx(case.wanted["random_distribution"], abs=1e-4)


@pytest.mark.parametrize(("method", "temperature"), [("entropy", 1.0), ("subtract", 0.1)])
def test_parity_of_contrast_and_sampling(case: Parity, method: str, temperature: float) -> None:
    rand = case.rand.distribution(len(case.words))
    for name, (words, weights) in case.documents.items():
        scores = contrast(normalised(weights), rand[words], method)
        letters = np.array([case.words[word].isalpha() for word in words])
        wanted = case.wanted["methods"][method][name]
        assert case.named(words[letters], scores[letters]) == pytest.approx(wanted["contrast"], abs=1e-4)
        chances = sampling(scores[letters], temperature)
        assert case.named(words[letters], chances) == pytest.approx(wanted["sampling"], abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=20))
def test_attention_is_summed_over_occurrences(positions: list[tuple[int, float]]) -> None:
    sums: dict[int, float] = defaultdict(float)
    for word, value in positions:
        sums[word] += value
    words, found = summed(np.array([w for w, _ in positions]), np.array([v for _, v in positions]))
    assert words.tolist() == sorted(sums)
    assert found == pytest.approx([sums[word] for word in sorted(sums)])


@pytest.mark.parametrize("rule", ["ratio", "sqrt", "logistic", "none"])
def test_saturations_rise_from_zero(rule: str) -> None:
    # `sqrt` and `logistic` crashed in the published code.
    found = saturated(np.array([0.0, 0.001, 0.01, 0.1, 1.0]), 0.01, rule)
    assert found[0] == 0
    assert (np.diff(found) > 0).all()
    assert found[-1] <= 1


def test_the_ratio_is_a_half_at_its_constant() -> None:
    assert saturated(np.array([0.01]))[0] == pytest.approx(0.5)
    with pytest.raises(UnknownName, match="saturation"):
        saturated(np.ones(1), 0.01, "cubic")
    with pytest.raises(UserError, match="saturation constant is 0"):
        saturated(np.ones(1), 0)


@given(st.lists(WEIGHTS, min_size=1, max_size=6), st.randoms())
def test_random_distribution_ignores_order_and_duplication(
    documents: list[dict[int, float]], random: Any
) -> None:
    base = process(documents).distribution(21)
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert process(shuffled).distribution(21) == pytest.approx(base, abs=1e-12)
    assert process(documents * 2).distribution(21) == pytest.approx(base, abs=1e-12)
    by_hand = np.zeros(21)
    for weights in documents:
        for word, weight in weights.items():
            by_hand[word] += weight / len(documents)
    assert base == pytest.approx(by_hand / by_hand.sum())
    joined = process(documents[:1])
    joined.merge(process(documents[1:]))
    assert joined.distribution(21) == pytest.approx(base, abs=1e-12)


@given(st.lists(WEIGHTS, min_size=1, max_size=6), st.sampled_from(["entropy", "kl", "subtract"]))
def test_distributions_sum_to_one_and_are_not_negative(
    documents: list[dict[int, float]], method: str
) -> None:
    found = process(documents)
    rand = found.distribution(21)
    words = np.array(sorted(documents[0]))
    share = normalised(np.array([documents[0][word] for word in words]))
    chances = sampling(contrast(share, rand[words], method, unseen=found.unseen), 0.5)
    for distribution in (rand, share, chances):
        assert distribution.min() >= 0
        assert distribution.sum() == pytest.approx(1)


def test_numbers_beyond_those_seen_have_no_mass() -> None:
    found = process([{3: 1.0, 5: 1.0}])
    assert found.distribution(4).tolist() == [0, 0, 0, 0.5]
    assert len(found.distribution(5000)) == 5000
    big = RandomProcess()
    big.add(np.array([100_000]), np.array([1.0]))
    assert big.distribution(100_001)[100_000] == 1
    with pytest.raises(UserError, match="give more text"):
        RandomProcess().distribution(3)


def test_an_unseen_word_counts_as_half_a_posting() -> None:
    found = process([{0: 1.0, 1: 0.5}, {0: 0.5}])
    assert found.unseen == pytest.approx(0.5 * (2 / 3) / 2)
    rand = np.array([found.distribution(1)[0], 0.0])
    scores = contrast(np.array([0.5, 0.5]), rand, unseen=found.unseen)
    assert scores[1] == pytest.approx(-0.5 * np.log2(found.unseen))
    assert scores[1] > scores[0]
    # The published code let it crash or count -1; without a rule the cap holds.
    assert contrast(np.array([1.0]), np.array([0.0]))[0] == 100


def test_a_common_word_has_less_contrast_than_a_rare_one() -> None:
    found = process([{0: 0.5, 1: 0.5}, *({0: 0.5, i: 0.5} for i in range(2, 12))])
    rand = found.distribution(12)
    share = normalised(np.array([0.5, 0.5]))
    for method in ("entropy", "kl", "subtract"):
        common, rare = contrast(share, rand[:2], method)
        assert common < rare


def test_contrast_by_hand() -> None:
    share, rand = np.array([0.5, 0.25, 0.0]), np.array([0.25, 0.5, 0.25])
    assert contrast(share, rand).tolist() == [1.0, 0.25, 0.0]
    assert contrast(share, rand, "kl").tolist() == [0.5, -0.25, 0.0]
    assert contrast(share, rand, "subtract").tolist() == [0.25, 0.0, 0.0]
    with pytest.raises(UnknownName, match="contrast"):
        contrast(share, rand, "entropie")


def test_effective_vocabulary_falls_with_the_temperature() -> None:
    scores = np.random.default_rng(0).random(200)
    found = [perplexity(sampling(scores, t)) for t in (10.0, 1.0, 0.1, 0.01)]
    assert found == sorted(found, reverse=True)
    assert found[1] / 200 > 0.9  # at the published temperature the draw is nearly uniform
    assert perplexity(np.full(8, 1 / 8)) == pytest.approx(8)
    assert perplexity(np.array([1.0, 0.0])) == 1
    with pytest.raises(UserError, match="temperature is 0"):
        sampling(scores, 0)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_temperature_for_a_share_of_the_words(share: float) -> None:
    scores = np.random.default_rng(1).random(100)
    found = perplexity(sampling(scores, temperature_for(scores, share)))
    assert found == pytest.approx(share * 100, rel=1e-3)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=12), st.integers(0, 99))
def test_pairs_hold_no_word_twice_and_are_ordered(scores: list[float], seed: int) -> None:
    table = np.array(scores)
    words = [f"w{i}" for i in range(len(scores))]
    draw = sampling(table, 1.0)
    found = contrastive_pairs(words, table, draw, 6, np.random.default_rng(seed))
    assert found == contrastive_pairs(words, table, draw, 6, np.random.default_rng(seed))
    for pair in found:
        assert len(pair.better) == len(pair.worse) == len(set(pair.better)) == len(set(pair.worse))
        sums = [sum(table[words.index(word)] for word in side) for side in (pair.better, pair.worse)]
        assert pair.margin == pytest.approx(sums[0] - sums[1], abs=1e-9)
        assert pair.margin > 0


def test_nothing_to_draw_from_gives_no_pairs() -> None:
    assert contrastive_pairs([], np.zeros(0), np.zeros(0), 3, np.random.default_rng(0)) == []
    assert sampling(np.zeros(0)).tolist() == []


def test_draws_follow_the_law_of_removing_one_after_another() -> None:
    chances = np.array([0.5, 0.3, 0.2])
    logs = np.log(chances)
    rng = np.random.default_rng(7)
    seen = Counter(frozenset(without_replacement(logs, 2, rng).tolist()) for _ in range(20_000))
    for left_out in range(3):
        pair = [i for i in range(3) if i != left_out]
        first, second = chances[pair[0]], chances[pair[1]]
        expected = first * second / (1 - first) + second * first / (1 - second)
        assert seen[frozenset(pair)] / 20_000 == pytest.approx(expected, abs=0.012)
