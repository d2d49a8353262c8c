"""SMITH: gradients, files, new ones, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
pytest.importorskip("sentencex")

from retrieval import registry  # noqa: E402
from retrieval.errors import UnknownName, UserError  # noqa: E402
from retrieval.index.dense_spec import detect, open_encoder  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402
from retrieval.index.packed import pack  # noqa: E402
from retrieval.longdoc import smith  # noqa: E402
from retrieval.longdoc.smith_model import SmithConfig  # noqa: E402
from tests.longdoc.smith_models import RELEASED, SHAPE, TEXT, bert, encoder  # noqa: E402

DOCUMENT = ("first", "token", "mean")
LONGER = TEXT + " " + "The remote control. " * 9


def test_gradients_with_checkpoints_are_those_without() -> None:
    reader, found = encoder(budget=60), []
    calls: list[int] = []
    read = reader._read

    def watched(blocks: list[NDArray[np.int32]]) -> Any:
        calls.append(len(blocks))
        return read(blocks)

    reader._read = watched
    for checkpointing in (False, True):
        calls.clear()
        reader.trainable({"lora": 0, "checkpointing": checkpointing})
        reader.module.zero_grad()
        reader.embed(reader.prepare([TEXT, "the cost"]))[:, 0].sum().backward()
        assert (len(calls) > 2) == checkpointing  # all blocks in one packed call, unless
        found.append([parameter.grad.clone() for parameter in reader.module.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    with pytest.raises(UserError, match="no lora"):
        reader.trainable({"lora": 4, "checkpointing": False})


def test_changed_weights_change_the_vectors() -> None:
    reader = encoder()
    before = reader.encode([TEXT]).rows
    with torch.no_grad():
        reader.module.sentence.embeddings.word_embeddings.weight.mul_(-1)
    assert (reader.encode([TEXT]).rows != before).any()


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{"document": "token", "combine": "attention"}, RELEASED])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_saved_opens(tmp_path: Path, shape: dict[str, Any], dtype: str) -> None:
    reader = encoder(limit=5, **shape)
    path = str(tmp_path / "m")
    reader.save(path, dtype=dtype, card="# A model\n", note="kept")
    assert detect(path) == "smith"
    assert (tmp_path / "m" / "README.md").is_file()
    again = open_encoder(path)
    assert isinstance(again, smith.SmithEncoder)
    assert again.module.config == reader.module.config
    assert again.limit == 5
    assert json.loads((tmp_path / "m" / "config.json").read_text())["retrieval"]["note"] == "kept"
    apart = np.abs(again.encode([LONGER]).rows - reader.encode([LONGER]).rows).max()
    assert apart == 0 if dtype == "float32" else apart < 0.02
    assert again.identity["normalise"] is True
    assert again.identity["max_blocks"] == 5
    assert open_encoder(path, "", {"max_blocks": 2, "batch": 99, "device": "cpu"}).identity["length"] == 18


def test_a_new_one_begins_as_its_start(tmp_path: Path) -> None:
    path = bert(tmp_path / "bert")
    torch.manual_seed(0)
    reader = smith.new(path, block=12, pooling="mean", heads=2)
    ids = reader.cut(reader.prepare([TEXT]).ids)[0]
    with torch.inference_mode():
        means = torch.stack([reader.module.sentence(pack([one])).mean(0) for one in ids])
        rows = reader.block_rows(ids)
    assert torch.allclose(rows, torch.nn.functional.normalize(means, dim=1), atol=1e-6)
    # The document level as yet adds small positions, and scales.
    mixed = torch.from_numpy(reader.encode_blocks([TEXT], level="out").rows)
    assert (torch.nn.functional.cosine_similarity(mixed, rows - rows.mean(1, keepdim=True)) > 0.98).all()
    assert smith.new(path, heads=2).module.config.block == 32  # of BERT's positions
    released = smith.new(path, compat=True, heads=2, loop=4, block=16)
    tensors = ModelFiles.open(path).tensors()
    assert torch.equal(released.module.block_head.pooler.weight, tensors["pooler.dense.weight"])
    assert released.module.config == SmithConfig(
        block=16, positions=128, layers=3, heads=2, intermediate=512, pooling="cls", document="first",
        compat=True, loop=4,
    )  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENT)
def test_a_new_one_can_be_trained(tmp_path: Path, document: str) -> None:
    torch.manual_seed(0)
    reader = smith.new(bert(tmp_path / "bert"), block=12, heads=2, document=document)
    rows = reader.encode([TEXT, "the cost"]).rows
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    reader.trainable({"lora": 0, "checkpointing": False})
    made = reader.embed(reader.prepare([TEXT, "the cost"]))
    (made[0] @ made[1]).backward()
    largest = max(float(p.grad.abs().max()) for p in reader.module.parameters() if p.grad is not None)
    assert 1e-4 < largest < 1e3


def test_what_is_refused(tmp_path: Path) -> None:
    start, made = bert(tmp_path / "bert"), str(tmp_path / "m")
    encoder(**SHAPE).save(made)
    shapes: list[tuple[dict[str, Any], str]] = [
        ({"block": 33}, "reads 4 to 32"), ({"block": 3}, "reads 4 to 32"), ({"heads": 3}, "do not divide"),
        ({"combine": "sum"}, "SMITH has normal"), ({"layers": 0}, "1 to"), ({"layers": True}, "1 to"),
        ({"compat": 1}, "true or false"), ({"compat": True, "document": "mean"}, "document=first"),
        ({"compat": True, "loop": 129}, "128 positions"),
    ]  # fmt: skip
    for shape, message in shapes:
        with pytest.raises(UserError, match=message):
            smith.new(start, **{"heads": 2, **shape})
    with pytest.raises(UnknownName, match="did you mean 'layers'"):
        smith.new(start, layer=2)
    with pytest.raises(UserError, match="is a SMITH already"):
        smith.new(made)
    with pytest.raises(UserError, match="is no SMITH"):
        open_encoder(start, "smith")
    for params, message in (
        ({"max_blocks": -1}, "max_blocks=-1"), ({"batch": 1.5}, "batch=1.5"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            open_encoder(made, "", params)
    with pytest.raises(UnknownName, match="did you mean 'max_blocks'"):
        open_encoder(made, "", {"maxblocks": 3})
    with pytest.raises(UserError, match="at most that"):
        encoder(**RELEASED, limit=9)
    file = tmp_path / "m" / "config.json"
    whole = json.loads(file.read_text())
    for name, value in (("layers", "2"), ("combine", 3), ("max_blocks", "all")):
        file.write_text(json.dumps({**whole, "retrieval": {**whole["retrieval"], name: value}}))
        with pytest.raises(UserError, match=name):
            open_encoder(made)
    other = tmp_path / "bert" / "config.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "model_type": "electra"}))
    with pytest.raises(UserError, match="of type 'electra'"):
        smith.new(start)


def test_the_registry_names_it() -> None:
    assert "smith" in registry.names("dense encoder")
    assert "smith" in registry.names("training task")
