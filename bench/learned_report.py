"""Intervals, tests and tables of the learned-sparse comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.evaluate import Evaluation
from retrieval.bench.learned_systems import BASELINE, MEASURES
from retrieval.bench.statistics import holm, paired_t, randomisation

Figures = dict[str, dict[str, dict[str, float]]]  # system -> measure -> mean, low, high and, but for BM25,
# difference, difference_low, difference_high, p, p_holm: against BM25

TESTS = {"t": paired_t, "randomisation": randomisation}
SAMPLES = 2000
LEVEL = 0.95
GOAL = ("BM25 + TILDEv2", 0.02, -0.005)  # on the mean at least, and nowhere below
_CELLS = 4_000_000  # numbers drawn at once


def figures(
    sets: Mapping[str, Mapping[str, Evaluation]], test: str = "t", seed: int = 0, baseline: str = BASELINE
) -> tuple[dict[str, Figures], Figures]:
    """(of each set, of the mean over the sets), from set -> system -> Evaluation; the same systems in each.

    Intervals: percentile bootstrap over queries, of the mean over sets with each set's queries drawn by
    themselves. p: two-sided paired test against the baseline, in `p_holm` corrected over the sets.
    """
    labels = list(next(iter(sets.values())))
    base = labels.index(baseline)
    found: dict[str, Figures] = {name: {label: {} for label in labels} for name in sets}
    mean: Figures = {label: {} for label in labels}
    for measure in MEASURES:
        drawn, exact = [], []
        for name, systems in sets.items():
            columns = np.stack([systems[label].values[measure] for label in labels], axis=1)
            drawn.append(resampled_means(columns, seed=seed))
            exact.append(columns.mean(axis=0))
            _fill(found[name], measure, exact[-1], drawn[-1], base)
            for label in labels:
                if label != baseline:
                    values = systems[label].values[measure], systems[baseline].values[measure]
                    found[name][label][measure]["p"] = TESTS[test](*values).p
        _fill(mean, measure, np.mean(exact, axis=0), np.mean(drawn, axis=0), base)
        for label in labels:
            if label != baseline:
                cells = [found[name][label][measure] for name in sets]
                for cell, p in zip(cells, holm([cell["p"] for cell in cells]), strict=True):
                    cell["p_holm"] = p
    return found, mean


def resampled_means(
    columns: NDArray[np.float64], *, samples: int = SAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Means float64[samples, m] of columns float64[n, m], each over n rows drawn with replacement.

    All columns get the same rows, so that differences of columns are those of paired systems.
    """
    random = np.random.default_rng(seed)
    rows = len(columns)
    size = max(1, _CELLS // rows)
    means = []
    for start in range(0, samples, size):
        chosen = random.integers(0, rows, (min(size, samples - start), rows))
        counts = np.stack([np.bincount(each, minlength=rows) for each in chosen])
        means.append(counts @ columns / rows)
    return np.concatenate(means)


def _fill(
    into: Figures, measure: str, exact: NDArray[np.float64], drawn: NDArray[np.float64], base: int
) -> None:
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(drawn, ends, axis=0)
    below, above = np.quantile(drawn - drawn[:, [base]], ends, axis=0)
    for i, label in enumerate(into):
        into[label][measure] = {"mean": float(exact[i]), "low": float(low[i]), "high": float(high[i])}
        if i != base:
            into[label][measure] |= {
                "difference": float(exact[i] - exact[base]),
                "difference_low": float(below[i]),
                "difference_high": float(above[i]),
            }


# --- text ----------------------------------------------------------------------------------------------


def markdown(results: Mapping[str, Any]) -> str:
    """All of it: a summary for each measure, every figure, what the lists take, notes."""
    m = results["machine"]
    parts = [
        f"{results['date']}, {m['processor']}, {m['cores']} cores, load {m['load']:.1f} at the start, "
        f"{results['seconds'] / 60:.1f} minutes in all. `*` above and `†` below BM25: p < .05, "
        f"{'paired t-test' if results['test'] == 't' else 'paired randomisation test'}, two-sided, "
        "Holm-corrected over the sets."
    ]
    parts += [_summary(results, measure) for measure in MEASURES]
    parts += [_details(results), _lists(results), _notes(results)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table in Markdown; the columns after the first ones hold numbers."""
    marks = ["---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, marks, *rows))


def _summary(results: Mapping[str, Any], measure: str) -> str:
    sets = results["sets"]
    rows = []
    for label in results["systems"]:
        cells = [_marked(found["figures"][label][measure]) for found in sets.values()]
        mean = results["mean"][label][measure]
        gap = f"{mean['difference']:+.3f}" if "difference" in mean else ""
        rows.append([label, *cells, f"{mean['mean']:.3f}", gap])
    return table([measure, *sets, "mean", "- BM25"], rows)


def _marked(cell: Mapping[str, float]) -> str:
    mark = ""
    if cell.get("p_holm", 1.0) < 0.05:
        mark = "*" if cell["difference"] > 0 else "†"
    return f"{cell['mean']:.3f}{mark}"


def _details(results: Mapping[str, Any]) -> str:
    head = ["set", "queries", "system"]
    for measure in MEASURES:
        head += [measure, "95 % interval", "- BM25", "interval", "p"]
    rows = []
    for name, found in [*results["sets"].items(), ("mean", {"figures": results["mean"]})]:
        asked = f"{found['queries']:,}" if "queries" in found else ""
        for label in results["systems"]:
            row = [name, asked, label]
            for measure in MEASURES:
                cell = found["figures"][label][measure]
                row += [f"{cell['mean']:.3f}", f"{cell['low']:.3f} to {cell['high']:.3f}"]
                row += _against(cell)
            rows.append(row)
    return table(head, rows, 3)


def _against(cell: Mapping[str, float]) -> list[str]:
    if "difference" not in cell:
        return ["", "", ""]
    p = cell.get("p_holm")
    gap = f"{cell['difference_low']:+.3f} to {cell['difference_high']:+.3f}"
    shown = "" if p is None else "< .001" if p < 0.001 else f"{p:.3f}"
    return [f"{cell['difference']:+.3f}", gap, shown]


def _lists(results: Mapping[str, Any]) -> str:
    """Bytes a document are without stored text, ids and what the index has once."""
    head = ["set", "documents", "representation", "bytes a document", "times BM25", "without forward view"]
    head += ["times BM25", "terms a document", "ms to encode", "tokens cut off"]
    rows = []
    for name, found in results["sets"].items():
        bm25 = found["lists"]["bm25"]
        for kind, lists in found["lists"].items():
            row = [name, f"{found['documents']:,}", kind]
            for key in ("bytes", "list_bytes"):
                row += [f"{lists[key]:.0f}", f"{lists[key] / bm25[key]:.2f}"]
            row.append(f"{lists['terms']:.1f}")
            row.append(f"{lists['seconds'] * 1e3:.2f}" if "seconds" in lists else "")
            cut = "dropped" in lists and lists["tokens"]
            rows.append([*row, f"{lists['dropped'] / lists['tokens']:.1%}" if cut else ""])
    return table(head, rows, 3)


def _notes(results: Mapping[str, Any]) -> str:
    lines = [f"- {label}: `{pipeline}`" for label, pipeline in results["systems"].items()]
    for label, tuned in results["tuned"].items():
        lines.append(
            f"- {label}: weight {tuned['weight']} of BM25 and `{tuned['leg']}` chosen once, by "
            f"{tuned['measure']} on {tuned['on']} ({tuned['value']:.3f} there, BM25 {tuned['baseline']:.3f})."
        )
    lines += [
        f"- {name}: {found['queries']:,} of {found['of']:,} queries, drawn with a seed."
        for name, found in results["sets"].items()
        if found["queries"] < found["of"]
    ]
    lines += [f"- {name} left out: {reason}." for name, reason in results["skipped"].items()]
    if goal := reached(results):
        lines.append(f"- {goal}")
    return "\n".join(lines)


def reached(results: Mapping[str, Any]) -> str:
    """One sentence about the goal; empty where the system is not there."""
    label, least, lowest = GOAL
    if label not in results["mean"]:
        return ""
    measure = MEASURES[0]
    mean = results["mean"][label][measure]
    gaps = {name: found["figures"][label][measure]["difference"] for name, found in results["sets"].items()}
    worst = min(gaps, key=gaps.__getitem__)
    good = mean["difference"] >= least and gaps[worst] >= lowest
    return (
        f"{label} against BM25, {measure}: {mean['difference']:+.3f} on the mean "
        f"({mean['difference_low']:+.3f} to {mean['difference_high']:+.3f}), lowest {gaps[worst]:+.3f} on "
        f"{worst}. Goal: {least:+.3f}, and nowhere below {lowest:+.3f}: {'reached' if good else 'missed'}."
    )
