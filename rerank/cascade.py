"""A pipeline within a budget: each stage after the first reads as many candidates as the query has left.

`index.pipeline("bm25 % 1000 >> tildev2 % 100 >> cross", budget="50ms")`, or budget="200pairs". What a stage
costs is measured where it runs (costs.py): by a short probe at the first query, then by every query. Before
each stage the depths of all that are still to come are laid out anew: each gets an equal share of the time
that is left, and what a cheap stage does not need goes to the dear ones. Candidates that the budget keeps
from a stage stay behind those that it read, in their earlier order; nothing is lost but by the pipeline's own
cuts. The first stage always runs. Pairs are the same everywhere, milliseconds are those of the machine.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retrieval.errors import CompositionError, UserError
from retrieval.registry import register
from retrieval.rerank.costs import Cost, depths
from retrieval.rerank.fusion import one_table
from retrieval.stage import Cut, Stage, Then, cut_as
from retrieval.types import Query, Run, StageTrace, joined

if TYPE_CHECKING:
    from retrieval.path import Step

_BUDGET = re.compile(r"(-?\d+(?:\.\d+)?(?:e\d+)?) ?(ms|s|pairs?)")
_MOST = 1e9  # of any unit: beyond it nothing is cut
_STEP = "budget before "
_PROBED = (4, 32)  # candidates of a probe, once the stage has been run for what it loads


class Budget(NamedTuple):
    """So many pairs (query, candidate) that later stages read, or so many seconds of a whole query."""

    amount: float
    pairs: bool

    def __str__(self) -> str:
        return f"{self.amount:g} pairs" if self.pairs else f"{1e3 * self.amount:g} ms"


class Share(NamedTuple):
    """What the budget left of a stage's candidates, summed over queries."""

    stage: str
    candidates: int
    read: int


def read_budget(text: str) -> Budget:
    """`50ms`, `0.2s` or `200pairs`. Raises UserError."""
    found = _BUDGET.fullmatch(text.strip())
    amount = float(found[1]) if found else 1.0
    if not 0 < amount < _MOST:
        raise UserError(f"--budget {text!r}: it has to be above 0 and below {_MOST:,.0f}, such as 50ms")
    pairs = found is not None and found[2].startswith("pair")
    if found is None or "e" in found[1] or (pairs and amount != int(amount)):
        raise UserError(
            f"--budget {text!r}: write milliseconds, seconds or whole pairs a query in plain digits, such as "
            "50ms, 0.2s or 200pairs"
        )
    return Budget(amount if pairs or found[2] == "s" else amount / 1e3, pairs)


