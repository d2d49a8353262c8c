"""Far-relevant documents: where the passage stands, what stands around it, and what is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval.bench import far_plan, far_relevant
from retrieval.bench.learned_sets import read_collection
from retrieval.data.corpus import open_corpus
from retrieval.data.qrels import read_qrels
from retrieval.errors import UserError

WORDS = ["aba", "bé", "can't", "dx-1", "e", "Fu", "日本", "g.h"]
ALL = ("first", "middle", "last", "beyond-60")
LENGTH = 160

Make = Callable[..., list[Path]]


def count(text: str) -> int:
    """Words, counted another way: runs of letters, digits and underscores."""
    return len("".join(c if c.isalnum() or c == "_" else " " for c in text).split())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """200 passages, 11 relevant; q0 has three, q1 and q2 share one, q3's is in the corpus twice."""
    rng = np.random.default_rng(5)
    folder = tmp_path / "passages"
    (folder / "qrels").mkdir(parents=True)
    texts = [f"n{i} " + " ".join(rng.choice(WORDS, rng.integers(2, 30))) for i in range(200)]
    texts[150] = texts[20]  # not judged, and yet the same as a relevant one
    texts[151] = texts[152]
    records = [{"_id": f"p{i}", "title": "T" if i % 3 else "", "text": text} for i, text in enumerate(texts)]
    records[150]["title"] = records[20]["title"]
    records[151]["title"] = records[152]["title"]
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    relevant = {
        "q0": [3, 40, 77],
        "q1": [8],
        "q2": [8, 9],
        "q3": [20],
        **{f"q{i}": [10 * i + 1] for i in range(4, 9)},
    }
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": query, "text": f"what {query}"}) + "\n" for query in [*relevant, "q9"])
    )
    lines = [f"{query}\tp{at}\t{1 + at % 2}\n" for query, places in relevant.items() for at in places]
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(lines) + "q0\tp5\t0\nq9\tp6\t0\n"
    )
    (folder / "README.md").write_text("licence: free\n")
    return folder


@pytest.fixture
def make(source: Path, tmp_path: Path) -> Make:
    """far_relevant.make of the source, in documents of 160 words."""

    def made(depths: tuple[str, ...] = ALL, out: str = "far", **more: Any) -> list[Path]:
        settings = {"length": LENGTH, "documents": 20, "queries": None, **more}
        return far_relevant.make(str(source), str(tmp_path / out), depths, **settings)

    return made


def test_the_passage_stands_where_it_should(make: Make, source: Path) -> None:
    passages = {document.doc_id: document.full_text() for document in open_corpus(source)}
    seen = 0
    for folder, depth in zip(make(), ALL):
        for document in open_corpus(folder):
            about = document.metadata
            parts = [passages[name] for name in about["passages"]]
            assert document.text == "\n\n".join(parts)
            assert about["tokens"] == count(document.text) <= LENGTH
            if "relevant" not in about:
                continue
            seen += 1
            passage = passages[about["relevant"]]
            start, end = about["start"], about["end"]
            assert document.text[start:end] == passage
            at = about["passages"].index(about["relevant"])
            before, after = count(document.text[:start]), count(document.text[end:])
            assert about["before"] == before == sum(map(count, parts[:at]))
            if depth == "first":
                assert start == 0
            elif depth == "last":
                assert end == len(document.text)
            elif depth == "middle":
                sizes = [
                    count(part) for name, part in zip(about["passages"], parts) if name != about["relevant"]
                ]
                gaps = [abs(sum(sizes[:k]) - sum(sizes[k:])) for k in range(len(sizes) + 1)]
                assert abs(before - after) == min(gaps)
            else:
                assert before >= 60
                assert before - count(parts[at - 1]) < 60  # no deeper than it must
    assert seen == 11 * len(ALL)


def test_each_relevant_passage_is_in_one_document_and_no_distractor_is_relevant(
    make: Make, source: Path
) -> None:
    passages = {document.doc_id: document.full_text() for document in open_corpus(source)}
    relevant = {
        passage for grades in read_qrels(source).values() for passage, grade in grades.items() if grade > 0
    }
    texts = {passages[name] for name in relevant}
    for folder in make():
        documents = list(open_corpus(folder))
        placed = [d.metadata["relevant"] for d in documents if "relevant" in d.metadata]
        assert sorted(placed) == sorted(relevant)
        assert len({d.text for d in documents}) == len(documents) == 20
        assert {d.doc_id for d in documents} == set(far_relevant.doc_ids(20))
        for document in documents:
            names = document.metadata["passages"]
            others = [name for name in names if name != document.metadata.get("relevant")]
            assert others
            assert not texts & {passages[name] for name in others}
            assert len({passages[name] for name in names}) == len(names)
            assert "p152" not in names  # p151 says the same
            assert LENGTH - count(document.text) < 16  # as long as it was asked to be


def test_judgements_follow_the_passages(make: Make, source: Path) -> None:
    theirs = read_qrels(source)
    for folder in make():
        held = {d.doc_id: d.metadata.get("relevant") for d in open_corpus(folder)}
        ours = read_qrels(folder)
        assert "q9" not in ours  # it has no relevant passage
        for query, grades in ours.items():
            wanted = {passage: grade for passage, grade in theirs[query].items() if grade > 0}
            assert {held[name]: grade for name, grade in grades.items()} == wanted
        assert len(ours["q0"]) == 3
        assert set(ours["q1"]) < set(ours["q2"])
        found = read_collection(folder.parent, folder.name)
        assert [query.query_id for query in found.queries] == [f"q{i}" for i in range(9)]


