"""Stages, and the three operators that compose them: `>>` then, `%` cut, `+` fuse (with `0.3 *` weights).

A stage turns (queries, run so far) into a run. At the head of a pipeline there is no run, and a retriever
searches its whole corpus; after `>>` the run that comes in is what it re-scores. What does not fit is
refused when it is composed: the left side of `>>` must retrieve (it is what makes the first run), stages of
two corpora do not meet, a weight stands only in a sum. So `a >> (b >> c)` needs a `b` that can retrieve;
leave the parentheses out, they change nothing. To re-rank a run that comes from elsewhere, put `Given(run)`
in front.
"""

from __future__ import annotations

import copy
import json
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import TypeAlias

from retrieval import registry
from retrieval.errors import CompositionError
from retrieval.types import Document, Queries, Query, Run, StageTrace, as_queries, joined

Param: TypeAlias = "bool | int | float | str"

Lookup: TypeAlias = Callable[[Sequence[str]], list[Document]]
"""Documents by id, in the order of the ids."""

# How tightly a text binds, loosest first, as in Python.
_THEN, _SUM, _PRODUCT, _ATOM = range(4)

BARE = re.compile(r"""[^\s,()="']+""")
"""What may stand in brackets without quotes: numbers, paths, hub ids."""


class Stage:
    """Base of every stage: a leaf implements `_run`, stores its settings, and says what it is.

    name        what its text calls it: word characters, dots and dashes, not a number
    params      what stands in its brackets; a parameter `model` comes first and without its name
    needs_run   it only re-scores, and must stand after a `>>`
    expands     it searches anew with what it learned from the run, whose documents it need not keep to
    gates       it has a method passes(run) -> bool[queries]: for the others what follows it is left out
    corpus      identity of the documents that it ranks; None for any
    depth       how many documents a query it retrieves at the head of a pipeline; `%` sets it
    parts       the stages it is composed of; a leaf has none
    documents   documents by id, where it has them: stages of an index do. A stage that reads texts has a
                method with_documents(lookup), which returns it with them; `>>` calls it where an earlier
                stage has documents, so that `index.bm25() % 100 >> cross(...)` needs no more
    """

    name: str = ""
    params: Mapping[str, Param] = {}
    needs_run: bool = False
    expands: bool = False
    gates: bool = False
    corpus: str | None = None
    depth: int = 1000
    parts: tuple[Stage, ...] = ()
    documents: Lookup | None = None

    _binds = _ATOM
    __array_ufunc__ = None  # so that numpy's float64 leaves `weight * stage` to us

    def __call__(self, queries: Queries, run: Run | None = None) -> Run:
        """The run of these queries; `run` is what a re-scoring stage starts from.

        A leaf adds itself to the trace. Raises CompositionError where a run is needed and none given.
        """
        queries = as_queries(queries)
        if run is not None:
            run = run.aligned(queries)
        elif self.needs_run:
            raise CompositionError(f"{self!r} re-ranks and needs a run; put a retriever and >> before it")
        start = perf_counter()
        found = self._run(queries, run)
        if self.parts:
            return found
        seconds = perf_counter() - start
        before, seen = ([], 0) if run is None else (run.trace, len(run.docs))
        step = StageTrace(repr(self), seconds, seen, len(found.docs), found.dropped)
        return found.with_trace([*before, step])

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        """The work: a run of exactly these queries, in their order. So is `run`, where there is one.

        A re-scoring stage returns only documents of `run`, unless it `expands`; tokens that it truncates go
        into `Run(..., dropped=n)`.
        """
        raise NotImplementedError

    def within(self, k: int) -> Stage:
        """The same stage, asked for k documents a query: what stands before `% k`."""
        if self.depth == k:
            return self
        twin = copy.copy(self)
        twin.depth = k
        return twin

    def __rshift__(self, other: Stage | Weighted) -> Then:
        return Then([self, other]) if isinstance(other, Stage) else NotImplemented

    def __mod__(self, k: int) -> Cut:
        return Cut(self, k)

    def __add__(self, other: Stage | Weighted) -> Fuse:
        return Fuse([self, other]) if isinstance(other, (Stage, Weighted)) else NotImplemented

    def __mul__(self, weight: float) -> Weighted:
        return Weighted(weight, self)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        if not self.params:
            return self.name
        model = [_value(value) for key, value in self.params.items() if key == "model"]
        named = [f"{key}={_value(value)}" for key, value in self.params.items() if key != "model"]
        return f"{self.name}({', '.join(model + named)})"


