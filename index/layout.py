"""How a model directory wants its vectors made: sentence-transformers' files, read without that package.

modules.json          what comes after one another: Transformer, Pooling, then Dense, Normalize ...
N_Pooling/config.json how token states become one vector, in the old flags or the newer single field
sentence_bert_config.json, config_sentence_transformers.json   length; prompts and similarity

A directory with none of them is a plain transformers model: mean of the tokens, cut to unit length.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from retrieval.errors import UserError

MODES = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "lasttoken")  # the order of concatenation
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ALIASES = {"mean_sqrt_len_tokens": "mean_sqrt_len"}
_AFTER = {"Dense": "dense", "LayerNorm": "layer_norm", "Normalize": "normalise", "Dropout": "dropout"}
# torch.nn classes that a Dense module may name; nothing is imported by a name that stands in a file
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
_PASSAGE = ("document", "passage", "corpus")
_MOST = 1 << 20  # tokens


class Step(NamedTuple):
    """A module after pooling. kind: dense, layer_norm or normalise; folder: where its weights are."""

    kind: str
    folder: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What the files say.

    folder          of the transformer: config.json, weights, tokenizer
    known           False for a plain transformers directory, whose pooling is a guess
    pooling         modes, concatenated in this order
    include_prompt  whether the prompt's tokens are pooled too
    width           what the pooling file says that a token's vector has; None where it does not say
    steps           what comes after pooling
    length          tokens that a text is cut to; None where nothing says so
    lower           texts are put in lower case first
    prompts, default_prompt   as config_sentence_transformers.json gives them
    similarity      "cosine" where it is unsaid
    """

    folder: str
    known: bool = False
    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    width: int | None = None
    steps: tuple[Step, ...] = ()
    length: int | None = None
    lower: bool = False
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"

    @property
    def normalise(self) -> bool:
        """Whether vectors have length 1: where similarity is cosine, or the last module makes it so."""
        last = self.steps[-1].kind if self.steps else ""
        return self.similarity == "cosine" or last == "normalise"

    def prompt(self, kind: str, name: str | None = None) -> str:
        """What stands before a query or passage. name: of a prompt, in place of the usual one.

        Raises UserError where there is no prompt of that name.
        """
        if name is not None:
            if name not in self.prompts:
                known = ", ".join(sorted(self.prompts)) or "none"
                raise UserError(f"{self.folder!r} has no prompt {name!r}; it has: {known}")
            return self.prompts[name]
        usual = ("query",) if kind == "query" else _PASSAGE
        for candidate in usual:
            if candidate in self.prompts:
                return self.prompts[candidate]
        both = any(candidate in self.prompts for candidate in ("query", *_PASSAGE))
        return "" if both or self.default_prompt is None else self.prompts[self.default_prompt]


def read_layout(path: str) -> Layout:
    """The layout of a model directory. Raises UserError for what it cannot follow."""
    modules = _modules(path)
    facts = read_json(path, "config_sentence_transformers.json")
    prompts, default = _prompts(path, facts)
    similarity = facts.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise UserError(
            f"{path!r} compares by {similarity!r}; an index has inner products, which is cosine or dot: "
            "correct similarity_fn_name in config_sentence_transformers.json"
        )
    said: dict[str, Any] = {"prompts": prompts, "default_prompt": default, "similarity": similarity}
    if not modules:
        pooling = read_json(path, "1_Pooling", "config.json")
        if pooling:
            said |= _pooling(os.path.join(path, "1_Pooling"), pooling)
        return Layout(path, known=bool(pooling), **said, **_transformer(path))
    kinds = [kind for kind, _ in modules]
    if kinds[0] != "Transformer" or "Pooling" not in kinds[1:2]:
        raise UserError(
            f"modules.json of {path!r} begins with {', '.join(kinds[:2])}; known: Transformer, Pooling"
        )
    folder, pooled = modules[0][1], modules[1][1]
    config = read_json(pooled, "config.json")
    if not config:
        raise UserError(
            f"no {os.path.join(pooled, 'config.json')!r}, which modules.json names; copy it again"
        )
    said |= _pooling(pooled, config)
    steps = []
    for kind, place in modules[2:]:
        if kind not in _AFTER:
            known = ", ".join(sorted(_AFTER))
            raise UserError(
                f"modules.json of {path!r} asks for a module {kind!r} after pooling; known: {known}"
            )
        if kind != "Dropout":  # it does nothing once a model is trained
            steps.append(_step(_AFTER[kind], place))
    return Layout(folder, known=True, steps=tuple(steps), **said, **_transformer(folder))


