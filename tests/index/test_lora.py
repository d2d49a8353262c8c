"""LoRA: what it trains, merging, PEFT's files, adapters that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

from retrieval.errors import UserError  # noqa: E402
from retrieval.index.llm_quantise import Int8Linear, to_int8  # noqa: E402
from retrieval.index.lora import (  # noqa: E402
    LoraConfig,
    LoraLinear,
    add_lora,
    load_lora,
    lora_layers,
    merge_lora,
    save_lora,
)

IDS = [[3, 4, 5, 6, 7, 8]]


def model(family: str = "llama", seed: int = 0, **more: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        family, vocab_size=60, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        initializer_range=0.2, **more,
    )  # fmt: skip
    torch.manual_seed(seed)
    return AutoModel.from_config(config, attn_implementation="sdpa").eval()


def hidden(module: Any) -> Any:
    with torch.inference_mode():
        return module(input_ids=torch.tensor(IDS), use_cache=False).last_hidden_state


def stirred(module: Any) -> Any:
    for layer in lora_layers(module).values():
        torch.nn.init.normal_(layer.lora_B, std=0.2)
    return module


def test_the_start_changes_nothing_and_only_updates_train() -> None:
    module = model()
    before = hidden(module)
    names = add_lora(module, LoraConfig(4))
    assert len(names) == 2 * 7
    assert torch.equal(hidden(module), before)
    module.train()
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimiser = torch.optim.AdamW((p for p in module.parameters() if p.requires_grad), lr=0.1)
    for _ in range(2):
        module(input_ids=torch.tensor(IDS)).last_hidden_state.square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    changed = {name for name, p in module.named_parameters() if not torch.equal(p, weights[name])}
    assert changed == {name for name in weights if "lora_" in name}


@pytest.mark.parametrize(
    ("family", "targets", "count"),
    [
        ("llama", "q,v", 4), ("llama", "q,k,v,o,gate,up,down", 14), ("qwen3", "gate,up,down", 6),
        ("gemma", "o", 2), ("phi3", "q,k,v,gate,up", 4),
        ("phi", "q,o,up,down", 8), ("llama", "0.self_attn.q_proj", 1),
    ],
)  # fmt: skip
def test_targets(family: str, targets: str, count: int) -> None:
    assert len(add_lora(model(family), LoraConfig(2, targets=targets))) == count


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma"])
def test_merged_equals_unmerged(family: str) -> None:
    module = model(family)
    before = hidden(module)
    add_lora(module, LoraConfig(4, 16.0, dropout=0.5))
    stirred(module).eval()
    apart = hidden(module)
    assert float((apart - before).abs().max()) > 0.1
    assert merge_lora(module) == 14
    assert not lora_layers(module)
    assert float((hidden(module) - apart).abs().max()) < 1e-5


def test_on_int8() -> None:
    module = model()
    assert to_int8(module) == 14
    add_lora(module, LoraConfig(4))
    apart = hidden(stirred(module))
    merge_lora(module)
    assert not any(isinstance(layer, Int8Linear) for layer in module.modules())
    assert float((hidden(module) - apart).abs().max()) < 1e-4


def test_int8_is_near_and_small() -> None:
    linear = torch.nn.Linear(64, 96)
    linear.requires_grad_(False)
    small = Int8Linear(linear)
    x = torch.randn(5, 64)
    assert small.weight.dtype == torch.int8
    assert float((small(x) - linear(x)).abs().max()) < 0.02
    assert float((small.dense() - linear.weight).abs().max()) <= float(small.scale.max()) / 2 + 1e-7
    linear.weight.data[3] = 0  # a row of zeros stays one
    assert torch.equal(Int8Linear(linear)(x)[:, 3], linear.bias[3].expand(5))


def test_files_go_round(tmp_path: Path) -> None:
    module = model()
    add_lora(module, LoraConfig(4, 16.0, targets="q,v,down"))
    apart = hidden(stirred(module))
    save_lora(module, str(tmp_path / "a"), LoraConfig(4, 16.0, targets="q,v,down"), "some/model")
    written = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert written["peft_type"] == "LORA"
    assert (written["r"], written["lora_alpha"]) == (4, 16.0)
    assert written["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    fresh = model()
    found = load_lora(fresh, str(tmp_path / "a"))
    assert (found.rank, found.alpha) == (4, 16.0)
    assert torch.equal(hidden(fresh), apart)


@pytest.mark.parametrize("prefix", ["base_model.model.model.", "base_model.model."])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_of_peft(tmp_path: Path, prefix: str, rslora: bool) -> None:
    """Files as PEFT writes them for a causal model, or for a model without a head."""
    module = model()
    a, b = torch.randn(4, 64), torch.randn(64, 4)
    key = f"{prefix}layers.1.self_attn.q_proj."
    safetensors_torch.save_file(
        {f"{key}lora_A.weight": a, f"{key}lora_B.weight": b}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 12, "use_rslora": rslora})
    )
    expected = module.layers[1].self_attn.q_proj.weight + (12 / 2 if rslora else 12 / 4) * (b @ a)
    load_lora(module, str(tmp_path))
    merge_lora(module)
    assert torch.allclose(module.layers[1].self_attn.q_proj.weight, expected, atol=1e-4)


def test_adapters_that_do_not_fit(tmp_path: Path) -> None:
    key = "base_model.model.model.layers.1.self_attn.q_proj."
    good = {f"{key}lora_A.weight": torch.zeros(4, 64), f"{key}lora_B.weight": torch.zeros(64, 4)}
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"peft_type": "IA3"}, good, "IA3"),
        ({"use_dora": True}, good, "use_dora"),
        ({"bias": "all"}, good, "biases"),
        ({}, {f"{key}lora_A.weight": torch.zeros(4, 64)}, "half"),
        ({}, {**good, f"{key}lora_A.weight": torch.zeros(4, 32)}, r"\(4, 32\)"),
        (
            {},
            {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(4, 64)},
            "another model",
        ),
    ]
    for config, tensors, words in cases:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        safetensors_torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UserError, match=words):
            load_lora(model(), str(tmp_path))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="cannot read"):
        load_lora(model(), str(tmp_path))


def test_settings_of_no_sense() -> None:
    for rank, alpha, dropout in ((0, 1.0, 0.0), (4, 0.0, 0.0), (4, 1.0, 1.0)):
        with pytest.raises(UserError, match="rank"):
            LoraConfig(rank, alpha, dropout)
    with pytest.raises(UserError, match="no linear layer named 'nothing'"):
        add_lora(model(), LoraConfig(targets="nothing"))


def test_half_precision_base_and_exact_updates() -> None:
    layer = LoraLinear(torch.nn.Linear(8, 8).bfloat16(), 2, 4.0)
    assert layer.lora_A.dtype == torch.float32
    assert layer(torch.randn(3, 8).bfloat16()).dtype == torch.bfloat16