class Given(Stage):
    """A run that is already there, at the head of a pipeline: `Given(run) >> reranker % 10`."""

    def __init__(self, run: Run, name: str = "run") -> None:
        self.run = run
        self.name = name

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        return self.run.aligned(queries)


class Then(Stage):
    """`a >> b >> c`: each stage gets the run of the one before it."""

    _binds = _THEN

    def __init__(self, stages: Sequence[Stage]) -> None:
        flat = [part for stage in stages for part in (stage.parts if isinstance(stage, Then) else [stage])]
        if flat[0].needs_run:
            raise CompositionError(
                f"{flat[0]!r} re-ranks and cannot stand at the head of {' >> '.join(map(repr, flat))}; "
                "put a retriever and >> before it"
            )
        if any(map(lacks_documents, flat)):
            lookup = next((found for part in flat if (found := _documents(part)) is not None), None)
            flat = flat if lookup is None else [with_documents(part, lookup) for part in flat]
        self.parts = tuple(flat)
        self.name = "then"
        self.expands = any(part.expands for part in flat)
        self.corpus = _common_corpus(flat)

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        for place, part in enumerate(self.parts):
            run = part(queries, run)
            if part.gates:
                return _past(part, self.parts[place + 1 :], queries, run)
        assert run is not None  # for the type checker: there is at least one part
        return run

    def within(self, k: int) -> Stage:
        return Then([*self.parts[:-1], self.parts[-1].within(k)])

    def __repr__(self) -> str:
        return " >> ".join(_text(part, _SUM) for part in self.parts)


def _past(gate: Stage, rest: Sequence[Stage], queries: list[Query], run: Run) -> Run:
    """What follows a gate, for the queries that pass it; the others keep their run, cut as it would be."""
    if not rest:
        return run
    passed = gate.passes(run)  # type: ignore[attr-defined]  # that is what `gates` says
    going = [query for query, passes in zip(queries, passed, strict=True) if passes]
    if not going:
        return cut_as(rest, run)
    ahead = run.aligned(going)
    for place, part in enumerate(rest):
        ahead = part(going, ahead)
        if part.gates:
            ahead = _past(part, rest[place + 1 :], going, ahead)
            break
    if len(going) == len(queries):
        return ahead
    staying = [query for query, passes in zip(queries, passed, strict=True) if not passes]
    both = joined([ahead, cut_as(rest, run.aligned(staying))])
    return both.aligned(queries).with_trace(ahead.trace)


def cut_as(stages: Sequence[Stage], run: Run) -> Run:
    """The run of queries that these stages are left out for, cut as they would cut it."""
    for stage in stages:
        if isinstance(stage, Cut):
            run = run.cut(stage.k)
    return run


class Cut(Stage):
    """`a % k`: the first k documents of each query."""

    _binds = _PRODUCT

    def __init__(self, stage: Stage, k: int) -> None:
        try:
            self.k = operator.index(k)
        except TypeError:
            self.k = 0
        if self.k < 1 or isinstance(k, bool):
            raise CompositionError(f"{stage!r} % {k!r}: a cut is a whole number of documents, 1 or more")
        self.stage = stage
        self.parts = (stage,)
        self.name = "cut"
        self.needs_run = stage.needs_run
        self.expands = stage.expands
        self.corpus = stage.corpus
        self._deep = stage.within(self.k)

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        return self._deep(queries, run).cut(self.k)

    def within(self, k: int) -> Stage:
        return Cut(self.stage, min(k, self.k))

    def __repr__(self) -> str:
        return f"{_text(self.stage, _PRODUCT)} % {self.k}"


class Weighted:
    """`0.3 * a`: a stage with its weight in a sum. No stage itself: only `+` knows what a weight means."""

    __array_ufunc__ = None

    def __init__(self, weight: float, stage: Stage) -> None:
        try:
            self.weight = float(weight)
        except (TypeError, ValueError, OverflowError):
            self.weight = math.nan
        if not math.isfinite(self.weight) or self.weight < 0 or isinstance(weight, (bool, str)):
            raise CompositionError(f"{weight!r} * {stage!r}: a weight is a finite number, 0 or more")
        self.stage = stage

    def __mod__(self, k: int) -> Weighted:
        return Weighted(self.weight, self.stage % k)  # the same thing, and what its text says

    def __mul__(self, weight: float) -> Weighted:
        return Weighted(Weighted(weight, self.stage).weight * self.weight, self.stage)

    __rmul__ = __mul__

    def __add__(self, other: Stage | Weighted) -> Fuse:
        return Fuse([self, other]) if isinstance(other, (Stage, Weighted)) else NotImplemented

    def __rshift__(self, other: Stage | Weighted) -> Then:
        raise self.misplaced()

    def __rrshift__(self, other: Stage) -> Then:
        raise self.misplaced()

    def misplaced(self) -> CompositionError:
        """The error for a weight outside of a sum."""
        return CompositionError(f"{self!r} stands outside of a sum; weigh stages as in 0.3 * a + b")

    def __repr__(self) -> str:
        return f"{self.weight!r} * {_text(self.stage, _PRODUCT)}"