@register("budget", kind="cascade")
class Budgeted(Stage):
    """A pipeline that keeps to a budget; its text is the pipeline's.

    Raises CompositionError at the first query where the first stage alone takes longer than the budget.
    """

    name = "budget"

    def __init__(self, stage: Stage, budget: str | Budget, costs: Sequence[Cost] | None = None) -> None:
        self.budget = read_budget(budget) if isinstance(budget, str) else budget
        chain = _chain(stage)
        self.parts = (stage,)
        self._first, *self._later = chain
        self._binds = stage._binds
        self.corpus, self.expands, self.needs_run = stage.corpus, stage.expands, stage.needs_run
        self._costs = [Cost() for _ in chain] if costs is None else costs  # by stage; twins share them

    def within(self, k: int) -> Stage:
        return Budgeted(self.parts[0].within(k), self.budget, self._costs)

    def __repr__(self) -> str:
        return repr(self.parts[0])

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        if not queries:
            return self.parts[0](queries, run)
        found = [self._one([query], None if run is None else run.aligned([query]))[0] for query in queries]
        trace = [] if run is None else run.trace
        steps = summed([step for one in found for step in one.trace[len(trace) :]])
        return joined(found).with_trace([*trace, *steps])

    def _one(self, queries: list[Query], run: Run | None) -> tuple[Run, list[int]]:
        """(the run of one query, how many candidates each later stage read)."""
        start = perf_counter()
        found = self._first(queries, run)
        if not self._costs[0].seen and len(found.docs) and not self.budget.pairs:
            spent = perf_counter() - start
            self._probe(queries, found, run)
            start = perf_counter() - spent  # a probe is no query's time
        read: list[int] = []
        pairs = 0
        for place, part in enumerate(self._later, 1):
            if part.gates:
                found = part(queries, found)
                read.append(len(found.docs))
                if not part.passes(found)[0]:  # type: ignore[attr-defined]
                    return cut_as(self._later[place:], found), read
                continue
            left = self.budget.amount - (pairs if self.budget.pairs else perf_counter() - start)
            depth = self._plan(place, len(found.docs), left)
            read.append(depth)
            pairs += 0 if part.expands else depth
            trace = found.trace
            if depth < len(found.docs):
                text = _STEP + _leaf_text(part)
                trace = [*trace, StageTrace(text, 0.0, len(found.docs), depth, 0)]
            found = self._step(part, self._costs[place], queries, found.with_trace(trace), depth)
        return found, read

    def _step(self, part: Stage, cost: Cost, queries: list[Query], run: Run, depth: int) -> Run:
        """What a later stage makes of the first `depth` documents, the others behind them."""
        if not depth:
            cost.relax()
            return cut_as([part], run)
        before = perf_counter()
        found = part(queries, run.cut(depth))
        cost.add(0 if part.expands else depth, perf_counter() - before)
        return cut_as([part], behind(found, run, depth))

    def _plan(self, place: int, candidates: int, left: float) -> int:
        """How many of its candidates the stage at `place` of the chain may read now."""
        wanted: list[int] = []
        lines: list[tuple[float, float]] = []
        reach = candidates
        for part, cost in zip(self._later[place - 1 :], self._costs[place:], strict=True):
            if part.gates:
                continue
            wanted.append(reach)
            if self.budget.pairs:
                lines.append((0.0, 0.0 if part.expands else 1.0))
            else:  # what expands searches, whatever comes in
                lines.append((cost.of(0), 0.0) if part.expands else cost.line)
            if isinstance(part, Cut):
                reach = min(reach, part.k)
        return depths(wanted, lines, left)[0]

    def _probe(self, queries: list[Query], found: Run, run: Run | None) -> None:
        """Runs the stages on few candidates, and the first one again, for what they cost."""
        least = float("inf")
        for _ in range(2):
            start = perf_counter()
            self._first(queries, run)
            least = min(least, perf_counter() - start)
        if least > self.budget.amount:
            raise CompositionError(
                f"a budget of {self.budget} a query cannot be met: the first stage alone, {self._first!r}, "
                f"takes {1e3 * least:.3g} ms; give more, or a cheaper first stage"
            )
        self._costs[0].add(0, least)
        for part, cost in zip(self._later, self._costs[1:], strict=True):
            if part.gates:
                continue
            for size in (1, *_PROBED):
                start = perf_counter()
                part(queries, found.cut(size))
                if size != 1:
                    cost.add(0 if part.expands else min(size, len(found.docs)), perf_counter() - start)

    def walk(self, walk: Any, run: Run | None, depth: int) -> tuple[Run, list[Step]]:
        """The steps of one document (retrieval/path.py), with what the budget kept it from."""
        read = self._one([walk.query], run)[1]
        found, steps = walk.walk(self._first, run, depth)
        for place, (part, reads) in enumerate(zip(self._later, read, strict=False), 1):
            whole = found
            if part.gates:
                found, more = walk.walk(part, found, depth)
                steps += more
                if not part.passes(found)[0]:  # type: ignore[attr-defined]
                    found, last = walk.stopped(part, self._later[place:], found, depth)
                    return found, [*steps, last]
                continue
            before = walk.step("", whole, depth)
            note = self._note(reads, before)
            if not reads:
                found = cut_as([part], whole)
                steps.append(_cut_step(walk.step(f"{part!r}{note}", found, depth), before, part))
                continue
            made, more = walk.walk(part, whole.cut(reads), depth)
            found = cut_as([part], behind(made, whole, reads))
            if note:
                last = walk.step(f"{more[-1].stage}{note}", found, depth)
                more[-1] = _cut_step(last, before, part) if more[-1].whole is None else last
            steps += more
        return found, steps

    def _note(self, reads: int, before: Step) -> str:
        """What the budget kept a stage from, and whether the document of the step was among it."""
        if reads == before.documents:
            return ""
        rank = before.rank
        this = "" if rank is None else ", this one too" if rank <= reads else ", not this one"
        return f" (read {reads:,} of {before.documents:,}{this}; budget {self.budget})"


def behind(found: Run, run: Run, depth: int) -> Run:
    """What a stage made of a query's first `depth` documents, the rest of `run` behind it, in its order."""
    if len(run.docs) <= depth:
        return found
    table, (docs, whole) = one_table([found, run])
    rest = whole[depth:]
    rest = rest[~np.isin(rest, docs)]  # a stage that searches anew may have found them itself
    low = float(found.scores[-1]) if len(found.scores) else 0.0
    below = low - max(1.0, abs(low)) * 1e-3 * np.arange(1, len(rest) + 1)
    scores = np.concatenate([found.scores, below.astype(np.float32)])
    docs = np.concatenate([docs, rest])
    return Run(found.queries, [0, len(docs)], docs, scores, table, ordered=True, trace=found.trace)


def shares(trace: Sequence[StageTrace]) -> list[Share]:
    """What the budget cut, of the trace of a run."""
    steps = summed([step for step in trace if step.stage.startswith(_STEP)])
    return [Share(step.stage.removeprefix(_STEP), step.candidates_in, step.candidates_out) for step in steps]


def summed(trace: Sequence[StageTrace]) -> list[StageTrace]:
    """One step for each stage: its steps added up."""
    found: dict[str, StageTrace] = {}
    for step in trace:
        old = found.get(step.stage)
        found[step.stage] = step if old is None else StageTrace(step.stage, *map(sum, zip(old[1:], step[1:])))  # type: ignore[arg-type]
    return list(found.values())


def _chain(stage: Stage) -> tuple[Stage, ...]:
    """The stages that follow one another."""
    if isinstance(stage, Then):
        return stage.parts
    if isinstance(stage, Cut) and isinstance(stage.stage, Then):
        *before, last = stage.stage.parts
        return (*before, Cut(last, stage.k))
    return (stage,)


def _leaf_text(part: Stage) -> str:
    return _leaf_text(part.stage) if isinstance(part, Cut) else repr(part)


def _cut_step(step: Step, before: Step, part: Stage) -> Step:
    """The step of a document that a stage's cut lost after the budget had kept the stage from it."""
    if step.rank is not None or not isinstance(part, Cut):
        return step
    return step._replace(cut=part.k, whole=before.rank)
