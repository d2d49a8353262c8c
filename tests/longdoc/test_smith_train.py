"""Training of SMITH: what a step reads, masked words and blocks, runs whose loss falls, what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentencex")

from retrieval.errors import UnknownName, UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.m2bert_data import mask  # noqa: E402
from retrieval.index.packed import pack  # noqa: E402
from retrieval.index.trainer import TaskOptions, TrainOptions, create_task, train  # noqa: E402
from retrieval.longdoc.smith_training import Heads, Lot, SmithForTraining  # noqa: E402
from tests.longdoc.smith_models import RELEASED, SHAPE, TEXT, bert, encoder  # noqa: E402

NEW = {"block": "12", "positions": "8", "layers": "1", "heads": "2", "intermediate": "32"}
WORDS = ["meeting", "remote", "control", "cost"]


def text(seed: int, sentences: int = 6) -> str:
    """A document whose words tell of one theme each, so that its blocks can be told from others'."""
    rng = np.random.default_rng(seed)
    letter = "abcdefghijklmnopqrstuvwxyz"[seed % 26]
    return " ".join(
        f"The {rng.choice(WORDS)} {letter} {letter} {rng.choice(WORDS)}." for _ in range(sentences)
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A corpus and examples of documents."""
    corpus, data = tmp_path / "corpus.jsonl", tmp_path / "examples.jsonl"
    corpus.write_text("".join(json.dumps({"_id": str(n), "text": text(n)}) + "\n" for n in range(26)))
    data.write_text(
        "".join(
            json.dumps({"query": text(n, 2), "positive": text(n + 26), "negatives": [text(n + 1)]}) + "\n"
            for n in range(26)
        )
    )
    return corpus, data


def options(tmp_path: Path, start: str, **given: Any) -> TaskOptions:
    out = str(tmp_path / str(given.pop("out", "out")))
    settings = given.pop("settings", {})
    return TaskOptions(out=out, start=start, settings=settings, **given)


def training(seed: int = 0, **shape: Any) -> SmithForTraining:
    """With every weight random, the heads' too."""
    reader = encoder(seed, **shape)
    torch.manual_seed(seed)
    heads = Heads(reader.module.sentence, compat=reader.module.config.compat, slots=8)
    return SmithForTraining(reader, heads, {}).eval()


def lot_of(model: SmithForTraining, *texts: str, window: int = 0, rng: Any = None) -> Lot:
    return Lot.of(model.reader, model.reader.prepare(list(texts)).ids, window, rng)


# --- what a step reads --------------------------------------------------------------------------------------


def test_a_window_of_blocks_keeps_their_numbers() -> None:
    model = training()
    whole = lot_of(model, TEXT, "the cost")
    assert whole.begin.tolist() == [0, 0]
    assert whole.offsets.tolist() == [0, len(whole.blocks) - 1, len(whole.blocks)]
    begins = set()
    for seed in range(80):
        part = lot_of(model, TEXT, "the cost", window=3, rng=np.random.default_rng(seed))
        first = int(part.begin[0])
        begins.add(first)
        assert part.offsets.tolist() == [0, 3, 4]
        assert all(
            np.array_equal(a, b)
            for a, b in zip(part.blocks[:3], whole.blocks[first : first + 3], strict=True)
        )
    assert len(begins) > 4
    assert min(begins) == 0
    assert lot_of(model, TEXT, window=3).begin.tolist() == [0]
    # A window that begins later has later positions.
    rows = model.read(whole)[:3]
    ends = torch.tensor([0, 3])
    mixed = [model.smith.mix(rows, ends, torch.tensor([begin])).blocks for begin in (0, 5)]
    assert torch.equal(mixed[0], model.smith.mix(rows, ends).blocks)
    assert not torch.allclose(mixed[0], mixed[1])


def test_asked_words_are_found_again_in_the_packed_call() -> None:
    """Places within a block, its number and the places of the whole call are of one word."""
    model = training()
    lot = lot_of(model, TEXT, "the cost of control")
    seen: list[Any] = []

    def watched(hidden: Any, labels: Any) -> Any:
        seen.append(labels)
        return torch.zeros(len(labels)), 0.0

    model._word_losses = watched  # type: ignore[method-assign]
    model._words(lot, 0.3, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    flat = np.concatenate(lot.blocks)
    starts = np.cumsum([0, *map(len, lot.blocks)])
    asked = []
    for at, block in enumerate(lot.blocks):
        places = mask(block, model.reader.words, 0.3, rng).places
        asked += [int(starts[at]) + place for place in places.tolist()]
        assert all(flat[starts[at] + place] == block[place] for place in places.tolist())
    assert seen[0].tolist() == flat[asked].tolist()


def test_masked_words_are_the_cross_entropy_of_a_loop_over_blocks() -> None:
    for compat in (False, True):
        model = training(**(RELEASED if compat else {}))
        lot = lot_of(model, "The cost. " * 9, "the cost of control")
        loss, rows, _ = model._words(lot, 0.3, np.random.default_rng(0))
        rng = np.random.default_rng(0)
        each: dict[int, list[float]] = {}
        for at, block in enumerate(lot.blocks):
            masked = mask(block, model.reader.words, 0.3, rng)
            logits = model.heads.words(model.smith.sentence(pack([masked.ids])))
            found = torch.log_softmax(logits[masked.places], 1)
            slot = at - int(lot.offsets[np.searchsorted(lot.offsets, at, "right") - 1])
            each.setdefault(slot, []).extend(
                -found[row, label].item() for row, label in enumerate(masked.labels.tolist())
            )
            assert (rows[at] - model.smith.blocks(pack([masked.ids]))[0]).abs().max() < 1e-5
        flat = [value for values in each.values() for value in values]
        by_slot = sum(sum(values) / (len(values) + 1e-5) for values in each.values())
        assert loss.item() == pytest.approx(by_slot if compat else np.mean(flat), rel=1e-5)


def test_masked_blocks_are_not_seen() -> None:
    """Predictions depend on the other blocks of the document alone."""
    model = training()
    lot = lot_of(model, TEXT)
    rows, places = model.read(lot), torch.tensor([2, 5])
    before = model._predict(rows, lot, places)
    changed = rows.clone()
    changed[places] = -changed[places]
    assert torch.equal(model._predict(changed, lot, places), before)
    changed[0] = -changed[0]
    assert not torch.allclose(model._predict(changed, lot, places), before)


def test_masked_blocks_at_zero_prediction_are_the_logarithm() -> None:
    model = training()
    with torch.no_grad():
        model.heads.blocks.LayerNorm.weight.zero_()
        model.heads.blocks.LayerNorm.bias.zero_()
    lot = lot_of(model, TEXT, TEXT + " The remote cost.", "the cost")
    _, loss, _, _ = model.masked(lot, 0.0, 2, np.random.default_rng(0))
    assert loss.item() == pytest.approx(math.log(4), abs=1e-5)  # the third document has one block: none
    released = training(**RELEASED)
    with torch.no_grad():
        released.heads.blocks.LayerNorm.weight.zero_()
        released.heads.blocks.LayerNorm.bias.zero_()
    for seed in range(5):  # padding and all, 2 of each document
        found = released.masked(lot_of(released, TEXT, "the cost"), 0.0, 2, np.random.default_rng(seed))[1]
        assert found.item() == pytest.approx(math.log(4), abs=1e-3)


def test_released_masked_blocks_are_told_from_their_own_vectors_and_padding() -> None:
    model = training(**RELEASED)
    lot = lot_of(model, "The cost. " * 9, "the cost of control")
    counts, rows = np.diff(lot.offsets), model.read(lot)
    places = torch.arange(len(rows))  # k is all 8 slots: every block is masked
    predicted, padding = model._predict(rows, lot, places), model.smith.padding(model.reader.words.pad)
    wanted = torch.cat([
        torch.cat([part, padding.expand(8 - len(part), -1)]) for part in rows.split(counts.tolist())
    ])  # fmt: skip
    own = np.concatenate([at * 8 + np.arange(count) for at, count in enumerate(counts)])
    losses = -torch.log_softmax(predicted @ wanted.T, 1)[places, torch.from_numpy(own)]
    found = model.masked(lot, 0.0, 8, np.random.default_rng(0))[1]
    assert found.item() == pytest.approx(losses.sum().item() / (len(rows) + 1e-5), abs=1e-4)


# --- whole trainings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"compat": "true", "combine": "attention", "loop": "4"}])
def test_pretraining_learns_and_its_model_opens(
    tmp_path: Path, files: tuple[Path, Path], more: dict[str, str]
) -> None:
    start = bert(tmp_path / "bert")
    settings = {**NEW, "window": "4", "dropout": "0", **more}
    given = options(tmp_path, start, corpus=(str(files[0]),), batch=8, settings=settings)
    task = create_task("smith", given)
    found = train(task, given.out, TrainOptions(steps=40, lr=5e-3, keep="last", evaluate_every=40))
    curve = [json.loads(line) for line in Path(given.out, "curve.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in curve if "loss" in line]
    assert np.mean(losses[-3:]) < 0.85 * losses[0]
    assert set(found["held_out"]) == {"loss", "words", "blocks"}
    reader = open_encoder(found["model"])
    assert np.isfinite(reader.encode(["the cost"]).rows).all()
    # It goes on, heads and all.
    again = create_task("smith", options(tmp_path, found["model"], corpus=(str(files[0]),), batch=8, out="2"))
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@pytest.mark.parametrize("mode", ["joint", "finetune"])
def test_pairs_learn(tmp_path: Path, files: tuple[Path, Path], mode: str) -> None:
    start = bert(tmp_path / "bert")
    settings = {**NEW, "mode": mode, "dropout": "0", "masked_blocks": "1" if mode == "joint" else "0"}
    given = options(tmp_path, start, data=(str(files[1]),), batch=4, settings=settings)
    task = create_task("smith", given)
    train(task, given.out, TrainOptions(steps=30, lr=5e-3, keep="last", evaluate_every=30))
    curve = [json.loads(line) for line in Path(given.out, "curve.jsonl").read_text().splitlines()]
    matching = [line["matching"] for line in curve if "matching" in line]
    assert np.mean(matching[-3:]) < 0.8 * matching[0]
    found = task.evaluate()
    # What matches is closer than what does not.
    reader = open_encoder(str(Path(given.out) / "model"))
    asked, right, wrong = (
        reader.encode([text(number + more, size) for number in range(12)]).rows
        for more, size in ((0, 2), (26, 6), (1, 6))
    )
    assert ((asked * right).sum(1) > (asked * wrong).sum(1)).mean() > 0.6
    wanted = {"loss", "accuracy", "matching"}
    wanted |= {"words1", "words2", "blocks1", "blocks2"} if mode == "joint" else set()
    assert set(found) == wanted


def test_dense_goes_on_from_it_with_the_same_gradients(tmp_path: Path, files: tuple[Path, Path]) -> None:
    made = str(tmp_path / "smith")
    encoder(**SHAPE).save(made)
    found = []
    for at, settings in enumerate(({}, {"chunk": "3"}, {"chunk": "3", "checkpointing": "true"})):
        given = options(
            tmp_path, f"{made}(batch=60)", data=(str(files[1]),), batch=6, out=str(at),
            settings={"negatives": "1", "budget": "100000", **settings},
        )  # fmt: skip
        task = create_task("dense", given)
        loss, _ = task.loss(next(iter(task.batches(0, 0))))
        loss.backward()
        found.append([parameter.grad for parameter in task.model.parameters()])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.allclose(one, two, atol=1e-5)
    trained = train(task, given.out, TrainOptions(steps=2, lr=1e-3))
    assert open_encoder(trained["model"]).identity["encoder"] == "smith"


def test_batches_are_those_of_their_seed(tmp_path: Path, files: tuple[Path, Path]) -> None:
    start = bert(tmp_path / "bert")
    given = options(tmp_path, start, corpus=(str(files[0]),), batch=5, held_out=2, settings=NEW)
    task = create_task("smith", given)
    first, again, other = ([batch.tolist() for batch in task.batches(*at)] for at in ((0, 1), (0, 1), (1, 1)))
    assert first == again != other
    seen = [number for batch in first for number in batch]
    assert len(seen) == len(set(seen)) == 20
    assert not set(seen) & {24, 25}
    task.model.eval()
    with torch.no_grad():
        assert task.evaluate() == task.evaluate()


def test_what_is_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    start, made = bert(tmp_path / "bert"), str(tmp_path / "smith")
    encoder(**SHAPE).save(made)
    corpus, data = (str(file) for file in files)
    check: Callable[..., Any] = pytest.raises
    for settings, message in (
        ({"mode": "train"}, "choose one of pretrain"), ({"mask": "1"}, "from 0 to below 1"),
        ({"mask": "0"}, "above 0"), ({"window": "-1"}, "0 or more"), ({"positive_weight": "0"}, "above 0"),
        ({"layers": "0"}, "layers=0"), ({"combine": "best"}, "SMITH has normal"),
        ({"mode": "joint"}, "give --data"),
        ({"mode": "finetune", "negatives": "0", "random": "0"}, "teach nothing"),
    ):  # fmt: skip
        with check(UserError, match=message):
            create_task("smith", options(tmp_path, start, corpus=(corpus,), settings={**NEW, **settings}))
    with check(UserError, match="and no --data"):
        create_task("smith", options(tmp_path, start, corpus=(corpus,), data=(data,), settings=NEW))
    with check(UserError, match="name a model to start from"):
        create_task("smith", TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,)))
    with check(UnknownName, match="did you mean 'layers'"):
        create_task("smith", options(tmp_path, start, corpus=(corpus,), settings={"layer": "2"}))
    with check(UserError, match="is a SMITH with 2"):
        create_task("smith", options(tmp_path, made, corpus=(corpus,), settings={"layers": "3"}))
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"_id": "a", "text": "\\u200b"}\n{"_id": "b", "text": "the cost"}\n')
    with check(UserError, match="1 documents with words"):
        create_task("smith", options(tmp_path, start, corpus=(str(empty),), settings=NEW, out="e"))
