"""Causal or bidirectional attention of a decoder: the switch, and the test at load that it does what it says.

A decoder reads from left to right; as an encoder it may look both ways (BehnamGhader et al., "LLM2Vec", COLM
2024, section 2.1). transformers builds its mask from `config.is_causal`, and each attention layer has a flag
of its own that holds where there is no mask (no padding). Either one forgotten leaves a model causal without
a word, so the switch is tested on the loaded model itself, with and without a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import UserError

CAUSAL, BIDIRECTIONAL = "causal", "bidirectional"
FAMILIES = frozenset(
    {"gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2",
     "qwen3", "smollm3", "starcoder2"}
)  # fmt: skip
"""model_type of the families whose switch the tests hold to its word."""

_REACTS, _STILL = 1e-4, 1e-6  # change of the first token's state, relative to its size


def set_attention(module: Any, mode: str) -> None:
    """Switches a decoder to `causal` or `bidirectional`, for all threads that use it.

    Raises UserError for a family that is not known to have the switch.
    """
    if mode == BIDIRECTIONAL and module.config.model_type not in FAMILIES:
        raise UserError(
            f"bidirectional attention is not known to work for model_type {module.config.model_type!r}; it "
            f"does for {', '.join(sorted(FAMILIES))}"
        )
    if mode == CAUSAL and getattr(module.config, "use_bidirectional_attention", None):
        raise UserError("this model was trained with bidirectional attention; leave out attention=causal")
    module.config.is_causal = mode == CAUSAL
    for layer in module.modules():
        if isinstance(getattr(layer, "is_causal", None), bool):
            layer.is_causal = mode == CAUSAL


def check_attention(module: nn.Module, mode: str, size: int) -> None:
    """Holds a loaded decoder to its mode: does the first token react to a changed last one?

    size: pieces of its vocabulary. Tried alone without a mask, alone with one, and in a padded batch. Raises
    UserError where a causal model looks ahead or a bidirectional one does not.
    """
    device = next(module.parameters()).device
    ids = (torch.arange(8, device=device) * 7 + 11) % min(size, 4096)
    other = ids.clone()
    other[-1] = (other[-1] + 5) % min(size, 4096)
    for form in ("alone without a mask", "alone with a mask", "in a padded batch"):
        with torch.inference_mode():
            before, after = (_first_state(module, each, form) for each in (ids, other))
        change = float((before - after).abs().max() / before.abs().max().clamp(min=1e-12))
        if mode == CAUSAL and change > _STILL:
            raise UserError(
                f"the model is no causal decoder: {form}, its first token sees the last one; give "
                "attention=bidirectional, or another method than llm"
            )
        if mode == BIDIRECTIONAL and change < _REACTS:
            import transformers

            raise UserError(
                f"attention=bidirectional does not take effect: {form}, the first token does not see the "
                f"last one (transformers {transformers.__version__}); upgrade transformers or leave it out"
            )


def _first_state(module: nn.Module, ids: Tensor, form: str) -> Tensor:
    """float32[d]: the last layer's state of the first token."""
    rows = ids[None]
    if form == "alone without a mask":
        hidden = module(input_ids=rows, use_cache=False)
    elif form == "alone with a mask":
        hidden = module(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False)
    else:
        padded = torch.cat([torch.nn.functional.pad(rows, (0, 2)), torch.arange(10, device=ids.device)[None]])
        mask = torch.ones_like(padded)
        mask[0, -2:] = 0
        hidden = module(input_ids=padded, attention_mask=mask, use_cache=False)
    state: Tensor = hidden.last_hidden_state[0, 0].float()
    return state
