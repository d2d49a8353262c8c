"""Medians, ratios, agreement and tables of the engine comparison."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Hits = list[list[tuple[str, float]]]
# Ours over the best peer: what, which depth or build, whose modes count, and the goal.
GOALS = {
    "text": [
        ("build", "tantivy", 0.5),
        ("10", "pisa", 0.8),
        ("1000", "pisa", 0.5),
        ("list_bytes", "pisa", 2.0),
    ],
    "impacts": [
        ("10", "pisa", 0.1),
        ("1000", "pisa", 0.15),
        ("10", "seismic", 1.0),
        ("1000", "seismic", 1.0),
        ("list_bytes", "pisa", 2.0),
    ],
}
COMPACT_BYTES = 1.0  # the goal of the compact lists
SEISMIC_RECALL = 0.99


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def median_build(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each number's median over the builds; what is not a number as in the last one."""
    last = rounds[-1]
    return {
        key: statistics.median(r[key] for r in rounds) if isinstance(last[key], (int, float)) else last[key]
        for key in last
    }


def summarise(mode: dict[str, Any]) -> None:
    """Rounds into figures: per query the median of the rounds, then quantiles over the queries."""
    for k, rounds in mode["search"].items():
        figures: dict[str, Any] = {}
        for clock in ("wall", "cpu"):
            times = np.median(np.array([r[clock] for r in rounds]), axis=0)
            p50, p99 = np.percentile(times, [50, 99])
            figures[clock] = {"p50": float(p50), "p99": float(p99), "mean": float(times.mean())}
        figures["queries"] = len(rounds[0]["wall"])
        figures["first_p50"] = float(np.median(rounds[0]["cpu"]))  # before an engine has met these terms
        figures["peak_bytes"] = max(r["peak_bytes"] for r in rounds)
        mode["search"][k] = figures
    for key, rates in mode["batch"].items():
        mode["batch"][key] = {clock: statistics.median(r[clock] for r in rates) for clock in ("wall", "cpu")}


def agreements(hits: dict[tuple[str, str], Hits]) -> dict[str, Any]:
    """Every mode against the first exact one: bm25s, else PISA's float or impact scores, else ours."""
    order = ("bm25s", "pisa", "ours")
    exact = [key for name in order for key in hits if key[0] == name and "8 bit" not in key[1]]
    if not exact:
        return {}
    reference = hits[exact[0]]
    rows = {f"{name}: {mode}": agreement(reference, found) for (name, mode), found in hits.items()}
    if exact[0][0] == "bm25s":  # the others have another idf, a factor or other parameters: no score compares
        for name, row in rows.items():
            if not name.startswith(("ours", "bm25s")):
                row["score_difference"] = math.nan
    return {"reference": f"{exact[0][0]}: {exact[0][1]}", "modes": rows}


def agreement(reference: Hits, other: Hits) -> dict[str, float]:
    """Overlap at 10 and 1000, largest relative score difference, and queries with the same documents.

    "Same" lets documents that tie with the last score of the reference stand for each other, as engines order
    ties differently.
    """
    same, worst = 0, 0.0
    overlaps: dict[int, list[float]] = {10: [], 1000: []}
    pairs = list(zip(reference, other))
    for right, found in pairs:
        scores: dict[str, float] = dict(right)
        theirs: dict[str, float] = dict(found)
        for depth, into in overlaps.items():
            top = {doc for doc, _ in right[:depth]}
            into.append(len(top & {doc for doc, _ in found[:depth]}) / len(top) if top else 1.0)
        for doc in scores.keys() & theirs.keys():
            worst = max(worst, abs(theirs[doc] - scores[doc]) / max(abs(scores[doc]), 1e-9))
        last = min(scores.values(), default=0.0)
        clear = {doc for doc, score in scores.items() if score > last + 1e-5 * abs(last)}
        same += len(right) == len(found) and clear <= theirs.keys()
    return {
        "queries": len(pairs),
        "same_documents": same,
        "score_difference": worst,
        "overlap_10": float(np.mean(overlaps[10])) if pairs else math.nan,
        "overlap_1000": float(np.mean(overlaps[1000])) if pairs else math.nan,
    }


def exponents(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The slope of log figure over log documents (1 = linear)."""
    if len(points) < 2:
        return {}
    docs = np.log([p["docs"] for p in points])
    keys = ("wall", "cpu", "peak_bytes", "list_bytes", "query_cpu")
    return {key: float(np.polyfit(docs, np.log([max(p[key], 1e-9) for p in points]), 1)[0]) for key in keys}


def ratios(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Ours over the best mode of the peer that the goal names, in CPU time."""
    engines: dict[str, Any] = found["engines"]
    rows = []
    for what, peer, goal in GOALS[found["about"]["kind"]]:
        if peer not in engines:
            continue
        for ours in (name for name in engines if name.startswith("ours")):
            modes = list(engines[ours]["modes"]) if what.isdigit() else [""]
            for mode in modes:
                mine, theirs = figure(found, ours, what, mode), best(found, peer, what)
                if mine and theirs:
                    row = {"what": what, "mode": f"{ours} {mode}".strip(), "peer": peer}
                    small = (ours, what) == ("ours-compact", "list_bytes")
                    rows.append({**row, "ratio": mine / theirs, "goal": COMPACT_BYTES if small else goal})
    return rows


def figure(found: dict[str, Any], engine: str, what: str, mode: str) -> float | None:
    row = found["engines"][engine]
    if what == "build":
        return float(row["build"]["plain"]["cpu"])
    if what == "list_bytes":
        return float(row["build"]["plain"]["list_bytes"])
    return float(row["modes"][mode]["search"][what]["cpu"]["p50"])


def best(found: dict[str, Any], engine: str, what: str) -> float | None:
    """The smallest figure of a peer's modes; of Seismic only modes that find .99 of the right documents."""
    agreement = found.get("agreement", {}).get("modes", {})
    figures = []
    for mode in found["engines"][engine]["modes"]:
        recall = agreement.get(f"{engine}: {mode}", {}).get(f"overlap_{what}", 1.0)
        value = figure(found, engine, what, mode)
        if value is not None and (engine != "seismic" or recall >= SEISMIC_RECALL):
            figures.append(value)
    return min(figures, default=None)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    )


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def megabytes(value: Any) -> str:
    return f"{value / 1e6:,.1f}" if value else "-"


