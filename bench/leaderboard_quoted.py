"""Rows of the literature that come with the package (quoted.jsonl), each with its source."""

from __future__ import annotations

import json
from importlib import resources
from typing import cast

from retrieval.bench.row import Row


def quoted_rows() -> list[Row]:
    """All of them: MS MARCO passages and documents (dev, DL19, DL20), LoCoV0 and LoCoV1."""
    text = resources.files("retrieval.bench").joinpath("quoted.jsonl").read_text(encoding="utf-8")
    return [cast(Row, json.loads(line)) for line in text.splitlines()]
