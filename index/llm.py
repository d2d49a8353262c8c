"""Decoders as dense encoders: Llama, Qwen, Gemma, Mistral, SmolLM and what else transformers has.

    retrieve index CORPUS --out DIR --dense "qwen=llm:./Qwen3-Embedding-0.6B(length=1024)"
    retrieve index CORPUS --out DIR --dense "e5=llm:./e5-mistral(task=\"...\", precision=bfloat16)"

After Ma et al., "Fine-Tuning LLaMA for Multi-Stage Text Retrieval" (RepLLaMA, SIGIR 2024), BehnamGhader et
al., "LLM2Vec" (COLM 2024) and Luo et al., "Large Language Models as Foundations for Next-Gen Dense Retrieval"
(EMNLP 2024). Settings: llm_settings.py. Batches are sorted by length and padded on the right, where a causal
model's tokens do not see the padding, so that it needs no mask.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.encoder import Kind
from retrieval.errors import UserError
from retrieval.index.llm_attention import BIDIRECTIONAL, check_attention, set_attention
from retrieval.index.llm_files import LlmFiles, Tokens, file_hash
from retrieval.index.llm_pooling import pad, pool
from retrieval.index.llm_precision import choose_device, narrow
from retrieval.index.llm_quantise import has_own_weights, loader, to_dense
from retrieval.index.llm_save import write_model
from retrieval.index.llm_settings import LlmSettings, read_params
from retrieval.index.llm_text import Reader
from retrieval.index.lm_infinite import NAME as LAMBDA
from retrieval.index.lm_infinite import install as install_lambda
from retrieval.index.lora import (
    ALL,
    CONFIG,
    WEIGHTS,
    LoraConfig,
    add_lora,
    load_lora,
    lora_layers,
    merge_lora,
)
from retrieval.index.torch_encoder import Sequences, TorchEncoder
from retrieval.registry import register
from retrieval.stage import Param


class LlmEncoder(TorchEncoder):
    """A decoder and how its states become vectors. See retrieval.encoder.DenseEncoder, and open_encoder."""

    def __init__(
        self,
        module: Any,
        tokens: Tokens,
        settings: LlmSettings,
        identity: Mapping[str, Any],
        runtime: Mapping[str, Any],
    ) -> None:
        self.module = module
        self.tokens = tokens
        self.settings = settings
        self.identity = identity
        self.runtime = runtime
        self.dim = int(module.config.hidden_size)
        self.budget = settings.batch or (32768 if next(module.parameters()).is_cuda else 4096)
        self._readers = {kind: Reader(tokens, settings, kind) for kind in ("query", "passage")}
        self._masked = settings.attention == BIDIRECTIONAL

    def __repr__(self) -> str:
        return f"<LlmEncoder {self.identity['model']['name']!r}, {self.settings.pooling}, {self.dim}>"

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """(start, end) of each token in characters of its text, shape (tokens, 2); no special tokens."""
        found = self.tokens.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        return [np.array(each, np.int64).reshape(-1, 2) for each in found["offset_mapping"]]

    def prepare(self, texts: Sequence[str], kind: Kind = "passage") -> Sequences:
        """Texts as the model reads them: prompt, text cut to length, end-of-text token."""
        return self._readers[kind].read(texts)

    def embed(self, sequences: Sequences) -> Tensor:
        """See TorchEncoder.embed."""
        return self.embed_padded(sequences, left=False)

    def embed_padded(self, sequences: Sequences, *, left: bool) -> Tensor:
        """As embed(), the padding on the left or on the right: the vectors are the same to rounding."""
        device = next(self.module.parameters()).device
        ids, mask = pad(sequences.ids, self.tokens.pad, left=left)
        more: dict[str, Tensor] = {}
        if not bool(mask.all()) and (left or self._masked):
            more["attention_mask"] = mask.to(device=device, dtype=torch.long)
        if left:
            more["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0).to(device)
        output = self.module(input_ids=ids.to(device), use_cache=False, **more)
        skip = torch.from_numpy(sequences.skip).to(device)
        rows = pool(output.last_hidden_state, mask.to(device), skip, self.settings.pooling)
        return functional.normalize(rows, dim=1) if self.settings.normalise else rows

    def trainable(self, settings: Mapping[str, Any]) -> None:
        """Makes the decoder ready to be trained, as settings of the training ask.

        lora           rank of LoRA; 0: every weight is trained, in float32
        alpha          of LoRA, 0: twice the rank; targets: layers, "" for q,k,v,o,gate,up,down
        checkpointing  whether layers are computed a second time instead of kept: less memory, a third slower
        Raises UserError for quantised weights without LoRA, or layers that do not exist.
        """
        rank = int(settings.get("lora", 0))
        if self.settings.quantise != "none" and not has_own_weights(self.module):
            raise UserError(
                "weights that a library quantised take no LoRA that could be merged and saved; open the "
                "model without quantise, in bfloat16"
            )
        if rank:
            alpha, targets = settings.get("alpha") or 2 * rank, settings.get("targets") or ALL
            config = LoraConfig(rank, float(alpha), 0.0, str(targets))
            add_lora(self.module, config)
        else:
            if self.settings.quantise != "none":
                raise UserError(
                    "quantised weights are not trained themselves; train with lora=16, or another rank"
                )
            for parameter in self.module.parameters():
                parameter.data = parameter.data.float()
            self.module.requires_grad_(True)
        if settings.get("checkpointing"):
            module: Any = self.module
            getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)()

    def save(self, directory: str, **more: Any) -> None:
        """See TorchEncoder.save: a directory in transformers' layout, LoRA merged (here in memory too).

        int8 weights are written as the floats that they stand for. Raises UserError, StorageError.
        """
        module = self.module
        if lora_layers(module) or self.settings.quantise != "none":  # of a copy: training may go on
            module = copy.deepcopy(module)
            merge_lora(module)
            to_dense(module)
        kept = {**self.settings.lasting, "kind": "llm"}
        for name in ("quantise", "task"):  # the task is in the prompt already
            del kept[name]
        write_model(directory, module, self.tokens.tokenizer, {**kept, **more})


def open_llm(path: str, params: Mapping[str, Param] | None = None) -> LlmEncoder:
    """The encoder of a decoder's directory (safetensors, in one file or several) or GGUF file.

    params: fields of LlmSettings. What they leave open is as "retrieval" of config.json says, or the files of
    sentence-transformers' layout, or the defaults. Nothing is downloaded and no code of a model is run.
    Raises UserError, MissingExtra, StorageError.
    """
    files = LlmFiles(path)
    if files.config:
        settings = read_params(files, params or {}, trained_length(files.config))
    else:
        read_params(files, params or {}, 1 << 30)  # a typing mistake is told before the weights are read
    tokens = files.tokens()
    device = choose_device(str((params or {}).get("device", "auto")))
    quantise = settings.quantise if files.config else str((params or {}).get("quantise", "none"))
    quantisation = loader(quantise, device)
    kernel = "eager" if files.config.get("attn_logit_softcapping") else "sdpa"  # sdpa cannot cap
    module: Any = files.module(
        torch.float32 if quantisation is None else torch.bfloat16, kernel, quantisation
    )
    if not files.config:
        settings = read_params(files, params or {}, trained_length(module.config.to_dict()))
    if settings.eos and not tokens.eos:
        raise UserError(f"{path!r} has no end-of-text token; give eos=false")
    adapter = _merge(module, settings.adapter)
    set_attention(module, settings.attention)
    if settings.window:
        install_lambda(module, settings.window, settings.sinks)
    module.to(device)
    check_attention(module, settings.attention, int(module.config.vocab_size))
    runtime = {
        "backend": "torch",
        "device": device.type,
        "attention_kernel": LAMBDA if settings.window else kernel,
    }
    encoder = LlmEncoder(module, tokens, settings, {"model": files.identity}, runtime)
    low = quantisation is not None  # by the loader already
    encoder.runtime = {
        **runtime,
        **({"precision": settings.quantise, "gate": None} if low else narrow(
            module, settings, device, lambda texts: encoder.encode(texts).rows
        )),
    }  # fmt: skip
    encoder.identity = {
        "encoder": "llm", "model": files.identity, "adapter": adapter, "dim": encoder.dim,
        "prompts": {"query": settings.query_prompt, "passage": settings.passage_prompt},
        **{k: v for k, v in settings.lasting.items() if k not in ("query_prompt", "passage_prompt", "task")},
    }  # fmt: skip
    return encoder


register("llm", kind="dense encoder")(open_llm)


def trained_length(config: Mapping[str, Any]) -> int:
    """Tokens that a decoder was trained to read at once."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(config.get(name), int):
            return int(config[name])
    return 2048


def _merge(module: nn.Module, adapter: str) -> dict[str, Any] | None:
    """Loads and merges an adapter; what the identity says of it."""
    if not adapter:
        return None
    load_lora(module, adapter)
    module.eval()
    if all(type(layer.base) is nn.Linear for layer in lora_layers(module).values()):
        merge_lora(module)  # low-bit layers keep their update beside them
    name = os.path.basename(os.path.abspath(adapter))
    parts = {"weights": WEIGHTS, "config": CONFIG}  # which says by how much an update is multiplied
    return {"name": name, **{part: file_hash(os.path.join(adapter, file)) for part, file in parts.items()}}
