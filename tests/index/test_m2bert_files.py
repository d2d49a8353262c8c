"""M2-BERT on disk: published checkpoints converted, partial ones refused, tables grown."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.m2bert_files import clean, convert, grown, open_model  # noqa: E402
from retrieval.index.model_files import ModelFiles  # noqa: E402

IDS = torch.tensor([[2, 6, 7, 8, 9, 10, 3]])


@pytest.fixture
def published(m2bert_models: Any) -> Callable[..., Any]:
    """Writes a checkpoint and returns the network in it."""
    return functools.partial(write_published, m2bert_models)


def write_published(
    models: Any, folder: Path, prefix: str = "module.bert.", name: str = "pytorch_model.bin", **changed: Any
) -> Any:
    """A checkpoint as a training leaves one: wrapped names, FlashFFTConv's buffers, a classifier, a head."""
    model = models.network()
    state = {prefix + key: tensor.clone() for key, tensor in model.state_dict().items()}
    state |= {
        prefix + "encoder.flashfft.f_16": torch.ones(4, dtype=torch.bfloat16),
        prefix + "encoder.flashfft_32.twiddle": torch.ones(4, dtype=torch.bfloat16),
        "module.classifier.weight": torch.ones(2, 16), "module.dropout.mask": torch.ones(1),
        "cls.predictions.bias": torch.ones(64), "model.cls.predictions.decoder.weight": torch.ones(64, 16),
    }  # fmt: skip
    for key, tensor in changed.items():
        full = prefix + key.replace("__", ".")
        if tensor is None:
            del state[full]
        else:
            state[full] = tensor
    folder.mkdir()
    (folder / "vocab.txt").write_bytes(models.vocabulary())
    torch.save(state, folder / name)
    return model


@pytest.mark.parametrize("prefix", ["module.bert.", "model.bert.", "bert.", "", "module.model.bert."])
def test_converts_a_wrapped_checkpoint_and_computes_the_same(
    tmp_path: Path, prefix: str, published: Callable[..., Any]
) -> None:
    model = published(tmp_path / "in", prefix)
    report = convert(str(tmp_path / "in"), str(tmp_path / "out"))
    assert report["length"] == 32
    files = ModelFiles.open(str(tmp_path / "out"))
    assert files.settings["pad"] == "faithful"
    assert files.settings["pooling"] == "cls"
    with torch.no_grad():
        torch.testing.assert_close(open_model(files)(IDS), model(IDS), atol=0, rtol=0)


def test_converts_what_composer_saves_and_a_half_precision_file(tmp_path: Path, m2bert_models: Any) -> None:
    model = m2bert_models.network()
    state = {
        f"model.{name}": t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()
    }
    torch.save({"state": {"model": state, "rng": [1, 2]}}, tmp_path / "m2.pt")
    (tmp_path / "vocab.txt").write_bytes(m2bert_models.vocabulary())
    convert(str(tmp_path / "m2.pt"), str(tmp_path / "out"))
    with torch.no_grad():
        found = open_model(ModelFiles.open(str(tmp_path / "out")))(IDS)
        for parameter in model.parameters():  # times and decays are no weights, and are not rounded
            parameter.copy_(parameter.half())
        model.kernels.clear()
        torch.testing.assert_close(found, model(IDS), atol=0, rtol=0)


