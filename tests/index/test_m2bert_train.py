"""Pre-training of M2-BERT: the mixture of texts, masked words, what a training begins with, resuming."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.m2bert_data import frame, mask, mixture  # noqa: E402
from retrieval.index.m2bert_files import open_model  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.train_loop import _optimizer  # noqa: E402
from retrieval.index.trainer import TaskOptions, TrainOptions, create_task, train  # noqa: E402
from retrieval.index.vocabulary import Vocabulary  # noqa: E402

SMALL = {"layers": "1", "hidden": "16", "order": "8", "length": "24", "embeddings": "random"}


# --- data ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=30),
    length=st.integers(3, 30),
    variable=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    seed=st.integers(0, 5),
)
def test_the_mixture_holds_both_kinds(sizes: list[int], length: int, variable: float, seed: int) -> None:
    ends = np.append(0, np.cumsum(sizes)).astype(np.int64)
    places = mixture(ends, length, variable, np.random.default_rng(seed))
    assert ((places[:, 0] < places[:, 1]) & (places[:, 1] <= ends[-1])).all()
    assert (places[:, 1] - places[:, 0] <= length).all()
    natural = {(int(a), min(int(b), int(a) + length)) for a, b in pairwise(ends)}
    found = [(int(a), int(b)) for a, b in places]
    if variable == 1.0:
        assert sorted(found) == sorted(natural)
        return
    joined = max(1, round(len(found) * (1 - variable)))
    assert abs(sum(place in natural for place in found) - (len(found) - joined)) <= joined
    if variable == 0.0:
        starts = sorted(start for start, _ in found)
        assert all(np.diff(starts) == length)
        assert starts[0] < length


def test_pieces_of_the_stream_differ_from_epoch_to_epoch() -> None:
    ends = np.arange(0, 2100, 70)
    first, again, second = (
        mixture(ends, 50, 0.3, np.random.default_rng([0, 2, epoch])) for epoch in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert set(first[:, 0].tolist()) != set(second[:, 0].tolist())


@pytest.fixture
def words(m2bert_models: Any) -> Vocabulary:
    return Vocabulary.from_bytes(m2bert_models.vocabulary(), "vocab.txt")


def test_masks_the_wanted_share_by_the_80_10_10_rule(words: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    piece = rng.integers(5, words.size, 20_000).astype(np.int32)
    ids = frame(piece, words)
    assert (ids[0], ids[-1]) == (words.cls, words.sep)
    found = mask(ids, words, 0.3, rng)
    np.testing.assert_array_equal(found.labels, ids[found.places])
    assert len(found.places) == pytest.approx(0.3 * 20_000, abs=2)
    now = found.ids[found.places]
    assert (now == words.mask).mean() == pytest.approx(0.8, abs=0.02)
    assert (now == found.labels).mean() == pytest.approx(0.1, abs=0.02)
    untouched = np.setdiff1d(np.arange(len(ids)), found.places)
    np.testing.assert_array_equal(found.ids[untouched], ids[untouched])


def test_special_tokens_are_never_asked_for(words: Vocabulary) -> None:
    piece = np.array([words.sep, 6, words.unk, words.sep, 7, 8], np.int32)
    for seed in range(20):
        found = mask(frame(piece, words), words, 0.5, np.random.default_rng(seed))
        assert set(found.places.tolist()) <= {2, 5}
        assert len(found.places) == 1
    nothing = mask(np.array([words.cls, words.sep], np.int32), words, 0.5, np.random.default_rng(0))
    assert len(nothing.places) == 0


# --- the task -----------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    path = tmp_path / "corpus.jsonl"
    with path.open("w") as file:
        for number in range(40):
            text = " ".join(rng.choice(["the", "meeting", "remote", "control", "cost", "a"], 30))
            file.write(json.dumps({"_id": str(number), "text": text}) + "\n")
    return str(path)


@pytest.fixture
def task(
    tmp_path: Path, corpus: str, tiny_model: Callable[..., Path]
) -> Callable[..., tuple[Any, list[str]]]:
    """task(start=..., setting=...) is (the task, what it said); it starts from a BERT unless told."""

    def make(out: str = "out", start: str | None = None, **given: str) -> tuple[Any, list[str]]:
        said: list[str] = []
        if start is None:
            start = str(tiny_model("tilde", name=f"bert-{out}"))
        options = TaskOptions(
            out=str(tmp_path / out), start=start, corpus=(corpus,), batch=4, settings=given, say=said.append
        )
        return create_task("m2bert", options), said

    return make


OPTIONS: dict[str, Any] = {
    "steps": 6,
    "lr": 1e-2,
    "checkpoint_every": 2,
    "warmup": 0.1,
    "threads": 1,
    "device": "cpu",
}


@pytest.mark.parametrize("pad", ["masked", "faithful"])
def test_a_training_that_stops_goes_on_to_the_same_bits(
    task: Callable[..., Any], tmp_path: Path, pad: str
) -> None:
    options = TrainOptions(**OPTIONS)
    whole = train(task(**SMALL, pad=pad)[0], str(tmp_path / "out"), options)

    class Stop(Exception):
        pass

    steps = 0

    def stop() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise Stop

    with pytest.raises(Stop):
        train(task("twice", **SMALL, pad=pad)[0], str(tmp_path / "twice"), options, stop=stop)
    again = train(task("twice", **SMALL, pad=pad)[0], str(tmp_path / "twice"), options)
    assert again["loss"] == whole["loss"]
    first, second = (ModelFiles.open(str(tmp_path / name / "model")).tensors() for name in ("out", "twice"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=0, rtol=0, msg=name)


def test_learns_and_saves_an_encoder_that_goes_on(task: Callable[..., Any], tmp_path: Path) -> None:
    options = TrainOptions(**{**OPTIONS, "steps": 40, "evaluate_every": 20})
    made, said = task(**SMALL)
    before = made.evaluate()["loss"]
    result = train(made, str(tmp_path / "out"), options)
    assert result["held_out"]["loss"] < before - 0.5
    assert "new M2-BERT: 1 layers of 16, 24 tokens" in said[0]
    encoder = open_encoder(result["model"])
    assert encoder.identity["pad"] == "masked"
    assert encoder.encode(["the meeting", ""]).rows.shape == (2, 16)
    longer, said = task("longer", start=result["model"], length="60")
    assert "tables grown from 24" in said[0]
    assert "new masked-LM head" not in said[0]
    assert longer.model.bert.config.max_position_embeddings == 60
    same = task("same", start=result["model"])[0]
    assert same.evaluate()["loss"] == pytest.approx(result["best"]["value"], abs=1e-5)


def test_an_m2bert_hands_its_use_on_unless_told(
    task: Callable[..., Any], tmp_path: Path, m2bert_models: Any
) -> None:
    start = m2bert_models.directory(tmp_path / "m2", pad="faithful", pooling="cls", pooler=True)
    made, said = task(start=start)
    assert "new masked-LM head" in said[0]
    wanted = {"pad": "faithful", "pooling": "cls", "pooler": True}
    assert {name: made.settings[name] for name in wanted} == wanted
    assert task("other", start=start, pad="masked")[0].settings["pad"] == "masked"
    with pytest.raises(UserError, match="an M2-BERT with 2; leave it out"):
        task("wrong", start=start, layers="3")


def test_begins_with_the_words_of_a_bert_of_its_width(task: Callable[..., Any], tiny_model: Any) -> None:
    bert = tiny_model("tilde", name="words")
    made, _ = task(start=str(bert), layers="1", length="24")
    theirs = ModelFiles.open(str(bert)).tensors()["bert.embeddings.word_embeddings.weight"]
    ours = made.model.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(ours[: len(theirs)], theirs)
    with pytest.raises(UserError, match="are 16 wide"):
        task("wide", start=str(bert), hidden="32")


def test_a_residual_start_hands_tokens_on(task: Callable[..., Any]) -> None:
    ids = torch.randint(5, 40, (1, 24))
    kept = {}
    for begin in ("residual", "published"):
        bert = task(begin, **{**SMALL, "layers": "4"}, begin=begin)[0].model.bert.eval()
        with torch.no_grad():
            entering, leaving = bert.embeddings(ids)[0], bert(ids)[0]
        kept[begin] = float(torch.nn.functional.cosine_similarity(entering, leaving).mean())
    assert kept["residual"] > 0.5 > kept["published"]


def test_filters_of_a_residual_start_decay_within_their_reach(task: Callable[..., Any]) -> None:
    given = {**SMALL, "length": "96"}
    published = m2_deltas(task("whole", **given, reach="0")[0])
    torch.testing.assert_close(m2_deltas(task("near", **given, reach="24")[0]), 4 * published)
    torch.testing.assert_close(m2_deltas(task("far", **given, reach="500")[0]), published)


def m2_deltas(task: Any) -> Any:
    return task.model.bert.encoder.layers()[0].attention.filter_fn2.modulation.deltas


def test_filters_and_z_learn_at_rates_of_their_own(task: Callable[..., Any], tmp_path: Path) -> None:
    made, _ = task(**SMALL)
    optimizer = _optimizer(made.model, TrainOptions(), torch.device("cpu"))
    rate = {id(p): group.get("rate", 1.0) for group in optimizer.param_groups for p in group["params"]}
    named = dict(made.model.named_parameters())
    assert len(rate) == len(named)  # each parameter once
    for name, parameter in named.items():
        wanted = 0.02 if name.endswith("pos_emb.z") else 2.0 if ".implicit_filter" in name else 1.0
        assert rate[id(parameter)] == wanted, name
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    train(made, str(tmp_path / "out"), TrainOptions(**{**OPTIONS, "steps": 1, "warmup": 0.0}))
    moved = {name: float((named[name].detach() - before[name]).abs().max()) for name in named}
    stem = "bert.encoder.layer.0.attention"
    assert moved[f"{stem}.in_linear.weight"] == pytest.approx(1e-2, rel=0.05)  # Adam's first step is the rate
    assert moved[f"{stem}.filter_fn.pos_emb.z"] == pytest.approx(2e-4, rel=0.05)
    assert moved[f"{stem}.filter_fn.implicit_filter.0.weight"] == pytest.approx(2e-2, rel=0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pad": "trim"}, "choose one of masked, faithful"),
        ({"mask": "1.5"}, "give a share"),
        ({"layers": "-1"}, "0 or more"),
        ({"hidden": "18", "embeddings": "random"}, "does not divide into 4 blocks"),
    ],
)
def test_refuses_settings_of_no_sense(task: Callable[..., Any], given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**given)


def test_names_what_is_not_given(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(UserError, match="give --corpus"):
        create_task("m2bert", TaskOptions(out=str(tmp_path / "o"), start="x"))
    with pytest.raises(UserError, match="--start DIR"):
        create_task("m2bert", TaskOptions(out=str(tmp_path / "o"), corpus=(corpus,)))


def test_dense_training_takes_an_m2bert(tmp_path: Path, m2bert_models: Any) -> None:
    start = m2bert_models.directory(tmp_path / "m2", pad="masked", pooling="mean", pooler=False)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"cost {a}\tthe cost of {a} {a}\n" for a in "abcdefghijklmnop"))
    options = TaskOptions(
        out=str(tmp_path / "out"), start=start, data=(str(pairs),), batch=4, held_out=4,
        settings={"negatives": "0", "loss": "mnrl", "chunk": "2"},
    )  # fmt: skip
    made = create_task("dense", options)
    result = train(made, options.out, TrainOptions(**{**OPTIONS, "lr": 1e-3, "steps": 2}))
    assert open_encoder(result["model"]).identity["pad"] == "masked"
    assert open_model(ModelFiles.open(result["model"])).config == open_model(ModelFiles.open(start)).config
