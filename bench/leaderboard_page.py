"""The page of a leaderboard: one HTML file with everything in it, that reads without JavaScript too.

Every name, id and note is hostile input. Text enters through `shown`, data through `_data`, and a content
security policy lets nothing run but the one script, whose hash it names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

from retrieval.bench.leaderboard_board import Board
from retrieval.bench.leaderboard_columns import (
    NONE,
    PAD,
    Column,
    chance,
    fixed,
    hardware,
    mark,
    signed,
)
from retrieval.bench.leaderboard_facts import facts
from retrieval.bench.leaderboard_overview import Overview, remarks
from retrieval.bench.leaderboard_plot import pareto
from retrieval.bench.leaderboard_section import Entry, Section
from retrieval.bench.leaderboard_table import head, listed, name_of, shown, table
from retrieval.render import printable

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}
_LEAD = (
    "Figures are means over queries with 95 % bootstrap intervals. Differences are tested query by query, "
    "and all pairs of a task are corrected together. Choose a system to see its queries one by one."
)


def page(board: Board) -> str:
    """The HTML text."""
    style, script = _asset("page.css"), _asset("page.js")
    anchors = [(f"overview-{n}", f"{over.suite}, all tasks") for n, over in enumerate(board.overviews)]
    anchors += [(section.key, section.title) for section in board.sections]
    links = "".join(f'<li><a href="#{escape(key)}">{shown(name)}</a></li>' for key, name in anchors)
    contents = f'<nav aria-label="Tasks"><ul>{links}</ul></nav>' if len(anchors) > 1 else ""
    body = [_overview(over, number) for number, over in enumerate(board.overviews)]
    body += [_section(section, number) for number, section in enumerate(board.sections)]
    return Template(_asset("page.html")).substitute(
        title=shown(board.title),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        lead=f'<p class="lead">{_LEAD}</p>',
        contents=contents,
        body="\n".join(body),
        data=_data([_payload(section) for section in board.sections]),
    )


def _asset(name: str) -> str:
    return resources.files("retrieval.bench").joinpath("site", name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _data(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return "".join(_UNSAFE.get(char, char) for char in text)


def _payload(section: Section) -> dict[str, Any]:
    """What the script needs: values of each query, tests of each pair, what a line was made from."""
    return {
        "key": section.key,
        "measure": section.headline,
        "baseline": section.baseline,
        "ids": [printable(query_id) for query_id in section.query_ids],
        "systems": [_system(entry, section) for entry in section.entries],
        "pairs": [
            [i, j, signed(pair.difference), signed(-pair.difference), chance(pair), mark(pair),
             round(pair.difference, 6), round(pair.corrected, 6)]
            for (i, j), pair in section.pairs.items()
        ],
    }  # fmt: skip


def _system(entry: Entry, section: Section) -> dict[str, Any]:
    told: dict[str, Any] = {"name": printable(entry.name)}
    if entry.values is not None:
        told["values"] = [round(value, 5) for value in entry.values.tolist()]
        told["facts"] = [[label, printable(value)] for label, value in facts(entry, section.headline)]
    return told


def _section(section: Section, number: int) -> str:
    tested = [place for place, entry in enumerate(section.entries) if entry.values is not None]
    parts = [f"<h2>{shown(section.title)}</h2>", _facts(section)]
    if section.warning:
        parts.append(f'<p class="warning" role="note">{shown(section.warning)}</p>')
    parts += [f'<p class="note">{shown(note)}</p>' for note in section.notes]
    controls = []
    if section.pairs:
        options = "".join(
            f'<option value="{place}"{" selected" if place == section.baseline else ""}>'
            f"{shown(section.entries[place].name)}</option>"
            for place in sorted(tested, key=lambda place: section.entries[place].name.casefold())
        )
        controls.append(f'<label>Baseline <select class="baseline">{options}</select></label>')
    cited = [entry.quoted for entry in section.entries]
    if any(cited):
        controls.append('<label><input type="checkbox" class="cited" checked> quoted lines</label>')
    if controls:
        parts.append(f'<p class="bar">{" ".join(controls)}</p>')
    parts.append(table(section))
    parts.append('<div class="panel" hidden tabindex="-1"></div>')
    parts += [listed(cited, section.key), _legend(section), _pareto(section), _matrix(section, tested)]
    inside = "\n".join(part for part in parts if part)
    return f'<section class="task" id="{escape(section.key)}" data-section="{number}">\n{inside}\n</section>'


def _facts(section: Section) -> str:
    asked = len(section.query_ids)
    drawn = f"{asked:,} of {section.of:,} queries, a sample" if section.of != asked else f"{asked:,} queries"
    ours = sum(not entry.quoted for entry in section.entries)
    cited = len(section.entries) - ours
    parts = [drawn, f"{ours} system{'s' * (ours != 1)}"]
    parts += [f"{cited} quoted"] if cited else []
    return f'<p class="facts">{" · ".join(parts)}</p>'


def _legend(section: Section) -> str:
    parts = []
    if section.pairs:
        count = len(section.pairs)
        parts.append(
            f"Tests: {shown(section.test)} of {shown(section.headline)}, query by query; p-values of "
            f"{'all ' if count > 1 else 'the '}{count:,} pair{'s' * (count != 1)} corrected by Holm. "
            "▲ ▼: better, worse than the baseline at p &lt; 0.05."
        )
    parts.append("Tokens dropped: not read by a model, in documents / while searching.")
    machines = hardware(section)
    if len(machines) > 1:
        numbered = "; ".join(f"{number}: {shown(name)}" for number, name in enumerate(machines, 1))
        parts.append(f"Machines, whose times do not compare: {numbered}.")
    else:
        parts.append(f"Machine: {shown(machines[0])}.")
    return f'<p class="legend">{" ".join(parts)}</p>'


def _pareto(section: Section) -> str:
    wide, narrow = pareto(section, 760, 380), pareto(section, 360, 320)
    if not wide:
        return ""
    return (
        '<figure class="pareto"><figcaption>Quality and time. The line is the best there is within a time; '
        "systems behind it are dimmed.</figcaption>"
        f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>'
    )


def _matrix(section: Section, tested: Sequence[int]) -> str:
    if len(tested) < 3:  # one pair stands in the table
        return ""
    heads = "".join(
        f'<th scope="col" title="{shown(section.entries[j].name)}">{n}</th>' for n, j in enumerate(tested, 1)
    )
    lines = []
    for number, i in enumerate(tested, 1):
        cells = "".join(_cell(section, i, j) for j in tested)
        name = f'<th scope="row"><span>{number}</span> {shown(section.entries[i].name)}</th>'
        lines.append(f"<tr>{name}{cells}</tr>")
    return (
        f'<details class="matrix"><summary>All {len(section.pairs):,} pairwise tests</summary>'
        "<p>Line minus column, and the corrected p.</p>"
        f'<div class="scroll"><table><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _cell(section: Section, i: int, j: int) -> str:
    pair = section.pair(i, j)
    if pair is None:
        return '<td class="self">·</td>'
    kind = {"▲": "up", "▼": "down", "": "even"}[mark(pair)]
    return f'<td class="{kind}">{mark(pair)}{signed(pair.difference)}<small>{chance(pair)}</small></td>'


def _overview(over: Overview, number: int) -> str:
    tasks = [_title(section, over) for section in over.sections]
    heads = [Column("system", "System", [], [""])]
    heads += [Column("mean", "mean", [], [], True)] if over.measure else []
    heads += [Column(task, task, [], [], True) for task in tasks]
    cited, key = [line.quoted for line in over.lines], f"overview-{number}"
    lines = []
    for place, line in enumerate(over.lines):
        name = name_of(line.name, line.quoted, line.trained_on, cited, key, opens=False)
        cells = [f'<th scope="row" data-sort="{shown(line.name.casefold())}">{name}</th>']
        cells += [_figure(line.mean, bool(line.quoted), "mean", " head")] if over.measure else []
        cells += [_figure(value, bool(line.quoted), task) for value, task in zip(line.figures, tasks)]
        kind = ' class="quoted"' if line.quoted else ""
        lines.append(f'<tr data-place="{place}"{kind}>{"".join(cells)}</tr>')
    notes = " ".join(map(shown, remarks(over)))
    what = over.measure or "the headline of each task"
    return (
        f'<section class="overview" id="{key}">\n<h2>{shown(over.suite)}, all tasks</h2>\n'
        f'<p class="facts">{shown(what)} · {len(over.sections)} tasks</p>\n'
        f'<div class="scroll"><table class="systems"><thead><tr>'
        f"{''.join(head(column, column.key == 'mean') for column in heads)}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>\n{listed(cited, key)}"
        + (f'<p class="legend">{notes}</p>\n' if notes else "")
        + "</section>"
    )


def _title(section: Section, over: Overview) -> str:
    """The task, and its split where the suite has the task with several."""
    same = [other for other in over.sections if other.task == section.task]
    return section.task if len(same) == 1 else f"{section.task} {section.split}"


def _figure(value: float | None, quoted: bool, label: str, extra: str = "") -> str:
    if value is None:
        return f'<td class="number{extra}" data-label="{shown(label)}">{"" if quoted else NONE}</td>'
    text = fixed(value, 3 if quoted else 4) + PAD * quoted
    cell = text.replace(PAD, "&#8199;")
    return f'<td class="number{extra}" data-label="{shown(label)}" data-sort="{value!r}">{cell}</td>'
