"""Long documents on the command line: the best block shown, documents like one, nothing cut in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.index.hashing_encoder import install, model, remove

Call = Callable[..., Any]
Write = Callable[[Path, list[Any]], Path]
FILLER = "Nothing of any interest is said in this sentence. "
DOCUMENTS = [
    {"_id": "late", "title": "Long", "text": FILLER * 30 + "The comet returns in winter. " + FILLER},
    {"_id": "early", "title": "Comets", "text": "A comet has a tail. " + FILLER * 4},
    {"_id": "none", "title": "", "text": FILLER * 3},
]


@pytest.fixture(autouse=True)
def hashing() -> Iterator[None]:
    install()
    yield
    remove()


@pytest.fixture
def long(call: Call, tmp_path: Path, write: Write) -> Path:
    """An index with a representation of blocks."""
    corpus = write(tmp_path / "long.jsonl", DOCUMENTS)
    specs = ["--sparse", "bm25", "--sparse", "parts=bm25(blocks=sentences, tokens=10)"]
    done = call("index", corpus, "--out", tmp_path / "long", *specs)
    assert done.code == 0, done
    return tmp_path / "long"


def test_the_best_block_is_shown(call: Call, long: Path) -> None:
    found = call("search", long, "comet", "--pipeline", "parts", "--json").json["results"]
    late = next(hit for hit in found if hit["id"] == "late")
    start = len(FILLER) * 30
    assert late["block"]["text"] == "The comet returns in winter."
    assert (late["block"]["start"], late["block"]["end"]) == (start, start + 28)
    shown = call("search", long, "comet", "--pipeline", "bm25 % 10 >> parts").out
    assert f"[{start:,}-{start + 28:,}] The comet returns in winter." in shown
    assert "block" not in call("search", long, "comet", "--pipeline", "bm25", "--json").json["results"][0]


def test_explain_names_the_block(call: Call, long: Path) -> None:
    facts = call("explain", long, "comet", "--doc", "late", "--pipeline", "parts", "--json").json
    assert facts["stages"][0]["block"]["start"] == len(FILLER) * 30
    shown = call("explain", long, "comet", "--doc", "late", "--pipeline", "parts").out
    assert f"best block: number 30, characters {len(FILLER) * 30:,} to {len(FILLER) * 30 + 28:,}" in shown


def test_check_describes_blocks(call: Call, long: Path) -> None:
    assert "representation parts: bm25, analyzer english; blocks sentences" in call("check", long).out


def test_documents_like_one(call: Call, long: Path, tmp_path: Path) -> None:
    found = call("search", long, "--like", "early", "--pipeline", "parts", "--json").json
    assert found["like"] == "early"
    assert [(hit["id"], hit["rank"]) for hit in found["results"]] == [("late", 1), ("none", 2)]
    (tmp_path / "file.txt").write_text("comets and their tails\nin winter\n", encoding="utf-8")
    like = call("search", long, "--like", tmp_path / "file.txt", "--pipeline", "bm25", "-k", 1, "--json").json
    assert [hit["id"] for hit in like["results"]] == ["early"]
    call("search", long, "--like", "nobody", "--pipeline", "bm25").failed(
        2, "neither a document of the index"
    )
    call("search", long, "comet", "--like", "early").failed(2, "give one QUERY, or --like ID")


def test_dense_encoders_read_a_document_as_one(call: Call, tmp_path: Path, write: Write) -> None:
    corpus, spec = write(tmp_path / "c.jsonl", DOCUMENTS), model(tmp_path)
    assert call("index", corpus, "--out", tmp_path / "i", "--dense", f"vec={spec}").code == 0
    log = Path(spec.partition(":")[2])
    log.write_text("")
    found = call("search", tmp_path / "i", "--like", "none", "--json").json["results"]
    assert {hit["id"] for hit in found} == {"early", "late"}
    assert log.read_text().startswith("passage ")
    assert call("search", tmp_path / "i", "comet").code == 0
    assert log.read_text().splitlines()[-1] == "query comet"


def test_lost_tokens_are_told_and_can_be_refused(call: Call, tmp_path: Path, write: Write) -> None:
    corpus, spec = write(tmp_path / "c.jsonl", DOCUMENTS), model(tmp_path)
    build = ("index", corpus, "--out", tmp_path / "i", "--dense", f"vec={spec}(length=20)")
    call(*build, "--strict-length").failed(2, "document 'late' has")
    assert "3 of 3 documents are longer" in call(*build).err
    few = ("search", tmp_path / "i", "comet " * 30)
    done = call(*few, "--json").json
    assert done["tokens_dropped"] == {"vec": 10}
    assert "did not read 10 tokens" in call(*few).err
    call(*few, "--strict-length").failed(2, "did not read 10 tokens")
    assert call("search", tmp_path / "i", "comet", "--strict-length").code == 0
    queries = write(tmp_path / "q.jsonl", [{"_id": "1", "text": "comet " * 30}])
    out = ("search", tmp_path / "i", "--queries", queries, "--run", tmp_path / "r.trec")
    assert "did not read 10 tokens" in call(*out).err
    call(*out, "--strict-length").failed(2, "did not read 10 tokens")


def test_strict_length_stays_with_the_index(call: Call, tmp_path: Path, write: Write) -> None:
    short = write(tmp_path / "short.jsonl", [{"_id": "a", "text": "comet"}])
    spec = f"vec={model(tmp_path)}(length=20)"
    build = ("index", short, "--out", tmp_path / "i", "--dense", spec, "--strict-length")
    assert call(*build).json["committed"] == 1
    more = write(tmp_path / "more.jsonl", DOCUMENTS)
    call("index", more, "--out", tmp_path / "i", "--append").failed(2, "document 'late' has")
    assert call("check", tmp_path / "i", "--json").json["docs"] == 1
    blocks = f"{spec[:-1]}, blocks=windows, tokens=15, title=false)"
    assert call("index", more, "--out", tmp_path / "b", "--dense", blocks, "--strict-length").code == 0
    cut = f"{spec[:-1]}, blocks=windows, tokens=15, max_blocks=1)"
    call("index", more, "--out", tmp_path / "b2", "--dense", cut, "--strict-length").failed(2, "'late' has")
