"""Compiled functions work where nothing can be cached, and are cached elsewhere; hints change no result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.index.jit import jit, prefetch

_HINTED = """
from retrieval.index.jit import jit, prefetch

@jit()
def first(array):
    prefetch(array, 1)
    return array[0]
"""
_CALLED = (
    "import numpy, hinted; hinted.first(numpy.ones(2)); print(sum(hinted.first.stats.cache_hits.values()))"
)


def test_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])

    @jit()
    def twice(x):  # type: ignore[no-untyped-def]
        return 2 * x

    assert twice(21) == 42


def test_code_with_a_hint_is_cached(tmp_path: Path) -> None:
    (tmp_path / "hinted.py").write_text(_HINTED, encoding="utf-8")
    hits = [
        subprocess.run(
            [sys.executable, "-c", _CALLED], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert hits == ["0", "1"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int64])
def test_any_element_may_be_hinted_at(dtype: type) -> None:
    @jit()
    def total(array, ahead):  # type: ignore[no-untyped-def]
        found = 0
        for i in range(len(array)):
            prefetch(array, i + ahead)
            found += array[i]
        return found

    array: np.ndarray[Any, Any] = np.arange(100, dtype=dtype)
    for ahead in (-(10**12), -1, 0, 7, 10**12):
        assert total(array, ahead) == 4950
    assert total(array[:0], 0) == 0
