"""What a line of a leaderboard was made from, as label and value."""

from __future__ import annotations

from typing import Any

from retrieval.bench.leaderboard_section import Entry, mapping
from retrieval.bench.row import Row, row_path


def facts(entry: Entry, measure: str) -> list[tuple[str, str]]:
    """(label, text) pairs, those that the row tells. measure: the one whose parts are told."""
    row = entry.row
    system, data, index = row["system"], mapping(row.get("data")), mapping(row.get("index"))
    found: list[tuple[str, Any]] = [
        ("verify", f"retrieve verify {row_path(row, '').as_posix()}"),
        ("pipeline", system.get("pipeline")),
        ("made by", row.get("command")),
        ("trained on", entry.trained_on),
        ("depth, seed", ", ".join(str(row[key]) for key in ("depth", "seed") if key in row)),  # type: ignore[literal-required]
        ("ties", row.get("ties")),
        ("date", row.get("date")),
        ("versions", ", ".join(f"{name} {what}" for name, what in mapping(row.get("versions")).items())),
        ("machine", entry.hardware),
    ]
    found += _parts(row, measure)
    found += [
        (f"{name}, sha256", data.get(f"{key}_sha256"))
        for name, key in (("documents", "corpus"), ("queries", "queries"), ("judgements", "qrels"))
    ]
    found.append(("document ids, sha256", index.get("ids_sha256")))
    for name, part in mapping(index.get("representations")).items():
        told = mapping(part)
        parts = [
            f"{told[key]:,} {words}"
            for key, words in (("bytes", "bytes"), ("tokens", "tokens"), ("tokens_dropped", "dropped"))
            if isinstance(told.get(key), int)
        ]
        if isinstance(told.get("build_seconds"), int | float):
            parts.append(f"built in {told['build_seconds']:,.0f} s")
        found.append((f"representation {name}", ", ".join(parts)))
    for name, hashes in mapping(row.get("models")).items():
        told = mapping(hashes)
        found.append((f"model {name}", ", ".join(f"{part} {what}" for part, what in told.items())))
    stages: Any = row.get("stages")
    for step in stages if isinstance(stages, list) else ():
        told = mapping(step)
        if isinstance(told.get("ms"), int | float):
            found.append((f"stage {told.get('stage')}", f"{told['ms']:,.2f} ms a query"))
    energy = row.get("energy_joules")
    if isinstance(energy, int | float):
        found.append(("energy", f"{energy:,.1f} J"))
    return [(label, str(value)) for label, value in found if value not in (None, "")]


def _parts(row: Row, measure: str) -> list[tuple[str, str]]:
    """The measure by further judgements, and by buckets of queries."""
    found = []
    for name, group in mapping(row.get("secondary")).items():
        mean = mapping(mapping(group).get(measure)).get("mean")
        if isinstance(mean, int | float):
            found.append((f"{measure}, {name}", f"{mean:.4f}"))
    for name, labels in mapping(row.get("buckets")).items():
        told = [(label, mapping(values)) for label, values in mapping(labels).items()]
        texts = [
            f"{label}: {values[measure]:.4f} ({values.get('queries')})"
            for label, values in told
            if isinstance(values.get(measure), int | float)
        ]
        found.append((f"{measure} by {name} (queries)", ", ".join(texts)))
    return found