def test_the_frequencies_of_a_filter_stay_one_parameter(tmp_path: Path, m2bert_models: Any) -> None:
    model = open_model(ModelFiles.open(m2bert_models.directory(tmp_path / "m")))
    for each in (f for layer in model.encoder.layers() for f in layer.attention.filters()):
        mlps = (each.implicit_filter, each.implicit_filter_rev)
        sines = [mlp.get_parameter(f"{at}.freq") for mlp in mlps for at in (1, 3, 5)]
        assert len({sine.data_ptr() for sine in sines}) == 1
    clashing = model.state_dict()
    clashing["encoder.layer.0.attention.filter_fn.implicit_filter.3.freq"] = torch.zeros(1, 8)
    with pytest.raises(UserError, match=r"implicit_filter\.3\.freq' differs"):
        clean(clashing)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pooler__dense__weight": None}, r"lacks pooler\.dense\.weight; nothing is loaded in part"),
        ({"encoder__layer__1__attention__short_filter__bias": None}, r"lacks encoder\.layer\.1"),
        (
            {"encoder__layer__0__attention__in_linear__bias": torch.ones(5)},
            r"is \(5,\) and should be \(48,\)",
        ),
        ({"encoder__layer__0__attention__query__weight": torch.ones(5)}, "has what no M2-BERT has"),
        ({"embeddings__word_embeddings__weight": None}, "is no M2-BERT encoder"),
    ],
)
def test_refuses_partial_foreign_and_misshapen_checkpoints(
    tmp_path: Path, changed: dict[str, Any], message: str, published: Callable[..., Any]
) -> None:
    published(tmp_path / "in", **changed)
    with pytest.raises(UserError, match=message):
        convert(str(tmp_path / "in"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_the_configuration_says_may_be_absent(tmp_path: Path, published: Callable[..., Any]) -> None:
    names = ["pos_emb__t", "modulation__deltas"]
    absent = {f"encoder__layer__{at}__attention__filter_fn__{name}": None for at in (0, 1) for name in names}
    model = published(tmp_path / "in", embeddings__position_ids=None, **absent)
    convert(str(tmp_path / "in"), str(tmp_path / "out"))
    with torch.no_grad():
        torch.testing.assert_close(open_model(ModelFiles.open(str(tmp_path / "out")))(IDS), model(IDS))


def test_never_unpickles_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="nothing that can run code is read"):
        convert(str(tmp_path / "evil.pt"), str(tmp_path / "out"))
    assert not (tmp_path / "ran").exists()


def test_says_what_is_wrong_with_a_source(tmp_path: Path, published: Callable[..., Any]) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(UserError, match="no checkpoint"):
        convert(str(tmp_path / "none"), out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds none of model\.safetensors"):
        convert(str(tmp_path / "empty"), out)
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UserError, match=r"cut\.pt"):
        convert(str(tmp_path / "cut.pt"), out)
    published(tmp_path / "in")
    (tmp_path / "in" / "vocab.txt").unlink()
    with pytest.raises(UserError, match="tokenizer=DIR"):
        convert(str(tmp_path / "in"), out)
    (tmp_path / "in" / "config.json").write_text(json.dumps({"hyena_training_additions": True}))
    with pytest.raises(UserError, match="hyena_training_additions is True"):
        convert(str(tmp_path / "in"), out)


def test_tables_grow_by_tiling(tmp_path: Path, published: Callable[..., Any]) -> None:
    model = published(tmp_path / "in")
    assert convert(str(tmp_path / "in"), str(tmp_path / "out"), length=80)["length"] == 80
    large = open_model(ModelFiles.open(str(tmp_path / "out")))
    before, after = model.state_dict(), large.state_dict()
    positions = "embeddings.position_embeddings.weight"
    torch.testing.assert_close(after[positions][32:64], before[positions])
    torch.testing.assert_close(after[positions][64:], before[positions][:16])
    stem = "encoder.layer.1.attention.filter_fn2."
    torch.testing.assert_close(after[f"{stem}pos_emb.z"][:, 32:64], before[f"{stem}pos_emb.z"])
    torch.testing.assert_close(after[f"{stem}pos_emb.t"][0, :, 0], torch.linspace(0, 1, 80))
    torch.testing.assert_close(after[f"{stem}modulation.deltas"], before[f"{stem}modulation.deltas"])
    assert after["embeddings.position_ids"].tolist() == [list(range(80))]
    with torch.no_grad():
        assert large(torch.randint(0, 64, (1, 80))).isfinite().all()
    with pytest.raises(UserError, match="not shrink to 16"):
        grown(before, 16)
