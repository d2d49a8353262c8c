"""The page as text: self-contained, escaped, and the same with scripts off."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from retrieval.bench.leaderboard_board import board
from retrieval.bench.leaderboard_page import page
from retrieval.bench.leaderboard_plot import pareto

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    '" onmouseover="alert(1)',
    "'><svg onload=alert(1)>",
    "$title ${title} {name} %s",
    "a\u202egnirts\u0000\x1b[31m\ud800",
]
VOID = {"meta", "input", "br", "link", "img"}


class Reader(HTMLParser):
    """Elements with their attributes, checked to be closed in order; text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))


def hostile_rows(make_row: Callable[..., Any]) -> list[Any]:
    rows = []
    for number, text in enumerate(HOSTILE):
        row = make_row(text, [0.1 * number, 0.5, 0.9], p50=1.0 + number)
        row["query_ids"] = HOSTILE[:3]
        row["system"] |= {"trained_on": text, "pipeline": text}
        row |= {"note": text, "command": text, "suite": HOSTILE[0], "task": HOSTILE[2], "split": HOSTILE[3]}
        row["hardware"] = {"processor": text}
        row["models"] = {text: {text: text}}
        row["measures"][text] = row["measures"]["RR@10"]
        rows.append(row)
    cited = {"quoted": HOSTILE[0], "system": {"name": HOSTILE[1]}, "measures": {"nDCG@10": {"mean": 0.5}}}
    rows.append({**cited, **{key: rows[0][key] for key in ("suite", "task", "split")}})
    return rows


def test_hostile_text_stays_text(make_row: Callable[..., Any]) -> None:
    text = page(board(hostile_rows(make_row), title=HOSTILE[0]))
    read = Reader(text)
    assert {tag for tag, _ in read.elements} & {"img", "iframe", "object", "link", "base", "form"} == set()
    assert sum(tag == "script" for tag, _ in read.elements) == 2
    for _, attributes in read.elements:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\ud800-\udfff]", text)
    assert HOSTILE[0] in [data for tag, data in read.text if tag == "h1"]
    (data,) = [data for tag, data in read.text if tag == "script" and data.startswith("[")]
    assert "<" not in data
    assert {system["name"] for system in json.loads(data)[0]["systems"]} >= set(HOSTILE[:5])


def test_policy_allows_this_script_and_style_alone(rows: list[Any]) -> None:
    text = page(board(rows))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)  # the name of SVG, which nobody fetches


def test_everything_stands_there_without_a_script(rows: list[Any]) -> None:
    cited: Any = {
        "quoted": "a paper, Table 7", "system": {"name": "Literature"}, "suite": "made", "task": "one",
        "split": "test", "measures": {"nDCG@10": {"mean": 0.99}},
    }  # fmt: skip
    read = Reader(page(board([*rows, cited])))
    words = " ".join(data for tag, data in read.text if tag not in ("script", "style"))
    for wanted in (
        "good", "12 / 3", "tokens dropped", "trained on: none", "a processor, 2 cores, 1 thread", "quoted",
        "a paper, Table 7", "All 6 pairwise tests", "index, MB", "p50, ms", "95 % interval", "not tested",
        "retrieve verify", "randomisation",
    ):  # fmt: skip
        assert wanted in words, wanted
    heads = [attributes for tag, attributes in read.elements if tag == "th" and "aria-sort" in attributes]
    assert [head["data-key"] for head in heads if head["aria-sort"] == "descending"] == ["nDCG@10"]
    marks = [data for tag, data in read.text if tag == "i" and data in "▲▼"]
    assert sorted(marks) == ["▲", "▼"]


def test_plot_labels_every_system_and_dims_those_behind(rows: list[Any]) -> None:
    (section,) = board(rows).sections
    front = {section.entries[place].name for place in section.front}
    assert "good" in front
    assert "slow" not in front
    for width in (760, 360):
        read = Reader(pareto(section, width, 320))
        kinds = [attributes["class"] for tag, attributes in read.elements if tag == "g"]
        names = [section.entries[place].name for place in range(4)]
        assert {name for name, kind in zip(names, kinds, strict=True) if kind == "front"} == front
        labels = [data for tag, data in read.text if tag == "text"]
        assert {"BM25", "even", "good", "slow"} <= set(labels)
        for tag, attributes in read.elements:
            if tag == "circle":
                assert 0 <= float(attributes["cx"] or "") <= width
    rows[1]["times_ms"] = rows[2]["times_ms"] = rows[3]["times_ms"] = None
    assert pareto(board(rows).sections[0], 760, 380) == ""


STRANGE: list[dict[str, Any]] = [
    {"index": "x", "times_ms": [], "tokens_dropped": 7, "hardware": "y", "models": 3, "stages": [1]},
    {"index": {"representations": {"a": 5}}, "times_ms": {"p50": "fast", "p99": -1}, "versions": 0},
    {"tokens_dropped": {"documents": -1, "searching": "many"}, "energy_joules": "x"},
    {
        "data": "z",
        "stages": 5,
        "buckets": {"by": [1]},
        "secondary": {"x": {"nDCG@10": {"mean": 1, "values": [1, 1]}}},
    },
]


def test_parts_of_the_measure_are_told(make_row: Callable[..., Any]) -> None:
    twins = {"duplicate-aware": {"nDCG@10": {"mean": 0.25, "values": [0.2, 0.3]}}}
    lengths = {"length": {"<2k": {"queries": 1, "nDCG@10": 0.1}, "2-8k": {"queries": 1, "nDCG@10": 0.2}}}
    text = page(board([make_row("BM25", [0.1, 0.2], secondary=twins, buckets=lengths)]))
    assert '["nDCG@10, duplicate-aware","0.2500"]' in text
    assert "0.1000 (1), 2-8k: 0.2000 (1)" in text


@pytest.mark.parametrize("fields", STRANGE)
def test_strange_fields_are_not_told(make_row: Callable[..., Any], fields: dict[str, Any]) -> None:
    Reader(page(board([make_row("odd", [0.1, 0.2], **fields), make_row("plain", [0.3, 0.2])])))
