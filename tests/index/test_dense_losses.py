"""Losses of dense encoders against loops and autograd, and the gradient cache against the whole batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from retrieval.index.dense_losses import (
    divergence_loss,
    infonce_loss,
    margin_loss,
    mnrl_loss,
    opl_loss,
    pair_scores,
    prototype_loss,
    score_matrix,
    width_map,
)
from retrieval.index.grad_cache import embed_cached, embed_plainly


def rows(n: int, d: int, seed: int = 0, dtype: Any = torch.float64) -> Any:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- losses -------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 2**31), st.floats(0.01, 2.0), st.booleans())
def test_infonce_is_what_its_formula_says(n: int, p: int, seed: int, temperature: float, mask: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, (n, p))
    positive = rng.integers(0, p, n)
    ignored = rng.random((n, p)) < 0.4 if mask else np.zeros((n, p), bool)
    wanted = []
    for i in range(n):
        kept = [scores[i, j] / temperature for j in range(p) if j == positive[i] or not ignored[i, j]]
        wanted.append(np.logaddexp.reduce(kept) - scores[i, positive[i]] / temperature)
    before = torch.from_numpy(ignored)
    found = infonce_loss(
        torch.from_numpy(scores), torch.from_numpy(positive), temperature, ignored=before if mask else None
    )
    assert float(found) == pytest.approx(float(np.mean(wanted)), abs=1e-9)
    assert (before.numpy() == ignored).all()  # what was given is not changed


def test_symmetric_infonce_also_asks_which_query_a_positive_is_of() -> None:
    scores, positive = rows(3, 7), torch.tensor([4, 0, 2])
    ignored = torch.zeros(3, 7, dtype=torch.bool)
    ignored[1, 4] = True  # query 1 is answered by the positive of query 0 as well
    back = []
    for i, j in enumerate(positive.tolist()):
        kept = [float(scores[k, j]) / 0.5 for k in range(3) if not ignored[k, j]]
        back.append(np.logaddexp.reduce(kept) - float(scores[i, j]) / 0.5)
    forward = float(infonce_loss(scores, positive, 0.5, ignored=ignored))
    found = float(infonce_loss(scores, positive, 0.5, ignored=ignored, symmetric=True))
    assert found == pytest.approx((forward + float(np.mean(back))) / 2)


def test_mnrl_is_cross_entropy_of_cosines_times_twenty() -> None:
    queries, passages = rows(4, 5), rows(9, 5, 1)
    cosines = functional.cosine_similarity(queries[:, None], passages[None], dim=2)
    positive = torch.tensor([3, 1, 8, 0])
    found = mnrl_loss(score_matrix(queries, passages), positive)
    torch.testing.assert_close(found, functional.cross_entropy(20 * cosines, positive))


def test_scores_are_cosines_or_inner_products() -> None:
    queries, passages = rows(4, 5), rows(4, 5, 1)
    torch.testing.assert_close(score_matrix(queries, passages, cosine=False), queries @ passages.T)
    torch.testing.assert_close(
        pair_scores(queries, passages), functional.cosine_similarity(queries, passages)
    )
    whole = score_matrix(queries, passages, cosine=False)
    torch.testing.assert_close(pair_scores(queries, passages, cosine=False), whole.diagonal())


def test_a_vector_of_zeros_gives_no_nan() -> None:
    queries = torch.zeros(2, 3, requires_grad=True)
    loss = infonce_loss(score_matrix(queries, rows(2, 3, dtype=torch.float32)), torch.tensor([0, 1]))
    loss.backward()
    assert queries.grad is not None
    assert bool(torch.isfinite(queries.grad).all())


def test_opl_is_the_squared_form_and_its_pairs_are_independent() -> None:
    queries, passages = rows(12, 6).requires_grad_(), rows(12, 6, 1).requires_grad_()
    labels = torch.tensor([1, 0, 0] * 4)
    whole = opl_loss(pair_scores(queries, passages), labels)
    cosines = functional.cosine_similarity(queries, passages)
    torch.testing.assert_close(whole, functional.mse_loss(cosines, labels.double()))
    wanted = torch.autograd.grad(whole, [queries, passages])
    total = 0.0
    for i in range(12):  # streamed: one pair at a time, gradients summed up
        part = opl_loss(pair_scores(queries[i : i + 1], passages[i : i + 1]), labels[i : i + 1]) / 12
        part.backward()
        total += float(part.detach())
    assert total == pytest.approx(float(whole.detach()), abs=1e-12)
    torch.testing.assert_close([queries.grad, passages.grad], list(wanted), rtol=0, atol=1e-10)


def test_opl_draws_towards_one_and_towards_orthogonal() -> None:
    assert float(opl_loss(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]))) == 0.0
    assert float(opl_loss(torch.tensor([-1.0]), torch.tensor([0]))) == 1.0  # opposite is as bad as alike


@pytest.mark.parametrize("name", ["opl", "infonce", "prototype"])
def test_no_loss_is_computed_in_bfloat16(name: str) -> None:
    queries, passages = rows(8, 16, dtype=torch.float32), rows(8, 16, 1, torch.float32)

    def loss() -> Any:
        if name == "opl":
            return opl_loss(pair_scores(queries, passages), torch.ones(8))
        if name == "prototype":
            return prototype_loss(queries, passages, queries + passages, passages - queries)
        return infonce_loss(score_matrix(queries, passages), torch.arange(8))

    exact = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss()
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, exact, rtol=1e-6, atol=1e-7)
    half = opl_loss(torch.tensor([0.99], dtype=torch.bfloat16), torch.tensor([1.0]))
    assert half.dtype == torch.float32


def test_prototypes_are_the_teachers_vectors() -> None:
    queries, passages, left, right = rows(3, 4), rows(5, 4, 1), rows(3, 4, 2), rows(5, 4, 3)
    wanted = (1 - functional.cosine_similarity(queries, left)).mean()
    wanted += (1 - functional.cosine_similarity(passages, right)).mean()
    torch.testing.assert_close(prototype_loss(queries, passages, left, right), wanted)
    assert float(prototype_loss(queries, passages, 3 * queries, passages)) == pytest.approx(0, abs=1e-12)


def test_a_wider_student_keeps_all_inner_products_of_its_teacher() -> None:
    vectors = rows(20, 6, dtype=torch.float32)
    mapped = vectors @ width_map(vectors, 9)
    assert mapped.shape == (20, 9)
    torch.testing.assert_close(mapped @ mapped.T, vectors @ vectors.T)


def test_a_narrower_student_keeps_as_much_as_its_width_can() -> None:
    basis = torch.linalg.qr(rows(16, 4, 5, torch.float32))[0]  # vectors of rank 4 in 16 dimensions
    vectors = rows(50, 4, dtype=torch.float32) @ basis.T
    mapped = vectors @ width_map(vectors, 4)
    torch.testing.assert_close(mapped @ mapped.T, vectors @ vectors.T, rtol=1e-4, atol=1e-4)
    three = vectors @ width_map(vectors, 3)
    best = torch.linalg.svdvals(vectors.double())
    lost = (vectors @ vectors.T - three @ three.T).double().square().sum().sqrt()
    assert float(lost) == pytest.approx(float(best[3] ** 2), rel=1e-3)  # Eckart and Young


def test_margins_that_are_not_known_teach_nothing() -> None:
    student = torch.tensor([[0.9, 0.1, 0.4], [0.5, 0.6, 0.0], [0.3, 0.2, 0.1]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.5, 7.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.5]])
    known = torch.tensor([[True, True, False], [False, True, True], [True, True, True]])
    loss = margin_loss(student, teacher, known)
    assert float(loss.detach()) == pytest.approx(
        np.mean([(0.8 - 0.5) ** 2, (0.1 - 1.0) ** 2, (0.2 - 0.5) ** 2])
    )
    loss.backward()
    assert student.grad is not None
    assert float(student.grad[0, 2]) == 0.0
    assert not bool(student.grad[1].any())
    assert float(margin_loss(student.detach(), teacher, torch.zeros_like(known))) == 0.0


def test_divergence_is_that_of_what_the_teacher_knows() -> None:
    student, teacher = rows(4, 5).requires_grad_(), rows(4, 5, 1)
    known = torch.ones(4, 5, dtype=torch.bool)
    known[0, 3:] = False
    known[1] = False
    known[2, 1:] = False  # one passage: nothing to compare
    terms = []
    for row in (0, 3):
        kept = known[row]
        p = torch.softmax(teacher[row][kept], 0)
        q = torch.softmax(student.detach()[row][kept], 0)
        terms.append(float((p * (p / q).log()).sum()))
    loss = divergence_loss(student, teacher, known)
    assert float(loss.detach()) == pytest.approx(np.mean(terms))
    loss.backward()
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert not bool(student.grad[1:3].any())
    assert not bool(student.grad[0, 3:].any())
    alike = divergence_loss(teacher, teacher, torch.ones(4, 5, dtype=torch.bool))
    assert float(alike) == pytest.approx(0, abs=1e-12)


# --- the gradient cache -------------------------------------------------------------------------------------


class Texts:
    """Eleven "texts" and a small network over them."""

    def __init__(self, dtype: Any, dropout: float = 0.0) -> None:
        torch.manual_seed(3)
        self.inputs = rows(11, 6, 2, dtype)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 5)
        ).to(dtype)
        self.alive = 0  # texts whose graphs were made in one call
        self.calls: list[bool] = []

    def embed(self, chunk: Any) -> Any:
        self.calls.append(torch.is_grad_enabled())
        self.alive = max(self.alive, len(chunk) if torch.is_grad_enabled() else 0)
        return self.net(self.inputs[torch.from_numpy(chunk)])

    def loss(self, vectors: Any) -> Any:
        """In-batch negatives: every vector matters to every other's gradient."""
        return infonce_loss(score_matrix(vectors[:4], vectors[4:]), torch.arange(4), 0.1)

    def gradients(self) -> list[Any]:
        found = [p.grad.clone() for p in self.net.parameters() if p.grad is not None]
        self.net.zero_grad()
        return found


