"""Files of decoders: shards, GGUF, sentence-transformers' layout, and what is wrong with a directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from retrieval.errors import MissingExtra, UserError  # noqa: E402
from retrieval.index.dense_spec import open_encoder  # noqa: E402
from retrieval.index.llm import open_llm, trained_length  # noqa: E402
from retrieval.index.llm_files import LlmFiles  # noqa: E402

Make = Callable[..., Path]
TEXTS = ["what a day", "", "a longer text than the others"]
F32: dict[str, Any] = {"precision": "float32"}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def test_shards_are_one_model(tiny_decoder: Make) -> None:
    model = tiny_decoder("qwen3")
    whole = open_llm(str(model), F32)
    tensors = safetensors_torch.load_file(model / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in parts.items():
        safetensors_torch.save_file({n: tensors[n] for n in own}, model / file, metadata={"format": "pt"})
    write(
        model / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}},
    )
    (model / "model.safetensors").unlink()
    sharded = open_llm(str(model), F32)
    assert np.array_equal(sharded.encode(TEXTS).rows, whole.encode(TEXTS).rows)
    before = sharded.identity["model"]["weights"]
    safetensors_torch.save_file(
        {n: tensors[n] + 1 for n in parts["model-2.safetensors"]}, model / "model-2.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    assert LlmFiles(str(model)).identity["weights"] != before


def sentence_transformers(
    model: Path, pooling: dict[str, Any], *, normalise: bool = True, **more: Any
) -> None:
    kinds = ["models.Transformer", "models.Pooling", *(["models.Normalize"] if normalise else [])]
    write(
        model / "modules.json",
        [{"idx": i, "name": str(i), "path": f"{i}_{kind[7:]}" if i else "",
          "type": f"sentence_transformers.{kind}"} for i, kind in enumerate(kinds)],
    )  # fmt: skip
    write(model / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **pooling})
    write(model / "sentence_bert_config.json", {"max_seq_length": 40})
    write(model / "config_sentence_transformers.json", {"prompts": {"query": "Q: ", "document": ""}, **more})


def test_layout_of_sentence_transformers(tiny_decoder: Make) -> None:
    model = tiny_decoder("qwen3", eos=True)
    sentence_transformers(model, {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False})
    encoder = open_llm(str(model), F32)
    kept = {"pooling": "last", "length": 40, "normalise": True, "include_prompt": True, "eos": True}
    assert kept.items() <= encoder.identity.items()
    assert encoder.identity["prompts"] == {"query": "Q: {text}", "passage": ""}
    assert open_llm(str(model), {**F32, "pooling": "mean"}).identity["pooling"] == "mean"
    sentence_transformers(model, {"pooling_mode_weightedmean_tokens": True}, normalise=False)
    encoder = open_llm(str(model), F32)
    assert (encoder.identity["pooling"], encoder.identity["normalise"]) == ("weighted-mean", False)
    assert np.abs(np.linalg.norm(encoder.encode(TEXTS).rows, axis=1) - 1).min() > 0.1


def test_the_same_vectors_as_sentence_transformers(tiny_decoder: Make) -> None:
    library = pytest.importorskip("sentence_transformers")
    for pooling in ("lasttoken", "mean", "weightedmean"):
        model = tiny_decoder("qwen3", eos=True, name=pooling)
        sentence_transformers(model, {"pooling_mode": pooling})
        theirs = library.SentenceTransformer(str(model), device="cpu", local_files_only=True)
        expected = theirs.encode(TEXTS, prompt="Q: ")
        own = open_llm(
            str(model), {**F32, "eos": True, "pooling": pooling.replace("token", "").replace("dm", "d-m")}
        )
        assert np.abs(own.encode(TEXTS, "query").rows - expected).max() < 1e-5


def test_layouts_that_are_refused(tiny_decoder: Make) -> None:
    model = tiny_decoder()
    sentence_transformers(model, {"pooling_mode_cls_token": True})
    with pytest.raises(UserError, match="cls_token"):
        open_llm(str(model))
    write(model / "modules.json", [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    with pytest.raises(UserError, match="'Dense'"):
        open_llm(str(model))
    (model / "modules.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        open_llm(str(model))


def test_damaged_directories_are_one_sentence(tiny_decoder: Make, tmp_path: Path) -> None:
    good = tiny_decoder()

    def copy(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cut = copy("cut")
    (cut / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:5000])
    lacking = copy("lacking")
    tensors = safetensors_torch.load_file(good / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    safetensors_torch.save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    broken = copy("broken")
    tensors = safetensors_torch.load_file(good / "model.safetensors")
    tensors["norm.weight"][3] = float("nan")
    safetensors_torch.save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    misshapen = copy("misshapen")
    tensors["norm.weight"] = torch.ones(7)
    safetensors_torch.save_file(tensors, misshapen / "model.safetensors", metadata={"format": "pt"})
    adapter = tmp_path / "adapter"
    write(adapter / "adapter_config.json", {})
    untold = copy("untold")
    (untold / "config.json").write_text("[]")
    tokenless = copy("tokenless")
    (tokenless / "tokenizer.json").unlink()
    (tokenless / "tokenizer_config.json").unlink()
    (tmp_path / "empty").mkdir()
    for path, words in (
        (pickled, "pickled weights only"), (cut, "cut"), (lacking, "up_proj.*absent"),
        (broken, "'norm.weight' holds NaN"), (misshapen, "norm.weight|size"), (adapter, "adapter alone"),
        (untold, "no JSON object"), (tokenless, "token"),
        (tmp_path / "empty", "is it a model directory"), (tmp_path / "nowhere", "no model"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            open_llm(str(path), F32)
        assert "\n" not in str(caught.value)


def test_code_of_a_model_is_never_run(tiny_decoder: Make) -> None:
    model = tiny_decoder()
    config = json.loads((model / "config.json").read_text())
    (model / "own.py").write_text(f"open({str(model / 'ran')!r}, 'w')\nclass M: pass\nclass C: pass\n")
    for kind in ("llama", "unheard_of"):
        config |= {"model_type": kind, "auto_map": {"AutoModel": "own.M", "AutoConfig": "own.C"}}
        (model / "config.json").write_text(json.dumps(config))
        if kind == "llama":
            open_llm(str(model), F32)
        else:
            with pytest.raises(UserError, match="cannot load"):
                open_llm(str(model), F32)
    assert not (model / "ran").exists()


def test_other_models_are_refused(tiny_decoder: Make) -> None:
    model = tiny_decoder()
    config = json.loads((model / "config.json").read_text())
    wrong: list[dict[str, Any]] = [{"is_encoder_decoder": True}, {"vision_config": {}}]
    for more in wrong:
        (model / "config.json").write_text(json.dumps({**config, **more}))
        with pytest.raises(UserError, match="no text decoder"):
            open_llm(str(model), F32)


def gguf_file(model: Path, out: Path) -> Path:
    """A llama of the test as a GGUF file in float32."""
    gguf = pytest.importorskip("gguf")
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(config["vocab_size"])
    vocabulary = json.loads((model / "tokenizer.json").read_text())
    pieces = {**vocabulary["model"]["vocab"], **{t["content"]: t["id"] for t in vocabulary["added_tokens"]}}
    listed = [piece for piece, _ in sorted(pieces.items(), key=lambda pair: pair[1])]
    listed += [listed[0] + listed[1]]  # the only merge
    assert len(listed) == config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(listed)
    writer.add_token_types([3 if piece.startswith("<") and len(piece) > 1 else 1 for piece in listed])
    writer.add_token_merges([f"{listed[0]} {listed[1]}"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    names = {
        "embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    for key, tensor in safetensors_torch.load_file(model / "model.safetensors").items():
        name = names.get(key)
        if name is None:
            _, layer, rest = key.split(".", 2)
            name = f"blk.{layer}.{names[rest.removesuffix('.weight')]}.weight"
        if ".attn_q." in name or ".attn_k." in name:  # llama.cpp turns neighbours, transformers halves
            heads = tensor.shape[0] // 8
            tensor = tensor.view(heads, 2, 4, -1).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def test_gguf(tiny_decoder: Make, tmp_path: Path) -> None:
    model = tiny_decoder("llama", bos=False)
    file = gguf_file(model, tmp_path / "tiny.gguf")
    encoder: Any = open_encoder(str(file), params={**F32, "pooling": "mean"})
    plain = open_llm(str(model), {**F32, "pooling": "mean"})
    ids = plain.prepare(TEXTS)
    with torch.inference_mode():
        assert float((encoder.embed(ids) - plain.embed(ids)).abs().max()) < 1e-5
    encoder.save(str(tmp_path / "saved"))
    again: Any = open_encoder(str(tmp_path / "saved"), params=F32)
    assert np.array_equal(again.encode(TEXTS).rows, encoder.encode(TEXTS).rows)
    mine, other = ({**dict(each.identity), "model": None} for each in (encoder, again))
    assert mine == other
    shutil.copy(file, tmp_path / "another.gguf")
    with pytest.raises(UserError, match="2 GGUF files"):
        open_llm(str(tmp_path), F32)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="cannot load"):
        open_llm(str(file), F32)


def test_gguf_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingExtra, match=r"pip install 'retrieval\[gguf\]'"):
        open_llm(str(tmp_path / "x.gguf"))


def test_trained_length() -> None:
    assert trained_length({"max_position_embeddings": 77}) == 77
    assert trained_length({"n_positions": 1024}) == 1024


@pytest.mark.slow
def test_smollm2(weights: Path, tmp_path: Path) -> None:
    """The published 4-bit file: texts that mean the same are nearer, and it saves as safetensors."""
    encoder: Any = open_encoder(str(weights / "smollm2"), params={**F32, "pooling": "mean"})
    texts = [
        "A cat sat on the mat.",
        "The cat is sitting on a rug.",
        "Interest rates rose by a quarter point.",
    ]
    rows = encoder.encode(texts).rows
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.1
    encoder.save(str(tmp_path / "saved"))
    again: Any = open_encoder(str(tmp_path / "saved"), params=F32)
    assert np.array_equal(again.encode(texts).rows, rows)
    small: Any = open_encoder(str(tmp_path / "saved"), params={**F32, "quantise": "int8"})
    assert small.runtime["gate"]["min"] > 0.99
