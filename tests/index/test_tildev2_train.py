"""Training TILDEv2: its losses, what counts as a negative, expansion as at indexing, the saved model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.bert import BertConfig  # noqa: E402
from retrieval.index.index import Index  # noqa: E402
from retrieval.index.model_files import ModelFiles, save_model  # noqa: E402
from retrieval.index.tildev2 import TildeV2Encoder, TildeV2Method  # noqa: E402
from retrieval.index.tildev2_model import (  # noqa: E402
    TildeV2,
    contrastive_loss,
    kl_loss,
    margin_mse_loss,
    own_scores,
)
from retrieval.index.tildev2_train import TildeV2Task, create  # noqa: E402
from retrieval.index.trainer import TaskOptions, TrainOptions, train  # noqa: E402
from retrieval.types import Document  # noqa: E402

WORDS = ["red", "green", "blue", "apple", "pear", "plum", "house", "tree", "river", "stone", "bread", "cloud"]
Made = Callable[..., TildeV2Task]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Callable[..., Path]) -> Made:
    start = str(tiny_model("tildev2", name="start", words=WORDS))
    tilde = str(tiny_model("tilde", name="expander", words=WORDS, seed=4))
    made = [0]

    def task(records: list[dict[str, Any]], *, teacher: bool = False, **settings: Any) -> TildeV2Task:
        made[0] += 1
        path = tmp_path / "examples.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        held_out, batch = settings.pop("held_out", 0), settings.pop("batch", 4)
        chosen = {"tilde": tilde, "window": 16, "length": 24, "top": 20, "query_tokens": 10, **settings}
        return create(
            TaskOptions(
                out=str(tmp_path / f"out{made[0]}"), start=start, data=(str(path),), batch=batch,
                teacher=tilde if teacher else None, held_out=held_out,
                settings={key: str(value) for key, value in chosen.items()},
            )
        )  # fmt: skip

    return task


def records(count: int, negatives: int = 3, scores: bool = False) -> list[dict[str, Any]]:
    """The positive has the query's words beside others; negatives share one of them."""
    draw, found = np.random.default_rng(0), []
    for number in range(count):
        words = draw.permutation(WORDS).tolist()
        record: dict[str, Any] = {
            "query": f"{words[0]} {words[1]}",
            "positive": f"{words[0]} {words[2]} {words[1]} {number}",
            "negatives": [f"{words[i % 2]} {words[i + 2]} {number} n{i}" for i in range(negatives)],
        }
        if scores:
            record["scores"] = [4.0, *(draw.random(negatives) * 2).tolist()]
        found.append(record)
    return found


def batch_of(task: TildeV2Task) -> tuple[Any, int]:
    return next(task.batches(0, 0))


def parts(task: TildeV2Task) -> tuple[Any, Any, Any, Any]:
    """Scores [B, B * G] of the first batch as the official loss lays them out, and what was drawn."""
    examples, seed = batch_of(task)
    candidates = task._draw(examples, seed)
    numbers = candidates.ravel()
    scores, _ = task._scores(examples, numbers)
    return examples, seed, candidates, scores


@pytest.mark.parametrize("group", [1, 2, 4])
def test_the_contrast_is_the_official_one(make: Made, group: int) -> None:
    task = make(records(4), group=group)
    examples, seed, candidates, scores = parts(task)
    assert candidates.shape == (4, group)
    loss, figures = task.loss((examples, seed))
    expected = contrastive_loss(scores, group).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert figures["ce"] == pytest.approx(expected, rel=1e-5)
    assert 0 <= figures["zeros"] <= 1


def test_margins_and_divergence_follow_given_scores(make: Made) -> None:
    task = make(records(4, scores=True), ce=0, margin=2, kl=0.5, scale=3, temperature=0.7)
    examples, seed, candidates, scores = parts(task)
    loss, figures = task.loss((examples, seed))
    own = own_scores(scores, 4)
    given = task.prepared.scores
    assert given is not None
    wanted = torch.tensor(
        [
            [
                given[e, 0]
                if c == task.prepared.positive[e]
                else given[e, 1 + task.prepared.negatives[e].tolist().index(c)]
                for c in row
            ]
            for e, row in zip(examples.tolist(), candidates.tolist())
        ]
    )
    margin, divergence = margin_mse_loss(own, wanted * 3), kl_loss(own, wanted, 0.7)
    assert figures["margin"] == pytest.approx(margin.item(), rel=1e-5)
    assert figures["kl"] == pytest.approx(divergence.item(), rel=1e-4)
    assert loss.item() == pytest.approx(2 * margin.item() + 0.5 * divergence.item(), rel=1e-4)