def chunked(size: int) -> list[Any]:
    order = np.random.default_rng(1).permutation(11)
    return [order[at : at + size] for at in range(0, 11, size)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 11])
def test_cached_gradients_are_those_of_the_whole_batch(dtype: Any, size: int) -> None:
    texts = Texts(dtype)
    plain = texts.loss(texts.embed(np.arange(11)))
    plain.backward()
    wanted, texts.alive, texts.calls = texts.gradients(), 0, []
    cached = texts.loss(embed_cached(texts.embed, chunked(size), torch.device("cpu"), 0))
    assert not any(texts.calls)  # the first pass keeps no graph
    (cached * 2).backward()  # and whatever comes behind the loss is respected
    torch.testing.assert_close(cached, plain, rtol=1e-6, atol=1e-6)
    for found, grad in zip(texts.gradients(), wanted, strict=True):
        close = 1e-6 if dtype == torch.float32 else 1e-13
        assert float((found / 2 - grad).norm()) <= close * float(grad.norm())
    assert texts.alive == size


def test_chunks_with_all_their_graphs_are_the_whole_batch_too() -> None:
    texts = Texts(torch.float64)
    torch.testing.assert_close(embed_plainly(texts.embed, chunked(4)), texts.net(texts.inputs))


def test_dropout_is_the_same_in_both_passes() -> None:
    texts = Texts(torch.float64, dropout=0.5)
    chunks = chunked(3)
    torch.manual_seed(99)
    loss = texts.loss(embed_cached(texts.embed, chunks, torch.device("cpu"), 7))
    after = torch.rand(1)
    loss.backward()
    found = texts.gradients()
    torch.manual_seed(99)
    assert float(torch.rand(1)) == float(after)  # nobody else's draws are changed

    parts: list[Any] = []
    for at, chunk in enumerate(chunks):
        torch.manual_seed(7 + at)
        parts.append(texts.embed(chunk))
    vectors = torch.empty(11, 5, dtype=torch.float64)
    vectors = vectors.index_copy(0, torch.from_numpy(np.concatenate(chunks)), torch.cat(parts))
    plain = texts.loss(vectors)
    plain.backward()
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, texts.gradients())


