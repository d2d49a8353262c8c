"""A decoder's directory or GGUF file: configuration, tokenizer, weights, and the hashes of all that."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn

from retrieval.diskio import disk_errors, storage_error
from retrieval.errors import MissingExtra, RetrievalError, StorageError, UserError
from retrieval.index.model_files import CONFIG, WEIGHTS

_SHARDS = f"{WEIGHTS}.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip


class Tokens(NamedTuple):
    """A tokenizer, and the ids that it puts before a text (BOS) and after it.

    eos: what an encoder appends itself, after it has cut the text: what the tokenizer would put after a text,
    or else its end-of-text token; empty where it has neither.
    """

    tokenizer: Any
    prefix: tuple[int, ...]
    eos: tuple[int, ...]
    pad: int


class LlmFiles:
    """The files of a decoder. path: as given; directory, gguf: where it lies, and the name of its GGUF file.

    config    config.json, {} for a GGUF file (its header holds the same)
    settings  "retrieval" of config.json
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory, self.gguf = _place(path)
        self.config: dict[str, Any] = {} if self.gguf else read_json(self.directory, CONFIG, needed=True)
        settings = self.config.get("retrieval", {})
        if not isinstance(settings, dict):
            raise UserError(f"{path!r}: 'retrieval' of {CONFIG} is no object; remove it or copy it again")
        self.settings: dict[str, Any] = settings
        if self.config.get("is_encoder_decoder") or "vision_config" in self.config:
            raise UserError(f"{path!r} is no text decoder ({self.config.get('model_type')}); llm needs one")

    def __repr__(self) -> str:
        return f"<LlmFiles {self.path!r}>"

    @cached_property
    def identity(self) -> dict[str, str]:
        """name and the sha256 of weights, tokenizer and configuration (all in one file for GGUF)."""
        name = os.path.basename(os.path.abspath(self.path))
        if self.gguf:
            whole = _sha256([os.path.join(self.directory, self.gguf)])
            return {"name": name, "weights": whole, "tokenizer": whole, "config": whole}
        tokenizer = [n for n in _TOKENIZERS if os.path.isfile(os.path.join(self.directory, n))]
        return {
            "name": name,
            "weights": _sha256([os.path.join(self.directory, name) for name in self._weights()]),
            "tokenizer": _sha256([os.path.join(self.directory, name) for name in tokenizer]),
            "config": _sha256([os.path.join(self.directory, CONFIG)]),
        }

    def _weights(self) -> list[str]:
        if os.path.isfile(os.path.join(self.directory, WEIGHTS)):
            return [WEIGHTS]
        names = read_json(self.directory, _SHARDS, needed=True).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise UserError(f"{self.path!r}: {_SHARDS} names no files; copy it again")
        return sorted({os.path.basename(name) for name in names.values()})

    def tokens(self) -> Tokens:
        """The tokenizer. Raises UserError, MissingExtra."""
        from transformers import AutoTokenizer

        with _loading(self):
            found = AutoTokenizer.from_pretrained(self.directory, **self._common())
        if not found.is_fast:
            raise UserError(f"{self.path!r} has no tokenizer.json; save its tokenizer as a fast one first")
        plain = found("a", add_special_tokens=False)["input_ids"]
        around = found("a")["input_ids"]
        at = next((i for i in range(len(around)) if around[i : i + len(plain)] == plain), 0)
        after = tuple(around[at + len(plain) :])
        eos = found.eos_token_id if found.eos_token_id is not None else self.config.get("eos_token_id")
        if isinstance(eos, list):
            eos = eos[0] if eos else None
        after = after or (() if eos is None else (int(eos),))
        return Tokens(found, tuple(around[:at]), after, after[0] if after else 0)

    def module(
        self, dtype: torch.dtype, attention: str, quantisation: Any = None, *, head: bool = False
    ) -> nn.Module:
        """The decoder in eval mode, without gradients, and without its language-model head unless `head`.

        attention: what transformers calls attn_implementation. quantisation: its quantization_config.
        Raises UserError for files that do not load, MissingExtra, StorageError out of memory.
        """
        from transformers import AutoModel, AutoModelForCausalLM

        kind: Any = AutoModelForCausalLM if head else AutoModel
        more: dict[str, Any] = self._common()
        if self.gguf:
            more["quantization_config"] = _unpacked()
            from transformers.utils import is_accelerate_available, is_gguf_available

            if not (is_gguf_available() and is_accelerate_available()):
                raise MissingExtra("gguf", f"reading {self.gguf!r} needs gguf and accelerate")
        if quantisation is not None:
            more["quantization_config"] = quantisation
        with _loading(self), contextlib.ExitStack() as stack:
            if self.gguf:  # unpacking it draws a bar that has no switch
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            module, found = kind.from_pretrained(
                self.directory, use_safetensors=True, dtype=dtype, attn_implementation=attention,
                output_loading_info=True, **more,
            )  # fmt: skip
        for problem in ("missing_keys", "mismatched_keys"):  # transformers would fill them at random
            if found.get(problem):
                names = sorted(map(str, found[problem]))
                if head and not any(name.startswith(f"{module.base_model_prefix}.") for name in names):
                    raise UserError(
                        f"{self.path!r} has no language-model head (tensor {names[0]!r}); give a decoder "
                        "that generates text"
                    )
                raise UserError(f"{self.path!r}: tensor {names[0]!r} is absent or misshapen; copy it again")
        module.eval().requires_grad_(False)
        module.config.use_cache = False
        broken = next((n for n, p in module.named_parameters() if not _finite(p)), None)
        if broken is not None:
            raise UserError(f"{self.path!r}: tensor {broken!r} holds NaN or infinite values")
        loaded: nn.Module = module
        return loaded

    def _common(self) -> dict[str, Any]:
        more: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        if self.gguf:
            try:
                import gguf  # noqa: F401
            except ImportError:
                raise MissingExtra("gguf", f"reading {self.gguf!r} needs gguf and accelerate") from None
            more["gguf_file"] = self.gguf
        return more


