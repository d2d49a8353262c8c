"""What a structure finds, measured when it is built: recall at 10 and 100 for a ladder of efforts.

Queries are vectors of documents that are drawn, each left out of its own answer, and those of the caller.
Recall at k is the share of the k best documents by exact search that are found; one that ties with the k-th
counts, whichever it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index import exact
from retrieval.index.consistency import corrupt
from retrieval.index.exact import Found, Vectors

if TYPE_CHECKING:
    from retrieval.index.ann import Ann

GIVEN = 200  # of the caller's queries at most
_ENOUGH = 0.999


def knobs(kind: str, options: Mapping[str, int]) -> tuple[str, ...]:
    """What an effort of the kind consists of."""
    if kind in ("ivf", "hnsw"):
        return ("nprobe",) if kind == "ivf" else ("ef",)
    return ("nprobe", "refine") if options.get("lists") else ("refine",)


def efforts(kind: str, options: Mapping[str, int]) -> list[dict[str, int]]:
    """The ladder, from the least to the most: at most about a quarter of the lists."""
    if kind == "hnsw":
        return [{"ef": ef} for ef in (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)]
    coarse = kind == "pq"
    lists = options["lists"]
    if kind != "ivf" and not lists:
        return [{"refine": refine} for refine in ((2, 4, 8, 16, 32, 64, 128) if coarse else (1, 2, 4, 8))]
    probes = [p for step in range(16) for p in (1 << step, 3 << step >> 1) if p <= max(1, lists // 4)]
    probes = sorted(set(probes))
    if kind == "ivf":
        return [{"nprobe": probe} for probe in probes]
    if not coarse:
        return [{"nprobe": probe, "refine": 3} for probe in probes]
    ladder = [
        {"nprobe": probe, "refine": 10 if probe <= 8 else 20 if probe <= 32 else 50} for probe in probes
    ]
    return [*ladder, *({"nprobe": probes[-1], "refine": refine} for refine in (100, 200))]


def ladder(
    ann: Ann, vectors: Vectors, given: Vectors | None, count: int, rng: np.random.Generator, threads: int
) -> None:
    """Fills queries, ladder and reached of ann.facts. The ladder ends where nearly everything is found."""
    n = len(vectors)
    own = np.sort(rng.choice(n, min(count, n), replace=False)) if n > 1 else np.empty(0, np.int64)
    asked = np.ascontiguousarray(vectors[own])
    if given is not None:
        asked = np.concatenate([asked, given[:GIVEN]])
    left_out = np.concatenate([own, np.full(len(asked) - len(own), -1)])
    truth = _without(exact.search(vectors, asked, min(n, 101), threads=threads), left_out)
    facts = ann.facts
    facts["queries"] = {"documents": len(own), "given": len(asked) - len(own)}
    for effort in efforts(ann.kind, facts["options"]):
        step: dict[str, Any] = {"effort": effort}
        for k in (10, 100):
            found = ann.search(vectors, asked, min(n, k + 1), effort=effort, threads=threads, complete=False)
            step[f"recall{k}"] = recall(truth, _without(found, left_out), k)
        facts["ladder"].append(step)
        facts["reached"] = max(facts["reached"], step["recall10"])
        if min(step["recall10"], step["recall100"]) >= _ENOUGH:
            break


def _without(found: list[Found], rows: NDArray[np.int64]) -> list[Found]:
    return [(r[r != row], s[r != row]) for (r, s), row in zip(found, rows.tolist())]


def recall(truth: list[Found], found: list[Found], k: int) -> float:
    """The mean over the queries, to four digits; 1 without queries."""
    shares = []
    for (_, best), (_, scores) in zip(truth, found):
        if len(best):
            size = min(k, len(best))
            shares.append(int(np.count_nonzero(scores[:size] >= best[size - 1])) / size)
    return round(float(np.mean(shares)), 4) if shares else 1.0


def check_ladder(facts: dict[str, Any], part: str) -> None:
    """Raises CorruptIndex unless the ladder can be climbed."""
    steps, names = facts.get("ladder"), set(knobs(facts["kind"], facts["options"]))
    good = isinstance(steps, list) and bool(steps)
    for step in steps if isinstance(steps, list) else ():
        effort = step.get("effort") if isinstance(step, dict) else None
        good = good and isinstance(effort, dict) and set(effort) == names
        good = good and all(type(value) is int and 1 <= value <= 1 << 20 for value in (effort or {}).values())
        good = good and all(type(step.get(key)) in (int, float) for key in ("recall10", "recall100"))
    if not good:
        raise corrupt(part, "facts.json", "holds no ladder of efforts with their recall")