def read_json(*parts: str) -> dict[str, Any]:
    """A JSON object of a model directory, {} where there is none. Raises UserError for what is no object."""
    value = _read(os.path.join(*parts), {})
    if not isinstance(value, dict):
        raise UserError(f"{os.path.join(*parts)!r} is no JSON object")
    return value


def _read(path: str, absent: Any) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path!r}: {error}") from None


def _modules(path: str) -> list[tuple[str, str]]:
    """(class, folder) of each module, in order."""
    file = os.path.join(path, "modules.json")
    listed = _read(file, [])
    if not isinstance(listed, list):
        raise UserError(f"{file!r} is no list of modules")
    modules = []
    for entry in listed:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(k), str) for k in ("type", "path")):
            raise UserError(f"{file!r} holds {entry!r}; a module has a type and a path")
        package, _, kind = entry["type"].rpartition(".")
        if package.partition(".")[0] != "sentence_transformers":
            raise UserError(
                f"{file!r} asks for {entry['type']!r}, code that comes with the model; such code is not run"
            )
        folder = os.path.normpath(os.path.join(path, entry["path"]))
        if os.path.isabs(entry["path"]) or not (folder + os.sep).startswith(os.path.normpath(path) + os.sep):
            raise UserError(f"{file!r} points to {entry['path']!r}, outside of the model's directory")
        modules.append((kind, folder))
    return modules


def _pooling(folder: str, config: dict[str, Any]) -> dict[str, Any]:
    """The fields of Layout that a pooling file decides."""
    file = os.path.join(folder, "config.json")
    wanted = config.get("pooling_mode")
    if wanted is None:
        odd = [k for k in config if k.startswith("pooling_mode_") and k not in _FLAGS and config[k]]
        modes = [mode for flag, mode in _FLAGS.items() if config.get(flag) is True] + odd
    else:
        modes = (
            [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, list) else [wanted]
        )
    modes = [_ALIASES.get(mode, mode) if isinstance(mode, str) else mode for mode in modes]
    if not modes:
        raise UserError(f"{file!r} names no pooling mode; set one of: {', '.join(MODES)}")
    for mode in modes:
        if mode not in MODES:
            raise UserError(f"{file!r} asks for the pooling {mode!r}; known: {', '.join(MODES)}")
    width = config.get("word_embedding_dimension", config.get("embedding_dimension"))
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise UserError(f"{file!r} gives the dimension of a token's vector as {width!r}; it is a number")
    include = config.get("include_prompt", True)
    if not isinstance(include, bool):
        raise UserError(f"{file!r} gives include_prompt as {include!r}; it is true or false")
    return {"pooling": tuple(modes), "width": width, "include_prompt": include}


def _step(kind: str, folder: str) -> Step:
    config = read_json(folder, "config.json")
    file = os.path.join(folder, "config.json")
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise UserError(f"{file!r} works on {config['module_input_name']!r}; known: 'sentence_embedding'")
    sizes = {"dense": ("in_features", "out_features"), "layer_norm": ("dimension",)}.get(kind, ())
    for name in sizes:
        size = config.get(name)
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST:
            raise UserError(f"{file!r} gives {name} as {size!r}; it is a number of at least 1")
    if kind == "dense":
        activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        name = activation.rpartition(".")[2]
        if not activation.startswith("torch.nn.") or name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(f"{file!r} asks for the activation {activation!r}; known, of torch.nn: {known}")
        if config.get("use_residual"):
            raise UserError(f"{file!r} asks for a residual connection (use_residual), which is not supported")
        config = {**config, "activation": name}
    return Step(kind, folder, config)


def _transformer(folder: str) -> dict[str, Any]:
    """length and lower: of sentence_bert_config.json, or else what the tokenizer says."""
    said = read_json(folder, "sentence_bert_config.json")
    file, length = "sentence_bert_config.json", said.get("max_seq_length")
    if length is None:
        file, length = (
            "tokenizer_config.json",
            read_json(folder, "tokenizer_config.json").get("model_max_length"),
        )
        if isinstance(length, float) or (isinstance(length, int) and length > _MOST):
            length = None  # transformers' way to say that it does not know
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 3):
        field_name = "max_seq_length" if file.startswith("sentence") else "model_max_length"
        raise UserError(
            f"{folder!r}: {file} gives {field_name} as {length!r}; it is a number of tokens, 3 or more"
        )
    return {"length": length, "lower": said.get("do_lower_case") is True}


def _prompts(path: str, facts: dict[str, Any]) -> tuple[dict[str, str], str | None]:
    file = "config_sentence_transformers.json"
    prompts = facts.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(f"{path!r}: {file} gives prompts that are no object of names and texts")
    default = facts.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise UserError(f"{path!r}: {file} takes the prompt {default!r} by default and has none of that name")
    return prompts, default
