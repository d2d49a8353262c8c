"""What a line of a leaderboard was made from, as label and value."""

from __future__ import annotations

from typing import Any

from retrieval.bench.leaderboard_section import Entry, mapping
from retrieval.bench.row import row_path


def facts(entry: Entry) -> list[tuple[str, str]]:
    """(label, text) pairs, those that the row tells."""
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
    for step in row.get("stages") or []:
        told = mapping(step)
        if isinstance(told.get("ms"), int | float):
            found.append((f"stage {told.get('stage')}", f"{told['ms']:,.2f} ms a query"))
    energy = row.get("energy_joules")
    if isinstance(energy, int | float):
        found.append(("energy", f"{energy:,.1f} J"))
    return [(label, str(value)) for label, value in found if value not in (None, "")]
