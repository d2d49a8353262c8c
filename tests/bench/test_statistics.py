"""Bootstrap, paired tests and Holm's correction against scipy, enumeration and hand-made cases."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.bench.statistics import bootstrap, holm, paired_t, randomisation
from retrieval.errors import UserError

numbers = st.lists(st.floats(0, 1, width=32), min_size=3, max_size=40)


@settings(max_examples=100, deadline=None)
@given(numbers, st.integers(0, 100))
def test_paired_t_equals_scipy(a: list[float], seed: int) -> None:
    scipy = pytest.importorskip("scipy.stats")
    b = np.asarray(a) + np.random.default_rng(seed).normal(0.05, 0.2, len(a))
    found = paired_t(a, b)
    assert found.p == pytest.approx(scipy.ttest_rel(a, b).pvalue, abs=1e-10)
    assert found.difference == pytest.approx(np.mean(np.asarray(a) - b))


def test_bootstrap_covers_the_mean() -> None:
    """Of 200 intervals of 90 % about 180 hold the true mean; far fewer, or all, would be a wrong width."""
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        interval = bootstrap(random.normal(0.3, 1.0, 60), level=0.9, samples=500, seed=seed)
        hits += interval.low <= 0.3 <= interval.high
    assert 160 < hits < 197


def test_bootstrap_is_repeatable_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = bootstrap(values, seed=3)
    assert whole == bootstrap(values, seed=3) != bootstrap(values, seed=4)
    monkeypatch.setattr("retrieval.bench.statistics._CELLS", 700)
    assert bootstrap(values, seed=3) == whole
    assert bootstrap([0.5, 0.5, 0.5]) == (0.5, 0.5, 0.5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_randomisation_is_exact_when_small(gaps: list[int]) -> None:
    sums = [
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
        for signs in product((1, -1), repeat=len(gaps))
    ]
    expected = sum(total >= abs(sum(gaps)) for total in sums) / len(sums)
    assert randomisation(gaps, [0] * len(gaps)).p == pytest.approx(expected)


def test_randomisation_samples_when_large() -> None:
    random = np.random.default_rng(0)
    a = random.random(200)
    b = a + random.normal(0.02, 0.1, 200)
    assert randomisation(a, b, seed=1).p == pytest.approx(paired_t(a, b).p, abs=0.02)
    assert randomisation(a, a + 1).p == pytest.approx(1 / 10_001)
    assert randomisation(a, a).p == 1.0


def test_no_difference_has_no_evidence() -> None:
    assert paired_t([0.1, 0.2], [0.1, 0.2]) == (0.0, 1.0)
    assert paired_t([0.5], [0.1]).p == 1.0


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_refused() -> None:
    for wrong in ([], [[1.0]], [float("nan")]):
        with pytest.raises(UserError, match="one finite number"):
            bootstrap(wrong)
    with pytest.raises(UserError, match="paired"):
        paired_t([1.0, 2.0], [1.0])
    with pytest.raises(UserError, match="level"):
        bootstrap([1.0], level=95)
