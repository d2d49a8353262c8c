"""Weights as bytes: never above a byte, the error bound, what is clamped and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import UserError
from retrieval.index.quantise import Quantiser

POSITIVE = st.floats(1e-6, 1e6)
WEIGHTS = st.lists(st.floats(0, 1e6, width=32), max_size=30).map(lambda values: np.array(values, np.float32))


@given(WEIGHTS, POSITIVE, st.integers(1, 8))
def test_floor_errs_by_less_than_a_step(weights: np.ndarray, maximum: float, bits: int) -> None:
    quantiser = Quantiser.of(maximum, bits=bits, least=0)
    values, clamped = quantiser.quantise(weights)
    exact = np.minimum(weights.astype(np.float64), maximum)
    lost = exact - quantiser.restore(values)
    slack = 1e-9 * maximum
    assert (lost >= -slack).all()
    assert (lost <= maximum / (2**bits - 1) + slack).all()
    assert values.max(initial=0) <= 2**bits - 1
    assert (clamped == (weights.astype(np.float64) > maximum)).all()


@given(WEIGHTS, POSITIVE, st.sampled_from(["floor", "ceil", "nearest"]))
def test_a_positive_weight_stays_one(weights: np.ndarray, maximum: float, rounding: str) -> None:
    values, _ = Quantiser.of(maximum, rounding=rounding).quantise(weights)
    assert ((values > 0) == (weights > 0)).all()


@given(WEIGHTS, POSITIVE, st.sampled_from(["floor", "ceil", "nearest"]), st.integers(0, 1))
def test_order_is_kept(weights: np.ndarray, maximum: float, rounding: str, least: int) -> None:
    values, _ = Quantiser.of(maximum, rounding=rounding, least=least).quantise(np.sort(weights))
    assert (np.diff(values.astype(int)) >= 0).all()


def test_official_maximum_would_overflow_a_byte() -> None:
    """Documents {5: 1.0, 5: 2.0} and {9: 4.0}: the official maximum is 2.0, and 4.0 becomes 510."""
    values, clamped = Quantiser.of(2.0).quantise(np.array([1.0, 2.0, 4.0]))
    assert values.tolist() == [127, 255, 255]
    assert clamped.tolist() == [False, False, True]
    values, clamped = Quantiser.of(4.0).quantise(np.array([1.0, 2.0, 4.0]))
    assert values.tolist() == [63, 127, 255]
    assert not clamped.any()


def test_plain_floor_loses_small_weights_and_ours_does_not() -> None:
    small = np.array([0.001, 0.5])
    assert Quantiser.of(1.0, least=0).quantise(small)[0].tolist() == [0, 127]
    assert Quantiser.of(1.0).quantise(small)[0].tolist() == [1, 127]
    assert Quantiser.of(1.0, rounding="ceil").quantise(small)[0].tolist() == [1, 128]
    assert Quantiser.of(1.0, rounding="nearest").quantise(small)[0].tolist() == [1, 128]


def test_the_score_of_a_query_errs_by_its_length_in_steps() -> None:
    weights = np.random.default_rng(0).gamma(2.0, 0.3, (200, 5)).astype(np.float32)
    quantiser = Quantiser.of(float(weights.max()), least=0)
    values, _ = quantiser.quantise(weights.ravel())
    lost = weights.astype(np.float64).sum(1) - quantiser.restore(values).reshape(200, 5).sum(1)
    assert (lost >= -1e-9).all()
    assert (lost <= 5 * quantiser.step).all()
    assert lost.max() > quantiser.step  # else this says nothing


def test_facts_go_and_come() -> None:
    quantiser = Quantiser.of(3.5, bits=4, rounding="ceil", least=0)
    assert Quantiser.from_facts(quantiser.facts) == quantiser
    assert Quantiser.from_facts({"maximum": 2}) == Quantiser.of(2.0)


@pytest.mark.parametrize("maximum", [0, -1.0, float("nan"), float("inf"), True, "2", None])
def test_a_maximum_that_is_refused(maximum: float) -> None:
    with pytest.raises(UserError, match="maximum"):
        Quantiser.of(maximum)
    with pytest.raises(UserError, match="maximum"):
        Quantiser.from_facts({"maximum": maximum})


def test_what_else_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'floor'"):
        Quantiser.of(1.0, rounding="flor")
    with pytest.raises(UserError, match="unknown rounding"):
        Quantiser.from_facts({"maximum": 1.0, "rounding": ["floor"]})
    with pytest.raises(UserError, match="1 to 8 bits"):
        Quantiser.of(1.0, bits=9)
    with pytest.raises(UserError, match="not a number"):
        Quantiser.of(1.0).quantise(np.array([1.0, np.nan]))
