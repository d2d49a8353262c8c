"""Model directories of random weights for the tests of text encoders, written by transformers itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPECIAL = ["<s>", "<pad>", "</s>", "[UNK]", "[MASK]"]
WORDS = ["the", "wind", "of", "sun", "a", "sea", "blows", "over", ".", "ship", "q", ":", "x", "y"]
TEXTS = ["the wind of the sun", "a", "", "the sea . a ship blows over the sea", "x y " * 40, "q : wind", "y"]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
OWN = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "camembert": {"type_vocab_size": 1},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "mpnet": {},
}  # what runs packed, and fields of its configuration
FOREIGN: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 0,
                   "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2},
    "longformer": {"attention_window": [8, 8], "type_vocab_size": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
           "decoder_start_token_id": 1},
}  # fmt: skip


def write_tokenizer(directory: Path) -> None:
    """Words, and a frame of <s> and </s>; padding and truncation are on, as in published files."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = {piece: number for number, piece in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=8)
    tokenizer.save(str(directory / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "[UNK]",
             "cls_token": "<s>", "sep_token": "</s>", "model_max_length": 48}  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(facts))


def write_model(directory: Path, kind: str, fields: Mapping[str, Any], seed: int = 0) -> Any:
    """A directory with a random model of this kind; returns the model of transformers."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    torch.manual_seed(seed)
    shape = {**SIZE, "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 64, "pad_token_id": 1}
    config = AutoConfig.for_model(kind, **{**shape, "initializer_range": 0.5, **fields})
    made: Any = AutoModelForTextEncoding if kind == "t5" else AutoModel
    model = made.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for module in model.modules():  # as every trained model has it
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    write_tokenizer(directory)
    return model


def write_layout(
    directory: Path, pooling: Mapping[str, Any], *, length: int = 24, after: tuple[str, ...] = ("Normalize",),
    **facts: Any,
) -> None:  # fmt: skip
    """sentence-transformers' files around a model; `facts` are config_sentence_transformers.json."""
    kinds = ["Transformer", "Pooling", *after]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(dict(pooling)))
    (directory / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": length, "do_lower_case": False})
    )
    (directory / "config_sentence_transformers.json").write_text(json.dumps(facts))
    for i, kind in enumerate(kinds[2:], 2):
        if kind == "Normalize":
            (directory / f"{i}_{kind}").mkdir(exist_ok=True)


def ids_of(text: str, length: int) -> list[int]:
    """What the tokenizer makes of a text, cut to `length` with its frame."""
    known = {piece: number for number, piece in enumerate(SPECIAL + WORDS)}
    return [0, *[known.get(word, 3) for word in text.split()][: length - 2], 2]
