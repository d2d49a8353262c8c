"""SMITH's speed and memory next to full attention."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("sentencex")

from retrieval.bench import smith_speed
from retrieval.errors import UserError
from retrieval.index import packed


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(smith_speed.SHAPES, "tiny", (1, 1, 16, 2, 32))
    asked: list[list[str]] = []

    class Done:
        stdout = "12.5\n"

    def run(command: list[str], **options: object) -> Done:
        asked.append(command)
        return Done()

    monkeypatch.setattr(subprocess, "run", run)
    file = tmp_path / "rows.json"
    smith_speed.main(
        ["--shapes", "tiny", "--blocks", "16", "--lengths", "40,90", "--rounds", "1", "--json", str(file)]
    )
    rows = [smith_speed.Row(**row) for row in json.loads(file.read_text())]
    assert [(row.shape, row.block, row.length) for row in rows] == [("tiny", 16, 40), ("tiny", 16, 90)]
    assert all(row.ratio == row.full / row.smith > 0 and row.smith_mib == 12.5 for row in rows)
    assert capsys.readouterr().out == smith_speed.table(rows)
    assert [command[command.index("--memory") + 1] for command in asked] == ["smith", "full"] * 2
    smith_speed.main(["--shapes", "tiny", "--blocks", "16", "--lengths", "90", *asked[-1][3:5]])
    assert float(capsys.readouterr().out) >= 0
    with pytest.raises(UserError, match="unknown shape 'huge'"):
        smith_speed.main(["--shapes", "huge"])


def test_both_read_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smith_speed.SHAPES, "tiny", (1, 1, 16, 2, 32))
    read: list[int] = []
    plain = packed.pack

    def counted(sequences: list[Any], **options: Any) -> packed.Packed:
        read.append(sum(map(len, sequences)))
        return plain(sequences, **options)

    for module in ("retrieval.bench.smith_speed", "retrieval.longdoc.smith"):
        monkeypatch.setattr(f"{module}.pack", counted)
    made = smith_speed.passes("tiny", 16, 100)
    assert made["full"]().shape == made["smith"]().shape == (1, 16)
    assert read == [100, 100 + 2 * 8]