def read_json(directory: str, *name: str, needed: bool = False) -> dict[str, Any]:
    """A JSON object of a model directory, {} where there is none. Raises UserError."""
    path = os.path.join(directory, *name)
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError:
        if needed:
            raise UserError(f"no {path!r}; a model directory has one") from None
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path!r}: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path!r} is no JSON object")
    return value


def file_hash(path: str) -> str:
    """sha256 of one file."""
    return _sha256([path])


def _place(path: str) -> tuple[str, str]:
    """(directory, GGUF file or "")."""
    if os.path.isfile(path):
        if not path.endswith(".gguf"):
            raise UserError(f"{path!r} is a file; give a model directory or a .gguf file")
        return os.path.dirname(path) or ".", os.path.basename(path)
    if not os.path.isdir(path):
        raise UserError(f"no model {path!r}; give a model directory or a .gguf file (nothing is downloaded)")
    names = sorted(os.listdir(path))
    packed = [name for name in names if name.endswith(".gguf")]
    if WEIGHTS in names or _SHARDS in names:
        return path, ""
    if len(packed) == 1:
        return path, packed[0]
    if packed:
        raise UserError(f"{path!r} holds {len(packed)} GGUF files; give the path of one, such as {packed[0]}")
    if "adapter_config.json" in names:
        raise UserError(f"{path!r} holds an adapter alone; open its base model with adapter={path}")
    if any(name.endswith(_PICKLES) for name in names):
        raise UserError(
            f"cannot load {path!r}: it holds pickled weights only, which can run code and are not read; "
            "convert them once where you trust them: AutoModel.from_pretrained(DIR).save_pretrained(OUT)"
        )
    raise UserError(f"{path!r} holds no {WEIGHTS}, {_SHARDS} or .gguf file; is it a model directory?")


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.sum(dtype=torch.float64)))


def _sha256(files: list[str]) -> str:
    """Of one file; of several, of the lines of their names and hashes."""
    found = []
    for path in files:
        with disk_errors("read", path), open(path, "rb") as file:
            found.append((os.path.basename(path), hashlib.file_digest(file, "sha256").hexdigest()))
    if len(found) == 1:
        return found[0][1]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in found).encode()).hexdigest()


def _unpacked() -> Any:
    """GGUF weights unpacked at load: what stays packed multiplies slower than it reads, and cannot train."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)  # before it came, weights were always unpacked
    return None if config is None else config(dequantize=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and advice, which are not for our users."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _loading(files: LlmFiles) -> Iterator[None]:
    """What transformers raises over files, as one sentence."""
    try:
        with quiet():
            yield
    except OSError as error:
        if error.errno:
            raise storage_error(error, "read", files.path) from error
        raise UserError(f"cannot load {files.path!r}: {_first(error)}") from None
    except MemoryError as error:
        raise StorageError(f"cannot load {files.path!r}: out of memory; close some programs") from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{files.path!r} does not fit the device: {_first(error)}; try quantise=int8"
        ) from None
    except ImportError as error:
        raise MissingExtra("models", f"loading {files.path!r} needs more: {_first(error)}") from None
    except RetrievalError:
        raise
    except Exception as error:
        raise UserError(f"cannot load {files.path!r} as a decoder: {_first(error)}") from error


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
