"""Cross-encoders of random weights in the families' own layout, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.index.text_models import FOREIGN, OWN, SIZE, SPECIAL, WORDS

PACKED: dict[str, dict[str, Any]] = {kind: fields for kind, fields in OWN.items() if kind != "bert"}
OTHER = {kind: FOREIGN[kind] for kind in ("electra", "deberta-v2", "modernbert")}
LENGTH = 40  # tokens that every model has positions for


def write_tokenizer(directory: Path, kind: str) -> None:
    """Words; pairs as the family frames them. Padding and truncation are on, as in published files."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = {piece: number for number, piece in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    double = kind in ("roberta", "xlm-roberta", "camembert", "mpnet")
    pair = "<s> $A </s> </s> $B </s>" if double else "<s> $A </s> $B:1 </s>:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=pair, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>", length=8)
    tokenizer.save(str(directory / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "[UNK]",
             "cls_token": "<s>", "sep_token": "</s>"}  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(facts))


def write_cross(directory: Path, kind: str, labels: int = 1, seed: int = 0, *, head: bool = True) -> Any:
    """A directory with a random model of this kind; returns the model of transformers."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    fields = {**SIZE, "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": LENGTH + 2,
              "pad_token_id": 1, "initializer_range": 0.5, "num_labels": labels}  # fmt: skip
    config = AutoConfig.for_model(kind, **{**fields, **PACKED.get(kind, {}), **OTHER.get(kind, {})})
    which: Any = AutoModelForSequenceClassification if head else AutoModel
    model = which.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        for module in model.modules():  # as every trained model has it
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx].zero_()
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    write_tokenizer(directory, kind)
    return model


def by_transformers(model: Any, directory: Path, query: str, text: str) -> float:
    """The score of one pair, which must fit, alone in its batch."""
    import inspect

    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    given = tokenizer([query], [text], return_tensors="pt", padding=False, return_token_type_ids=True)
    takes = inspect.signature(type(model).forward).parameters
    with torch.no_grad():
        logits = model(**{name: ids for name, ids in given.items() if name in takes}).logits[0].tolist()
    return float(logits[-1] - (logits[0] if len(logits) == 2 else 0))
