"""sentence-transformers' files: poolings by their formulas, that package itself, wrong files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from retrieval.errors import UnknownName, UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.layout import MODES, read_layout  # noqa: E402
from retrieval.index.pooling import pool  # noqa: E402
from tests.index.text_models import TEXTS, write_layout, write_model  # noqa: E402

FLAGS = {
    "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
}  # fmt: skip
MEAN = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}


def by_hand(rows: Any, mode: str, first: int) -> Any:
    """Pooling of one text by its definition; the rows before `first` are left out."""
    kept, weights = rows[first:], np.arange(first + 1, len(rows) + 1)[:, None]
    return {
        "cls": kept[0], "lasttoken": kept[-1], "max": kept.max(0), "mean": kept.sum(0) / len(kept),
        "mean_sqrt_len": kept.sum(0) / len(kept) ** 0.5,
        "weightedmean": (kept * weights).sum(0) / weights.sum(),
    }[mode]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("skip", [None, [0, 2, 9]])
def test_pooling_by_its_formula(mode: str, skip: list[int] | None) -> None:
    lengths = [1, 5, 3]
    hidden = np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)
    ends = np.cumsum([0, *lengths])
    skips = None if skip is None else torch.tensor(skip)
    found = pool(torch.from_numpy(hidden), torch.from_numpy(ends), [mode], skips).numpy()
    for row, start, end, leading in zip(found, ends, ends[1:], skip or [0, 0, 0], strict=False):
        expected = by_hand(hidden[start:end], mode, min(leading, end - start - 1))
        np.testing.assert_allclose(row, expected, atol=1e-6)


def test_gradients_flow_through_every_pooling() -> None:
    for mode in MODES:
        hidden = torch.randn(6, 3, dtype=torch.float32, requires_grad=True)
        pool(hidden, torch.tensor([0, 2, 6]), [mode]).square().sum().backward()
        assert hidden.grad is not None
        assert hidden.grad.abs().sum() > 0, mode


@pytest.mark.parametrize("modes", [(mode,) for mode in MODES] + [("cls", "mean"), ("mean", "cls")])
def test_as_sentence_transformers(tmp_path: Path, modes: tuple[str, ...]) -> None:
    package = pytest.importorskip("sentence_transformers")
    write_model(tmp_path / "m", "bert", {})
    pooling: dict[str, Any] = {"word_embedding_dimension": 16}
    if modes == ("mean", "cls"):
        pooling |= {"pooling_mode": ["mean", "cls"]}
    else:
        pooling |= {f"pooling_mode_{flag}": mode in modes for mode, flag in FLAGS.items()}
    prompts = {"query": "q : ", "document": "x "}
    write_layout(
        tmp_path / "m", {**pooling, "include_prompt": modes[0] != "max"}, prompts=prompts, after=("Dense",)
    )
    width = 16 * len(modes)
    torch.manual_seed(1)
    dense = package.sentence_transformer.modules.Dense(width, 5, activation_function=torch.nn.Tanh())
    (tmp_path / "m" / "2_Dense").mkdir()
    dense.save(str(tmp_path / "m" / "2_Dense"))
    theirs = package.SentenceTransformer(str(tmp_path / "m"), device="cpu", local_files_only=True)
    ours = open_encoder(str(tmp_path / "m"), params={"precision": "float32"})
    assert ours.dim == 5
    assert ours.identity["pooling"] == "+".join(modes)
    for kind, method in (("query", theirs.encode_query), ("passage", theirs.encode_document)):
        expected = method(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(ours.encode(TEXTS, kind).rows, expected, atol=1e-5)  # type: ignore[arg-type]


def test_the_newer_fields(tmp_path: Path) -> None:
    for value, expected in (("lasttoken", ("lasttoken",)), (["mean", "max"], ("mean", "max"))):
        write_layout(tmp_path, {"embedding_dimension": 16, "pooling_mode": value, "include_prompt": False})
        found = read_layout(str(tmp_path))
        assert found.pooling == expected
        assert found.width == 16
        assert not found.include_prompt
    (tmp_path / "modules.json").unlink()
    assert read_layout(str(tmp_path)).pooling == ("mean", "max")  # 1_Pooling alone counts too
    assert not read_layout(str(tmp_path / "none")).known


def test_prompts(tmp_path: Path) -> None:
    write_layout(
        tmp_path, MEAN, prompts={"query": "q", "passage": "p", "corpus": "c"}, default_prompt_name="corpus"
    )
    found = read_layout(str(tmp_path))
    assert (found.prompt("query"), found.prompt("passage"), found.prompt("query", "corpus")) == (
        "q",
        "p",
        "c",
    )
    write_layout(tmp_path, MEAN, prompts={"sts": "s"}, default_prompt_name="sts")
    assert read_layout(str(tmp_path)).prompt("query") == read_layout(str(tmp_path)).prompt("passage") == "s"


def _pooling(config: Any) -> Callable[[Path], None]:
    return lambda path: write_layout(path, config)


def _facts(**facts: Any) -> Callable[[Path], None]:
    return lambda path: write_layout(path, MEAN, **facts)


def _file(name: str, text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_layout(path, MEAN)
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text)

    return write


def _module(
    kind: str, place: str = "2_X", package: str = "sentence_transformers.models"
) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_layout(path, MEAN, after=())
        modules = json.loads((path / "modules.json").read_text())
        modules.append({"idx": 2, "name": "2", "path": place, "type": f"{package}.{kind}"})
        (path / "modules.json").write_text(json.dumps(modules))

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_pooling({"pooling_mode_mean_tokens": False}), "names no pooling mode; set one of: cls, max"),
        (_pooling({"pooling_mode": "median"}), "asks for the pooling 'median'; known: cls"),
        (_pooling({"pooling_mode": [3]}), "asks for the pooling 3"),
        (_pooling({"pooling_mode_attention": True}), "asks for the pooling 'pooling_mode_attention'"),
        (_pooling({**MEAN, "word_embedding_dimension": 17}), "vectors of 17 numbers"),
        (_pooling({**MEAN, "word_embedding_dimension": "x"}), "a token's vector as 'x'"),
        (_pooling({**MEAN, "include_prompt": 1}), "include_prompt as 1"),
        (_pooling({}), "config.json', which modules.json names"),
        (_facts(similarity_fn_name="manhattan"), "compares by 'manhattan'"),
        (_facts(prompts=["a"]), "prompts that are no object"),
        (_facts(prompts={"a": 1}), "prompts that are no object"),
        (_facts(default_prompt_name="a"), "takes the prompt 'a' by default"),
        (_file("modules.json", "{"), "cannot read"),
        (_file("modules.json", "[" * 100_000), "cannot read"),
        (_file("modules.json", '{"a": 1}'), "no list of modules"),
        (_file("modules.json", '[{"type": 1}]'), "a module has a type and a path"),
        (_file("1_Pooling/config.json", "[1]"), "no JSON object"),
        (_file("sentence_bert_config.json", '{"max_seq_length": -5}'), "max_seq_length as -5"),
        (_file("config.json", '{"model_type": "no-such"}'), "describes a 'no-such' model"),
        (_file("config.json", '{"model_type": "no-such", "auto_map": {"AutoModel": "m.M"}}'), "is not run"),
        (_file("config.json", '{"model_type": 3}'), "names no model_type"),
        (_file("tokenizer.json", "{}"), "is no tokenizer"),
        (_file("model.safetensors", "no"), "damaged or cut short"),
        (_module("CNN"), "a module 'CNN' after pooling; known: Dense"),
        (_module("Mine", package="custom_st"), "code that comes with the model"),
        (_module("Normalize", "../.."), "outside of the model's directory"),
        (_module("Normalize", "/etc"), "outside of the model's directory"),
        (_module("Dense"), "gives in_features as None"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write_model(tmp_path / "m", "bert", {})
    write(tmp_path / "m")
    with pytest.raises(UserError) as caught:
        open_encoder(str(tmp_path / "m"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_dense_that_does_not_fit(tmp_path: Path) -> None:
    write_model(tmp_path / "m", "bert", {})
    write_layout(tmp_path / "m", MEAN, after=("Dense",))
    (tmp_path / "m" / "2_Dense").mkdir()
    for config, message in (
        ({"in_features": 9, "out_features": 4}, "takes vectors of 9 numbers and gets 16"),
        (
            {"in_features": 16, "out_features": 4, "activation_function": "os.system"},
            "the activation 'os.system'",
        ),
        ({"in_features": 16, "out_features": 4}, "holds no model.safetensors"),
    ):
        (tmp_path / "m" / "2_Dense" / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=message):
            open_encoder(str(tmp_path / "m"))


def test_pickles_and_empty_directories(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a model directory has one"):
        open_encoder(str(tmp_path))
    for kind in ("bert", "electra"):
        write_model(tmp_path / kind, kind, {"embedding_size": 16})
        (tmp_path / kind / "model.safetensors").rename(tmp_path / kind / "pytorch_model.bin")
        with pytest.raises(UserError, match="pickled weights only"):
            open_encoder(str(tmp_path / kind))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"precison": "float32"}, "did you mean 'precision'"),
        ({"precision": "float8"}, "must be one of auto, float32"),
        ({"length": 2}, "give 3 or more"),
        ({"length": 4096}, "positions for 64 tokens"),
        ({"length": True}, "a whole number"),
        ({"pooling": "mean+median"}, "unknown pooling 'median'"),
        ({"device": "tpu9"}, "device='tpu9'"),
        ({"query_prompt": "a", "query_prompt_name": "b"}, "give one"),
    ],
)
def test_wrong_parameters(tmp_path: Path, params: dict[str, Any], message: str) -> None:
    write_model(tmp_path / "m", "bert", {})
    with pytest.raises((UserError, UnknownName)) as caught:
        open_encoder(str(tmp_path / "m"), params=params)
    assert message in str(caught.value)
