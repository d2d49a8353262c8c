"""The decorator of all compiled functions: cached on disk where possible, without the GIL, without checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb


def jit(*signature: Any, inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """numba.njit as this package uses it. Where no folder takes the cache, each process compiles anew."""

    def compiled(function: Callable[..., Any]) -> Any:
        options = {"nogil": True, "error_model": "numpy", "inline": inline}
        try:
            return nb.njit(*signature, cache=True, **options)(function)
        except RuntimeError:  # "no locator available": neither the package nor the home folder can be written
            return nb.njit(*signature, **options)(function)

    return compiled
