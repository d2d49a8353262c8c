"""Model directories: config.json, model.safetensors, a tokenizer, a card. Needs torch once tensors are read.

Weights are float32, float16, bfloat16, or int8 with one scale a row: tensor NAME is int8[r, c] beside
NAME.scale, float[r]. Whatever they are on disk, they are float32 once loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from retrieval.diskio import disk_errors, make_directories, sync_directory
from retrieval.errors import MissingExtra, UserError, is_memory
from retrieval.index.vocabulary import FILES, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor, nn

Dtype = Literal["float32", "float16", "int8"]

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_SCALE = ".scale"
_INT8_SIZE = 100_000  # smaller tensors cost little and lose much
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_CONVERT = (
    "it holds pickled weights only, which can run code and are not read; convert them once where you trust "
    "them: transformers' AutoModel.from_pretrained(DIR).save_pretrained(OUT) writes model.safetensors"
)


class ModelFiles:
    """An opened model directory.

    path: the directory. config: config.json as it is. settings: its "retrieval" part, {} where it has none.
    vocabulary: the tokenizer. identity: what goes into an index's description of its encoder.
    """

    def __init__(self, path: str, config: dict[str, Any], vocabulary: Vocabulary) -> None:
        self.path = path
        self.config = config
        self.settings: dict[str, Any] = config.get("retrieval", {})
        self.vocabulary = vocabulary

    def __repr__(self) -> str:
        return f"<ModelFiles {self.path!r}>"

    @classmethod
    def open(cls, path: str) -> ModelFiles:
        """Read the configuration and the tokenizer; the weights wait until they are asked for.

        Raises UserError where the directory, its configuration, tokenizer or weights are absent or unusable.
        """
        if not os.path.isdir(path):
            raise UserError(
                f"no model directory {path!r}; give one that holds {CONFIG}, {WEIGHTS} and "
                f"{' or '.join(FILES)} (nothing is downloaded)"
            )
        check_weights(path)
        config = _read_config(os.path.join(path, CONFIG))
        vocabulary = Vocabulary.load(path)
        size = config.get("vocab_size", 30522)  # what BERT's configuration means where it says nothing
        if isinstance(size, int) and vocabulary.size > size:
            raise UserError(
                f"{path!r}: the tokenizer has {vocabulary.size} pieces and the model {size} (vocab_size of "
                f"{CONFIG}); take both from the same model"
            )
        return cls(path, config, vocabulary)

    @cached_property
    def identity(self) -> dict[str, str]:
        """name (last part of the path) and the sha256 of weights, tokenizer and config."""
        return {
            "name": os.path.basename(os.path.abspath(self.path)),
            "weights": _sha256(os.path.join(self.path, WEIGHTS)),
            "tokenizer": self.vocabulary.sha256,
            "config": _sha256(os.path.join(self.path, CONFIG)),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every floating-point tensor by name, float32, int8 rows dequantised.

        Integer buffers (position_ids) are left out; `gamma` and `beta`, as files converted from TensorFlow
        name them, become `weight` and `bias`. Raises UserError where the file is damaged or holds NaN or
        infinite values, MissingExtra without torch.
        """
        return read_tensors(os.path.join(self.path, WEIGHTS))

    def load_into(self, module: nn.Module, *, fresh: Iterable[str] = ()) -> list[str]:
        """Fill a module's parameters by name, with or without the prefix `bert.`; other tensors are ignored.

        fresh: beginnings of parameter names that may be absent and then keep their start, such as a new
        head's. Returns the names that did. Raises UserError for any other missing or misshapen tensor.
        """
        return fill(module, self.tensors(), self.path, fresh=fresh)


def check_weights(path: str) -> None:
    """Raises UserError where a directory has no WEIGHTS: pickles, parts, or nothing."""
    names = sorted(os.listdir(path))
    if WEIGHTS not in names:
        if any(name.endswith(_PICKLES) for name in names):
            raise UserError(f"cannot load {path!r}: {_CONVERT}")
        if f"{WEIGHTS}.index.json" in names:
            raise UserError(f"cannot load {path!r}: its weights come in parts; save them as one {WEIGHTS}")
        raise UserError(f"{path!r} holds no {WEIGHTS}; is it a model directory?")


def read_tensors(file: str) -> dict[str, Tensor]:
    """As ModelFiles.tensors, of one file of safetensors."""
    torch, safetensors = _torch()
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            raw = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError) as error:
        if is_memory(error):
            raise MemoryError(f"no memory for {file!r}") from error
        raise UserError(f"{file!r} is damaged or cut short ({error}); copy it again") from error
    tensors = {}
    for name, tensor in raw.items():
        scale = raw.get(name + _SCALE)
        if tensor.dtype == torch.int8 and scale is not None:
            if tensor.ndim != 2 or scale.shape != tensor.shape[:1]:
                raise UserError(f"{file!r}: tensor {name!r} and its scales do not fit; copy it again")
            tensor = tensor.float() * scale.float()[:, None]
        elif not tensor.is_floating_point() or (name.endswith(_SCALE) and name[: -len(_SCALE)] in raw):
            continue
        tensor = tensor.float()
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{file!r}: tensor {name!r} holds NaN or infinite values; the model is broken")
        tensors[_modern(name)] = tensor
    return tensors


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, *, fresh: Iterable[str] = ()
) -> list[str]:
    """As ModelFiles.load_into, from tensors that are at hand; `source` is named in messages."""
    torch, _ = _torch()
    may_lack = tuple(fresh)
    absent = []
    with torch.no_grad():
        for name, parameter in module.state_dict(keep_vars=True).items():
            other = name.removeprefix("bert.") if name.startswith("bert.") else f"bert.{name}"
            tensor = tensors.get(name, tensors.get(other))
            if tensor is None:
                if not name.startswith(may_lack):
                    raise UserError(f"{source!r} lacks the tensor {name!r}; it is not a model of this kind")
                absent.append(name)
            elif tensor.shape != parameter.shape:
                raise UserError(
                    f"{source!r}: tensor {name!r} is {tuple(tensor.shape)} and {CONFIG} asks for "
                    f"{tuple(parameter.shape)}; weights and configuration are of different models"
                )
            else:
                parameter.copy_(tensor)
    return absent


