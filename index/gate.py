"""The quality gate: how far vectors computed in fewer bits, or by another backend, lie from float32's.

LEAST is where a lossy configuration is refused. With unit vectors the score of two texts changes by at most
sqrt(2 (1 - c)) for a cosine of c, .14 at .99, and by that over the square root of the dimension where errors
point anywhere, .007 for 384 numbers: about what lies between two neighbours at rank 10. bfloat16 keeps .9999;
dynamic int8 of all layers falls to .85 on MiniLM, and then rankings are others.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.verified import cache_directory

LEAST = 0.99
_LONG = (
    "The committee met on the second Tuesday of March to discuss the results of the trial, in which 214 "
    "patients with chronic kidney disease were given either the new compound or a placebo for 18 months. "
)
PROBE = (
    "", "a", "solar wind", "how do vaccines work?", "What is the capital of Australia", "E = mc^2", "42",
    "def add(a, b):\n    return a + b", "http://example.org/a?b=c&d=%20", "THE END", "naïve café, Übergröße",
    "Wie hoch ist der Mount Everest?", "¿Dónde está la biblioteca?", "Il-Malti huwa ilsien semitiku",
    "Москва является столицей России", "東京は日本の首都です", "القاهرة عاصمة مصر",
    "नई दिल्ली भारत की राजधानी है",
    "😀 emoji and \u200b zero width", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The quick brown fox jumps over the lazy dog.", _LONG, 3 * _LONG,
    "Section 4(b) of the agreement shall survive its termination.",
)  # fmt: skip


def measure(found: NDArray[np.float32], exact: NDArray[np.float32]) -> dict[str, float]:
    """{"min", "mean"} of the cosines of rows with the exact ones; rows that are equal count as 1."""
    wide, true = found.astype(np.float64), exact.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1) * np.linalg.norm(true, axis=1)
    same = (wide == true).all(axis=1)
    cosines = np.where(same, 1.0, (wide * true).sum(axis=1) / np.where(norms > 0, norms, 1))
    return {"min": round(float(cosines.min()), 6), "mean": round(float(cosines.mean()), 6)}


def holds(gate: Mapping[str, float]) -> bool:
    """Whether a configuration may be used."""
    return gate["min"] >= LEAST


def refuse(gate: Mapping[str, float], what: str) -> None:
    """Raises UserError where a configuration may not be used; `what` names it."""
    if not holds(gate):
        raise UserError(
            f"{what} changes this model's vectors too much: cosine to float32 {gate['min']:.4f} at worst on "
            f"the probe ({gate['mean']:.4f} in the mean), and {LEAST} is the least; use precision=float32"
        )


def remembered(key: Mapping[str, Any], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A measurement, taken once per user and key: kept in the cache directory, where there is one."""
    home = cache_directory()
    if home is None:
        return compute()
    name = hashlib.sha256(orjson.dumps(dict(key), option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]
    path = os.path.join(home, "gates", f"{name}.json")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, "rb") as file:
        known = orjson.loads(file.read(4096))
        return {"min": float(known["min"]), "mean": float(known["mean"])}
    gate = compute()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        temporary = f"{path}.{os.getpid()}.{time.time_ns()}"
        with open(temporary, "xb") as file:
            file.write(orjson.dumps(gate))
        os.replace(temporary, path)
    return gate
