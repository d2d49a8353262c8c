"""TSort: records made of a corpus, prompts taken apart, the best of 24 orders, scorers, position bias."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.bench import ada_leval, tsort, tsort_make
from retrieval.bench.ada_leval import Shuffled, read_shuffled
from retrieval.bench.tsort import PAIRS, best_order, measure, open_scorer, report, segments
from retrieval.data.jsonl import write_corpus
from retrieval.errors import CompositionError, UserError
from retrieval.types import Document

SENTENCES = [f"Sentence {at} says that the story goes on, for number {at} is told here." for at in range(60)]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    pytest.importorskip("sentencex")
    path = tmp_path / "corpus.jsonl"
    text = "\n\n".join(" ".join(SENTENCES[at : at + 5]) for at in range(0, 60, 5))
    write_corpus([Document("tale", text), Document("short", "Too short.")], path)
    return str(path)


def test_records_are_segments_of_a_document(corpus: str, tmp_path: Path) -> None:
    out = tmp_path / "textsort_2k.json"
    count = tsort_make.make(corpus, str(out), budget=200)
    records, _ = read_shuffled(out)
    assert len(records) == count > 1
    whole = " ".join(SENTENCES)
    for record in records:
        found = segments(record)
        parts = [found.parts[number - 1] for number in record.order]
        joined = " ".join([found.before, *parts, found.after])
        assert joined in whole  # in order, nothing is missing and nothing doubled
        assert all(part.startswith("Sentence") and part.endswith("here.") for part in parts)
        assert all(len(part.split()) <= 0.175 * 200 for part in parts)
    firsts = [whole.index(segments(record).parts[record.order[0] - 1]) for record in records]
    assert firsts == sorted(set(firsts))
    again = tmp_path / "again.json"
    tsort_make.make(corpus, str(again), budget=200)
    assert again.read_bytes() == out.read_bytes()
    tsort_make.make(corpus, str(again), budget=200, most=1, seed=1)
    assert len(read_shuffled(again)[0]) == 1


def test_budgets_that_fit_nothing_are_refused(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give fewer --tokens"):
        tsort_make.make(corpus, str(tmp_path / "o.json"), budget=4000)
    with pytest.raises(UserError, match="30 tokens are too few"):
        tsort_make.make(corpus, str(tmp_path / "o.json"), budget=30)


def test_the_sample_in_the_instruction_is_no_segment() -> None:
    sample = (
        "Before: XXX (before)\n\n\n"
        + "".join(f"Part {at}: XXX\n\n\n" for at in range(1, 5))
        + "After: XXX\n\n"
    )
    prompt = (
        f"Sort.\n Sample:\n{sample}Answer: [4, 1, 3, 2]\n\n Before: b\n\n\nPart 1: one\nof\n\n\nPart 2: two, "
    )
    prompt += "Part 3: not yet\n\n\nPart 3: three\n\n\nPart 4: four\n\n\nAfter: a\n"
    found = segments(Shuffled("1", prompt, [1, 2, 3, 4]))
    assert found == ("b", ["one\nof", "two, Part 3: not yet", "three", "four"], "a")
    with pytest.raises(UserError, match="record 1: the prompt has no Before:"):
        segments(Shuffled("1", prompt.replace("Part 4", "Part four"), [1, 2, 3, 4]))


@given(st.lists(st.integers(-5, 5), min_size=20, max_size=20))
def test_the_best_order_is_that_of_brute_force(scores: list[int]) -> None:
    known = dict(zip(PAIRS, scores, strict=True))
    totals = {
        order: sum(known[pair] for pair in pairwise([-1, *order, 4])) for order in permutations(range(4))
    }
    found = tuple(part - 1 for part in best_order(scores))
    assert totals[found] == max(totals.values())
    assert found == min(order for order, total in totals.items() if total == max(totals.values()))


def test_a_scorer_that_knows_sorts_everything(corpus: str, tmp_path: Path) -> None:
    out = tmp_path / "t.json"
    tsort_make.make(corpus, str(out), budget=200)
    records, _ = read_shuffled(out)
    whole = " ".join(SENTENCES)

    def follows(pairs: Any) -> Any:
        return np.array([float(f"{first} {second}" in whole) for first, second in pairs])

    orders = measure(records, follows, 8)
    found = report(records, orders)
    assert (found["accuracy"], found["neighbours"], found["chance"]) == (1.0, 1.0, pytest.approx(1 / 24))
    assert found["named"] == found["right"]
    reverse = report(records, [order[::-1] for order in orders])
    assert reverse["accuracy"] == reverse["neighbours"] == 0


def test_position_bias_of_replies(tmp_path: Path) -> None:
    path = tmp_path / "textsort_2k.json"
    path.write_text(json.dumps([
        {"book_id": at, "para_offset": 0, "prompt": "p", "answer": order}
        for at, order in enumerate([[1, 2, 3, 4], [4, 3, 2, 1]])
    ]))  # fmt: skip
    found = ada_leval.score(str(path), ["[1, 2, 3, 4]", "nothing"])
    assert (found["accuracy"], found["unread"]) == (0.5, 1)
    assert found["named"] == np.eye(4).tolist()
    assert found["right"] == ((np.eye(4) + np.eye(4)[::-1]) / 2).tolist()


def test_stages_and_decoders_score_pairs(
    tiny_text_model: Path, tiny_model: Callable[..., Path], tiny_decoder: Callable[..., Path]
) -> None:
    pairs = [("the sun", "rises"), ("a hill", "the sun rises"), ("", "of"), ("of", "")]
    for text in (f"biencoder({tiny_text_model}, reads=passage)", f"cross({tiny_model('cross')})"):
        found = open_scorer(text)(pairs)
        alone = [float(open_scorer(text)([pair])[0]) for pair in pairs]
        assert found == pytest.approx(alone, abs=1e-4)
        assert found[0] != found[1]
        assert found[2:].tolist() == [0, 0]
    decoder = tiny_decoder(tie_word_embeddings=True)
    found = open_scorer(f"lm({decoder})")(pairs * 2)
    assert found[:4] == pytest.approx(found[4:], abs=1e-4)
    assert found[2:4].tolist() == [0, 0]
    import torch

    from retrieval.index.llm_files import LlmFiles
    from retrieval.rerank.llm_decoder import open_decoder

    opened = open_decoder(LlmFiles(str(decoder)), "float32")
    first, second = opened.prompts.read(list(pairs[0]))
    ids = [*opened.prompts.tokens.prefix, *first.tolist(), *second.tolist()]
    with torch.no_grad():
        log_p = opened.module(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
    start = len(ids) - len(second)
    wanted = sum(float(log_p[at - 1, ids[at]]) for at in range(start, len(ids)))
    assert found[0] == pytest.approx(wanted, abs=1e-3)


def test_what_is_no_scorer_is_refused(tiny_text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="write lm"):
        open_scorer("lm(DIR, length=3)")
    with pytest.raises(UserError, match="reads no texts"):
        open_scorer("rm3(bm25)")
    with pytest.raises(CompositionError):
        open_scorer("cross(")
    with pytest.raises(SystemExit) as stopped:
        tsort.main(["nowhere.json", "--scorer", f"biencoder({tiny_text_model})"])
    assert stopped.value.code in (2, 5)
    assert "nowhere.json" in capsys.readouterr().err
