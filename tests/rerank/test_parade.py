"""PARADE over block vectors: the model against plain loops, the training, the stage, what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import registry
from retrieval.encoder import Kind, Vectors
from retrieval.errors import CompositionError, UserError
from retrieval.types import Query, Run

torch = pytest.importorskip("torch")
pytest.importorskip("sentencex")

from retrieval.index.trainer import TaskOptions, TrainOptions, train  # noqa: E402
from retrieval.longdoc.splitter import words  # noqa: E402
from retrieval.rerank import parade, parade_model  # noqa: E402
from retrieval.rerank.parade import ArraySource, Parade, load  # noqa: E402
from retrieval.rerank.parade_model import Blocks, ParadeConfig, ParadeModel, score_blocks  # noqa: E402
from retrieval.rerank.parade_train import ParadeTask, create  # noqa: E402

CONFIG = ParadeConfig(dim=6, hidden=8, layers=2, heads=2)
LETTERS = "abcdefghijklmnop"


class Letters:
    """An encoder: a text's vector counts its words by their first letters, to length 1."""

    dim = len(LETTERS)
    runtime: Mapping[str, Any] = {}

    def __init__(self, seed: int = 0) -> None:
        self.identity = {"encoder": "letters", "model": {"name": "x", "weights": seed}, "dim": self.dim}
        self.encoded = 0

    def offsets(self, texts: Sequence[str]) -> Any:
        return words(texts)

    def encode(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        self.encoded += len(texts)
        rows = np.array([[text.lower().split().count(c) for c in LETTERS] for text in texts], np.float32)
        rows = rows.reshape(len(texts), self.dim)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        counts = np.array([len(text.split()) for text in texts], np.int64)
        return Vectors(rows, counts, np.where(counts > 9, 1, 0))


def blocks(sizes: Sequence[int], dim: int = 6, seed: int = 0) -> Blocks:
    rows = np.random.default_rng(seed).normal(size=(sum(sizes), dim)).astype(np.float32)
    return Blocks(rows, np.cumsum([0, *sizes]).astype(np.int64))


def trained(seed: int = 0) -> ParadeModel:
    """A model whose transformer says something."""
    torch.manual_seed(seed)
    model = ParadeModel(CONFIG).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    return model


def scored(model: ParadeModel, sizes: Sequence[int], some: Blocks, queries: Any) -> Any:
    pairs = [(q, d) for d in range(len(sizes)) for q in range(len(queries))]
    query, document = np.array(pairs, np.int64).T
    return score_blocks(model, queries, query, some, document).reshape(len(sizes), len(queries))


def test_it_begins_as_maxp() -> None:
    sizes = [3, 1, 0, 5]
    some, queries = blocks(sizes), blocks([4], seed=1).rows
    found = scored(ParadeModel(CONFIG).eval(), sizes, some, queries)
    for at in range(len(sizes)):
        own = some.rows[some.offsets[at] : some.offsets[at + 1]]
        best = (own @ queries.T).max(0) if len(own) else np.zeros(4)
        np.testing.assert_allclose(found[at], 20 * best, rtol=1e-4, atol=1e-4)


def test_batches_and_padding_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = trained(), [3, 1, 0, 5, 2, 9]
    some, queries = blocks(sizes), blocks([3], seed=1).rows
    together = scored(model, sizes, some, queries)
    assert np.abs(together - scored(ParadeModel(CONFIG).eval(), sizes, some, queries)).max() > 0.1
    monkeypatch.setattr(parade_model, "_BUDGET", 1)  # each pair by itself, without padding
    np.testing.assert_allclose(together, scored(model, sizes, some, queries), rtol=1e-4, atol=1e-4)


def test_blocks_have_no_order() -> None:
    model, some, queries = trained(), blocks([6]), blocks([3], seed=1).rows
    turned = Blocks(some.rows[::-1].copy(), some.offsets)
    np.testing.assert_allclose(
        scored(model, [6], some, queries), scored(model, [6], turned, queries), rtol=1e-4, atol=1e-4
    )


def test_the_closest_blocks_are_read() -> None:
    """A model that reads three blocks says of a document what it says of its three closest ones."""
    few = trained()
    few.config = few.config._replace(most=3)
    sizes = [7, 2, 0, 3, 9]
    some, queries = blocks(sizes), blocks([3], seed=1).rows
    found = scored(few, sizes, some, queries)
    for at in range(len(sizes)):
        own = some.rows[some.offsets[at] : some.offsets[at + 1]]
        for number, query in enumerate(queries):
            near = own[sorted(range(len(own)), key=lambda row: -float(own[row] @ query))[:3]]
            alone = Blocks(near, np.array([0, len(near)]))
            wanted = scored(trained(), [len(near)], alone, queries[[number]])
            assert found[at, number] == pytest.approx(float(wanted[0, 0]), abs=1e-4)


def test_every_block_and_the_query_count() -> None:
    model, some, queries = trained(), blocks([6]), blocks([1], seed=1).rows
    before = scored(model, [6], some, queries)[0, 0]
    for row in range(6):
        rows = some.rows.copy()
        rows[row] = -rows[row]
        assert abs(scored(model, [6], Blocks(rows, some.offsets), queries)[0, 0] - before) > 1e-4
    queries[0, 5] *= -1
    assert abs(scored(model, [6], some, queries)[0, 0] - before) > 1e-4


def sentence(rng: random.Random, word: str) -> str:
    return f"Z z {word} {word} {rng.choice(LETTERS[8:])} z z z."


def examples(folder: Path, count: int = 80) -> str:
    """What answers `a b` has two blocks of a, and what does not has one: MaxP cannot tell."""
    rng = random.Random(1)
    lines = []
    for _ in range(count):
        mine, other = rng.sample(LETTERS[:8], 2)
        good = [sentence(rng, word) for word in (mine, mine, other)]
        texts = [" ".join(rng.sample(good, 3))]
        for _ in range(3):
            bad = [sentence(rng, word) for word in (mine, other, other)]
            texts.append(" ".join(rng.sample(bad, 3)))
        lines.append(json.dumps({"query": mine, "positive": texts[0], "negatives": texts[1:]}))
    path = folder / "examples.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Letters:
    encoder = Letters()
    monkeypatch.setitem(registry._FACTORIES, ("dense encoder", "letters"), lambda path, params: encoder)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "config.json").write_text('{"retrieval": {"kind": "letters"}}')
    return encoder


