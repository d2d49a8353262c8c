"""Fine-tuning a cross-encoder: the groupwise losses, the task on a little corpus, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UnknownName, UserError
from retrieval.types import Document, Query, Run

torch = pytest.importorskip("torch")

from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.trainer import TaskOptions, TrainOptions, train  # noqa: E402
from retrieval.rerank.cross import Cross  # noqa: E402
from retrieval.rerank.cross_model import group_loss, load_cross  # noqa: E402
from retrieval.rerank.cross_train import CrossTask, create  # noqa: E402

Maker = Callable[..., Path]
GROUPS = st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=6), min_size=1, max_size=4)


@given(GROUPS)
def test_losses_by_hand(groups: list[list[float]]) -> None:
    scores = torch.tensor([score for group in groups for score in group], dtype=torch.float64)
    sizes = torch.tensor([len(group) for group in groups])
    softmax = [math.log(sum(map(math.exp, group))) - group[0] for group in groups]
    assert float(group_loss(scores, sizes)) == pytest.approx(float(np.mean(softmax)), abs=1e-4)
    hinge = [np.mean([max(0.0, 1 - group[0] + other) for other in group[1:]]) for group in groups]
    assert float(group_loss(scores, sizes, "hinge")) == pytest.approx(float(np.mean(hinge)), abs=1e-4)


@given(GROUPS, st.integers(0, 9))
def test_divergence_from_a_teacher_by_hand(groups: list[list[float]], seed: int) -> None:
    scores = torch.tensor([score for group in groups for score in group])
    teacher = torch.randn(len(scores), generator=torch.Generator().manual_seed(seed)) * 3
    sizes = torch.tensor([len(group) for group in groups])
    by_hand = [
        float((other.softmax(0) * (other.log_softmax(0) - own.log_softmax(0))).sum())
        for own, other in zip(scores.split(sizes.tolist()), teacher.split(sizes.tolist()))
    ]
    assert float(group_loss(scores, sizes, "kl", teacher)) == pytest.approx(float(np.mean(by_hand)), abs=1e-4)
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(group_loss(scores, sizes, "kl", teacher), scores)
    assert bool(torch.isfinite(gradient).all())
    assert float(group_loss(teacher + 5, sizes, "kl", teacher)) == pytest.approx(0, abs=1e-4)


def test_losses_of_equal_scores() -> None:
    scores, sizes = torch.zeros(24, requires_grad=True), torch.tensor([12, 12])
    assert float(group_loss(scores, sizes).detach()) == pytest.approx(math.log(12))
    assert float(group_loss(scores, sizes, "hinge").detach()) == pytest.approx(1)
    (gradient,) = torch.autograd.grad(group_loss(scores, torch.tensor([12, 12]), "hinge"), scores)
    assert bool(torch.isfinite(gradient).all())
    with pytest.raises(UnknownName, match="loss 'pairs'"):
        group_loss(scores, sizes, "pairs")


def examples(folder: Path, count: int = 60, negatives: bool = True) -> Path:
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines = []
    for i in range(count):
        mine, other = letters[i % 26], letters[(i + 1 + i // 26) % 26]
        # What tells them apart, and is to be learned, is z against y.
        record: dict[str, Any] = {"query": f"{mine} {mine}", "positive": f"{mine} the {i} z z of {other}"}
        if negatives:
            record["negatives"] = [f"{mine} the {j} y y of {other}" for j in range(4)]
        lines.append(json.dumps(record))
    path = folder / "examples.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_task(tiny_model: Maker, tmp_path: Path, kind: str = "bprop", **settings: Any) -> CrossTask:
    start = tmp_path / kind
    if not start.exists():
        tiny_model(kind)
    data = tmp_path / "examples.jsonl"
    if not data.exists():
        examples(tmp_path)
    given_settings = {key: str(value) for key, value in {"length": 48, **settings}.items()}
    return create(
        TaskOptions(
            out=str(tmp_path / "out"), start=str(start), data=(str(data),), batch=4, held_out=6,
            settings=given_settings,
        )
    )  # fmt: skip


def test_groups_have_the_positive_first(tiny_model: Maker, tmp_path: Path) -> None:
    task = make_task(tiny_model, tmp_path, negatives=2)
    batches = list(task.batches(0, 1))
    assert [b[0].tolist() for b in batches] == [b[0].tolist() for b in task.batches(0, 1)]
    assert [b[0].tolist() for b in batches] != [b[0].tolist() for b in task.batches(1, 1)]
    assert all(len(batch[0]) == 4 for batch in batches)
    for example in range(10):
        for seed in (0, 1):
            group = task.prepared.group(example, task.settings["negatives"], np.random.default_rng(seed))
            assert group[0] == task.prepared.positive[example]
            assert len(set(group.tolist())) == 3
            assert set(group[1:].tolist()) <= set(task.prepared.negatives[example].tolist())
        assert len(task.prepared.group(example, task.settings["negatives"], None)) == 5
    drawn = {
        tuple(task.prepared.group(0, task.settings["negatives"], np.random.default_rng(seed))[1:].tolist())
        for seed in range(20)
    }
    assert len(drawn) > 3  # negatives are drawn anew


def test_the_loss_is_that_of_its_pairs(tiny_model: Maker, tmp_path: Path) -> None:
    task = make_task(tiny_model, tmp_path)
    task.model.eval()
    loss, figures = task.loss((np.array([0, 1]), 0))
    from retrieval.rerank.cross_model import score_pairs

    rng = np.random.default_rng([0, 3, 0])
    wanted = []
    right = 0
    for example in (0, 1):
        scores = score_pairs(
            task._cross, task._pairs(example, task.prepared.group(example, task.settings["negatives"], rng))
        )
        wanted.append(float(torch.logsumexp(torch.tensor(scores), 0)) - float(scores[0]))
        right += int(scores.argmax() == 0)
    assert float(loss.detach()) == pytest.approx(float(np.mean(wanted)), abs=1e-4)
    assert figures["accuracy"] == right / 2


@pytest.mark.parametrize("loss", ["softmax", "hinge"])
def test_it_learns_and_its_model_re_ranks(tiny_model: Maker, tmp_path: Path, loss: str) -> None:
    task = make_task(tiny_model, tmp_path, loss=loss)
    before = task.evaluate()
    options = TrainOptions(steps=60, lr=3e-3, evaluate_every=15, threads=1)
    report = train(task, str(tmp_path / "out"), options, None)
    assert report["held_out"]["mrr"] > max(before["mrr"], 0.7)
    model = str(tmp_path / "out" / "model")
    assert load_cross(ModelFiles.open(model))[1] == []
    texts = {"good": "c the 99 z z of d", "bad": "c the 98 y y of d"}
    stage = Cross(model).with_documents(lambda ids: [Document(name, texts[name]) for name in ids])
    queries = [Query("1", "c c")]
    found = stage(queries, Run.from_dict({"1": {"good": 1.0, "bad": 2.0}}))
    assert [hit.doc_id for hit in found["1"]] == ["good", "bad"]
    assert stage._length == 48


def with_teacher(folder: Path, count: int, passages: int) -> tuple[Any, Any]:
    """Vectors of a teacher beside prepared examples: passage p is worth cos(p), whatever the query."""
    rows = np.stack([np.cos(np.arange(passages)), np.sin(np.arange(passages))], 1).astype(np.float16)
    asked = np.repeat(np.array([[1, 0]], np.float16), count, 0)
    (folder / "passages.f16").write_bytes(rows.tobytes())
    (folder / "queries.f16").write_bytes(asked.tobytes())
    return asked, rows


def test_it_follows_a_teacher(tiny_model: Maker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --teacher DIR"):
        make_task(tiny_model, tmp_path, loss="kl")
    prepared = make_task(tiny_model, tmp_path).prepared
    asked, rows = with_teacher(Path(prepared.directory), len(prepared), len(prepared.passages))
    task = make_task(tiny_model, tmp_path, loss="kl", positives=0.5, temperature=0.5)
    task.model.eval()
    with torch.no_grad():
        task._cross.classifier.weight.mul_(100)  # scores far enough apart to have one greatest
    groups = [task._drawn(0, np.random.default_rng(seed)) for seed in range(40)]
    without = [group for group in groups if group[0] != prepared.positive[0]]
    assert 8 < len(without) < 32  # the positive is left out of about half
    loss, figures = task.loss((np.array([0, 1]), 3))
    from retrieval.rerank.cross_model import score_pairs

    rng = np.random.default_rng([0, 3, 3])
    wanted, right = [], 0
    for example in (0, 1):
        group = task._drawn(example, rng)
        own = torch.tensor(score_pairs(task._cross, task._pairs(example, group))).log_softmax(0)
        cosines = torch.tensor(rows[group].astype(np.float32) @ asked[example].astype(np.float32))
        other = (cosines / 0.5).log_softmax(0)
        wanted.append(float((other.exp() * (other - own)).sum()))
        right += int(own.argmax() == other.argmax())
    assert float(loss.detach()) == pytest.approx(float(np.mean(wanted)), abs=1e-4)
    assert figures["accuracy"] == right / 2


def test_transformers_loads_what_is_saved(tiny_model: Maker, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    task = make_task(tiny_model, tmp_path)
    task.save(str(tmp_path / "model"))
    other = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert type(other).__name__ == "BertForSequenceClassification"
    words = task.vocabulary
    one = task._pairs(0, task.prepared.group(0, task.settings["negatives"], None))[0]
    with torch.no_grad():
        logits = other(
            input_ids=torch.tensor(one.ids[None]).long(), token_type_ids=torch.tensor(one.segments[None])
        ).logits
    from retrieval.rerank.cross_model import score_pairs

    assert one.ids[0] == words.cls
    assert float(logits[0, 0]) == pytest.approx(float(score_pairs(task._cross.eval(), [one])[0]), abs=1e-4)


def test_a_bprop_start_brings_its_head_and_a_plain_one_gets_a_fresh_one(
    tiny_model: Maker, tmp_path: Path
) -> None:
    task = make_task(tiny_model, tmp_path)
    tensors = ModelFiles.open(str(tmp_path / "bprop")).tensors()
    assert torch.equal(task._cross.classifier.weight, tensors["rop.weight"])
    said: list[str] = []
    start = tiny_model("tilde")
    create(
        TaskOptions(
            out=str(tmp_path / "plain"), start=str(start), data=(str(tmp_path / "examples.jsonl"),),
            settings={"length": "48"}, say=said.append,
        )
    )  # fmt: skip
    assert any("classifier.weight" in line for line in said)


def test_examples_without_negatives_get_them(tiny_model: Maker, tmp_path: Path) -> None:
    examples(tmp_path, negatives=False)
    task = make_task(tiny_model, tmp_path)
    hard = task.prepared.negatives
    assert (hard >= 0).any()
    for example in range(len(task.prepared)):
        assert task.prepared.positive[example] not in hard[example]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "listwise"}, "choose one of softmax, hinge, kl"),
        ({"dtype": "int4"}, "choose one of float32"),
        ({"length": 100}, "this model reads 16 to 64 tokens"),
        ({"negatives": 0}, "1 or more"),
        ({"temperature": 0}, "temperature is above 0"),
        ({"positives": 1.5}, "a share from 0 to 1"),
        ({"negative": 1}, "unknown setting of cross"),
    ],
)
def test_bad_settings_are_refused(
    tiny_model: Maker, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_task(tiny_model, tmp_path, **settings)


def test_a_bad_line_is_named(tiny_model: Maker, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": 1}\n')
    with pytest.raises(UserError, match=r"examples\.jsonl:2: "):
        make_task(tiny_model, tmp_path)