def test_a_teacher_scores_the_whole_batch(make: Made) -> None:
    task = make(records(4), teacher=True, ce=0, kl=1, temperature=0.1, tolerance=-3)
    examples, seed, candidates, _ = parts(task)
    numbers = np.unique(candidates)
    scores, _ = task._scores(examples, numbers)
    teacher = task.prepared.teacher(examples, numbers)
    assert teacher is not None
    loss, _ = task.loss((examples, seed))
    assert loss.item() == pytest.approx(kl_loss(scores, torch.from_numpy(teacher), 0.1).item(), rel=1e-4)


def test_near_relatives_are_no_negatives(make: Made) -> None:
    same = [
        {"query": "red apple", "positive": "red apple one", "negatives": ["red two"]},
        {"query": "red apple", "positive": "red apple three", "negatives": ["red two"]},
        {"query": "blue", "positive": "blue four", "negatives": ["red apple one"]},
    ]
    task = make(same, batch=3, group=2)
    examples = np.array([0, 1, 2])
    numbers = np.arange(len(task.prepared.passages))
    texts = [record["text"] for record in task.prepared.passages]
    first = task.prepared.positive.astype(np.int64)
    ignored = task._ignored(examples, numbers, first, None).numpy()
    assert {(row, texts[at]) for row, at in zip(*map(np.ndarray.tolist, np.nonzero(ignored)))} == {
        (0, "red apple three"),
        (1, "red apple one"),
    }
    task.prepared.origin = np.where(np.isin(texts, ["blue four", "red two"]), 9, numbers).astype(np.int32)
    assert task._ignored(examples, numbers, first, None).numpy()[2].tolist() == [
        t == "red two" for t in texts
    ]
    task.prepared.origin = numbers.astype(np.int32)
    teacher = np.zeros((3, len(texts)), np.float32)
    teacher[2, texts.index("red two")] = 0.5
    teacher[2, first[2]] = 0.52
    ignored = task._ignored(examples, numbers, first, teacher).numpy()
    assert ignored[2, texts.index("red two")]
    assert not ignored[2, texts.index("red apple one")]
    assert not ignored[np.arange(3), first].any()


def test_scores_of_the_data_tell_which_negatives_are_none(make: Made) -> None:
    lines = records(4, negatives=2, scores=True)
    lines[2]["scores"] = [4.0, 3.99, 1.0]
    task = make(lines, batch=4, group=3)
    examples, _, candidates, _ = parts(task)
    numbers = np.unique(candidates)
    place = np.searchsorted(numbers, candidates)
    ignored = task._ignored(examples, numbers, place[:, 0], None).numpy()
    row = examples.tolist().index(2)
    near = np.searchsorted(numbers, task.prepared.negatives[2, 0])
    assert np.argwhere(ignored).tolist() == [[row, near]]


def test_examples_with_fewer_negatives(make: Made) -> None:
    lines = records(4)
    lines[1]["negatives"] = lines[1]["negatives"][:1]
    lines[2]["negatives"] = lines[2]["negatives"][:2]
    task = make(lines, negatives=0, group=3)
    candidates = task._draw(*batch_of(task))
    assert (candidates >= 0).sum() == 3 + 2 + 3 + 3
    loss, _ = task.loss(batch_of(task))
    loss.backward()
    assert math.isfinite(loss.item())


def test_passages_are_read_as_the_index_reads_them(make: Made, tmp_path: Path) -> None:
    task = make(records(6), top=60)
    task.save(str(tmp_path / "saved" / "model"))
    files = ModelFiles.open(str(tmp_path / "saved" / "model"))
    encoder = TildeV2Encoder(files, TildeV2Method.described(files) | {"windows": 8})
    texts = [record["text"] for record in task.prepared.passages]
    expected = encoder.sequences(files.vocabulary.encode(texts, 14))
    assert [task.passages[i].tolist() for i in range(len(texts))] == [one.tolist() for one in expected]
    assert any(len(one) > len(ids) + 2 for one, ids in zip(expected, files.vocabulary.encode(texts, 14)))
    assert max(map(len, expected)) == 24  # some are full