def shipped(kind: str) -> str:
    """Directory of the small model that comes with the package. Raises UserError where there is none."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights", kind)
    if not os.path.isfile(os.path.join(path, WEIGHTS)):
        raise UserError(
            f"no small model of kind {kind!r} comes with this package; name one: {kind}:DIR of a "
            f"representation, {kind}(DIR) in a pipeline"
        )
    return path


def find_model(kind: str, model: str) -> str:
    """`model`, or the packaged one of that kind where it is empty. Raises UserError."""
    return model or shipped(kind)


def save_model(
    path: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    vocabulary: bytes,
    name: str = "vocab.txt",
    *,
    dtype: Dtype = "float32",
    card: str | None = None,
) -> None:
    """Write a model directory whole or not at all; a model that stood there is replaced.

    vocabulary, name: the tokenizer's file and what to call it (Vocabulary.data and .name). dtype int8: for
    matrices of 100,000 elements and more, the others float16; what float16 cannot hold stays float32.
    Raises UserError where `path` is something other than a model, or a tensor is not finite.
    """
    torch, _ = _torch()
    from safetensors.torch import save_file

    path = os.path.abspath(path)
    if name not in FILES:
        raise UserError(f"a tokenizer's file is called {' or '.join(FILES)}, not {name!r}")
    _may_replace(path)
    stored: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UserError(f"tensor {key!r} holds NaN or infinite values; the model is not saved")
        stored |= _encode(key, tensor.detach().cpu().contiguous(), dtype)
    with placed(path) as temporary:
        _write(temporary, CONFIG, (json.dumps(dict(config), indent=2, sort_keys=True) + "\n").encode())
        _write(temporary, name, vocabulary)
        if card is not None:
            _write(temporary, CARD, card.encode())
        weights = os.path.join(temporary, WEIGHTS)
        save_file(stored, weights, metadata={"format": "pt"})
        os.chmod(weights, os.stat(os.path.join(temporary, CONFIG)).st_mode)  # save_file makes it 0600
        with open(weights, "rb") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def placed(path: str) -> Iterator[str]:
    """A new directory to write a model into, which stands at `path` at the end; an error leaves nothing.

    path: absolute; what stands there is replaced: the caller has looked at it. Files are to be synced by
    whoever writes them. Raises StorageError.
    """
    parent, last = os.path.split(path)
    temporary = os.path.join(parent, f".{last}.tmp-{uuid.uuid4().hex[:12]}")
    with disk_errors("write a model to", path, placing=True):
        make_directories(parent)
        os.mkdir(temporary)
        try:
            yield temporary
            for folder, _, _ in os.walk(temporary):
                sync_directory(folder)
            _put(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _may_replace(path: str) -> None:
    """Refuse to replace what is no model directory, whatever else it holds."""
    if not os.path.lexists(path):
        return
    if not os.path.isdir(path) or os.path.islink(path):
        raise UserError(f"cannot write a model to {path!r}: it is not a directory; choose another path")
    foreign = sorted(set(os.listdir(path)) - {CONFIG, WEIGHTS, CARD, *FILES})
    if foreign:
        raise UserError(
            f"cannot write a model to {path!r}: it holds {foreign[0]!r}, which is no part of a model; "
            "choose another directory"
        )


def _put(temporary: str, path: str) -> None:
    """Rename a complete directory into place; the former one goes only once the new one stands."""
    former = f"{temporary}.former"
    replaced = os.path.lexists(path)
    if replaced:
        os.rename(path, former)
    try:
        os.rename(temporary, path)
    except BaseException:
        if replaced:
            os.rename(former, path)
        raise
    try:
        sync_directory(os.path.dirname(path))
    finally:
        shutil.rmtree(former, ignore_errors=True)


def _encode(name: str, tensor: Tensor, dtype: Dtype) -> dict[str, Tensor]:
    """The tensors on disk that stand for one tensor."""
    import torch

    tensor = tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
    if dtype == "float32" or not tensor.is_floating_point():
        return {name: tensor}
    if dtype == "int8" and tensor.ndim == 2 and tensor.numel() >= _INT8_SIZE:
        scale = tensor.abs().amax(dim=1) / 127
        rows = torch.where(scale > 0, scale, 1)[:, None]  # a row of zeros stays one
        return {name: torch.round(tensor / rows).to(torch.int8), name + _SCALE: scale}
    half = tensor.half()
    return {name: half if bool(torch.isfinite(half).all()) else tensor}


def _modern(name: str) -> str:
    """TensorFlow's names of a LayerNorm's parameters, in PyTorch's."""
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _read_config(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            config = json.load(opened)
    except FileNotFoundError:
        raise UserError(f"no {file!r}; a model directory has one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {file!r}: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("retrieval", {}), dict):
        raise UserError(f"{file!r} holds no JSON object (nor may its part 'retrieval' be anything else)")
    return config


def _sha256(file: str) -> str:
    with disk_errors("read", file), open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write(directory: str, name: str, data: bytes) -> None:
    with open(os.path.join(directory, name), "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _torch() -> tuple[Any, Any]:
    try:
        import safetensors
        import torch
    except ImportError as error:
        raise MissingExtra("models", "models") from error
    return torch, safetensors
