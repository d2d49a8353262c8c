"""TILDEv2, the model: parity with the official code, scores of a batch, losses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import Index
from retrieval.index.encoding import strongest
from retrieval.index.expansion import expanded_sequence, id_mask
from retrieval.index.vocabulary import Vocabulary

torch = pytest.importorskip("torch")

from retrieval.index.bert import pack  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.tildev2_model import (  # noqa: E402
    TildeV2,
    contrastive_loss,
    kl_loss,
    load_tildev2,
    margin_mse_loss,
    match_scores,
    own_scores,
    token_weights,
)

# --- parity with the official code ----------------------------------------------------------------------


@pytest.fixture
def official(parity: Path, placed: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    """The parity model, its inputs and what the official code made of them."""
    from safetensors.numpy import load_file

    source = parity / "tilde"
    files = ModelFiles.open(str(placed("tildev2", tmp_path / "model")))
    expected = json.loads((source / "expected.json").read_text())
    vocabulary = files.vocabulary
    passages = vocabulary.encode(expected["passages"])
    gained = [np.array(ids, np.int32) for ids in expected["expansion_ids"]]
    return {
        **expected,
        "tensors": load_file(source / "tildev2_expected.safetensors"),
        "model": load_tildev2(files),
        "vocabulary": vocabulary,
        "sequences": [
            expanded_sequence(passage, new, vocabulary.cls, vocabulary.sep, 64)
            for passage, new in zip(passages, gained)
        ],
        "query_ids": vocabulary.encode(expected["queries"]),
    }


def test_parity_of_inputs_and_token_weights(official: dict[str, Any]) -> None:
    given_ = official["tensors"]
    masks = given_["attention_mask"] == 1
    wanted = [row[mask].tolist() for row, mask in zip(given_["input_ids"], masks)]
    assert [ids.tolist() for ids in official["sequences"]] == wanted
    weights = token_weights(official["model"], official["sequences"])
    exact = np.concatenate([row[mask] for row, mask in zip(given_["token_weights"], masks)])
    assert np.abs(weights - exact).max() < 1e-4


def test_parity_of_training_scores_and_loss(official: dict[str, Any]) -> None:
    packed = pack(official["sequences"])
    with torch.no_grad():
        scores = match_scores(official["query_ids"], packed, official["model"](packed))
    assert np.abs(scores.numpy() - official["tensors"]["cart_scores"]).max() < 1e-4
    assert abs(contrastive_loss(scores, 1).item() - official["tildev2_loss_group1"]) < 1e-4


def test_parity_of_impacts_and_query_scores(official: dict[str, Any]) -> None:
    vocabulary, sequences = official["vocabulary"], official["sequences"]
    kept = ~id_mask(vocabulary.size, vocabulary.index_stop | vocabulary.special)
    owner = np.repeat(np.arange(4), [len(sequence) for sequence in sequences])
    weights = token_weights(official["model"], sequences)
    ends, terms, best = strongest(owner, np.concatenate(sequences), weights, 4, kept)
    for i, impacts in enumerate(official["impacts"]):
        found = dict(zip(terms[ends[i] : ends[i + 1]].tolist(), best[ends[i] : ends[i + 1]].tolist()))
        assert {int(term): weight for term, weight in impacts.items() if weight > 0} == pytest.approx(
            found, abs=1e-4
        )
    stop = vocabulary.index_stop | vocabulary.special
    clean = [ids[[int(i) not in stop for i in ids]] for ids in official["query_ids"]]
    scores = match_scores(clean, pack(sequences), torch.from_numpy(weights))
    assert np.abs(scores.numpy() - np.array(official["query_scores"])).max() < 1e-4


def test_parity_through_the_index(
    parity: Path, placed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 bits of a known maximum: to one step. Here the official expansion list stands for ours."""
    source = parity / "tilde"
    expected = json.loads((source / "expected.json").read_text())
    monkeypatch.setattr(Vocabulary, "expansion_stop", frozenset(expected["expansion_excluded_ids"]))
    placed("tilde", tmp_path / "tilde", window=64)
    maximum = max(weight for impacts in expected["impacts"] for weight in impacts.values())
    expansion = {"model": "../tilde", "top": expected["topk"]}
    model = placed("tildev2", tmp_path / "v2", window=64, length=64, maximum=maximum, expansion=expansion)
    index = Index.create(tmp_path / "index", [f"tildev2:{model}"])
    index.add([{"id": str(i), "text": text} for i, text in enumerate(expected["passages"])])
    index.commit()
    vocabulary = ModelFiles.open(str(model)).vocabulary
    step = maximum / 255
    for i, impacts in enumerate(expected["impacts"]):
        found = {term: value(index, vocabulary.pieces[int(term)], i) for term in impacts}
        for term, weight in impacts.items():
            below = weight - found[term] * step
            assert -1e-4 <= below < step + 1e-4 or (found[term] == 1 and 0 < weight < step)
    for query, scores in zip(expected["queries"], expected["query_scores"]):
        hits = {hit.doc_id: hit.score * step for hit in index.search(query)}
        terms = len(vocabulary.encode([query])[0])
        for i, score in enumerate(scores):
            assert abs(hits.get(str(i), 0.0) - score) <= terms * step + 1e-4


