"""The way of one document through a pipeline: its rank and score after every stage, and where it was lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from retrieval.stage import Cut, Fuse, Stage, Then, cut_as
from retrieval.types import Query, Run


class Step(NamedTuple):
    """What one stage made of the document.

    stage      its text
    depth      0, or 1 and more for the operands of a sum, which come before the sum
    documents  that it returned
    rank       among them, from 1; None if it is not there
    score      None if it is not there
    cut        how many documents it may return, where it is a cut, or searches to a depth
    whole      the rank that it has without that cut, None if it has none: a cut of `whole` would keep it
    """

    stage: str
    depth: int
    documents: int
    rank: int | None
    score: float | None
    cut: int | None = None
    whole: int | None = None


def path(stage: Stage, query: str, doc_id: str, documents: int) -> list[Step]:
    """The steps of a pipeline in the order in which they run. documents: how many there are to find."""
    return _Walk(Query("1", query), doc_id, documents).walk(stage, None, 0)[1]


def lost(steps: list[Step]) -> Step | None:
    """The step that lost the document: the first one without it after which it never comes back.

    None for a document that the last step returns.
    """
    found = None
    for step in reversed([step for step in steps if not step.depth]):
        if step.rank is not None:
            break
        found = step
    return found


def reason(step: Step) -> str:
    """A sentence on the step that lost a document."""
    if step.whole is not None:
        return f"{step.stage} has it at rank {step.whole:,}: a cut of {step.whole:,} would keep it"
    return f"{step.stage} does not have it at any depth"


def as_json(step: Step) -> dict[str, Any]:
    """The step without what it does not have."""
    return {key: value for key, value in step._asdict().items() if value is not None or key == "rank"}


class _Walk(NamedTuple):
    """One document on its way."""

    query: Query
    doc_id: str
    documents: int

    def walk(self, stage: Stage, run: Run | None, depth: int) -> tuple[Run, list[Step]]:
        """(what the stage makes of `run`, the steps). A stage with a walk of its own says them itself."""
        if (own := getattr(stage, "walk", None)) is not None:
            walked: tuple[Run, list[Step]] = own(self, run, depth)
            return walked
        if isinstance(stage, Then):
            steps: list[Step] = []
            for place, part in enumerate(stage.parts):
                run, more = self.walk(part, run, depth)
                steps += more
                if part.gates and not part.passes(run)[0]:  # type: ignore[attr-defined]
                    run, last = self.stopped(part, stage.parts[place + 1 :], run, depth)
                    return run, [*steps, last]
            assert run is not None  # for the type checker: there is at least one part
            return run, steps
        if isinstance(stage, Cut):
            found, steps = self.walk(stage.stage.within(stage.k), run, depth)
            found = found.cut(stage.k)
            *before, inner = steps
            step = self.step(f"{inner.stage} % {stage.k}", found, depth)._replace(cut=stage.k)
            if step.rank is None:
                whole = inner.rank or inner.whole or self.rank(stage.stage, run)
                step = step._replace(whole=whole)
            return found, [*before, step]
        parts = [step for part in _operands(stage) for step in self.walk(part, run, depth + 1)[1]]
        found = stage([self.query], run)
        step = self.step(repr(stage), found, depth)
        if step.rank is None and run is None and not stage.parts:
            step = step._replace(cut=stage.depth, whole=self.rank(stage, run))
        return found, [*parts, step]

    def stopped(self, gate: Stage, rest: Sequence[Stage], run: Run, depth: int) -> tuple[Run, Step]:
        """The run and the step after a gate that leaves out the stages behind it, but for their cuts."""
        before = self.step("", run, depth)
        run = cut_as(rest, run)
        step = self.step(f"{gate!r} left out what follows", run, depth)
        return run, step if step.rank else step._replace(cut=len(run.docs), whole=before.rank)

    def rank(self, stage: Stage, run: Run | None) -> int | None:
        """The document's rank among all that a stage can return."""
        deep = stage.within(max(1, self.documents))([self.query], run)
        return self.step("", deep, 0).rank

    def step(self, text: str, run: Run, depth: int) -> Step:
        """The document in a run."""
        hits = run[self.query.query_id]
        hit = next((hit for hit in hits if hit.doc_id == self.doc_id), None)
        if hit is None:
            return Step(text, depth, len(hits), None, None)
        return Step(text, depth, len(hits), hit.rank, hit.score)


def _operands(stage: Stage) -> tuple[Stage, ...]:
    return stage.parts if isinstance(stage, Fuse) else ()
