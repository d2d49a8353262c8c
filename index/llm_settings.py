"""Settings of a decoder as encoder: from brackets, config.json, sentence-transformers' files, defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from retrieval.errors import UnknownName, UserError
from retrieval.index.llm_attention import BIDIRECTIONAL, CAUSAL
from retrieval.index.llm_files import LlmFiles, read_json
from retrieval.index.llm_pooling import ECHOES, POOLINGS
from retrieval.stage import Param

TEXT, TASK = "{text}", "{task}"
_INSTRUCT = f"Instruct: {TASK}\nQuery: {TEXT}"  # E5-Mistral's, which most later models took over
_ECHO = f"Query: {TEXT}\nQuery again: {TEXT}"
_SINKS = 10  # LM-Infinite's
_LENGTH = 512
_MODES = {"lasttoken": "last", "mean": "mean", "weightedmean": "weighted-mean"}
_FOREIGN = {"cls", "cls_token", "max", "mean_sqrt_len"}
_RUNTIME = ("precision", "device", "batch")


@dataclass(frozen=True)
class LlmSettings:
    """What stands in the brackets of `--dense NAME=llm:MODEL(...)`.

    pooling         last, mean, weighted-mean, echo, echo-last: see llm_pooling
    attention       causal or bidirectional: see llm_attention
    query_prompt    template of queries: text around {text} (put in front where there is none), with {task};
    passage_prompt  of passages. The echo poolings need {text} twice
    task            what {task} stands for; alone, it makes query_prompt "Instruct: {task}\\nQuery: {text}"
    include_prompt  whether mean pooling takes in what stands before the text
    length          tokens of a text with all that is put around it
    eos             whether an end-of-text token follows, after the text has been cut (yes for last tokens)
    normalise       whether vectors have length 1
    window, sinks   LM-Infinite (lm_infinite.py): tokens that one sees back (0: off), first ones that all see
    quantise        none, int8 or int4: weights of linear layers
    adapter         directory of a LoRA adapter that is merged into the weights
    precision       auto, float32 or bfloat16
    device          auto, cpu, cuda, cuda:1
    batch           tokens of one (0: 4,096; 32,768 on CUDA)
    """

    pooling: str = "last"
    attention: str = CAUSAL
    query_prompt: str = ""
    passage_prompt: str = ""
    task: str = ""
    include_prompt: bool = False
    length: int = 0  # the model's own, or _LENGTH
    eos: bool = True
    normalise: bool = True
    window: int = 0
    sinks: int = _SINKS
    quantise: str = "none"
    adapter: str = ""
    precision: str = "auto"
    device: str = "auto"
    batch: int = 0

    @property
    def lasting(self) -> dict[str, Any]:
        """What decides about a vector beyond rounding, but for the adapter (which is merged)."""
        found = {name: value for name, value in asdict(self).items() if name not in (*_RUNTIME, "adapter")}
        if not self.window:
            del found["sinks"]
        return found


_CHOICES = {
    "pooling": POOLINGS,
    "attention": (CAUSAL, BIDIRECTIONAL),
    "quantise": ("none", "int8", "int4"),
    "precision": ("auto", "float32", "bfloat16"),
}


def read_params(files: LlmFiles, params: Mapping[str, Param], trained: int) -> LlmSettings:
    """The settings of a model. trained: positions it was trained on. Raises UserError, UnknownName."""
    known = {field.name: field for field in fields(LlmSettings)}
    for name in params:
        if name not in known:
            raise UnknownName("parameter of llm", name, known)
    # A model's files say what its vectors are; they do not name other directories, or what it runs on.
    stored = {n: value for n, value in files.settings.items() if n in known.keys() - {*_RUNTIME, "adapter"}}
    given: dict[str, Any] = {**sentence_transformers(files.directory), **stored, **params}
    if files.config.get("use_bidirectional_attention"):
        given.setdefault("attention", BIDIRECTIONAL)
    for name, value in given.items():
        given[name] = _typed(name, value, known[name].default)
    pooling = given.get("pooling", "last")
    given.setdefault("eos", pooling not in ("mean", "weighted-mean"))
    given["query_prompt"] = _template(given, "query_prompt", "task" in params)
    given["passage_prompt"] = _template(given, "passage_prompt", False)
    window = given.get("window", 0)
    given["length"] = given.get("length") or min(_LENGTH, trained)
    settings = LlmSettings(**given)
    _check(settings, trained, window)
    return settings


def sentence_transformers(directory: str) -> dict[str, Any]:
    """Pooling, normalisation, length and prompts that a sentence-transformers directory asks for; else {}."""
    listed = os.path.join(directory, "modules.json")
    if not os.path.isfile(listed):
        return {}
    modules = _modules(listed)
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    strange = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if strange:
        raise UserError(f"{directory!r} ends in a module {strange[0]!r}, which llm does not have")
    found: dict[str, Any] = {"normalise": "Normalize" in kinds, "include_prompt": True}
    if "Pooling" in kinds:
        place = str(modules[kinds.index("Pooling")].get("path"))
        if os.path.isabs(place) or ".." in place.split("/"):
            raise UserError(f"{listed!r} points to {place!r}, outside of the model's directory")
        pooling = read_json(directory, place, "config.json")
        on = {name.removeprefix("pooling_mode_") for name, value in pooling.items() if value is True}
        on = {name.removesuffix("_tokens") for name in on} | {str(pooling.get("pooling_mode"))}
        on &= {*_MODES, *_FOREIGN}
        if len(on) != 1 or not on <= set(_MODES):
            raise UserError(
                f"{directory!r} pools by {', '.join(sorted(on)) or 'nothing'}; a decoder pools by one of "
                f"{', '.join(_MODES)}"
            )
        found["pooling"] = _MODES[on.pop()]
        found["include_prompt"] = pooling.get("include_prompt") is not False
    length = read_json(directory, "sentence_bert_config.json").get("max_seq_length")
    if isinstance(length, int) and not isinstance(length, bool) and length > 0:
        found["length"] = length
    prompts = read_json(directory, "config_sentence_transformers.json").get("prompts")
    if isinstance(prompts, dict):
        passage = prompts.get("document") or prompts.get("passage")
        found |= {"query_prompt": str(prompts.get("query") or ""), "passage_prompt": str(passage or "")}
    return found


def _modules(path: str) -> list[dict[str, Any]]:
    import json

    try:
        with open(path, encoding="utf-8") as file:
            modules = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path!r}: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise UserError(f"{path!r} is no list of modules; copy it again")
    return modules


def _typed(name: str, value: Any, default: Any) -> Any:
    """A value of its default's type. Raises UserError."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"llm: {name} is {value!r}; give true or false")
    elif isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
            raise UserError(f"llm: {name} is {value!r}; give a whole number, 0 or more")
    elif not isinstance(value, str):
        value = str(value)  # a prompt that looks like a number
    if name in _CHOICES and value not in _CHOICES[name]:
        raise UnknownName(name, str(value), _CHOICES[name])
    return value


