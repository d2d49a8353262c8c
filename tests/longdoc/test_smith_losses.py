"""SMITH's losses against their formulas, and what they are at the ends of their range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from retrieval.longdoc.smith_losses import (  # noqa: E402
    MaskedBlocks,
    Matching,
    block_loss,
    draw_blocks,
    draw_slots,
    matching_loss,
    word_loss,
)


@pytest.mark.parametrize("count", [1, 2, 16])
def test_masked_blocks_at_the_ends_of_the_range(count: int) -> None:
    torch.manual_seed(0)
    wanted = torch.nn.functional.normalize(torch.randn(count, 32), dim=1)
    assert block_loss(torch.zeros(count, 32), wanted).item() == pytest.approx(math.log(count), abs=1e-6)
    assert block_loss(1000 * wanted, wanted).item() == pytest.approx(0, abs=1e-5)
    assert block_loss(torch.zeros(0, 32), torch.zeros(0, 32)).item() == 0


def test_masked_blocks_are_the_formula_in_any_order() -> None:
    torch.manual_seed(1)
    predicted, wanted = torch.randn(2, 6, 8)
    losses = [-math.log(torch.softmax(predicted[i] @ wanted.T, 0)[i].item()) for i in range(6)]
    assert block_loss(predicted, wanted).item() == pytest.approx(np.mean(losses), abs=1e-5)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    assert block_loss(predicted[order], wanted[order]).item() == pytest.approx(np.mean(losses), abs=1e-5)
    assert block_loss(predicted[order], wanted).item() != pytest.approx(np.mean(losses), abs=1e-2)


def test_released_masked_blocks_weigh_padding_nothing_and_keep_it_as_negatives() -> None:
    torch.manual_seed(2)
    predicted, wanted = torch.randn(2, 5, 8)
    weights = torch.tensor([1.0, 0, 1, 1, 0])
    bias = torch.randn(5)
    each = [-torch.log_softmax(predicted[i] @ wanted.T + bias, 0)[i].item() for i in (0, 2, 3)]
    found = block_loss(predicted, wanted, bias=bias, weights=weights).item()
    assert found == pytest.approx(sum(each) / 3.00001, abs=1e-5)
    zero = block_loss(torch.zeros(16, 8), torch.zeros(16, 8), bias=torch.zeros(16), weights=torch.ones(16))
    assert zero.item() == pytest.approx(math.log(16) * 16 / 16.00001, abs=1e-6)
    assert block_loss(predicted, wanted, bias=bias, weights=torch.zeros(5)).item() == 0


def test_word_losses() -> None:
    losses, slots = torch.tensor([1.0, 2.0, 6.0, 10.0]), torch.tensor([0, 0, 2, 0])
    assert word_loss(losses, slots).item() == pytest.approx(19 / 4)
    assert word_loss(losses, slots, compat=True).item() == pytest.approx(13 / 3.00001 + 6 / 1.00001)
    for compat in (False, True):
        assert word_loss(torch.zeros(0), torch.zeros(0, dtype=torch.int64), compat=compat).item() == 0


def test_matching() -> None:
    released, ours = Matching(compat=True), Matching()
    cosines = torch.tensor([1.0, 0.5, 0.0])
    assert released(cosines).tolist() == ours(cosines).tolist() == [6, 3, 0]
    assert [p.requires_grad for p in released.parameters()] == [False, False]
    assert [p.requires_grad for p in ours.parameters()] == [True, True]
    labels = torch.tensor([2, 1, 0])
    each = [math.log1p(math.exp(-6)), math.log1p(math.exp(-3)), math.log(2)]
    assert matching_loss(released(cosines), labels).item() == pytest.approx(sum(each) / 3, abs=1e-6)
    weighted = matching_loss(released(cosines), labels, positive_weight=3.0).item()
    assert weighted == pytest.approx((3 * each[0] + 3 * each[1] + each[2]) / 3, abs=1e-6)
    with torch.no_grad():
        ours.shift.fill_(-3.0)
    assert ours(cosines).tolist() == [3, 0, -3]  # the threshold stands at a cosine of .5


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 4), st.integers(0, 9))
def test_only_real_blocks_are_masked_and_one_of_each_document_stays(
    counts: list[int], k: int, seed: int
) -> None:
    places = draw_blocks(counts, k, np.random.default_rng(seed))
    assert len(set(places.tolist())) == len(places)
    owner = np.repeat(np.arange(len(counts)), counts)[places]
    assert np.bincount(owner, minlength=len(counts)).tolist() == [min(k, count - 1) for count in counts]
    assert (np.diff(places) > 0).all()


def test_every_block_is_masked_as_often() -> None:
    rng = np.random.default_rng(0)
    drawn = np.concatenate([draw_blocks([5, 5], 2, rng) for _ in range(2000)])
    assert (np.abs(np.bincount(drawn, minlength=10) - 800) < 120).all()


def test_released_slots_are_drawn_among_padding_too() -> None:
    slots = draw_slots(4000, 48, 2, np.random.default_rng(0))
    assert slots.shape == (4000, 2)
    assert (slots[:, 0] < slots[:, 1]).all()
    assert ((slots < 8).sum(1) == 0).mean() == pytest.approx(0.691, abs=0.03)  # of 8 real blocks, none


def test_masked_blocks_do_not_see_what_they_hide() -> None:
    torch.manual_seed(0)
    head = MaskedBlocks(8)
    rows = torch.randn(5, 8)
    hidden = head.hide(rows, torch.tensor([1, 4]))
    assert torch.equal(hidden[[0, 2, 3]], rows[[0, 2, 3]])
    assert torch.equal(hidden[[1, 4]], head.mask.detach().expand(2, -1))
    assert head.bias is None
    assert MaskedBlocks(8, slots=6).bias.shape == (6,)  # type: ignore[union-attr]
    assert head(rows).shape == (5, 8)
