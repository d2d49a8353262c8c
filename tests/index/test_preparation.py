"""Prepared examples: made once, the same after a kill, and what a batch reads from them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("safetensors")

from retrieval.errors import BadLine, Locked, UserError
from retrieval.index import preparation
from retrieval.index.examples import Lines, Prepared, Queries, Relevant, Tokens
from retrieval.index.preparation import SETTINGS, prepare
from retrieval.index.train_state import locked
from retrieval.index.trainer import TaskOptions

WORDS = ["red", "green", "blue", "apple", "pear", "plum", "house", "tree", "river", "stone", "bread", "cloud"]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    draw = np.random.default_rng(0)
    path = tmp_path / "corpus.jsonl"
    with open(path, "w") as file:
        for number in range(30):
            sentences = [" ".join(draw.choice(WORDS, 6)).capitalize() + "." for _ in range(4)]
            record = {"_id": f"d{number}", "title": f"Title {number}", "text": " ".join(sentences)}
            file.write(json.dumps(record) + "\n")
    return str(path)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_corpus_becomes_examples(tmp_path: Path, corpus: str) -> None:
    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,))
    chosen = {**SETTINGS, "words": 15, "negatives": 3, "depth": 8}
    found = prepare(options, chosen, negatives=True)
    assert len(found) > 60
    assert found.negatives.shape[1] == 3
    assert not found.has_teacher
    made = {number for number, record in enumerate(found.passages) if record.get("made")}
    texts = [json.loads(line)["text"] for line in Path(corpus).read_text().splitlines()]
    for at, query in enumerate(found.queries):
        positive = found.passages[int(found.positive[at])]
        own = found.negatives[at][found.negatives[at] >= 0]
        assert not made & set(own.tolist())
        assert not (found.origin[own] == positive["origin"]).any()
        document = f"Title {positive['origin']} {texts[positive['origin']]}"
        assert words_of(f"{query} {positive['text']}") <= words_of(document)
    assert "pairs.jsonl" in files(found.directory)
    assert not os.path.exists(os.path.join(found.directory, "bm25"))


def test_the_same_every_time_and_made_once(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = TaskOptions(out=str(tmp_path / "a"), corpus=(corpus,))
    first = files(prepare(options, SETTINGS, negatives=True).directory)
    again = prepare(replace(options, out=str(tmp_path / "b")), SETTINGS, negatives=True)
    assert files(again.directory) == first
    other = prepare(replace(options, out=str(tmp_path / "c"), seed=1), SETTINGS, negatives=True)
    assert files(other.directory)["pairs.jsonl"] != first["pairs.jsonl"]
    os.unlink(corpus)  # nothing is read a second time
    assert files(prepare(options, SETTINGS, negatives=True).directory) == first
    with pytest.raises(UserError, match=r"set of examples with other options \(words was 100, is 50\)"):
        prepare(options, {**SETTINGS, "words": 50}, negatives=True)


def test_a_killed_preparation_goes_on(
    tmp_path: Path, corpus: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_CHUNK", 16)
    monkeypatch.setattr(preparation, "_SEARCHED", 16)
    teacher = str(tiny_model("tilde"))
    options = TaskOptions(out=str(tmp_path / "a"), corpus=(corpus,), teacher=teacher)
    whole = files(prepare(options, SETTINGS, negatives=True).directory)
    calls = [0]
    limit = [0]

    def stop() -> None:
        calls[0] += 1
        if calls[0] > limit[0]:
            raise KeyboardInterrupt

    killed = replace(options, out=str(tmp_path / "b"), stop=stop)
    runs = 0
    while True:
        calls[0], limit[0] = 0, 1 + runs
        try:
            found = prepare(killed, SETTINGS, negatives=True)
            break
        except KeyboardInterrupt:
            runs += 1
            assert runs < 60
    assert runs > 5
    assert files(found.directory) == whole
    folder = Path(found.directory)  # a chunk of vectors that was half written
    (folder / "prepared.json").unlink()
    (folder / "passages.f16").write_bytes(whole["passages.f16"][: 20 * 32 + 5])
    again = prepare(replace(options, out=str(tmp_path / "b")), SETTINGS, negatives=True)
    assert files(again.directory) == whole


def test_documents_are_drawn_at_random(tmp_path: Path, corpus: str) -> None:
    def origins(**chosen: Any) -> set[int]:
        out = str(tmp_path / str(len(os.listdir(tmp_path))))
        options = TaskOptions(out=out, corpus=(corpus,))
        return set(prepare(options, {**SETTINGS, **chosen}, negatives=False).origin.tolist())

    some = origins(documents=12)
    assert 5 < len(some) < 20
    assert some < set(range(30))
    assert origins(documents=1000) == set(range(30))


def test_a_text_that_stands_in_many_documents_answers_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    same = "This licence is in every document here and there."
    lines = [json.dumps({"_id": str(i), "text": same}) for i in range(5)]
    lines.append(json.dumps({"_id": "x", "text": "Another text that is only here, once and never again."}))
    path.write_text("\n".join(lines))
    found = prepare(TaskOptions(out=str(tmp_path / "o"), corpus=(str(path),)), SETTINGS, negatives=False)
    assert sorted(set(found.origin.tolist())) == [0, 5]


def test_examples_of_files(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    records = [
        {"query": "red apple", "positive": "a red apple", "negatives": ["blue", "red"], "scores": [3, 2, 1]},
        {"query": "blue", "positive": "blue", "negatives": ["a red apple"]},
        {"query": "red apple", "positive": "an apple that is red"},
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    options = TaskOptions(out=str(tmp_path / "o"), data=(str(path),))
    found = prepare(options, {**SETTINGS, "negatives": 2}, negatives=True)
    texts = [record["text"] for record in found.passages]
    assert texts == ["a red apple", "blue", "red", "an apple that is red"]
    assert found.positive.tolist() == [0, 1, 3]
    assert found.negatives.tolist() == [[1, 2], [0, -1], [2, -1]]  # not 0: it answers the same query
    assert found.scores is not None
    np.testing.assert_array_equal(found.scores[0], [3, 2, 1])
    assert np.isnan(found.scores[1:]).all()
    assert found.has_teacher
    assert [one.tolist() for one in found.relevant(np.array([0, 1, 2]))] == [[0, 3], [1], [0, 3]]
    few = prepare(replace(options, out=str(tmp_path / "p")), {**SETTINGS, "examples": 1}, negatives=False)
    assert len(few) == 1


def test_the_teacher_scores_any_pair(tmp_path: Path, corpus: str, tiny_model: Callable[..., Path]) -> None:
    from retrieval.index.teacher import Teacher

    directory = str(tiny_model("tilde"))
    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,), teacher=directory)
    found = prepare(options, SETTINGS, negatives=False)
    examples, passages = np.array([3, 0]), np.array([5, 1, 2])
    teacher = Teacher(directory)
    expected = (
        teacher.encode([found.queries[i] for i in examples])
        @ teacher.encode([found.passages[int(i)]["text"] for i in passages]).T
    )
    scores = found.teacher(examples, passages)
    assert scores is not None
    np.testing.assert_allclose(scores, expected, atol=0.02)  # bf16 where there is, and float16


def test_nothing_and_bad_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to train on"):
        prepare(TaskOptions(out=str(tmp_path / "o")), SETTINGS, negatives=False)
    path = tmp_path / "bad.tsv"
    path.write_text("a\tb\nc\n")
    options = TaskOptions(out=str(tmp_path / "o"), data=(str(path),))
    with pytest.raises(BadLine, match=r"bad.tsv:2"):
        prepare(options, SETTINGS, negatives=False)
    path.write_text("a\tb\nc\td\n")
    assert len(prepare(options, SETTINGS, negatives=False)) == 2  # nothing was lost by the first try
    short = tmp_path / "short.jsonl"
    short.write_text('{"_id": "a", "text": "word"}\n')
    with pytest.raises(UserError, match="no example could be made"):
        prepare(TaskOptions(out=str(tmp_path / "p"), corpus=(str(short),)), SETTINGS, negatives=False)
    options = TaskOptions(out=str(tmp_path / "p"), data=(str(path),))
    for name, value in (("examples", -1), ("negatives", -3), ("depth", 0), ("mined", -1), ("documents", -5)):
        with pytest.raises(UserError, match=f"--set {name}={value}: give a number of"):
            prepare(options, {**SETTINGS, name: value}, negatives=True)
    assert len(prepare(options, SETTINGS, negatives=False)) == 2  # the empty corpus binds nobody


def test_two_do_not_prepare_in_one_place(tmp_path: Path, corpus: str) -> None:
    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,))
    with locked(options.out), pytest.raises(Locked, match="another process trains"):
        prepare(options, SETTINGS, negatives=False)
    assert len(prepare(options, SETTINGS, negatives=False))


def test_preparation_is_counted(tmp_path: Path, corpus: str) -> None:
    seen: dict[str, int] = {}

    @contextmanager
    def counting(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
        seen[label] = 0

        def count(done: int) -> None:
            seen[label] += done

        yield count

    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,), counting=counting)
    found = prepare(options, SETTINGS, negatives=True)
    assert seen["finding hard negatives"] == len(found)
    assert set(seen) == {
        "counting the words of corpus.jsonl",
        "making queries from corpus.jsonl",
        "indexing passages",
        "finding hard negatives",
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=20))
def test_relevant_are_all_positives_of_a_query(pairs: list[tuple[str, int]]) -> None:
    relevant = Relevant.of([query for query, _ in pairs], np.array([p for _, p in pairs], np.int32))
    for at, (query, _) in enumerate(pairs):
        assert relevant[at].tolist() == [p for other, p in pairs if other == query]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=60), st.integers(0, 10), st.integers(0, 3))
def test_held_out_documents_are_in_no_training_example(groups: list[int], wanted: int, seed: int) -> None:
    found = object.__new__(Prepared)
    found._vector = np.zeros(len(groups) * 20, np.int64)
    found.queries = Queries(None, found._vector)  # type: ignore[arg-type]
    found.positive = np.tile(np.arange(len(groups)), 20).astype(np.int32)
    found.origin = np.array(groups, np.int32)
    training, out = found.split(wanted, seed)
    assert sorted([*training.tolist(), *out.tolist()]) == list(range(len(groups) * 20))
    origin = found.origin[found.positive]
    assert not set(origin[training].tolist()) & set(origin[out].tolist())
    assert (len(out) > 0) == (wanted > 0)


def test_tokens_are_streamed_and_come_back(tmp_path: Path) -> None:
    rows = [np.array([1, 2], np.int32), np.array([], np.int32), np.array([70000], np.int32)]
    stem = str(tmp_path / "t")
    assert Tokens.open(stem) is None
    for tokens in (Tokens.write(stem, iter([rows[:2], [], rows[2:]])), Tokens.open(stem)):
        assert tokens is not None
        assert [tokens[i].tolist() for i in range(len(tokens))] == [row.tolist() for row in rows]
    assert len(Tokens.write(str(tmp_path / "e"), iter([]))) == 0
    Path(f"{stem}.ids").write_bytes(b"1234")
    with pytest.raises(UserError, match="not as long as"):
        Tokens.open(stem)


def test_lines_are_read_by_number(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    records = [{"a": i, "b": "é" * i} for i in range(20)]
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=i % 2 == 0) + "\n" for i, record in enumerate(records))
    )
    lines = Lines(str(path))
    assert [lines[i] for i in range(len(lines))] == records == list(lines)
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(UserError, match=r"l\.jsonl' is damaged .*prepare anew"):
        list(Lines(str(path)))
    with pytest.raises(UserError, match="is damaged"):
        Lines(str(path))[1]


def test_vectors_that_are_cut_short(tmp_path: Path, corpus: str, tiny_model: Callable[..., Path]) -> None:
    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,), teacher=str(tiny_model("tilde")))
    folder = Path(prepare(options, SETTINGS, negatives=False).directory)
    with open(folder / "passages.f16", "r+b") as file:
        file.truncate(7)
    with pytest.raises(UserError, match=r"passages\.f16' is damaged"):
        prepare(options, SETTINGS, negatives=False)


def test_queries_are_mined_where_the_teacher_finds_them_close(
    tmp_path: Path, corpus: str, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.index.mining._ROWS", 7)
    teacher = str(tiny_model("tilde"))
    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,), teacher=teacher)
    plain = prepare(options, SETTINGS, negatives=True)
    options = replace(options, out=str(tmp_path / "p"))
    found = prepare(options, {**SETTINGS, "mined": 3, "mined_least": 0.4}, negatives=True)
    count = len(plain)
    assert found.queries[:count] == list(plain.queries)
    assert len(found) > count
    queries, passages = found.vectors()
    scores = passages.astype(np.float32) @ queries.astype(np.float32).T
    source = found.origin[found.positive[:count]]
    expected = []
    for number, record in enumerate(found.passages):
        if not record.get("made"):
            allowed = [q for q in range(count) if source[q] != record["origin"] and scores[number, q] >= 0.4]
            best = sorted(allowed, key=lambda q: (-scores[number, q], q))[:3]
            expected += [(found.queries[q], number) for q in best]
    mined = list(zip(found.queries[count:], found.positive[count:].tolist()))
    assert sorted(mined) == sorted(expected)
    assert (found.negatives[count:] == -1).all()
    at = np.arange(count, len(found))
    cosines = found.teacher(at, found.positive[at].astype(np.int64))
    assert cosines is not None
    assert cosines.diagonal().min() >= 0.39
    with pytest.raises(UserError, match="mined queries are what a teacher finds"):
        prepare(replace(options, teacher=None), {**SETTINGS, "mined": 3}, negatives=True)


def test_pairs_beside_a_corpus_keep_their_document(tmp_path: Path, corpus: str) -> None:
    with open(corpus) as file:
        document = json.loads([*file][7])
    pairs = tmp_path / "pairs.jsonl"
    positive = {"title": document["title"], "text": document["text"]}
    lines = [{"query": "asked", "positive": positive}, {"query": "other", "positive": "new"}]
    pairs.write_text("\n".join(map(json.dumps, lines)))
    options = TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,), data=(str(pairs),))
    found = prepare(options, SETTINGS, negatives=False)
    asked, other = found.queries.index("asked"), found.queries.index("other")
    assert found.origin[found.positive[asked]] == 7
    assert found.origin[found.positive[other]] >= 30
    assert (found.origin == 7).sum() >= 2  # those made from the document are still there
