"""Weights as whole numbers of a byte: the true maximum, clamped values counted, the rounding named.

A weight w > 0 becomes round(w / maximum * (2**bits - 1)). Roundings: `floor` as TILDE's index, `ceil` as
uniCOIL's and DeepImpact's, `nearest`. `least` is what a positive weight becomes at least: with 1 no match is
lost to rounding (plain floor loses 2 % of the postings at 8 bits, 22 % at 4); 0 is the rule of the official
code. The maximum is known before the first document, from the model: the official code found it only where
a token repeated with a larger weight, and so could write 510 into a byte.

With `floor` and least 0: 0 <= weight - restored < maximum / (2**bits - 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnknownName, UserError

_ROUND = {"ceil": np.ceil, "floor": np.floor, "nearest": np.rint}


class Quantiser(NamedTuple):
    """maximum: the weight that becomes the largest value; anything above is clamped to it."""

    maximum: float
    bits: int = 8
    rounding: str = "floor"
    least: int = 1

    @classmethod
    def of(cls, maximum: float, *, bits: int = 8, rounding: str = "floor", least: int = 1) -> Quantiser:
        """A checked one. Raises UserError, UnknownName."""
        if not isinstance(rounding, str) or rounding not in _ROUND:
            raise UnknownName("rounding", str(rounding), list(_ROUND))
        number = isinstance(maximum, (int, float)) and not isinstance(maximum, bool)
        if not number or not math.isfinite(maximum) or not maximum > 0:
            raise UserError(
                f"the quantiser's maximum is {maximum!r}; give the largest weight, a positive number"
            )
        if bits not in range(1, 9) or least not in (0, 1):
            raise UserError(
                f"a quantiser takes 1 to 8 bits and a least value of 0 or 1; got {bits!r}, {least!r}"
            )
        return cls(float(maximum), bits, rounding, least)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Quantiser:
        """As a commit or a model's config stores it; a fact that is absent has its default."""
        known = {name: facts[name] for name in cls._fields if name in facts}
        return cls.of(known.pop("maximum", 0.0), **known)

    @property
    def facts(self) -> dict[str, Any]:
        """What a commit stores of it."""
        return self._asdict()

    @property
    def levels(self) -> int:
        """The largest value."""
        return (1 << self.bits) - 1

    @property
    def step(self) -> float:
        """The weight of one level."""
        return self.maximum / self.levels

    def quantise(self, weights: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """(values uint8[n], which were clamped bool[n]) of weights float[n]; those of 0 and below become 0.

        Raises UserError for a weight that is no number.
        """
        exact = np.asarray(weights, np.float64)
        if np.isnan(exact).any():
            raise UserError("a term weight is not a number; the model's weights or its input are damaged")
        above = exact > self.maximum
        scaled = _ROUND[self.rounding](exact / self.maximum * self.levels)
        lowest = np.where(exact > 0, self.least, 0)
        return np.clip(scaled, lowest, self.levels).astype(np.uint8), above

    def restore(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """The weights that values stand for, float64[n]."""
        return np.asarray(values, np.float64) * self.step
