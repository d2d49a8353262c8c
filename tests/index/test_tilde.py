"""TILDE: the model's numbers, its loss, and the index that holds the likeliest terms above a floor."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Index, UserError
from retrieval.index.expansion import id_mask

torch = pytest.importorskip("torch")

from retrieval.index.bert import pack  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.tilde_model import (  # noqa: E402
    Markers,
    bidirectional_loss,
    document_likelihood,
    load_tilde,
    log10_likelihoods,
    logit_batches,
    marked,
    query_likelihood,
    term_sets,
)

TEXTS = {
    "d0": "abc of the cab, bad cabs",
    "d1": "what definition of zq and zw. zebra zoo",
    "d2": "quick fox jumps",
    "d3": "cab zoo fox " * 40,
    "d4": ".",
}


@pytest.fixture
def official(parity: Path, placed: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    """The parity model, its texts as ids, and what the official code made of them."""
    from safetensors.numpy import load_file

    source = parity / "tilde"
    files = ModelFiles.open(str(placed("tilde", tmp_path / "model")))
    expected = json.loads((source / "expected.json").read_text())
    vocabulary = files.vocabulary
    passages, queries = vocabulary.encode(expected["passages"]), vocabulary.encode(expected["queries"])
    return {
        **expected,
        "tensors": load_file(source / "tilde_expected.safetensors"),
        "vocabulary": vocabulary,
        "model": load_tilde(files),
        "passage_ids": passages,
        "query_ids": queries,
        "valid": ~id_mask(vocabulary.size, vocabulary.index_stop),
    }


def sequences(official: dict[str, Any], which: str) -> list[np.ndarray]:
    vocabulary = official["vocabulary"]
    marker = Markers.of(vocabulary)[which == "query"]
    return [marked(ids, marker, vocabulary.sep) for ids in official[f"{which}_ids"]]


def test_parity_of_inputs_and_stop_list(official: dict[str, Any]) -> None:
    for which in ("passage", "query"):
        given_ = official["tensors"]
        wanted = [
            row[mask == 1].tolist()
            for row, mask in zip(given_[f"{which}_input_ids"], given_[f"{which}_attention_mask"])
        ]
        assert [ids.tolist() for ids in sequences(official, which)] == wanted
    assert sorted(official["vocabulary"].index_stop) == official["stop_ids"]


def test_parity_of_logits(official: dict[str, Any]) -> None:
    logits = np.full((4, official["vocabulary"].size), np.nan, np.float32)
    for rows, found in logit_batches(official["model"], sequences(official, "passage")):
        logits[rows] = found.numpy()
    assert np.abs(logits - official["tensors"]["passage_logits_cls"]).max() < 1e-4


def test_parity_of_the_loss(official: dict[str, Any]) -> None:
    model, valid = official["model"], official["valid"]
    with torch.no_grad():
        passages, queries = (model(pack(sequences(official, which))) for which in ("passage", "query"))
    asked, said = (term_sets(official[f"{which}_ids"], valid) for which in ("query", "passage"))
    loss = bidirectional_loss(passages, queries, asked, said, torch.from_numpy(valid))
    assert abs(float(loss) - official["tilde_bidirectional_loss"]) < 1e-4


# --- the loss -------------------------------------------------------------------------------------------


def dense_loss(logits: Sequence[Any], sets: Sequence[Sequence[set[int]]], valid: np.ndarray) -> float:
    """The loss in words, in float64."""
    total = 0.0
    for side, terms in zip(logits, sets):
        for row, wanted in zip(side.double().tolist(), terms):
            for term, z in enumerate(row):
                if valid[term]:
                    # log(sigmoid(z)) and log(1 - sigmoid(z)), written so that they are finite
                    signed = z if term in wanted else -z
                    total -= min(signed, 0.0) - math.log1p(math.exp(-abs(signed)))
    return total / (2 * int(valid.sum()))


@given(st.integers(0, 2**32), st.integers(1, 4), st.floats(0.1, 30))
def test_loss_is_the_cross_entropy_over_terms_that_count(seed: int, pairs: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    size = 20
    valid = rng.random(size) < 0.7
    valid[0] = True
    ids = [
        [rng.integers(0, size, rng.integers(0, 9)).astype(np.int32) for _ in range(pairs)] for _ in range(2)
    ]
    logits = [torch.tensor(rng.normal(0, scale, (pairs, size)), dtype=torch.float32) for _ in range(2)]
    first, second = (term_sets(side, valid) for side in ids)
    loss = bidirectional_loss(logits[0], logits[1], first, second, torch.from_numpy(valid))
    wanted = dense_loss(logits, [[set(one.tolist()) for one in side] for side in ids], valid)
    assert float(loss) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_loss_of_zero_logits_is_ln2_a_pair_whatever_the_labels() -> None:
    """B * ln 2 for B = 16: 11.0904."""
    rng = np.random.default_rng(0)
    valid = ~id_mask(50, [0, 1, 7])
    for _ in range(3):
        sides = [[rng.integers(0, 50, 6).astype(np.int32) for _ in range(16)] for _ in range(2)]
        zeros = torch.zeros(16, 50)
        first, second = (term_sets(side, valid) for side in sides)
        loss = bidirectional_loss(zeros, zeros, first, second, torch.from_numpy(valid))
        assert float(loss) == pytest.approx(16 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("logit", [-100.0, -17.0, 17.0, 100.0])
def test_loss_is_finite_where_log_of_a_sigmoid_is_not(logit: float) -> None:
    """The official loss takes log(1 - sigmoid(17)) in float32, which is -inf."""
    logits = torch.full((1, 3), logit, requires_grad=True)
    valid = np.ones(3, bool)
    terms = term_sets([np.array([1])], valid)
    loss = bidirectional_loss(logits, logits, terms, terms, torch.from_numpy(valid))
    loss.backward()
    wrong = 2 if logit > 0 else 1  # terms on the wrong side
    assert loss.item() == pytest.approx(abs(logit) * wrong / 3, rel=1e-5)
    assert bool(torch.isfinite(logits.grad).all())


def test_ignored_ids_have_no_gradient() -> None:
    logits = torch.zeros(2, 6, requires_grad=True)
    valid = ~id_mask(6, [2, 3])
    terms = term_sets([np.array([1, 2]), np.array([3, 4, 4])], valid)
    assert list(zip(terms.rows.tolist(), terms.ids.tolist())) == [(0, 1), (1, 4)]
    bidirectional_loss(logits, logits, terms, terms, torch.from_numpy(valid)).backward()
    assert (logits.grad[:, [2, 3]] == 0).all()
    assert (logits.grad[:, [0, 1, 4, 5]] != 0).all()


def test_the_model_learns_its_pairs(tiny_model: Callable[..., Path]) -> None:
    files = ModelFiles.open(str(tiny_model("tilde")))
    vocabulary, model = files.vocabulary, load_tilde(files)
    passages, queries = vocabulary.encode(["ab cd", "wx yz"]), vocabulary.encode(["pq", "rs"])
    valid = ~id_mask(vocabulary.size, vocabulary.index_stop)
    markers = Markers.of(vocabulary)
    packed = [
        pack([marked(ids, markers.document, vocabulary.sep) for ids in passages]),
        pack([marked(ids, markers.query, vocabulary.sep) for ids in queries]),
    ]
    asked, said = term_sets(queries, valid), term_sets(passages, valid)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        loss = bidirectional_loss(model(packed[0]), model(packed[1]), asked, said, torch.from_numpy(valid))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    likely = model(packed[0])[:, vocabulary.id("p")]
    assert likely[0] > 0 > likely[1]


# --- likelihoods ----------------------------------------------------------------------------------------


def test_query_likelihood_sums_and_document_likelihood_averages() -> None:
    log_p = log10_likelihoods(torch.tensor([[0.0, 5.0, -5.0], [1.0, -50.0, 50.0]]))
    assert log_p[0].tolist() == pytest.approx([math.log10(1 / (1 + math.exp(-z))) for z in (0, 5, -5)])
    assert bool(torch.isfinite(log_p).all())
    repeated = np.array([0, 2, 2], np.int32)
    wanted = [float(row[0] + 2 * row[2]) for row in log_p]
    assert query_likelihood(log_p, repeated).tolist() == pytest.approx(wanted)
    assert query_likelihood(log_p, np.empty(0, np.int32)).tolist() == [0, 0]
    found = document_likelihood(log_p[0], [repeated, np.empty(0, np.int32)])
    assert found.tolist() == pytest.approx([wanted[0] / 3, float(log_p[0].min())])


def test_the_base_of_the_logarithm_does_not_change_the_ranking() -> None:
    rng = np.random.default_rng(3)
    logits = torch.tensor(rng.normal(0, 3, (50, 30)), dtype=torch.float64)
    query = rng.integers(0, 30, 4).astype(np.int32)
    ten = torch.nn.functional.logsigmoid(logits)[:, query.astype(np.int64)].sum(1) / math.log(10)
    natural = torch.nn.functional.logsigmoid(logits)[:, query.astype(np.int64)].sum(1)
    assert torch.argsort(ten).tolist() == torch.argsort(natural).tolist()
    assert torch.allclose(query_likelihood(log10_likelihoods(logits), query).double(), ten, atol=1e-5)


# --- the index ------------------------------------------------------------------------------------------


def index_of(tmp_path: Path, model: Path, name: str = "index") -> Index:
    index = Index.create(tmp_path / name, [f"tilde:{model}", "bm25"])
    index.add([{"id": doc_id, "text": text} for doc_id, text in TEXTS.items()])
    index.commit()
    return index


def brute(model: Path, query: str, top: int, floor: float, window: int, windows: int) -> dict[str, float]:
    """Each document's sum of stored values, one window and one term at a time."""
    files = ModelFiles.open(str(model))
    vocabulary, tilde = files.vocabulary, load_tilde(files)
    stop = vocabulary.index_stop | vocabulary.special
    wanted = [int(i) for i in vocabulary.encode([query])[0] if int(i) not in stop]
    scores = {}
    for doc_id, text in TEXTS.items():
        ids = vocabulary.encode([text])[0]
        count = min(-(-len(ids) // (window - 2)), windows)
        ids = ids[: count * (window - 2)]
        best: dict[int, float] = {}
        for i in range(count):
            piece = ids[i * len(ids) // count : (i + 1) * len(ids) // count]
            sequence = [vocabulary.id("[unused0]"), *piece.tolist(), vocabulary.sep]
            with torch.no_grad():
                log_p = log10_likelihoods(tilde(pack([sequence])))[0].tolist()
            allowed = sorted((t for t in range(vocabulary.size) if t not in stop), key=lambda t: -log_p[t])
            for term in allowed[:top]:
                if log_p[term] > floor:
                    best[term] = max(best.get(term, 0.0), log_p[term] - floor)
        stored = {term: max(1, round(weight / -floor * 255)) for term, weight in best.items()}
        total = sum(stored.get(term, 0) for term in wanted)
        if total:
            scores[doc_id] = float(total)
    return scores


@pytest.mark.parametrize("settings", [{}, {"top": 5, "floor": -2.0, "window": 9, "windows": 3}])
def test_search_and_rescoring_are_the_likelihood(
    tmp_path: Path, tiny_model: Callable[..., Path], settings: dict[str, Any]
) -> None:
    model = tiny_model("tilde", **settings)
    index = index_of(tmp_path, model)
    facts = {"top": 512, "floor": -4.0, "window": 64, "windows": 8, **settings}
    matched = 0
    for query in ("cab", "zoo zoo fox", "what definition", "the of", ""):
        wanted = brute(model, query, facts["top"], facts["floor"], facts["window"], facts["windows"])
        found = {hit.doc_id: hit.score for hit in index.search(query, pipeline="tilde")}
        assert found == wanted
        again = index.search("cab zoo fox quick abc", pipeline="bm25")
        assert again
        rescored = index.pipeline("bm25 >> tilde")({"q": query})["q"]
        assert all(hit.score == wanted.get(hit.doc_id, 0.0) for hit in rescored)
        matched += len(wanted)
    assert matched


def test_the_sum_is_the_query_likelihood_but_for_a_constant(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """QL = floor * tokens + sum of weights, to the quantiser's half step, where all terms are stored."""
    model = tiny_model("tilde", floor=-30.0, top=1000)
    index = index_of(tmp_path, model)
    files = ModelFiles.open(str(model))
    vocabulary, tilde = files.vocabulary, load_tilde(files)
    query = vocabulary.encode(["cab zq"])[0]
    hits = {hit.doc_id: hit.score for hit in index.search("cab zq", pipeline="tilde")}
    marker = Markers.of(vocabulary).document
    for doc_id in ("d0", "d1", "d2", "d4"):
        with torch.no_grad():
            logits = tilde(pack([marked(vocabulary.encode([TEXTS[doc_id]])[0], marker, vocabulary.sep)]))
        exact = float(query_likelihood(log10_likelihoods(logits), query)[0])
        stored = -30.0 * len(query) + hits[doc_id] * 30 / 255
        assert abs(exact - stored) <= len(query) * 30 / 255 / 2 + 1e-4


def test_stop_words_alone_match_nothing(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    index = index_of(tmp_path, tiny_model("tilde"))
    assert index.search("the of . ,", pipeline="tilde") == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"floor": 0}, "floor"),
        ({"floor": "low"}, "floor"),
        ({"top": 0}, "top .* whole number of 1"),
        ({"window": 65}, "window .* 3 to 64"),
        ({"windows": 1.5}, "windows"),
        ({"precision": "int4"}, "float32 or bfloat16"),
    ],
)
def test_settings_that_are_refused(
    tmp_path: Path, tiny_model: Callable[..., Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Index.create(tmp_path / "index", [f"tilde:{tiny_model('tilde', **settings)}"])
    assert not (tmp_path / "index").exists()


def test_a_vocabulary_without_markers_is_refused(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model("tilde")
    text = (model / "vocab.txt").read_text().replace("[unused0]", "zz0").replace("[unused1]", "zz1")
    (model / "vocab.txt").write_text(text)
    index = Index.create(tmp_path / "index", [f"tilde:{model}"])
    with pytest.raises(UserError, match="unused0"):
        index.add([{"id": "a", "text": "cab"}])