def value(index: Index, piece: str, document: int) -> float:
    """The stored value of a piece in a document."""
    stage: Any = index.stage(next(iter(index.representations)))
    for segment in stage.searcher.segments:
        number = segment.postings.lexicon.find(piece)
        if number >= 0:
            docs, values = segment.postings.posting(number)
            return float(dict(zip(docs.tolist(), values.tolist())).get(document, 0))
    return 0.0


# --- scoring --------------------------------------------------------------------------------------------

BATCH = st.tuples(
    st.lists(st.lists(st.integers(0, 11), max_size=6), min_size=1, max_size=4),  # queries
    st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12), min_size=1, max_size=4),  # passages
    st.integers(0, 2**32),
)


@given(BATCH)
def test_four_ways_to_score_are_one(batch: Any) -> None:
    """Dictionaries, one-hot by scatter-max matrix, masked maximum of a tensor, posting lists."""
    queries, passages, seed = batch
    rng = np.random.default_rng(seed)
    weights = [np.maximum(rng.normal(size=len(p)), 0).astype(np.float32) for p in passages]
    packed = pack(passages)
    found = match_scores(
        [np.array(q, np.int32) for q in queries], packed, torch.tensor(np.concatenate(weights))
    )
    dicts = []
    for passage, given_ in zip(passages, weights):
        best: dict[int, float] = {}
        for term, weight in list(zip(passage, given_))[1:]:  # [CLS] never matches
            best[term] = max(best.get(term, 0.0), float(weight))
        dicts.append(best)
    by_dict = [[sum(best.get(t, 0.0) for t in query) for best in dicts] for query in queries]
    matrix = np.array([[best.get(t, 0.0) for t in range(12)] for best in dicts])
    counts = np.array([[query.count(t) for t in range(12)] for query in queries])
    masked = [
        [
            sum(max([w for p, w in zip(passage[1:], given_[1:]) if p == t], default=0.0) for t in query)
            for passage, given_ in zip(passages, weights)
        ]
        for query in queries
    ]
    lists: dict[int, list[tuple[int, float]]] = {}
    for i, best in enumerate(dicts):
        for term, weight in best.items():
            lists.setdefault(term, []).append((i, weight))
    by_list = np.zeros((len(queries), len(passages)))
    for row, query in enumerate(queries):
        for term in query:
            for i, weight in lists.get(term, []):
                by_list[row, i] += weight
    for other in (by_dict, counts @ matrix.T, masked, by_list):
        assert np.abs(found.numpy() - np.array(other).reshape(found.shape)).max(initial=0) < 1e-5


def test_a_query_twice_scores_twice_and_an_absent_term_nothing() -> None:
    packed, weights = pack([[1, 5, 6, 2], [1, 6, 6, 2]]), torch.tensor([9.0, 1, 2, 0, 9, 3, 4, 0])
    once = match_scores([np.array([5, 6])], packed, weights)
    assert once.tolist() == [[3, 4]]
    assert match_scores([np.array([5, 6, 5, 6])], packed, weights).tolist() == [[6, 8]]
    assert match_scores([np.array([5, 6, 7, 1])], packed, weights).tolist() == [[3, 4]]
    assert match_scores([np.array([], np.int32)], packed, weights).tolist() == [[0, 0]]
    idf = torch.arange(10.0)
    assert match_scores([np.array([5, 6])], packed, weights, idf).tolist() == [[5 + 12, 24]]


def test_gradients_reach_the_largest_position_only() -> None:
    weights = torch.tensor([9.0, 1, 2, 3], requires_grad=True)
    match_scores([np.array([5, 5])], pack([[1, 5, 5, 6]]), weights).sum().backward()
    assert weights.grad.tolist() == [0, 0, 2, 0]


def test_weights_do_not_depend_on_the_company(tiny_model: Callable[..., Path]) -> None:
    model = load_tildev2(ModelFiles.open(str(tiny_model("tildev2"))))
    rng = np.random.default_rng(0)
    sequences = [rng.integers(4, 60, n).astype(np.int32) for n in (5, 40, 7, 23, 5, 60)]
    together = np.split(token_weights(model, sequences), np.cumsum([len(s) for s in sequences])[:-1])
    alone = [token_weights(model, [one]) for one in sequences]
    backwards = token_weights(model, sequences[::-1], tokens=64)
    turned = np.split(backwards, np.cumsum([len(s) for s in sequences[::-1]])[:-1])[::-1]
    for one, other, third in zip(together, alone, turned):
        assert (one >= 0).all()
        assert np.abs(one - other).max() < 1e-5
        assert np.abs(one - third).max() < 1e-5
    assert sum(float(one.sum()) for one in alone) > 0


