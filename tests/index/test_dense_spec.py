"""Specs of dense encoders: every form read, method told from a model's files, errors in one sentence."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import registry
from retrieval.errors import StorageError, UnknownName, UserError
from retrieval.index.dense_spec import KIND, DenseSpec, detect, open_encoder, parse_dense
from retrieval.index.hub import fetch, resolve


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("minilm=./minilm", ("minilm", "", "./minilm", {})),
        ("./minilm", ("minilm", "", "./minilm", {})),
        ("./models/MiniLM-L6-v2/", ("minilm_l6_v2", "", "./models/MiniLM-L6-v2/", {})),
        ("owner/all-MiniLM-L6-v2", ("all_minilm_l6_v2", "", "owner/all-MiniLM-L6-v2", {})),
        ("owner/name@v1.0", ("name_v1_0", "", "owner/name@v1.0", {})),
        ("m2bert:DIR", ("dir", "m2bert", "DIR", {})),
        ("long=m2bert:/a/b", ("long", "m2bert", "/a/b", {})),
        ("llm:qwen.gguf", ("qwen_gguf", "llm", "qwen.gguf", {})),
        ("bert:x", ("x", "bert", "x", {})),
        ("other:x", ("other_x", "", "other:x", {})),  # no method: a path may hold a colon
        ("C:/models/e5", ("e5", "", "C:/models/e5", {})),
        ("e5=./e5(precision=bfloat16)", ("e5", "", "./e5", {"precision": "bfloat16"})),
        ("e5=./e5()", ("e5", "", "./e5", {})),
        (
            'e5=llm:./e5(length=128, normalise=false, task="find (all), please=now", tau=0.5)',
            ("e5", "llm", "./e5", {"length": 128, "normalise": False, "task": "find (all), please=now",
                                   "tau": 0.5}),
        ),
        ("e5= ./e5 (length=8)", ("e5", "", "./e5", {"length": 8})),
        ("a=b=c", ("a", "", "b=c", {})),
        ("x=/data/a=b/model", ("x", "", "/data/a=b/model", {})),
        ("/data/a=b/model", ("model", "", "/data/a=b/model", {})),  # no name holds a slash
    ],
)  # fmt: skip
def test_forms(text: str, spec: tuple[str, str, str, dict[str, Any]]) -> None:
    assert parse_dense(text) == DenseSpec(*spec)


def test_a_name_is_cut_and_made_of_what_names_are_made_of() -> None:
    assert parse_dense("./All.The-Letters_of a very long name").name == "all_the_letters_of_a"
    assert parse_dense("./__x__").name == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no model; write NAME=DIR"),
        ("  ", "names no model"),
        ("minilm=", "names no model"),
        ("(length=3)", "names no model"),
        ("a(b)c", "names no model"),
        ("./2b", "'2b' is no name for a representation; use 1 to 20"),
        ("Big=./x", "'Big' is no name"),
        ("=./x", "'' is no name"),
        (f"{'a' * 21}=./x", "is no name"),
        ("e5 =./x", "'e5 ' is no name"),
        ("./a(b=1, c)", "'./a(b=1, c)'"),
        ("./a(task='x')", "expected a value"),
        ("./a(length=1, length=2)", "'./a(length=1, length=2)'"),
        ("./a(length=1", "names no model"),
    ],
)
def test_what_is_no_spec(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_dense(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_dense(text)
    except UserError:
        return
    assert found.model.strip()
    assert 1 <= len(found.name) <= 20


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "bert"),
        ({"architectures": ["XLMRobertaModel"]}, "bert"),
        ({"architectures": ["LlamaForCausalLM"]}, "llm"),
        ({"architectures": ["Qwen3ForCausalLM"], "retrieval": {"kind": "bert"}}, "bert"),
        ({"retrieval": {"kind": "m2bert"}}, "m2bert"),
        ({"retrieval": {"kind": "tilde"}}, "bert"),  # not the kind of a dense encoder
        ({"retrieval": "m2bert"}, "bert"),
        ({"long_conv_l_max": 2048}, "m2bert"),
        ({"residual_long_conv": True}, "m2bert"),
        ({"architectures": "LlamaForCausalLM"}, "bert"),
        ({"architectures": []}, "bert"),
        ({"architectures": [7]}, "bert"),
        ([], "bert"),
    ],
)
def test_the_method_is_told_from_config(tmp_path: Path, config: Any, method: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert detect(str(tmp_path)) == method


def test_the_method_without_a_config(tmp_path: Path) -> None:
    assert detect(str(tmp_path)) == "bert"  # whose reader says what is missing
    assert detect(str(tmp_path / "absent")) == "bert"
    (tmp_path / "config.json").write_text("{broken")
    assert detect(str(tmp_path)) == "bert"
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model-q8.gguf").write_bytes(b"GGUF")
    assert detect(str(folder)) == "llm"
    assert detect(str(folder / "model-q8.gguf")) == "llm"
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    assert detect(str(folder)) == "bert"


def test_an_encoder_is_opened_with_its_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, dict[str, Any]]] = []

    def factory(name: str, path: str, params: dict[str, Any]) -> str:
        opened.append((path, params))
        return name

    for name in ("bert", "toy"):
        monkeypatch.setitem(registry._FACTORIES, (KIND, name), partial(factory, name))
    found: list[Any] = []
    path = str(tmp_path)
    given: dict[str, Any] = {"length": 8}
    found += [open_encoder(path), open_encoder(path, "toy", given)]
    (tmp_path / "config.json").write_text('{"retrieval": {"kind": "toy"}}')
    found.append(open_encoder(path))
    assert found == ["bert", "toy", "toy"]
    assert opened == [(path, {}), (path, {"length": 8}), (path, {})]
    assert opened[1][1] is not given  # an encoder may take out what it has read
    assert parse_dense(f"toy:{path}").method == "toy"
    with pytest.raises(UnknownName, match="unknown dense encoder 'tooy'"):
        open_encoder(path, "tooy")


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "~/model", "a/b/c", "spaces in it"])
def test_a_path_that_is_not_there_is_no_hub_id(path: str) -> None:
    with pytest.raises(UserError, match=r"no model directory .*; give the directory"):
        open_encoder(path)


def test_a_hub_id_is_not_fetched_unless_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **given: Any) -> str:
        asked.append({"name": name, **given})
        if "absent" in name:
            raise LocalEntryNotFoundError("not in the cache")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert resolve("owner/model@v2") == str(tmp_path)
    assert (asked[0]["name"], asked[0]["revision"], asked[0]["local_files_only"]) == (
        "owner/model", "v2", True,
    )  # fmt: skip
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in asked[0]["allow_patterns"])
    with pytest.raises(UserError, match="retrieve model fetch owner/absent"):
        resolve("owner/absent")
    with pytest.raises(StorageError, match="is there a network"):
        fetch("owner/absent")
    with pytest.raises(UserError, match="no hub id"):
        fetch("./absent")
    assert [one["local_files_only"] for one in asked] == [True, True, False]


@pytest.mark.parametrize("text", ["./a(b)", "./a(length)", 'x=./a("b")', "./a(model=b)"])
def test_a_setting_without_a_value(text: str) -> None:
    with pytest.raises(UserError, match=r"no setting with a value; write NAME=DIR\(precision"):
        parse_dense(text)