def make_task(tmp_path: Path, **settings: Any) -> ParadeTask:
    data = tmp_path / "examples.jsonl"
    chosen = {"tokens": 8, "hidden": 32, "dropout": 0.0, "negatives": 3, **settings}
    return create(
        TaskOptions(
            out=str(tmp_path / "out"), start=str(tmp_path / "start"), batch=8, held_out=6,
            data=(str(data) if data.exists() else examples(tmp_path),),
            settings={key: str(value) for key, value in chosen.items()},
        )
    )  # fmt: skip


def source(encoder: Letters, texts: Mapping[str, Sequence[str]]) -> ArraySource:
    rows = encoder.encode([text for one in texts.values() for text in one]).rows
    offsets = np.cumsum([0, *map(len, texts.values())]).astype(np.int64)
    return ArraySource(
        list(texts), rows, offsets, encoder.identity, lambda asked: encoder.encode(asked, "query")
    )


def test_it_learns_what_maxp_cannot(letters: Letters, tmp_path: Path) -> None:
    task = make_task(tmp_path)
    before = task.evaluate()
    assert before["mrr"] < 0.7
    report = train(
        task, str(tmp_path / "out"), TrainOptions(steps=45, lr=5e-3, evaluate_every=45, threads=1), None
    )
    assert report["held_out"]["mrr"] > 0.9
    rng = random.Random(5)
    texts = {
        "bad": [sentence(rng, word) for word in "abb"],
        "good": [sentence(rng, word) for word in "aba"],
    }
    stage = Parade(str(tmp_path / "out" / "model")).with_blocks(source(letters, texts))
    found = stage([Query("1", "a")], Run.from_dict({"1": {"bad": 2.0, "good": 1.0}}))
    assert [hit.doc_id for hit in found["1"]] == ["good", "bad"]


def test_blocks_are_made_once_and_are_the_splitters(letters: Letters, tmp_path: Path) -> None:
    task = make_task(tmp_path)
    first = letters.encoded
    np.testing.assert_array_equal(np.diff(task.blocks.offsets), 3)
    text = task.prepared.passages[5]["text"]
    parts = [f"{part}." for part in text.rstrip(".").split(". ")]
    own = task.blocks.rows[task.blocks.offsets[5] : task.blocks.offsets[6]]
    np.testing.assert_array_equal(own, Letters().encode([part.replace(".", " .") for part in parts]).rows)
    again = make_task(tmp_path)
    assert letters.encoded - first == len(again.prepared.queries)  # and no passage
    np.testing.assert_array_equal(again.blocks.rows, task.blocks.rows)
    other = make_task(tmp_path, tokens=16)
    assert len(other.blocks.rows) < len(task.blocks.rows)


