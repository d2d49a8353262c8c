"""What a stage costs a query, learnt from what it took: a fixed part and a part for each candidate.

The two are the least-squares line through the runs so far, of which the latest count most. Where they all had
about as many candidates no line can be told, and all of the time is taken to be the candidates'.
"""

from __future__ import annotations

from collections.abc import Sequence

_KEPT = 0.95  # of the weight of what was seen before, at each new observation
_WILD = 4.0  # times what was expected: more is something else that the machine did
_RELAXED = 0.98  # of the expected time stays, each time that a stage is left out
_SURE = 8  # observations after which anything is expected


class Cost:
    """The running estimate of one stage, in seconds."""

    def __init__(self) -> None:
        self.seen = 0
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # weights of 1, x, y, xx, xy: x candidates, y seconds

    def add(self, candidates: int, seconds: float) -> None:
        """Takes in one run of the stage."""
        if self.seen >= _SURE:
            seconds = min(seconds, _WILD * self.of(candidates))
        x, y = float(candidates), seconds
        fresh = (1.0, x, y, x * x, x * y)
        self._sums = tuple(_KEPT * old + new for old, new in zip(self._sums, fresh, strict=True))  # type: ignore[assignment]
        self.seen += 1

    def relax(self) -> None:
        """Expects a little less: a stage that is left out must be tried again, lest a bad day last."""
        n, x, y, xx, xy = self._sums
        self._sums = (n, x, _RELAXED * y, xx, _RELAXED * xy)

    @property
    def line(self) -> tuple[float, float]:
        """(seconds that it takes whatever comes in, seconds a candidate), neither below 0."""
        n, x, y, xx, xy = self._sums
        if not n:
            return 0.0, 0.0
        spread = n * xx - x * x
        if spread > 1e-3 * x * x:
            slope = (n * xy - x * y) / spread
            fixed = (y - slope * x) / n
            if slope > 0 and fixed > 0:
                return fixed, slope
        return (0.0, y / x) if x else (y / n, 0.0)

    def of(self, candidates: int) -> float:
        """Seconds that so many candidates take."""
        fixed, each = self.line
        return fixed + each * candidates


def shared(wants: Sequence[float], room: float) -> list[float]:
    """What each gets of `room`: an equal share, of which what one does not want goes to the others."""
    given = [0.0] * len(wants)
    left = max(0.0, room)
    for place, at in enumerate(sorted(range(len(wants)), key=wants.__getitem__)):
        given[at] = min(wants[at], left / (len(wants) - place))
        left -= given[at]
    return given


def depths(wanted: Sequence[int], lines: Sequence[tuple[float, float]], room: float) -> list[int]:
    """How many candidates each of several stages may read within `room`, at most what it wants.

    lines: (fixed, for each candidate) of every stage, in the unit of the room. Where it does not hold the
    fixed costs and a candidate each, the last stages are left out (0).
    """
    for kept in range(len(wanted), 0, -1):
        fixed = sum(line[0] for line in lines[:kept])
        wants = [count * line[1] for count, line in zip(wanted[:kept], lines, strict=False)]
        if fixed > room:
            continue
        got = shared(wants, room - fixed)
        found = [
            count if share >= want else int(share / line[1] * (1 + 1e-9))
            for count, share, want, line in zip(wanted[:kept], got, wants, lines, strict=False)
        ]
        if all(reads or not count for reads, count in zip(found, wanted, strict=False)):
            return found + [0] * (len(wanted) - kept)
    return [0] * len(wanted)