def _template(given: Mapping[str, Any], name: str, instructed: bool) -> str:
    """A prompt with {text} as often as the pooling needs it, and the task filled in; "": none."""
    pooling, template = given.get("pooling", "last"), given.get(name, "")
    if name == "query_prompt" and instructed and TASK not in template:
        template = _INSTRUCT
        if pooling in ECHOES:
            template = f"Instruct: {TASK}\n{_ECHO}"
    if TASK in template:
        if not given.get("task"):
            raise UserError(f"{name} {template!r} has {TASK}, and there is no task; give task=...")
        template = template.replace(TASK, given["task"])
    if pooling in ECHOES:
        template = template or _ECHO
        if template.count(TEXT) != 2:
            raise UserError(f"{name} {template!r} needs {TEXT} twice, as pooling={pooling} asks")
    elif template.count(TEXT) > 1:
        raise UserError(f"{name} {template!r} has {TEXT} more than once; pooling=echo is for that")
    elif template and TEXT not in template:
        template += TEXT
    return str(template)


def _check(settings: LlmSettings, trained: int, window: int) -> None:
    if settings.length < 8:
        raise UserError(f"length is {settings.length} tokens; give 8 or more")
    if settings.length > trained and not window:
        raise UserError(
            f"length is {settings.length}, and the model was trained on {trained} tokens; give a smaller "
            f"one, or window={trained} for LM-Infinite"
        )
    if window > trained:
        raise UserError(f"window is {window}, and the model was trained on {trained} tokens; give no more")
    if window and settings.attention == BIDIRECTIONAL:
        raise UserError("window (LM-Infinite) is for causal attention; leave out attention=bidirectional")
    if window and settings.sinks >= window:
        raise UserError(f"sinks is {settings.sinks}, and the window {window}; give fewer")
    if settings.attention == BIDIRECTIONAL and settings.pooling in ECHOES:
        raise UserError(
            f"pooling={settings.pooling} is for causal attention, where the second copy sees the first"
        )