def test_the_bound_is_above_every_weight(tiny_model: Callable[..., Path]) -> None:
    for seed in range(5):
        model = load_tildev2(ModelFiles.open(str(tiny_model("tildev2", name=f"m{seed}", seed=seed))))
        rng = np.random.default_rng(seed)
        sequences = [rng.integers(4, 60, 60).astype(np.int32) for _ in range(20)]
        assert 0 < token_weights(model, sequences).max() < model.bound()
        layers: Any = model.bert.encoder.layer
        norm = layers[-1].output.LayerNorm
        with torch.no_grad():  # the normalised vector that points along the head reaches it
            along = model.tok_proj.weight[0] * norm.weight
            state = along / along.norm() * len(along) ** 0.5 * norm.weight + norm.bias
            assert model.weigh(state[None]).item() == pytest.approx(model.bound(), rel=1e-4)


# --- losses ---------------------------------------------------------------------------------------------


def test_contrastive_labels_are_the_first_of_each_group() -> None:
    scores = torch.zeros(3, 6)
    assert contrastive_loss(scores, 2).item() == pytest.approx(math.log(6))
    scores[[0, 1, 2], [0, 2, 4]] = 100
    assert contrastive_loss(scores, 2).item() == pytest.approx(0, abs=1e-6)
    assert own_scores(torch.arange(18).view(3, 6), 2).tolist() == [[0, 1], [8, 9], [16, 17]]


def test_distillation_losses_are_zero_only_at_the_teacher() -> None:
    teacher = torch.tensor([[3.0, 1.0, 0.5], [2.0, 2.5, -1.0]])
    assert margin_mse_loss(teacher + torch.tensor([[5.0], [-2.0]]), teacher).item() == pytest.approx(0)
    assert kl_loss(teacher + 7, teacher).item() == pytest.approx(0, abs=1e-6)
    student = torch.zeros(2, 3)
    margins = [2.0, 2.5, -0.5, 3.0]
    assert margin_mse_loss(student, teacher).item() == pytest.approx(np.mean(np.square(margins)))
    p = torch.softmax(teacher / 2, 1)
    assert kl_loss(student, teacher, 2.0).item() == pytest.approx(
        float((p * (p.log() + math.log(3))).sum(1).mean()), rel=1e-5
    )


def fresh_model(size: int, hidden: int, seed: int = 0) -> TildeV2:
    from retrieval.index.bert import BertConfig

    torch.manual_seed(seed)
    shape = {
        "vocab_size": size, "hidden_size": hidden, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 2 * hidden, "max_position_embeddings": 64, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip
    return TildeV2(BertConfig.from_dict(shape))


def overlapping(rng: np.random.Generator, queries: int, group: int) -> tuple[list[Any], list[Any]]:
    """Queries of two terms; passages that hold both, and negatives that hold one of them or both."""
    asked, passages = [], []
    for _ in range(queries):
        query = rng.choice(np.arange(10, 200), 2, replace=False)
        asked.append(query.astype(np.int32))
        for place in range(group):
            body = rng.integers(10, 200, 10)
            body[rng.choice(10, 2, replace=False)] = query if place == 0 else [query[place % 2], body[0]]
            passages.append(np.concatenate([[1], body, [2]]).astype(np.int32))
    return asked, passages


def test_random_start_is_ln_of_the_candidates_and_half_of_the_weights_are_zero() -> None:
    losses, zeros = [], []
    for seed in range(8):
        model = fresh_model(200, 32, seed).eval()
        queries, passages = overlapping(np.random.default_rng(seed), 8, 8)
        packed = pack(passages)
        with torch.no_grad():
            weights = model(packed)
            losses.append(contrastive_loss(match_scores(queries, packed, weights), 8).item())
        zeros.append(float((weights == 0).float().mean()))
    assert np.mean(losses) == pytest.approx(math.log(64), abs=0.2)
    assert 0.2 < np.mean(zeros) < 0.8


def test_it_learns_term_overlapping_negatives() -> None:
    model = fresh_model(200, 32)
    with torch.no_grad():
        model.tok_proj.bias.fill_(0.1)  # a ReLU that begins dead learns nothing
    queries, passages = overlapping(np.random.default_rng(0), 8, 3)
    packed = pack(passages)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = contrastive_loss(match_scores(queries, packed, model(packed)), 3)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 2
    assert losses[-1] < 0.05
    scores = match_scores(queries, packed, model(packed))
    assert scores.argmax(1).tolist() == [3 * i for i in range(8)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_bfloat16_is_near(seed: int) -> None:
    model = fresh_model(200, 32, seed % 1000).eval()
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(4, 200, n).astype(np.int32) for n in (5, 17, 30)]
    exact, near = (token_weights(model, sequences, precision) for precision in ("float32", "bfloat16"))
    assert np.abs(exact - near).max() < 0.05 * max(1.0, float(exact.max()))
