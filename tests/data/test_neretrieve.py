"""NERetrieve's files: streamed from bz2, mentions rebuilt from words, what is wrong said with its line."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.data.neretrieve import (
    Label,
    cleaned,
    corpus_path,
    labels,
    labels_path,
    mentions,
    paragraphs,
)
from retrieval.errors import BadLine, UserError
from tests.bench import neretrieve_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return neretrieve_files.write(tmp_path / "ner")


def test_paragraphs_and_labels(folder: Path) -> None:
    found = list(paragraphs(corpus_path(folder)))
    assert len(found) == 60
    assert found[8].doc_id == "8"
    assert found[8].text.startswith("Amber Stone, it is said")
    assert found[8].metadata == {"doc_id": "Page-8", "page_id": 7, "para_index": 8}
    label = list(labels(labels_path(folder, "test")))[8]
    assert label.types == ["FilmDirector", "US_politician"]
    assert {kind for each in labels(labels_path(folder, "train")) for kind in each.types} == {"Lake"}


def test_mentions_stand_where_the_words_say(folder: Path) -> None:
    texts = {each.doc_id: each.text for each in paragraphs(corpus_path(folder))}
    found = [mentions(each, texts[each.doc_id]) for each in labels(labels_path(folder, "test"))]
    assert sum(outside for _, outside in found) == 0
    placed = [mention for some, _ in found for mention in some]
    assert len(placed) == 12 * 2 + 8 + 5
    assert all(mention.exact for mention in placed)
    texts_of = {texts["9"][mention.start : mention.end] for mention in found[9][0]}
    assert texts_of == {"Amber Stone,", "Basil Hill,"}  # with the comma that belongs to the word


def test_places_that_do_not_fit_are_counted() -> None:
    tagged = {"Lake": {"Corin": {"Lake Corin": [[0, 1], [4, 5], [9], [-1], ["a"], []], "the lake": None}}}
    found, outside = mentions(Label("1", ["Lake"], tagged), "Lake Corin is a big lake")
    assert outside == 3
    assert [(each.start, each.end, each.exact) for each in found] == [(0, 10, True), (16, 24, False)]


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=1, max_size=8), st.data())
def test_any_run_of_words_is_found_again(words: list[str], data: st.DataObject) -> None:
    content = " ".join(words)
    split = content.split(" ")
    first = data.draw(st.integers(0, len(split) - 1))
    last = data.draw(st.integers(first, len(split) - 1))
    surface = " ".join(split[first : last + 1])
    tagged = {"T": {"E": {surface: [list(range(first, last + 1))]}}}
    (found,), outside = mentions(Label("1", ["T"], tagged), content)
    assert (content[found.start : found.end], found.exact, outside) == (surface, True, 0)


def test_surfaces_are_compared_without_their_edges() -> None:
    assert cleaned("(The  Lake), ") == cleaned("the lake") == "the lake"


@pytest.mark.parametrize(
    ("what", "change", "message"),
    [
        ("corpus", {"id": None}, r"corpus.jsonl.bz2:2: no id"),
        ("corpus", {"content": 3}, r"corpus.jsonl.bz2:2: the text is a number"),
        ("test", {"tagged_entities": {"A": []}}, r"test.jsonl.bz2:2: tagged_entities is not"),
        ("test", {"tagged_entity_types": "A"}, r"test.jsonl.bz2:2: tagged_entity_types is 'A'"),
        ("test", {"id": "a b"}, r"test.jsonl.bz2:2: the id 'a b' holds white space"),
    ],
)
def test_a_wrong_record_is_named(folder: Path, what: str, change: dict[str, object], message: str) -> None:
    paragraph, label = zip(*(neretrieve_files.paragraph(at, []) for at in range(3)), strict=True)
    records = list(paragraph if what == "corpus" else label)
    records[1] = {**records[1], **change}
    path = neretrieve_files.lines(folder, what, records)
    with pytest.raises(BadLine, match=message):
        list(paragraphs(path) if what == "corpus" else labels(path))


def test_damaged_files_are_named(folder: Path) -> None:
    path = corpus_path(folder)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadLine, match="compressed data are damaged"):
        list(paragraphs(path))
    path.write_bytes(bz2.compress(b"{not json}\n"))
    with pytest.raises(BadLine, match=r"bz2:1: not JSON"):
        list(paragraphs(path))
    path.unlink()
    with pytest.raises(UserError, match=r"holds no NERetrive_IR_corpus\.jsonl"):
        corpus_path(folder)


def test_other_compressions_are_read(folder: Path) -> None:
    record = json.dumps(neretrieve_files.paragraph(0, [])[0]).encode()
    path = corpus_path(folder)
    before = next(iter(paragraphs(path)))._replace(text="nothing of note happened in year 0")
    path.unlink()
    for name, data in (("jsonl", record), ("jsonl.gz", gzip.compress(record))):
        (folder / f"NERetrive_IR_corpus.{name}").write_bytes(data)
        assert list(paragraphs(corpus_path(folder))) == [before]
        corpus_path(folder).unlink()
