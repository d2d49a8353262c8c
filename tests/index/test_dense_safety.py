"""Dense encoders used by several threads, files that decide about vectors, files from strangers."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.llm import open_llm  # noqa: E402
from retrieval.index.lora import LoraConfig, add_lora, lora_layers, save_lora  # noqa: E402
from retrieval.index.text_tokens import Tokens  # noqa: E402
from tests.index.text_models import SPECIAL, WORDS, write_layout, write_model  # noqa: E402

Make = Callable[..., Path]
F32: dict[str, Any] = {"precision": "float32"}


def change(file: Path, **fields: Any) -> None:
    value = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**value, **fields}))


def adapter(model: Path, place: Path) -> Path:
    from transformers import AutoModel

    torch.manual_seed(0)
    module: Any = AutoModel.from_pretrained(model)
    add_lora(module, LoraConfig(4))
    for layer in lora_layers(module).values():
        torch.nn.init.normal_(layer.lora_B, std=0.2)
    save_lora(module, str(place), LoraConfig(4))
    return place


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnx"])
def test_threads_share_an_encoder(tmp_path: Path, backend: str) -> None:
    if backend != "torch":
        pytest.importorskip({"openvino": "openvino", "onnx": "onnxruntime"}[backend])
    write_model(tmp_path / "m", "bert", {})
    encoder = open_encoder(str(tmp_path / "m"), "", {"backend": backend, "threads": 1, **F32})
    texts = [" ".join(WORDS[:n]) for n in (1, 4, 9, 12)]
    alone = [encoder.encode([text]).rows for text in texts]
    wrong: list[str] = []

    def ask(number: int) -> None:
        for _ in range(60):
            try:
                found = encoder.encode([texts[number]]).rows
            except Exception as error:  # noqa: BLE001 (whatever a library raises)
                wrong.append(repr(error))
                continue
            if not np.allclose(found, alone[number], atol=1e-4):
                wrong.append(texts[number])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("kind", "name"),
    [("bert", "BertTokenizer"), ("mpnet", "MPNetTokenizer"), ("electra", "ElectraTokenizer")],
)
def test_settings_of_a_tokenizer_are_in_its_hash(tmp_path: Path, kind: str, name: str) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Wind", "wind"]
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL[:3], "<unk>", "<mask>", *pieces]) + "\n")
    change(tmp_path / "config.json", model_type=kind)
    found = {}
    for lower in (True, False):
        change(tmp_path / "tokenizer_config.json", do_lower_case=lower, tokenizer_class=name)
        tokens = Tokens(str(tmp_path), kind)
        found[tuple(tokens.encode(["Wind"], 9).ids[0].tolist())] = tokens.sha256
    assert len(found) == len(set(found.values())) == 2


def test_what_scales_an_adapter_is_in_the_identity(tiny_decoder: Make, tmp_path: Path) -> None:
    model = tiny_decoder()
    place = adapter(model, tmp_path / "adapter")
    params = {**F32, "adapter": str(place)}
    before = open_llm(str(model), params)
    change(place / "adapter_config.json", lora_alpha=64)
    after = open_llm(str(model), params)
    assert not np.allclose(before.encode(["text"]).rows, after.encode(["text"]).rows)
    assert before.identity != after.identity


def test_the_end_of_a_text_is_in_the_identity(tiny_decoder: Make) -> None:
    model = tiny_decoder()
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": None}))
    found = []
    for eos in ("</s>", "a"):
        change(model / "special_tokens_map.json", eos_token=eos)
        found.append(open_llm(str(model), F32))
    assert found[0].tokens.eos != found[1].tokens.eos
    assert found[0].identity != found[1].identity


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha_pattern", [1]), ("alpha_pattern", {"q_proj": "x"}), ("lora_alpha", None), ("lora_alpha", "x"),
     ("r", None), ("lora_dropout", 2), ("lora_bias", True)],
)  # fmt: skip
def test_an_adapter_with_odd_settings(tiny_decoder: Make, tmp_path: Path, field: str, value: Any) -> None:
    model = tiny_decoder()
    place = adapter(model, tmp_path / "adapter")
    change(place / "adapter_config.json", **{field: value})
    with pytest.raises(UserError):
        open_llm(str(model), {**F32, "adapter": str(place)})


@pytest.mark.parametrize("broken", [lambda t: t[:0].contiguous(), lambda t: torch.tensor(1.0)])
def test_an_adapter_without_matrices(tiny_decoder: Make, tmp_path: Path, broken: Any) -> None:
    model = tiny_decoder()
    file = adapter(model, tmp_path / "adapter") / "adapter_model.safetensors"
    tensors = safetensors_torch.load_file(file)
    safetensors_torch.save_file({name: broken(tensor) for name, tensor in tensors.items()}, file)
    with pytest.raises(UserError, match="no pair of matrices"):
        open_llm(str(model), {**F32, "adapter": str(file.parent)})


def test_a_models_files_name_nothing_outside_of_them(tiny_decoder: Make, tmp_path: Path) -> None:
    model = tiny_decoder()
    place = adapter(model, tmp_path / "adapter")
    change(model / "config.json", retrieval={"kind": "llm", "adapter": str(place), "batch": 1})
    opened = open_llm(str(model), F32)
    assert opened.identity["adapter"] is None
    assert opened.budget > 1
    change(place / "config.json", pooling_mode_mean_tokens=True)
    for path in ("../adapter", str(place)):
        kinds = [("Transformer", ""), ("Pooling", path)]
        modules = [{"type": f"sentence_transformers.models.{kind}", "path": at} for kind, at in kinds]
        (model / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(UserError, match="outside"):
            open_llm(str(model), F32)


def test_bits_that_a_file_asks_for_need_their_kernels(tiny_decoder: Make) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device may have them")
    model = tiny_decoder()
    change(model / "config.json", retrieval={"kind": "llm", "quantise": "int4"})
    with pytest.raises(UserError, match="int4"):
        open_llm(str(model), F32)


def test_a_decoder_is_written_over_a_decoder_alone(tiny_decoder: Make, tmp_path: Path) -> None:
    encoder = open_llm(str(tiny_decoder()), F32)
    encoder.save(str(tmp_path / "out"))
    encoder.save(str(tmp_path / "out"))
    for name in ("notes.pdf", "src"):
        project = tmp_path / f"with-{name}"
        project.mkdir()
        shutil.copy(tmp_path / "out" / "config.json", project)
        (project / name).mkdir() if name == "src" else (project / name).touch()
        with pytest.raises(UserError, match=name):
            encoder.save(str(project))
        assert sorted(each.name for each in project.iterdir()) == sorted(["config.json", name])


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [("config_sentence_transformers.json", "default_prompt_name", ["x"]), ("config.json", "model_type", []),
     ("config.json", "hidden_dropout_prob", 1.5)],
)  # fmt: skip
def test_one_sentence_for_odd_fields(tmp_path: Path, file: str, field: str, value: Any) -> None:
    write_model(tmp_path / "m", "bert", {})
    write_layout(tmp_path / "m", {"pooling_mode_mean_tokens": True})
    change(tmp_path / "m" / file, **{field: value})
    with pytest.raises(UserError):
        open_encoder(str(tmp_path / "m"))
