"""What a training keeps on disk: its options, and checkpoints that appear whole or not at all (no pickle).

A checkpoint is a directory: state.safetensors holds the model's parameters and buffers (`model.NAME`) and the
optimizer's tensors (`optimizer.INDEX.KEY`); state.json holds the position and the numbers beside them, and
the sha256 of the former.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from retrieval.data.output import atomic
from retrieval.diskio import (
    disk_errors,
    hash_descriptor,
    make_directories,
    open_regular,
    sync_directory,
    write_all,
)
from retrieval.errors import Locked, UserError

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"(checkpoint|best)-(\d+)")
_TENSORS, _FACTS = "state.safetensors", "state.json"


def claim(out: str, name: str, facts: Mapping[str, Any], what: str = "training") -> None:
    """Notes in OUT/NAME what the directory is used for, or compares with what was noted before.

    Raises UserError where it holds a training (or whatever `what` says) with other options, naming them.
    """
    path = os.path.join(out, name)
    wanted = orjson.loads(orjson.dumps(facts))
    with disk_errors("write", out, placing=True):
        make_directories(out)
    try:
        with open(path, "rb") as file:
            known = orjson.loads(file.read())
    except FileNotFoundError:
        with atomic(path) as write:
            write(orjson.dumps(wanted, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        return
    except (OSError, orjson.JSONDecodeError) as error:
        raise UserError(f"cannot read {path!r} ({error}); delete {out!r} or name another --out") from None
    if known != wanted:
        known = known if isinstance(known, dict) else {}
        differing = sorted(key for key in {*known, *wanted} if known.get(key) != wanted.get(key))
        shown = "; ".join(
            f"{key} was {_brief(known.get(key))}, is {_brief(wanted.get(key))}" for key in differing[:3]
        )
        raise UserError(
            f"{out!r} holds a {what} with other options ({shown}); give the same ones to go on with it, or "
            "name another --out"
        )


def _brief(value: Any) -> str:
    text = "not given" if value is None else orjson.dumps(value).decode()
    return text if len(text) <= 120 else text[:117] + "..."


@contextlib.contextmanager
def locked(out: str) -> Iterator[None]:
    """Keeps a second training out of the directory. Raises Locked."""
    with disk_errors("lock", out, placing=True):
        make_directories(out)
        descriptor = os.open(os.path.join(out, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Locked(f"another process trains in {out!r}; wait for it, or name another --out") from None
        yield
    finally:
        os.close(descriptor)


def save_state(out: str, name: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> str:
    """Writes the checkpoint OUT/NAME in one step, replacing one of that name; returns its path.

    Raises StorageError, and UserError for a place that cannot be written.
    """
    from safetensors.torch import save

    path = os.path.join(out, name)
    made = os.path.join(out, f".{name}.{secrets.token_hex(4)}")
    with disk_errors("write", path, placing=True):
        try:
            os.mkdir(made)
            data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
            facts = {**facts, "sha256": _write(os.path.join(made, _TENSORS), data)}
            _write(os.path.join(made, _FACTS), orjson.dumps(facts, option=orjson.OPT_INDENT_2))
            sync_directory(made)
            if os.path.lexists(path):
                shutil.rmtree(path)
            os.rename(made, path)
            sync_directory(out)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return path


def _write(path: str, data: bytes) -> str:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
        return hash_descriptor(descriptor, len(data))
    finally:
        os.close(descriptor)


def load_state(path: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the facts of a checkpoint. Raises UserError for one that is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors = os.path.join(path, _TENSORS)
    try:
        with open(os.path.join(path, _FACTS), "rb") as file:
            facts = orjson.loads(file.read())
        opened = open_regular(tensors)
        if opened is None:
            raise ValueError(f"{_TENSORS} is no file")
        descriptor, status = opened
        with os.fdopen(descriptor, "rb"):
            if hash_descriptor(descriptor, status.st_size) != facts["sha256"]:
                raise ValueError(f"{_TENSORS} is not what was written")
        return load_file(tensors), facts
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint {path!r} is damaged ({error}); delete it to begin from the one before or anew"
        ) from None


def states(out: str, kind: str) -> list[tuple[int, str]]:
    """(step, path) of the checkpoints of a kind ("checkpoint" or "best") in a directory, oldest first."""
    found = [(_NAME.fullmatch(name), name) for name in os.listdir(out)]
    return sorted((int(m[2]), os.path.join(out, name)) for m, name in found if m and m[1] == kind)


def remove_others(out: str, kept: set[str]) -> None:
    """Deletes checkpoints that are not among these paths, and what a killed process left half-written."""
    for kind in ("checkpoint", "best"):
        for _, path in states(out, kind):
            if path not in kept:
                shutil.rmtree(path, ignore_errors=True)
    for name in os.listdir(out):
        if re.fullmatch(r"\.(checkpoint|best)-\d+\.[0-9a-f]{8}", name):
            shutil.rmtree(os.path.join(out, name), ignore_errors=True)


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters (each shared one once) and persistent buffers of a model, by `model.NAME`.

    Parameters that are not trained are left out: they are those of the model that it started from, and with
    LoRA nearly all of it.
    """
    kept = set(model.state_dict())
    trained = ((name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad)
    named = [*trained, *((n, b) for n, b in model.named_buffers() if n in kept)]
    return {f"model.{name}": tensor for name, tensor in named}


def restore_model(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: str) -> None:
    """Copies the tensors of a checkpoint into a model. Raises UserError where they do not fit."""
    import torch

    with torch.no_grad():
        for name, target in model_tensors(model).items():
            source = tensors.get(name)
            if source is None or source.shape != target.shape:
                raise UserError(
                    f"the checkpoint {path!r} is of another model ({name} does not fit); "
                    "delete it to begin anew"
                )
            target.copy_(source)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors that an optimizer keeps for each parameter, by `optimizer.INDEX.KEY`."""
    state: dict[int, dict[str, torch.Tensor]] = optimizer.state_dict()["state"]
    return {f"optimizer.{at}.{key}": value for at, each in state.items() for key, value in each.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Gives an optimizer back what optimizer_tensors() took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            at, _, key = rest.partition(".")
            state.setdefault(int(at), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