def test_depths_differ_in_the_place_alone(make: Make) -> None:
    folders = make()
    first = list(open_corpus(folders[0]))
    for folder in folders[1:]:
        for name in ("queries.jsonl.gz", "qrels/test.tsv"):
            assert (folder / name).read_bytes() == (folders[0] / name).read_bytes()
        for ours, theirs in zip(open_corpus(folder), first, strict=True):
            assert ours.doc_id == theirs.doc_id
            relevant = theirs.metadata.get("relevant")
            assert ours.metadata.get("relevant") == relevant
            mine, others = (
                [name for name in document.metadata["passages"] if name != relevant]
                for document in (ours, theirs)
            )
            assert mine == others


def test_the_seed_decides_and_nothing_else(make: Make) -> None:
    def content(out: str, **more: Any) -> list[bytes]:
        return [
            file.read_bytes()
            for folder in make(("middle", "last"), out, **more)
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]

    once = content("a")
    assert once == content("b")
    assert once == content("a", overwrite=True)
    assert once != content("c", seed=1)
    drawn = content("d", queries=4)
    assert drawn == content("e", queries=4)


def test_a_pack_is_used_up_before_a_passage_comes_again() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, 50)
    cards = np.arange(5, 50)
    deck = far_plan.Deck(cards, tokens, rng)
    uses: Counter[int] = Counter()
    for _ in range(200):
        dealt = deck.deal(40)
        assert len(set(dealt)) == len(dealt)
        assert 40 - 8 < tokens[dealt].sum() <= 40
        uses.update(dealt)
        assert set(uses) <= set(cards.tolist())
        ordered = [uses[card] for card in cards.tolist()]
        assert max(ordered) - min(ordered) <= 2
    whole = far_plan.Deck(cards, tokens, rng).deal(10_000)
    assert sorted(whole) == cards.tolist()


def test_what_cannot_be_is_refused_before_anything_is_written(
    make: Make, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"depth beyond-150 is impossible.*--length.*leave the depth out"):
        make(("first", "beyond-150"))
    with pytest.raises(UserError, match=r"--length 20 leaves no room beside passage 'p\d+' of \d+ words"):
        make(length=20)
    with pytest.raises(UserError, match=r"have \d+ words in all, too few for --length 9999"):
        make(length=9999)
    with pytest.raises(UserError, match=r"11 relevant passages.*--documents 11 or more, or fewer --queries"):
        make(documents=10)
    for bad in ("Last", "beyond-0", "beyond-x", ""):
        with pytest.raises(UserError, match="unknown depth"):
            make((bad,))
    assert not (tmp_path / "far").exists()
    make(("first",))
    with pytest.raises(UserError, match=r"is there already; give --overwrite"):
        make(("last", "first"))
    assert not (tmp_path / "far" / "last").exists()
    with (source / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\tnowhere\t1\n")
    with pytest.raises(UserError, match=r"1 relevant passages are not in the corpus.*'nowhere'"):
        make(("last",))


def test_queries_with_longer_passages_are_left_out(make: Make, source: Path) -> None:
    sizes = {document.doc_id: count(document.full_text()) for document in open_corpus(source)}
    theirs = {
        query: max(sizes[name] for name, grade in grades.items() if grade > 0)
        for query, grades in read_qrels(source).items()
        if max(grades.values()) > 0
    }
    shortest = min(size for name, size in sizes.items() if name in read_qrels(source)["q0"])
    for limit in (max(theirs["q0"] - 1, shortest), sorted(theirs.values())[5]):
        (folder,) = make(("last",), f"to-{limit}", longest=limit)
        assert set(read_qrels(folder)) == {query for query, size in theirs.items() if size <= limit}
        assert json.loads((folder / far_relevant.SETTINGS).read_text())["longest"] == limit
    with pytest.raises(UserError, match=r"at most 1 words; raise --longest"):
        make(("first",), longest=1)


def test_word_pieces_are_counted_by_a_models_vocabulary(
    make: Make, source: Path, tiny_model: Callable[..., Path]
) -> None:
    from retrieval.index.vocabulary import Vocabulary

    directory = str(tiny_model("text"))
    vocabulary = Vocabulary.load(directory)
    (folder,) = make(("beyond-60",), vocabulary=directory, length=400)
    for document in open_corpus(folder):
        assert document.metadata["tokens"] == len(vocabulary.encode([document.text])[0]) <= 400
    settings = json.loads((folder / far_relevant.SETTINGS).read_text())
    assert settings["unit"] == f"word pieces of {vocabulary.sha256}"


def test_the_command_says_where_and_the_folder_says_what(source: Path, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "out")
    far_relevant.main([str(source), out, "--depth", "last", "--length", "160", "--queries", "5"])
    assert capsys.readouterr().out == f"{out}/last\n"
    text = (tmp_path / "out" / "last" / "README.md").read_text()
    assert "> licence: free" in text
    assert re.search(r"- seed: 0\n.*- queries: 5\n", text)
    assert str(tmp_path) not in text
    with pytest.raises(SystemExit) as stopped:
        far_relevant.main([str(source), out, "--depth", "lost"])
    assert stopped.value.code == 2
    assert "unknown depth 'lost'" in capsys.readouterr().err


def test_a_real_collection(collections: Path, tmp_path: Path) -> None:
    if not (collections / "squad-dev").is_dir():
        pytest.skip("no squad-dev among the collections")
    folders = far_relevant.make(
        str(collections / "squad-dev"), str(tmp_path), ("first", "beyond-512"), length=1500, queries=20
    )
    for folder in folders:
        for document in open_corpus(folder):
            about = document.metadata
            assert count(document.text) == about["tokens"] > 1400
            assert about["before"] >= (512 if folder.name == "beyond-512" else 0)