class Fuse(Stage):
    """`a + b`: all runs as one, by reciprocal rank; with a weight anywhere, by weighted score.

    Sums within a sum are one sum, with parentheses or without; `1.0 * (a + b) + c` keeps the inner one to
    itself. An operand without a weight in a weighted sum has the weight 1.
    """

    _binds = _SUM

    def __init__(self, operands: Sequence[Stage | Weighted]) -> None:
        self.operands: tuple[Stage | Weighted, ...] = tuple(
            inner for one in operands for inner in (one.operands if isinstance(one, Fuse) else (one,))
        )
        self.parts = tuple(one.stage if isinstance(one, Weighted) else one for one in self.operands)
        self.name = "fuse"
        self.needs_run = any(part.needs_run for part in self.parts)
        self.expands = any(part.expands for part in self.parts)
        self.corpus = _common_corpus(self.parts)

    @property
    def weights(self) -> list[float] | None:
        """One weight an operand, or None for reciprocal rank fusion."""
        if not any(isinstance(one, Weighted) for one in self.operands):
            return None
        return [one.weight if isinstance(one, Weighted) else 1.0 for one in self.operands]

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        runs = [part(queries, run).aligned(queries) for part in self.parts]
        weights = self.weights
        if weights is None:
            fused: Run = registry.lookup("rrf", kind="fusion")(runs)
        else:
            fused = registry.lookup("minmax", kind="fusion")(runs, weights)
        before = [] if run is None else run.trace
        return fused.with_trace([*before, *(step for one in runs for step in one.trace[len(before) :])])

    def within(self, k: int) -> Stage:
        return self  # what is third in both lists may be first in the sum

    def __repr__(self) -> str:
        return " + ".join(
            repr(one) if isinstance(one, Weighted) else _text(one, _PRODUCT) for one in self.operands
        )


def with_documents(stage: Stage, lookup: Lookup) -> Stage:
    """The same stage; whatever in it reads texts and has none yet reads them through `lookup`."""
    if not lacks_documents(stage):
        return stage
    if isinstance(stage, Then):
        return Then([with_documents(part, lookup) for part in stage.parts])
    if isinstance(stage, Cut):
        return Cut(with_documents(stage.stage, lookup), stage.k)
    if isinstance(stage, Fuse):
        pairs = zip(stage.operands, (with_documents(part, lookup) for part in stage.parts), strict=True)
        return Fuse([Weighted(old.weight, new) if isinstance(old, Weighted) else new for old, new in pairs])
    bound: Stage = stage.with_documents(lookup)  # type: ignore[attr-defined]  # lacks_documents has looked
    bound.documents = lookup
    return bound


def lacks_documents(stage: Stage) -> bool:
    """Whether a stage, or one that it is composed of, reads texts and has been given none yet."""
    if stage.parts:
        return any(map(lacks_documents, stage.parts))
    return hasattr(stage, "with_documents") and stage.documents is None


def _documents(stage: Stage) -> Lookup | None:
    """How the first stage that has documents finds them. Raises UserError for an index without texts."""
    found = (_documents(part) for part in stage.parts)
    return stage.documents or next((each for each in found if each is not None), None)


def _text(stage: Stage, binds: int) -> str:
    return repr(stage) if stage._binds >= binds else f"({stage!r})"


def _common_corpus(stages: Sequence[Stage]) -> str | None:
    known = [stage for stage in stages if stage.corpus is not None]
    for stage in known[1:]:
        if stage.corpus != known[0].corpus:
            raise CompositionError(
                f"{known[0]!r} ranks the documents of {known[0].corpus}, {stage!r} those of {stage.corpus}; "
                "compose stages of one index"
            )
    return known[0].corpus if known else None


def read_value(word: str) -> Param:
    """What an unquoted word in brackets means: a number, true, false, or itself."""
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _value(value: Param) -> str:
    if isinstance(value, str):
        bare = BARE.fullmatch(value) and isinstance(read_value(value), str)
        return value if bare else json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(int(value) if isinstance(value, int) else float(value))  # numpy's numbers print otherwise