def test_the_cache_under_autocast_trains_in_bfloat16_and_loses_no_gradient() -> None:
    texts = Texts(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = texts.loss(texts.embed(np.arange(11)))
    plain.backward()
    wanted = texts.gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cached = texts.loss(embed_cached(texts.embed, chunked(4), torch.device("cpu"), 0))
        # In one context with the cache: a weight cast there without a graph must not be used here.
        further = texts.net(texts.inputs).float().sum()
    (cached + 0 * further).backward()  # outside of autocast, as the trainer does it
    assert float(cached.detach()) == pytest.approx(float(plain.detach()), abs=1e-4)
    for found, grad in zip(texts.gradients(), wanted, strict=True):
        assert float((found - grad).norm()) < 0.02 * float(grad.norm())
    assert bool(torch.isfinite(further))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embed_cached(texts.embed, chunked(4), torch.device("cpu"), 0)
        texts.net(texts.inputs).float().sum().backward()
    assert all(bool(grad.any()) for grad in texts.gradients())


def test_gradients_of_several_losses_add_up() -> None:
    texts = Texts(torch.float64)
    for _ in range(2):
        texts.loss(embed_cached(texts.embed, chunked(5), torch.device("cpu"), 0)).backward()
    twice = texts.gradients()
    texts.loss(texts.embed(np.arange(11))).backward()
    once = texts.gradients()
    torch.testing.assert_close(twice, [2 * grad for grad in once])
    assert math.isfinite(float(twice[0].sum()))
