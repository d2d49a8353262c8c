"""The packaged sample: what it holds, that it can be rebuilt, and that it is the collection it stands for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from retrieval.data import open_corpus, read_qrels, read_queries, sample_path
from retrieval.data.wordnet import WORDNET, build, read_nouns
from retrieval.errors import UserError

FILES = ["LICENSE", "README.md", "corpus.jsonl.gz", "qrels/test.tsv", "queries.jsonl.gz"]


def records(path: Path) -> list[Any]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_what_the_sample_holds() -> None:
    sample = sample_path()
    assert sorted(str(each.relative_to(sample)) for each in sample.rglob("*") if each.is_file()) == FILES
    ids = {document.doc_id for document in open_corpus(sample)}
    queries, qrels = read_queries(sample), read_qrels(sample)
    assert (len(ids), len(queries), sum(map(len, qrels.values()))) == (7730, 320, 23263)
    assert ids.issuperset(set().union(*qrels.values()))
    notice = " ".join((sample / "LICENSE").read_text().split())
    assert "Copyright 1996-2012 Cognitive Science Laboratory, Princeton University" in notice
    assert "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved." in notice
    assert "that the same appear on ALL copies of the software, database and documentation" in notice


def test_the_sample_can_be_rebuilt(tmp_path: Path) -> None:
    if not Path(WORDNET, "data.noun").is_file():
        pytest.skip("needs Debian's wordnet-base")
    assert build(tmp_path / "a") == {"docs": 7730, "queries": 320, "qrels": 23263}
    build(tmp_path / "b")
    for name in FILES:
        built = (tmp_path / "a" / name).read_bytes()
        assert built == (tmp_path / "b" / name).read_bytes()
        shipped = (sample_path() / name).read_bytes()
        # Another zlib may pack differently; what is packed is the same.
        assert (
            (gzip.decompress(built) == gzip.decompress(shipped)) if name.endswith("gz") else built == shipped
        )


def test_the_sample_is_wordnet_entities(collections: Path) -> None:
    sample, other = sample_path(), collections / "wordnet-entities"
    for name in ("corpus.jsonl.gz", "queries.jsonl.gz"):
        assert records(sample / name) == records(other / name)
    assert (sample / "qrels/test.tsv").read_bytes() == (other / "qrels/test.tsv").read_bytes()


def test_a_small_dictionary(tmp_path: Path) -> None:
    rows = [
        "00000001 15 n 01 city 0 000 | a large town",
        "00000002 15 n 01 town 0 001 @ 00000001 n 0000 | a small city",
    ]
    rows += [
        f'{n:08} 15 n 02 Ur_{n} 0 U 1 001 @i 0000000{1 + n % 2} n 0000 | no {n}; "it is"  '
        for n in range(10, 30)
    ]
    (tmp_path / "data.noun").write_text("  1 A notice.  \n" + "\n".join(rows) + "\n")
    assert build(tmp_path / "out", tmp_path) == {"docs": 20, "queries": 2, "qrels": 30}
    qrels = read_qrels(tmp_path / "out")
    assert {name: len(found) for name, found in qrels.items()} == {"n00000001": 20, "n00000002": 10}
    document = next(iter(open_corpus(tmp_path / "out")))
    assert document == ("n00000010", 'no 10; "it is"', "Ur 10, U", {"lexfile": 15, "instance": True})


def test_what_is_no_dictionary(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data\.noun in .*; install Debian's wordnet-base"):
        read_nouns(tmp_path)
    (tmp_path / "data.noun").write_text("00000001 15 n zz city\n")
    with pytest.raises(UserError, match=r"data\.noun:1: not a line of WordNet's data\.noun"):
        read_nouns(tmp_path)
