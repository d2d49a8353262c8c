"""The engine's cost beside its stages: a table of the ways, and one sentence for what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval import Index
from retrieval.bench.cascade_overhead import main


def test_the_ways_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Index.create(tmp_path / "i") as index:
        index.add([f"sun w{at}" for at in range(9)])
        index.commit()
    (tmp_path / "q.tsv").write_text("1\tsun\n2\tw3\n")
    given = [str(tmp_path / "i"), "--queries", str(tmp_path / "q.tsv"), "--rounds", "1"]
    main([*given, "--pipeline", "bm25 >> bm25(b=0.9) % 3"])
    lines = capsys.readouterr().out.splitlines()
    assert "2 queries one at a time" in lines[0]
    assert [line.split("  ")[0] for line in lines[2:]] == ["by hand", "pipeline", "within a budget"]


def test_a_missing_index_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "absent"), "--queries", "q.tsv", "--pipeline", "bm25"])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "absent" in said
    assert said.count("\n") == 1