def tables(found: dict[str, Any]) -> str:
    """Builds, searches, ratios and agreement of one corpus as text."""
    docs = found["about"]["docs"]
    parts = [
        f"{found['about']['name']}: "
        + ", ".join(f"{k} {v}" for k, v in found["about"].items() if k != "name")
    ]
    rows = []
    for name, row in found["engines"].items():
        for option, build in row["build"].items():
            cold = row["cold"] if option == "plain" else None
            rows.append(
                [
                    f"{name}, text stored"
                    if option == "stored"
                    else name + (" (built before)" if build.get("reused") else ""),
                    number(build["wall"]),
                    number(build["cpu"]),
                    number(docs / build["wall"]),
                    megabytes(build["peak_bytes"]),
                    megabytes(build.get("list_bytes")),
                    megabytes(build.get("needed_bytes", build["total_bytes"])),
                    number(cold["wall"]) if cold else "",
                    number(cold["cpu"]) if cold else "",
                ]
            )
    head = [
        "build",
        "wall s",
        "cpu s",
        "docs/s",
        "peak MB",
        "lists MB",
        "total MB",
        "cold wall s",
        "cold cpu s",
    ]
    parts.append(table(head, rows))
    for k in ("10", "1000"):
        rows = []
        for name, row in found["engines"].items():
            for mode, figures in row["modes"].items():
                wall, cpu = figures["search"][k]["wall"], figures["search"][k]["cpu"]
                times = [number(clock[q] * 1e3) for clock in (wall, cpu) for q in ("p50", "p99", "mean")]
                times.append(number(figures["search"][k]["first_p50"] * 1e3))
                rates = [number(figures["batch"][f"{k} x{t}"]["wall"]) for t in (1, 2)]
                rows.append([f"{name}: {mode}", *times, *rates])
        clocks = [f"{clock} {q}" for clock in ("wall", "cpu") for q in ("p50", "p99", "mean")]
        clocks.append("round 1 cpu p50")
        parts.append(table([f"top {k}, ms", *clocks, "batch/s x1", "batch/s x2"], rows))
    if goals := ratios(found):
        cells = [
            [f"{r['what']}: {r['mode']} / {r['peer']}", number(r["ratio"]), number(r["goal"])] for r in goals
        ]
        parts.append(table(["ours over the best peer (cpu)", "ratio", "goal"], cells))
    if agreement := found.get("agreement"):
        rows = [
            [
                name,
                f"{a['same_documents']} of {a['queries']}",
                "-" if math.isnan(a["score_difference"]) else f"{a['score_difference']:.1e}",
                f"{a['overlap_10']:.3f}",
                f"{a['overlap_1000']:.3f}",
            ]
            for name, a in agreement["modes"].items()
        ]
        head = [
            f"against {agreement['reference']}",
            "same top 1000",
            "score diff",
            "overlap@10",
            "overlap@1000",
        ]
        parts.append(table(head, rows))
    parts += [f"failed: {problem}" for problem in found["failed"].values()]
    return "\n\n".join(parts) + "\n"


def growth_table(growth: dict[str, Any]) -> str:
    rows = []
    for engine, found in growth.items():
        for p in found["points"]:
            sizes = [megabytes(p["peak_bytes"]), megabytes(p["list_bytes"]), number(p["query_cpu"] * 1e3)]
            rows.append([engine, f"{p['docs']:,}", number(p["wall"]), number(p["cpu"]), *sizes])
        e = found["exponents"]
        keys = ("wall", "cpu", "peak_bytes", "list_bytes", "query_cpu")
        rows.append([f"{engine}: exponent", "", *(f"{e[key]:.2f}" if key in e else "-" for key in keys)])
    return table(
        ["growth", "docs", "build wall s", "build cpu s", "peak MB", "lists MB", "query cpu p50 ms"], rows
    )


def everything(results: dict[str, Any]) -> str:
    m = results["machine"]
    parts = [f"{m['processor']}, {m['cores']} cores, Python {m['python']}, load {m['load']:.1f} at the start"]
    parts += [tables(found) for found in results["corpora"].values()]
    if "growth" in results:
        parts.append(growth_table(results["growth"]) + "\n")
    return "\n\n".join(parts)
