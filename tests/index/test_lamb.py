"""LAMB against ten lines of numpy, and the identities that the paper's step has."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from retrieval.index.lamb import Lamb


def reference(weight, gradients, lr, decay, eps, correct, adapt, clamp=10.0):  # type: ignore[no-untyped-def]
    w, m, v = weight.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(gradients.astype(np.float64), 1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        mean, square = (m / (1 - 0.9**t), v / (1 - 0.999**t)) if correct else (m, v)
        r = mean / (np.sqrt(square) + eps) + decay * w
        size, length = min(np.linalg.norm(w), clamp), np.linalg.norm(r)
        trust = size / length if adapt and size > 0 and length > 0 else 1.0
        w = w - lr * trust * r
    return w


def steps(weight, gradients, **options):  # type: ignore[no-untyped-def]
    parameter = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    optimizer = Lamb([parameter], **options)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("size", [0.0, 0.1, 5.0])  # 5 * sqrt(12) is beyond the clamp
def test_it_is_the_paper_s_step(correct: bool, adapt: bool, size: float) -> None:
    draw = np.random.default_rng(3)
    weight = (size * np.sign(draw.normal(size=(3, 4)))).astype(np.float64)
    gradients = draw.normal(size=(7, 3, 4))
    found = steps(
        weight, gradients, lr=0.02, weight_decay=0.05, eps=1e-6, bias_correction=correct, adapt=adapt
    )
    expected = reference(weight, gradients, 0.02, 0.05, 1e-6, correct, adapt)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_a_step_is_as_long_as_the_rate_times_the_weights() -> None:
    draw = np.random.default_rng(0)
    weight, gradient = draw.normal(size=(5, 5)), draw.normal(size=(1, 5, 5))
    moved = steps(weight, gradient, lr=0.1) - weight
    assert np.linalg.norm(moved) == pytest.approx(0.1 * np.linalg.norm(weight), rel=1e-9)


def test_it_does_not_see_the_gradient_s_scale() -> None:
    draw = np.random.default_rng(0)
    weight, gradients = draw.normal(size=(4, 4)), draw.normal(size=(5, 4, 4))
    options = {"lr": 0.1, "weight_decay": 0.0, "eps": 0.0}
    np.testing.assert_allclose(
        steps(weight, gradients, **options), steps(weight, 1000 * gradients, **options), rtol=1e-9
    )


def test_a_quadratic_converges_and_the_state_survives_a_copy() -> None:
    target = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameter = torch.nn.Parameter(torch.ones_like(target))
    optimizer = Lamb([parameter], lr=0.05, weight_decay=0.0)
    first = float((parameter - target).detach().square().sum())
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 300)
        if step == 150:
            state = optimizer.state_dict()
            optimizer = Lamb([parameter], lr=0.05, weight_decay=0.0)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (parameter - target).square().sum().backward()
        optimizer.step()
    assert int(optimizer.state[parameter]["step"]) == 300
    assert float((parameter - target).detach().square().sum()) < 1e-3 * first
