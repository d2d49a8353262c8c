"""PROP's and B-PROP's pre-training: instances, masks, losses, the task; the defects of the published code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UnknownName, UserError
from retrieval.index.vocabulary import Vocabulary

torch = pytest.importorskip("torch")

from retrieval.index.bert import BertConfig, pack  # noqa: E402
from retrieval.index.bprop_model import (  # noqa: E402
    BProp,
    Instances,
    bprop_loss,
    cls_attention,
    drift,
    first_rows,
    load_bprop,
    rop_loss,
    word_attention,
)
from retrieval.index.bprop_train import BPropTask, create  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.trainer import TaskOptions, TrainOptions, train  # noqa: E402

Maker = Callable[..., Path]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cab", "fox", "zoo", "s", "##s", "##y", "a", "b", "."]
WORDS = Vocabulary.from_bytes("".join(piece + "\n" for piece in PIECES).encode(), "vocab.txt")
PROSE = [
    "the fox and the cab go to a zoo by night when many old men dream of bread and water in a big house",
    "a cab driver will wait for one more hour at that corner where rain falls on every hat and coat all day",
    "zoo keepers feed big birds with fish from cold lakes while young girls paint small signs on wood gates",
    "music plays in some far town hall where quick hands move over keys until late at night when all sleep",
    "ships sail past dark rocks under stars that guide brave crews home with spice silk gold tea and salt",
    "farmers plant corn beans wheat and oats each spring then pray for rain sun calm wind and good harvest",
]


def make_corpus(folder: Path, copies: int = 6) -> Path:
    lines = [
        json.dumps({"id": f"{copy}-{i}", "text": f"{text} {PROSE[(i + copy) % len(PROSE)]}"})
        for copy in range(copies)
        for i, text in enumerate(PROSE)
    ]
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def make_task(tiny_model: Maker, tmp_path: Path, name: str = "out", **settings: Any) -> BPropTask:
    start = tmp_path / "bprop"
    if not start.exists():
        tiny_model("bprop")
    corpus = tmp_path / "corpus.jsonl"
    if not corpus.exists():
        make_corpus(tmp_path)
    texts = {key: str(value) for key, value in {"length": 64, "least": 2, **settings}.items()}
    (tmp_path / name).mkdir(exist_ok=True)
    options = TaskOptions(
        out=str(tmp_path / name), start=str(start), corpus=(str(corpus),), batch=4, settings=texts
    )
    return create(options)


# --- model and losses -------------------------------------------------------------------------------------


def test_rop_is_one_at_a_tie_in_both_forms() -> None:
    scores = torch.zeros(6, requires_grad=True)
    for form in ("hinge", "softmax"):
        assert float(rop_loss(scores, form).detach()) == pytest.approx(1)
    (gradient,) = torch.autograd.grad(rop_loss(scores, "hinge"), scores)
    assert gradient.tolist() == pytest.approx([-1 / 3, 1 / 3] * 3)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=5))
def test_rop_by_hand(pairs: list[tuple[float, float]]) -> None:
    scores = torch.tensor([value for pair in pairs for value in pair], dtype=torch.float64)
    hinge = np.mean([max(0.0, 1 - better + worse) for better, worse in pairs])
    assert float(rop_loss(scores, "hinge")) == pytest.approx(float(hinge), abs=1e-5)
    code = []  # the published code: a softmax over the pair, then a margin of 1
    for better, worse in pairs:
        p = np.exp([better, worse]) / np.exp([better, worse]).sum()
        code.append(max(0.0, 1 - p[0] + p[1]))
    found = float(rop_loss(scores, "softmax"))
    assert found == pytest.approx(float(np.mean(code)), abs=1e-5)
    assert 0 < found < 2
    sigmoids = [2 / (1 + np.exp(better - worse)) for better, worse in pairs]
    assert found == pytest.approx(float(np.mean(sigmoids)), abs=1e-5)


def test_half_a_pair_is_refused() -> None:
    # Defect of the published code: a batch split over devices could part the two.
    with pytest.raises(ValueError, match="do not make pairs"):
        rop_loss(torch.zeros(3))
    with pytest.raises(UnknownName, match="form of ROP"):
        rop_loss(torch.zeros(2), "logistic")


def tiny(vocabulary: int = 14) -> BProp:
    torch.manual_seed(0)
    return BProp(
        BertConfig(vocabulary, 16, 2, 2, 32, max_position_embeddings=64, initializer_range=0.3)
    ).eval()


def test_both_heads_take_part_in_the_loss() -> None:
    # Defect of the published code: the head was asked for by a name that nothing had, and no step could run.
    model = tiny()
    names = dict(model.named_parameters())
    assert {"rop.weight", "cls.predictions.bias", "bert.pooler.dense.weight"} <= set(names)
    packed = pack([[2, 5, 3, 6, 7, 3], [2, 6, 3, 6, 7, 3]], [[0, 0, 0, 1, 1, 1]] * 2)
    batch = Instances(packed, torch.tensor([3, 9]), torch.tensor([5, 5]))
    loss, figures = bprop_loss(model, batch)
    loss.backward()
    still = {name for name, p in names.items() if p.grad is None or not bool((p.grad != 0).any())}
    assert still == {"rop.bias"}  # it cancels out within a pair
    assert float(loss.detach()) == pytest.approx(figures["mlm"] + figures["rop"], rel=1e-5)
    nothing = Instances(packed, torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long))
    assert float(bprop_loss(model, nothing)[0]) == pytest.approx(bprop_loss(model, nothing)[1]["rop"])


def test_mlm_loss_of_a_model_that_knows_nothing_is_ln_of_the_vocabulary() -> None:
    model = tiny()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.zero_()
    packed = pack([[2, 5, 3, 6, 7, 3]] * 2)
    figures = bprop_loss(model, Instances(packed, torch.tensor([3]), torch.tensor([6])))[1]
    assert figures["mlm"] == pytest.approx(np.log(14), rel=1e-5)
    assert figures["rop"] == pytest.approx(1)


def test_attention_to_words_sums_to_what_special_tokens_leave() -> None:
    model = tiny()
    sequences = [np.array([5, 6, 7, 8], np.int32), np.array([9], np.int32), np.empty(0, np.int32)]
    found = cls_attention(model.bert, sequences, 2, 3)
    for ids, values in zip(sequences, found, strict=True):
        with torch.no_grad():
            _, row = model.bert(pack([[2, *ids.tolist(), 3]]), cls_attention=True)
        assert values == pytest.approx(row[1:-1].numpy(), abs=1e-6)
        assert float(row.sum()) == pytest.approx(1, abs=1e-6)
        assert float(values.sum() + row[0] + row[-1]) == pytest.approx(1, abs=1e-6)


def test_attention_of_all_layers_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny()
    config = transformers.BertConfig(
        vocab_size=14, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    other = transformers.BertModel(config).eval()
    other.load_state_dict(model.bert.state_dict(), strict=False)
    sequences = [[2, 5, 6, 7, 3], [2, 8, 3]]
    packed = pack(sequences)
    with torch.no_grad():
        rows, last = first_rows(model.bert, packed, "all"), first_rows(model.bert, packed)
        for i, ids in enumerate(sequences):
            found = other(input_ids=torch.tensor([ids]), output_attentions=True).attentions
            start, end = packed.offsets[i : i + 2].tolist()
            for layer in range(2):
                wanted = found[layer][0, :, 0].mean(0)
                assert rows[layer, start:end].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    assert last[0].tolist() == pytest.approx(rows[1].tolist(), abs=1e-6)


def test_drift_by_hand() -> None:
    packed = pack([[2, 5, 3], [2, 3]])
    before = torch.tensor([[0.5, 0.25, 0.25, 0.5, 0.5]])
    now = torch.tensor([[0.25, 0.5, 0.25, 0.9, 0.1]])
    first = 0.5 * np.log(2) - 0.25 * np.log(2)
    second = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert float(drift(now, before, packed)) == pytest.approx((first + second) / 2, rel=1e-5)
    assert float(drift(before, before, packed)) == 0
    assert float(drift(now.repeat(2, 1), before.repeat(2, 1), packed)) == pytest.approx(
        (first + second) / 2, rel=1e-5
    )


def test_attention_is_held_where_asked(tiny_model: Maker, tmp_path: Path) -> None:
    moved = {}
    for keep in (0.0, 20.0):
        task = make_task(tiny_model, tmp_path, f"keep-{keep}", keep=keep)
        options = TrainOptions(steps=20, lr=3e-3, evaluate_every=20, threads=1)
        report = train(task, str(tmp_path / f"keep-{keep}"), options, None)
        assert ("drift" in report["held_out"]) == (keep > 0)
        with torch.no_grad():
            moved[keep] = float(task._drift(np.arange(8)))
    assert moved[20.0] < moved[0.0] / 2


def test_attention_of_a_word_is_its_first_pieces_or_all() -> None:
    attention, word = np.array([0.1, 0.2, 0.3], np.float32), np.array([0, 0, 2])
    assert word_attention(attention, word, 3, "first") == pytest.approx([0.1, 0, 0.3])
    assert word_attention(attention, word, 3, "sum") == pytest.approx([0.3, 0, 0.3])


# --- the task ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["bprop", "prop"])
def test_batches_hold_whole_pairs_and_are_drawn_again_alike(
    tiny_model: Maker, tmp_path: Path, source: str
) -> None:
    task = make_task(tiny_model, tmp_path, source=source)
    batches = list(task.batches(0, 7))
    assert [batch.documents.tolist() for batch in task.batches(0, 7)] == [
        b.documents.tolist() for b in batches
    ]
    assert [b.documents.tolist() for b in task.batches(1, 7)] != [b.documents.tolist() for b in batches]
    once = task.instances(batches[0])
    again = task.instances(batches[0])
    assert once.packed.ids.tolist() == again.packed.ids.tolist()
    assert once.labels.tolist() == again.labels.tolist()
    assert len(once.packed.offsets) == 1 + 2 * 4
    documents = task._prepared
    vocabulary = documents.table.vocabulary
    for number, document in enumerate(batches[0].documents.tolist()):
        sets = []
        for row in (2 * number, 2 * number + 1):
            start, end = once.packed.offsets[row : row + 2].tolist()
            ids = once.packed.ids[start:end].tolist()
            first = ids.index(vocabulary.sep)
            sets.append(ids[1:first])
            assert once.packed.segments[start:end].tolist() == [0] * (first + 1) + [1] * (
                end - start - first - 1
            )
            inside = [i for i in once.rows.tolist() if start <= i < end]
            assert inside
            assert min(inside) > start + first
            whole = documents.table.tokens(documents.words[document])[0].tolist()
            restored = dict(zip(once.rows.tolist(), once.labels.tolist(), strict=True))
            read = [restored.get(start + i, ids[i]) for i in range(first + 1, len(ids) - 1)]
            assert read == whole[: len(read)]
        assert sets[0] != sets[1]


def test_the_generator_gives_the_sets_of_one_size(tiny_model: Maker, tmp_path: Path) -> None:
    for source in ("bprop", "prop"):
        task = make_task(tiny_model, tmp_path, f"out-{source}", source=source)
        table = task._prepared.table
        good = table.alphabetic()
        for document in range(5):
            for pair in task.sets.pairs(document, 10, np.random.default_rng(document)):
                assert len(pair.better) == len(pair.worse)
                assert good[list(pair.better + pair.worse)].all()
                if source == "bprop":
                    assert set(pair.better + pair.worse) <= set(task._prepared.words[document].tolist())
                else:
                    assert "the" not in {table.text(number) for number in pair.better + pair.worse}


def test_effective_vocabulary_is_reported(tiny_model: Maker, tmp_path: Path) -> None:
    hot = make_task(tiny_model, tmp_path, "hot").sets.facts()
    cold = make_task(tiny_model, tmp_path, "cold", temperature=0.02).sets.facts()
    aimed = make_task(tiny_model, tmp_path, "aimed", effective=0.3).sets.facts()
    assert hot["words"] == cold["words"]
    assert hot["share"] > 0.95
    assert cold["effective_words"] < hot["effective_words"]
    assert aimed["share"] == pytest.approx(0.3, abs=0.01)


def test_a_second_start_reads_what_the_first_prepared(
    tiny_model: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_task(tiny_model, tmp_path)
    monkeypatch.setattr(Vocabulary, "words", None)
    again = make_task(tiny_model, tmp_path)
    for one, other in zip(first._prepared[1:], again._prepared[1:], strict=True):
        assert one.flat.tolist() == other.flat.tolist()
        assert one.ends.tolist() == other.ends.tolist()
    monkeypatch.undo()
    file = tmp_path / "out" / "prepared.npz"
    file.write_bytes(file.read_bytes()[:-100])
    repaired = make_task(tiny_model, tmp_path)
    assert repaired._prepared.words.flat.tolist() == first._prepared.words.flat.tolist()
    monkeypatch.setattr(Vocabulary, "words", None)
    make_task(tiny_model, tmp_path, rop="softmax", temperature=0.5, mask=0.3)
    monkeypatch.undo()
    changed = make_task(tiny_model, tmp_path, documents=9)
    assert len(changed._prepared.words) == 9


def test_documents_are_chosen_as_asked(tiny_model: Maker, tmp_path: Path) -> None:
    assert len(make_task(tiny_model, tmp_path, "a", documents=7)._prepared.words) == 7
    few = len(make_task(tiny_model, tmp_path, "b", short=10_000, short_kept=0.5)._prepared.words)
    assert 5 < few < 31
    with pytest.raises(UserError, match="of the corpus 0 documents have 500 different words"):
        make_task(tiny_model, tmp_path, "c", shortest=500)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "trop"}, "choose one of bprop, prop"),
        ({"rop": "none"}, "choose one of hinge, softmax"),
        ({"length": 500}, "this model reads 16 to 64 tokens"),
        ({"mean": 0}, "above 0"),
        ({"mean": 1e30}, "from 0.01 to 100"),
        ({"documents": 10**40}, "give a whole number"),
        ({"mask": 2}, "from 0 to 1"),
        ({"temperature": -1}, "0 or more"),
        ({"least": 1000, "source": "prop"}, "no word occurs 1000 times"),
        ({"lenght": 10}, "unknown setting of bprop"),
    ],
)
def test_bad_settings_are_refused(
    tiny_model: Maker, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_task(tiny_model, tmp_path, **settings)


def test_bad_input_is_refused(tiny_model: Maker, tmp_path: Path) -> None:
    start = str(tiny_model("bprop"))
    with pytest.raises(UserError, match="give --corpus"):
        create(TaskOptions(out=str(tmp_path), start=start))
    with pytest.raises(UserError, match="name a model to start from"):
        create(TaskOptions(out=str(tmp_path), corpus=(str(make_corpus(tmp_path)),)))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "text": "fox"}\nnonsense\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2: "):
        create(TaskOptions(out=str(tmp_path), start=start, corpus=(str(bad),), settings={"length": "64"}))


def test_documents_that_are_all_alike_give_no_pair(tiny_model: Maker, tmp_path: Path) -> None:
    alike = tmp_path / "alike.jsonl"
    text = "a b c d e f g h i j k l m"
    alike.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i in range(20)))
    options = TaskOptions(
        out=str(tmp_path / "out"), start=str(tiny_model("bprop")), corpus=(str(alike),), batch=2, held_out=0,
        settings={"length": "64", "contrast": "subtract"},
    )  # fmt: skip
    task = create(options)  # P_doc is P_rand: no word says more than another
    with pytest.raises(UserError, match="no document of a batch gives two word sets"):
        task.loss(next(task.batches(0, 0)))


@pytest.mark.parametrize("source", ["bprop", "prop"])
def test_training_learns_and_its_model_loads(tiny_model: Maker, tmp_path: Path, source: str) -> None:
    task = make_task(tiny_model, tmp_path, source=source, dtype="float32")
    options = TrainOptions(steps=30, lr=3e-3, evaluate_every=10, threads=1)
    out = tmp_path / "out"
    before = task.evaluate()
    report = train(task, str(out), options, None)
    assert before["loss"] == pytest.approx(before["mlm"] + before["rop"], rel=1e-4)
    assert report["held_out"]["loss"] < before["loss"] - 0.3
    assert before["drift"] == pytest.approx(0, abs=1e-5)
    model, fresh = load_bprop(ModelFiles.open(str(out / "model")))
    assert fresh == []
    files = ModelFiles.open(str(out / "model"))
    assert files.settings["kind"] == "bprop"
    assert set(files.settings["word_sets"]) == set(task.sets.facts())
    assert float(model.rop.weight.detach().abs().sum()) > 0
