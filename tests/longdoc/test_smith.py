"""SMITH: the self-checks of its network, texts to blocks to vectors, memory, files, bad input."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("sentencex")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.packed import pack  # noqa: E402
from retrieval.longdoc.blocks import Block, sentences  # noqa: E402
from retrieval.longdoc.smith_losses import AMPLIFIER, Matching  # noqa: E402
from retrieval.testing import check_encoder  # noqa: E402
from tests.longdoc.smith_models import RELEASED, SHAPE, TEXT, encoder, network  # noqa: E402

COMBINE = ("normal", "sum_concat", "mean_concat", "attention")
DOCUMENT = ("first", "token", "mean")
LONGER = TEXT + " " + "The remote control. " * 9
ODD = [
    "", " \n ", "\x00", "...!?" * 50, "the " * 100_000, "x" * 5_000, "a. b. c.", "[CLS] [SEP] [PAD]",
    "Он ушёл. 他走了。她也走了！ مرحبا؟ वह गया। He left. 🙂 \ud800", "Straße \u202e\u200b",
]  # fmt: skip


def padded(model: Any, ids: list[list[int]], slots: int) -> Any:
    """A slow SMITH on one document: every block alone and padded, the rest of `slots` all padding, masks.

    Returns float64[dim]: the document. In double precision, since a score of -10000 costs four digits.
    """
    model = deepcopy(model).double()
    config = model.config
    width = config.block
    rows = []
    for at in range(slots):
        block = ids[at] if at < len(ids) else []
        grid = torch.tensor([*block, *[0] * (width - len(block))])
        mask = torch.arange(width) < len(block)
        rows.append(sentence(model, grid, mask))
    blocks = torch.stack(rows)
    mask = torch.arange(slots) < len(ids)
    hidden = model.norm(blocks + model.positions(torch.arange(slots) % config.positions))
    for layer in model.encoder.layer:
        hidden = transformer(layer, hidden, mask)
    pooled = hidden[0] if config.document == "first" else hidden[mask].mean(0)
    document = head(model.document_head, pooled)
    real = torch.ones_like(mask) if config.compat else mask
    if config.combine == "normal":
        return document
    if config.combine == "attention":
        weights = torch.softmax(model.attention(blocks)[:, 0].masked_fill(~real, -torch.inf), 0)
        mixed = weights @ blocks
    else:
        mixed = blocks[real].sum(0) / (1 if config.combine == "sum_concat" else int(real.sum()))
    whole = torch.cat([mixed, document])
    return whole if config.compat else whole / whole.norm()


def sentence(model: Any, ids: Any, mask: Any) -> Any:
    table = model.sentence.embeddings
    hidden = table.word_embeddings(ids) + table.position_embeddings(torch.arange(len(ids)))
    hidden = table.LayerNorm(hidden + table.token_type_embeddings.weight[0])
    for layer in model.sentence.encoder.layer:
        hidden = transformer(layer, hidden, mask)
    pooled = hidden[0] if model.config.pooling == "cls" or not mask.any() else hidden[mask].mean(0)
    return head(model.block_head, pooled)


def transformer(layer: Any, hidden: Any, mask: Any) -> Any:
    attention = layer.attention.self
    split = (len(hidden), attention.heads, -1)
    query, key, value = (
        linear(hidden).view(split).transpose(0, 1)
        for linear in (attention.query, attention.key, attention.value)
    )
    scores = query @ key.transpose(1, 2) / query.shape[2] ** 0.5 + torch.where(mask, 0.0, -10000.0)
    mixed = (torch.softmax(scores, 2) @ value).transpose(0, 1).flatten(1)
    return layer.after_attention(mixed, hidden)


def head(module: Any, row: Any) -> Any:
    if module.compat:
        row = torch.relu(module.dense(torch.tanh(module.pooler(row))))
    return row / row.norm()


def blocks_of(reader: Any, text: str) -> list[list[int]]:
    return [ids.tolist() for ids in reader.cut(reader.prepare([text]).ids)[0]]


# --- the self-checks of the specification -------------------------------------------------------------------


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize(("document", "pooling"), [("first", "cls"), ("mean", "mean")])
def test_packed_is_padded_whatever_the_padding(combine: str, document: str, pooling: str) -> None:
    reader = encoder(combine=combine, document=document, pooling=pooling)
    ids = blocks_of(reader, TEXT)
    assert len(ids) > 8
    ours = torch.from_numpy(reader.encode([TEXT]).rows[0])
    for slots in (len(ids), len(ids) + 3, 2 * len(ids)):
        assert (padded(reader.module, ids, slots) - ours).abs().max() < 1e-6


@pytest.mark.parametrize("combine", COMBINE)
def test_released_modes_are_padded_to_their_slots_and_change_with_them(combine: str) -> None:
    text, vectors = "A meeting of a. The cost of control. A remote control of the meeting is a cost.", []
    for loop in (4, 8):
        reader = encoder(**{**RELEASED, "combine": combine, "loop": loop})
        ids = blocks_of(reader, text)
        assert 2 <= len(ids) < 4
        assert ids[0][-2:] == [reader.words.sep] * 2
        vectors.append(torch.from_numpy(reader.encode([text]).rows[0]))
        assert (padded(reader.module, ids, loop) - vectors[-1]).abs().max() < 2e-6
    apart, norm = float((vectors[0] - vectors[1]).abs().max()), float(vectors[1].norm())
    if combine == "normal":
        assert apart < 1e-6
        assert norm == pytest.approx(1)
    else:
        assert apart > 1e-3
        assert norm > 1.05


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("document", DOCUMENT)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_have_length_one_and_scores_are_symmetric(combine: str, document: str, pooling: str) -> None:
    reader = encoder(combine=combine, document=document, pooling=pooling)
    rows = reader.encode([TEXT, LONGER, "", "the cost"]).rows
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    matching = Matching(compat=True)
    scores = matching(torch.from_numpy(rows @ rows.T)).detach()
    assert np.allclose(np.diag(scores), AMPLIFIER, atol=1e-5)
    assert AMPLIFIER == 6
    assert np.allclose(scores, scores.T, atol=1e-5)
    assert np.array_equal(reader.encode([TEXT], "query").rows, reader.encode([TEXT], "passage").rows)


@pytest.mark.parametrize("document", DOCUMENT)
def test_a_changed_block_and_swapped_blocks_change_the_document(document: str) -> None:
    model = network(document=document)
    torch.manual_seed(1)
    blocks = torch.nn.functional.normalize(torch.randn(5, 16), dim=1)
    offsets = torch.tensor([0, 5])
    whole = model.documents(blocks, offsets)
    for other in (blocks[[0, 1, 3, 2, 4]], torch.cat([blocks[:4], -blocks[4:]])):
        assert (model.documents(other, offsets) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_one_call_is_the_loop_over_blocks(pooling: str) -> None:
    model, reader = network(pooling=pooling), encoder(pooling=pooling)
    ids = blocks_of(reader, TEXT)
    together = model.blocks(pack(ids))
    alone = torch.cat([model.blocks(pack([one])) for one in ids])
    assert (together - alone).abs().max() < 1e-6
    with torch.inference_mode():
        assert (reader.block_rows([np.array(one) for one in ids]) - together).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [SHAPE, RELEASED])
def test_released_heads_never_disagree_and_ours_do(shape: dict[str, Any]) -> None:
    model = network(**shape)
    torch.manual_seed(0)
    rows = model.document_head(torch.randn(20, 16))
    assert bool((rows @ rows.T >= 0).all()) == (shape is RELEASED)


# --- documents ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"document": "token"}, {"combine": "attention", "document": "first"}])
def test_conforms(tmp_path: Path, shape: dict[str, Any]) -> None:
    encoder(**shape).save(str(tmp_path / "m"))
    check_encoder(lambda: open_encoder(str(tmp_path / "m")), tolerance=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([". ", "a", "b ", "the meeting ", "\n\n", "cost", "字", "? "]), max_size=60))
def test_ids_are_those_of_the_blocks(parts: list[str]) -> None:
    text, reader = "".join(parts), READER
    (blocks,) = sentences([text], reader.words.offsets, reader.capacity)
    found, ids = reader.split(text)
    assert found == blocks
    assert [len(one) for one in ids] == [block.tokens for block in blocks]
    whole = reader.words.encode([text])[0]
    assert np.array_equal(np.concatenate([np.empty(0, np.int32), *ids]), whole)
    prepared = reader.prepare([text])
    assert prepared.tokens[0] == len(whole) + 2 * max(1, len(blocks))
    assert not prepared.dropped[0]


READER: Any = encoder()


def test_tokens_that_are_dropped_are_counted() -> None:
    whole, cut = encoder(), encoder(limit=3)
    kept = cut.prepare([TEXT, "the cost"])
    everything = whole.prepare([TEXT]).ids[0]
    assert len(cut.cut(kept.ids)[0]) == 4
    assert np.array_equal(kept.ids[0], everything[: len(kept.ids[0])])
    words = [int((ids > whole.words.mask).sum()) for ids in (everything, kept.ids[0])]
    assert kept.dropped.tolist() == [words[0] - words[1], 0]
    assert kept.tokens.tolist() == [len(kept.ids[0]) + words[0] - words[1], 4]
    released = encoder(**RELEASED).prepare(["the cost " * 20])  # one sentence, of which a block takes 9
    assert released.dropped.tolist() == [31]
    assert released.tokens.tolist() == [43]


def test_positions_go_round_and_nothing_is_too_long() -> None:
    reader = encoder(positions=2)
    found = reader.prepare([TEXT])
    assert not found.dropped.any()
    assert len(reader.cut(found.ids)[0]) > 8
    assert (reader.encode([TEXT]).rows != encoder(positions=16).encode([TEXT]).rows).any()


def test_vectors_of_blocks() -> None:
    reader = encoder()
    texts = [TEXT, "", "the cost"]
    found = {level: reader.encode_blocks(texts, level=level) for level in ("in", "out")}
    for level, vectors in found.items():
        assert (vectors.rows.dtype, vectors.rows.shape) == (np.float32, (len(vectors.blocks), 16)), level
        assert np.allclose(np.linalg.norm(vectors.rows, axis=1), 1, atol=1e-6)
        assert vectors.offsets.tolist() == [0, len(vectors.blocks) - 2, *range(len(vectors.blocks) - 1,
                                            len(vectors.blocks) + 1)]  # fmt: skip
        assert vectors.blocks[:-2] == sentences([TEXT], reader.words.offsets, reader.capacity)[0]
        assert vectors.blocks[-2:] == [Block(0, 0, 0), Block(0, 8, 2)]
    # A block alone is its own document: with the mean of one block, out is what encode() gives.
    assert np.allclose(found["out"].rows[-1], reader.encode(["the cost"]).rows[0], atol=1e-6)
    alone = reader.encode_blocks(
        [TEXT[block.start : block.end] for block in found["in"].blocks[:4]], level="in"
    )
    assert np.allclose(alone.rows, found["in"].rows[:4], atol=1e-6)
    reader.budget = 30  # less than the first text has
    for level, vectors in found.items():
        assert np.allclose(reader.encode_blocks(texts, level=level).rows, vectors.rows, atol=1e-6)
    nothing = reader.encode_blocks([])
    assert (nothing.rows.shape, nothing.offsets.tolist(), nothing.blocks) == ((0, 16), [0], [])
    with pytest.raises(UserError, match="level='inner'"):
        reader.encode_blocks([TEXT], level="inner")


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("shape", [{**SHAPE, "block": 32}, RELEASED])
def test_odd_texts(text: str, shape: dict[str, Any]) -> None:
    reader = encoder(**shape)
    made = reader.encode([text])
    assert np.isfinite(made.rows).all()
    assert 0 <= made.dropped[0] < made.tokens[0]
    vectors = reader.encode_blocks([text], level="in")
    assert all(0 <= block.start <= block.end <= len(text) for block in vectors.blocks)
    assert np.isfinite(vectors.rows).all()


def test_memory_is_that_of_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = encoder(budget=100)
    sizes: list[int] = []
    read = reader._read

    def watched(blocks: list[NDArray[np.int32]]) -> Any:
        sizes.append(sum(map(len, blocks)))
        return read(blocks)

    monkeypatch.setattr(reader, "_read", watched)
    text = "The meeting is remote. " * 1000
    rows = reader.encode([text]).rows
    assert max(sizes) <= 100
    assert len(sizes) == -(-sum(sizes) // 96)
    monkeypatch.undo()
    reader.budget = 1 << 30
    assert np.allclose(reader.encode([text]).rows, rows, atol=1e-5)
