"""Compiled functions work where nothing can be cached."""

from __future__ import annotations

import pytest

from retrieval.index.jit import jit


def test_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])

    @jit()
    def twice(x):  # type: ignore[no-untyped-def]
        return 2 * x

    assert twice(21) == 42
