"""The verb export, and CIFF and JSON vectors on their way in: outputs, exit codes, nothing lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]
Write = Callable[[Path, list[Any]], Path]

VECTORS = {"d1": {"sun": 9, "wind": 30}, "d2": {"wind": 20, "##s": 3}, "d3": {"sun": 8}, "d4": {"star": 2}}


@pytest.fixture
def vectors(tmp_path: Path, write: Write) -> Path:
    records = [{"id": name, "contents": "", "vector": vector} for name, vector in VECTORS.items()]
    folder = tmp_path / "unicoil"
    folder.mkdir()
    write(folder / "docs00.json", records[:2])
    write(folder / "docs01.json", records[2:])
    return folder


def found(call: Call, index: Path, query: str, *more: str) -> list[tuple[str, float]]:
    results = call("search", index, query, "--json", *more).json["results"]
    return [(hit["id"], hit["score"]) for hit in results]


@pytest.mark.parametrize("file", ["x.ciff", "x.ciff.gz"])
def test_ciff_from_end_to_end(call: Call, corpus: Path, vectors: Path, tmp_path: Path, file: str) -> None:
    index, out, back = tmp_path / "i", tmp_path / file, tmp_path / "back"
    assert (
        call(
            "index", corpus, "--out", index, "--sparse", f"unicoil=impacts:{vectors}", "--sparse", "bm25"
        ).code
        == 0
    )
    done = call("export", index, "--representation", "unicoil", "--to", out)
    assert done.json == {"exported": 4, "postings": 6, "to": str(out)}
    assert call("index", out, "--out", back).json == {"committed": 4, "generation": 1}  # a corpus of its own
    wanted = found(call, index, "wind sun sun", "--pipeline", "unicoil")
    assert wanted == [("d1", 48.0), ("d2", 20.0), ("d3", 16.0)]
    assert found(call, back, "wind sun sun") == wanted
    assert call("export", back, "--to", tmp_path / "again.ciff").code == 0
    assert call("check", back).code == 0
    # frequencies
    assert call("export", index, "--representation", "bm25", "--to", tmp_path / "bm25.ciff").code == 0
    spec = f"bm25:{tmp_path / 'bm25.ciff'}"
    assert call("index", tmp_path / "bm25.ciff", "--out", tmp_path / "lists", "--sparse", spec).code == 0
    assert found(call, tmp_path / "lists", "stars and wind") == found(
        call, index, "stars and wind", "--pipeline", "bm25"
    )


@pytest.mark.parametrize("out", ["x.jsonl", "x.jsonl.gz", "folder"])
def test_json_from_end_to_end(call: Call, corpus: Path, vectors: Path, tmp_path: Path, out: str) -> None:
    index, back = tmp_path / "i", tmp_path / "back"
    assert call("index", corpus, "--out", index, "--sparse", f"unicoil=impacts:{vectors}").code == 0
    assert call("export", index, "--to", tmp_path / out).json["exported"] == 4
    assert call("index", corpus, "--out", back, "--sparse", f"v=impacts:{tmp_path / out}").code == 0
    assert found(call, back, "wind ##s sun") == found(call, index, "wind ##s sun")
    if out == "x.jsonl":
        first = json.loads((tmp_path / out).read_text().splitlines()[0])
        text = "Solar wind The wind that the sun blows into space."
        assert first == {"id": "d1", "contents": text, "vector": VECTORS["d1"]}


def test_what_export_refuses(call: Call, index: Path, tmp_path: Path) -> None:
    call("export", index).failed(2, "--to PATH is missing")
    call("export", index, "--to", tmp_path / "x.txt").failed(2, "cannot tell what form")
    call("export", index, "--to", tmp_path / "x.ciff", "--representation", "bm52").failed(
        2, "did you mean 'bm25'?"
    )
    call("export", index, "--to", tmp_path / "none" / "x.ciff").failed(2, "cannot write")
    call("export", tmp_path / "nothing", "--to", tmp_path / "x.ciff").failed(2, "no index at")
    assert call("add", index, "--sparse", "second=bm25").code == 0
    call("export", index, "--to", tmp_path / "x.ciff").failed(2, "say which: --representation bm25")
    assert not (tmp_path / "x.ciff").exists()


def test_bad_files_lose_nothing(call: Call, index: Path, corpus: Path, tmp_path: Path, write: Write) -> None:
    before = call("check", index, "--json").out
    good = tmp_path / "good.ciff"
    assert call("export", index, "--to", good).code == 0
    data = good.read_bytes()
    bad = tmp_path / "bad.ciff"
    for content, message in [
        (data[:-3], "document 4 of 4: the file ends"),
        (data[: len(data) // 2], "too early"),
        (b"%PDF-1.7 of the wrong magic", "the header"),
        (b"", "the header"),
        (data + b"x", "there should be nothing"),
    ]:
        bad.write_bytes(content)
        for arguments in (
            [bad, "--out", index, "--overwrite"],
            [corpus, "--out", index, "--overwrite", "--sparse", f"u=impacts:{bad}"],
            [corpus, "--out", tmp_path / "new", "--sparse", f"u=impacts:{bad}"],
        ):
            call("index", *arguments).failed(2, message)
            assert call("check", index, "--json").out == before
    assert not (tmp_path / "new").exists()
    wrong = write(
        tmp_path / "v.jsonl", [{"id": "d1", "vector": {"x": 1}}, '{"id": "d2", "vector": {"x": NaN}}\n']
    )
    call("index", corpus, "--out", index, "--overwrite", "--sparse", f"impacts:{wrong}").failed(
        2, "v.jsonl:2: not JSON"
    )
    few = write(tmp_path / "few.jsonl", [{"id": "d1", "vector": {"x": 1}}])
    call("index", corpus, "--out", index, "--overwrite", "--sparse", f"impacts:{few}").failed(
        2, "document 'd2' has no vector in"
    )
    assert call("check", index, "--json").out == before


def test_a_corpus_without_text(call: Call, index: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.ciff"
    assert call("export", index, "--to", path).code == 0
    call("index", path, "--out", tmp_path / "new", "--sparse", "bm25").failed(2, f"--sparse bm25:{path}")
    call("index", path, "--out", index, "--append").failed(2, "holds no text")
    call("index", tmp_path / "none.ciff", "--out", tmp_path / "new").failed(2, "no such file")
    assert not (tmp_path / "new").exists()
    assert (
        call("index", path, "--out", tmp_path / "new", "--append").code == 0
    )  # there is none yet: as without
    call("add", tmp_path / "new", "--sparse", "bm25").failed(2, "built without text")


def test_vectors_that_stand_beside_the_text(call: Call, tmp_path: Path, write: Write) -> None:
    """As uniCOIL's collections are published: one folder is the corpus and its vectors."""
    folder = tmp_path / "unicoil"
    folder.mkdir()
    for number, (name, vector) in enumerate(VECTORS.items()):
        write(
            folder / f"docs{number:02}.json", [{"id": name, "contents": f"text of {name}", "vector": vector}]
        )
    index = tmp_path / "i"
    done = call("index", folder, "--out", index, "--sparse", f"unicoil=impacts:{folder}", "--sparse", "bm25")
    assert done.json == {"committed": 4, "generation": 1}
    results = call("search", index, "wind", "--pipeline", "unicoil", "--json").json["results"]
    assert [(hit["id"], hit["score"], hit["text"]) for hit in results] == [
        ("d1", 30.0, "text of d1"),
        ("d2", 20.0, "text of d2"),
    ]
    from retrieval import Index

    assert Index.open(index).document("d1").metadata == {}  # the vector is not stored twice
    write(folder / "docs02.json", [{"id": "d1", "contents": "again", "vector": {}}])
    call("index", folder, "--out", index, "--overwrite").failed(
        2, "docs02.json:1: the id 'd1' is known already"
    )