def test_at_the_start_it_knows_nothing_and_then_it_learns(make: Made, tmp_path: Path) -> None:
    task = make(records(120), held_out=6, top=0, batch=8)
    torch.nn.init.normal_(task.model.tok_proj.weight, std=0.02)
    torch.nn.init.zeros_(task.model.tok_proj.bias)
    loss, _ = task.loss(batch_of(task))
    assert loss.item() == pytest.approx(math.log(8 * 4), abs=0.4)
    out = str(tmp_path / "out1")
    found = train(task, out, TrainOptions(epochs=14, lr=0.01, threads=1))
    assert found["loss"] < 0.6
    assert found["best"]["figure"] == "mrr"
    assert found["best"]["value"] > 0.8
    model = found["model"]
    settings = ModelFiles.open(model).settings
    assert settings["expansion"] is None
    assert settings["maximum"] > 0
    with Index.create(tmp_path / "ix", [f"tildev2:{model}"]) as index:
        index.add(Document(str(i), record["text"]) for i, record in enumerate(task.prepared.passages))
        index.commit()
        numbers = np.arange(len(task.prepared.passages))
        with torch.no_grad():
            scores = task._scores(task.held_out, numbers)[0].numpy()
        step = settings["maximum"] / 255
        for row, at in enumerate(task.held_out.tolist()):
            hits = index.search(task.prepared.queries[at], 20)
            assert len(hits) == 20
            for hit in hits:
                expected = scores[row, int(hit.doc_id)]
                assert hit.score * step == pytest.approx(expected, abs=step * len(task.query(at)))
            assert hits[0].score * step > scores[row].max() - step * len(task.query(at))


def test_evaluation_is_fair_to_ties(make: Made) -> None:
    task = make(records(40), held_out=2, negatives=3)
    with torch.no_grad():
        task.model.tok_proj.weight.zero_()
        task.model.tok_proj.bias.fill_(-1.0)
        figures = task.evaluate()
    assert figures["accuracy"] == 0.0
    assert figures["mrr"] < 0.4
    with pytest.raises(UserError, match="its ReLU is dead"):
        task._largest()


def test_what_is_refused(make: Made) -> None:
    for settings, message in (
        ({"kl": 1.0}, "the losses margin and kl need a teacher"),
        ({"ce": 0.0}, "one of them is above 0"),
        ({"temperature": 0.0}, "temperature and scale are above 0"),
        ({"group": 0}, "group is 1 or more"),
        ({"tilde": "/nowhere"}, "no model directory '/nowhere'"),
        ({"maximum": 0}, "--set maximum=0: give a number of passages"),
        ({"length": 1}, "--set length=1: .* reads 3 to 64 tokens"),
        ({"length": 65}, "--set length=65: .* reads 3 to 64 tokens"),
        ({"window": 65}, "--set window=65: .* reads 3 to 64 tokens"),
    ):
        with pytest.raises(UserError, match=message):
            make(records(4), **settings)


def test_an_expander_of_another_kind_is_refused(make: Made, tiny_model: Callable[..., Path]) -> None:
    other = tiny_model("bprop", name="other", words=WORDS)  # the trained model could not be indexed with
    with pytest.raises(UserError, match="kind 'bprop', and tilde needs"):
        make(records(4), tilde=str(other))


def test_a_new_head_is_not_asleep(make: Made, tmp_path: Path) -> None:
    files = ModelFiles.open(str(tmp_path / "start"))
    tensors = files.tensors()
    del tensors["tok_proj.weight"], tensors["tok_proj.bias"]
    tensors["bert.encoder.layer.1.output.LayerNorm.bias"] *= 100  # all tokens lie to one side
    save_model(str(tmp_path / "start"), files.config, tensors, files.vocabulary.data)
    heads = []
    for seed in range(8):
        torch.manual_seed(seed)
        task = make(records(8), top=0)
        _, figures = task.loss(batch_of(task))
        assert figures["zeros"] < 0.95, seed
        torch.manual_seed(seed)
        drawn = TildeV2(BertConfig.from_dict({**files.config, "hidden_dropout_prob": 0})).tok_proj.weight
        heads.append(bool((drawn == task.model.tok_proj.weight).all()))
    assert 0 < sum(heads) < 8  # one that sees something stays as it was drawn


def test_another_vocabulary_is_refused(make: Made, tiny_model: Callable[..., Path]) -> None:
    other = tiny_model("tilde", name="other", words=WORDS[::-1])
    with pytest.raises(UserError, match="has another vocabulary"):
        make(records(4), tilde=str(other))