def test_groups_and_their_loss(letters: Letters, tmp_path: Path) -> None:
    task = make_task(tmp_path, negatives=2)
    task.model.eval()
    batches = list(task.batches(0, 1))
    assert [b[0].tolist() for b in batches] == [b[0].tolist() for b in task.batches(0, 1)]
    loss, figures = task.loss((np.array([0, 1]), 7))
    rng = np.random.default_rng([0, 3, 7])
    wanted, right = [], 0
    for example in (0, 1):
        group = task.prepared.group(example, task.settings["negatives"], rng)
        assert group[0] == task.prepared.positive[example]
        assert len(set(group.tolist())) == 3
        query = np.full(3, example)
        scores = score_blocks(task._parade, task._queries, query, task.blocks, group)
        wanted.append(float(torch.logsumexp(torch.tensor(scores), 0)) - float(scores[0]))
        right += int(scores.argmax() == 0)
    assert float(loss.detach()) == pytest.approx(float(np.mean(wanted)), abs=1e-4)
    assert figures["accuracy"] == right / 2


def saved(letters: Letters, tmp_path: Path) -> str:
    task = make_task(tmp_path)
    with torch.no_grad():
        task._parade.head.weight.normal_()
    task.save(str(tmp_path / "model"))
    for name, tensor in load(str(tmp_path / "model")).state_dict().items():
        assert bool((tensor == task._parade.state_dict()[name]).all()), name
    return str(tmp_path / "model")


def test_the_stage_scores_every_pair(
    letters: Letters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = saved(letters, tmp_path)
    rng = random.Random(2)
    texts = {
        f"d{at}": [sentence(rng, rng.choice(LETTERS[:8])) for _ in range(rng.randint(1, 5))]
        for at in range(9)
    }
    stage = Parade(model).with_blocks(source(letters, texts))
    run = Run.from_dict({"1": {f"d{at}": at for at in range(7)}, "2": {f"d{at}": at for at in range(3, 9)}})
    queries = [Query("1", "a b"), Query("2", "c " * 10)]
    found = stage(queries, run)
    assert found.dropped == 1
    one = load(model).eval()
    asked = letters.encode(["a b", "c " * 10]).rows
    for number, hits in enumerate(found.to_dict().values()):
        for doc_id, score in hits.items():
            own = letters.encode(texts[doc_id]).rows
            alone = Blocks(own, np.array([0, len(own)]))
            wanted = score_blocks(one, asked, np.array([number]), alone, np.array([0]))[0]
            assert score == pytest.approx(float(wanted), abs=1e-4)
    monkeypatch.setattr(parade, "_DOCUMENTS", 2)
    few = stage(queries, run).to_dict()
    for query, hits in found.to_dict().items():
        assert few[query] == pytest.approx(hits, abs=1e-4)
    assert repr(stage) == f"parade({model})"


def test_what_is_refused(letters: Letters, tmp_path: Path) -> None:
    model = saved(letters, tmp_path)
    run = Run.from_dict({"1": {"d": 1.0}})
    with pytest.raises(CompositionError, match="reads the vectors of blocks"):
        Parade(model)([Query("1", "a")], run)
    with pytest.raises(CompositionError, match=r"another encoder than the index's \(model differ\)"):
        Parade(model).with_blocks(source(Letters(seed=1), {"d": ["A a."]}))
    with pytest.raises(UserError, match="no block vectors of document 'd'"):
        Parade(model).with_blocks(source(letters, {"e": ["A a."]}))([Query("1", "a")], run)
    with pytest.raises(UserError, match="no model directory"):
        Parade(str(tmp_path / "none"))
    other = tmp_path / "other" / "config.json"
    other.parent.mkdir()
    other.write_text("{}")
    with pytest.raises(UserError, match="holds no model of kind parade"):
        Parade(str(other.parent))
    other.write_text('{"retrieval": {"kind": "cross", "encoder": {}}}')
    with pytest.raises(UserError, match="this stage takes parade"):
        Parade(str(other.parent))
    for settings, message in (
        ({"loss": "pairs"}, "one of softmax, hinge"),
        ({"tokens": 0}, "1 or more"),
        ({"dropout": 1.0}, "0 to below 1"),
        ({"heads": 3}, "3 heads do not divide"),
    ):
        with pytest.raises(UserError, match=message):
            make_task(tmp_path, **settings)
    with pytest.raises(UserError, match="name the encoder"):
        create(TaskOptions(out=str(tmp_path / "out"), data=(str(tmp_path / "examples.jsonl"),)))
