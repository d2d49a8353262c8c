"""The trainer that all models share: a Task says what to learn, `train` runs it, resumably and repeatably.

A kind of training (`retrieve train KIND`) is registered as "training task":

    @register("tilde", kind="training task")
    def create(options: TaskOptions) -> Task: ...

`create` reads the data, prepares what it needs below `options.out` and returns a Task (protocol below). Torch
may be imported at the top of the module that holds it: the command line has checked that it is there.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from retrieval.errors import MissingExtra, UnknownName, UserError

if TYPE_CHECKING:
    import torch

    from retrieval.progress import Progress

Figures = dict[str, float]


class Task(Protocol):
    """What is learned: a model, batches, a loss, figures on held-out examples, and how the result is saved.

    name    the KIND
    model   the trainer moves it to the device, sets train() and eval(), and optimises its parameters that
            require a gradient; the task finds the device by `next(model.parameters()).device`
    better  whether a "higher" or a "lower" first figure of evaluate() is the better one
    facts   what the task was made of (settings, data, start model), values JSON can hold. A training is
            resumed only where they are equal
    recipe  TrainOptions by name that this kind wants where the user says nothing: {"lr": 1e-4, "epochs": 3}
    """

    # Properties, so that an attribute of a narrower type will do.
    @property
    def name(self) -> str: ...
    @property
    def model(self) -> torch.nn.Module: ...
    @property
    def better(self) -> Literal["higher", "lower"]: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...
    @property
    def recipe(self) -> Mapping[str, Any]: ...

    def batches(self, epoch: int, seed: int) -> Iterator[Any]:
        """The batches of an epoch, the same for the same (epoch, seed).

        They are counted once, and skipped when a training is resumed: yield something small (the numbers of
        the examples), and leave the work (reading, packing, masking) to loss().
        """
        ...

    def loss(self, batch: Any) -> tuple[torch.Tensor, Figures]:
        """The mean loss of a batch, a scalar, and further figures for the curve.

        Random draws: from torch's generator, which is seeded anew for each step, or from the batch itself.
        A figure "zeros" is the share of ReLU outputs that are 0: above .95 the trainer warns.
        """
        ...

    def evaluate(self) -> Figures:
        """Figures on held-out examples, called in eval mode without gradients; {} where nothing is held out.

        The first one decides which checkpoint is the best.
        """
        ...

    def save(self, directory: str) -> None:
        """Writes the model directory, through save_model."""
        ...


def _silent(text: str) -> None:
    """The default of TaskOptions.say."""


def _never() -> None:
    """The default of TaskOptions.stop."""


@contextlib.contextmanager
def _uncounted(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """The default of TaskOptions.counting."""
    yield lambda count: None


@dataclass(frozen=True)
class TaskOptions:
    """What a task is made from: the command line's options that are not the trainer's.

    out       directory of the training; the task keeps prepared data there
    start     model directory to begin with (None: whatever the kind names, or an error)
    data      files or folders of examples (data/training.py); corpus: corpora to make examples from
    teacher   model directory of an encoder that scores examples
    batch     examples a batch (None: the kind's own number)
    held_out  examples that are kept for evaluation (None: the kind's own number)
    settings  the pairs of --set, as texts; read_settings() turns them into values
    say       tells people something, one line
    stop      raises KeyboardInterrupt after Ctrl-C: call it between pieces of long preparation
    counting  `with options.counting("encoding", total, "passages") as count: count(n)` shows progress
    """

    out: str
    start: str | None = None
    data: tuple[str, ...] = ()
    corpus: tuple[str, ...] = ()
    teacher: str | None = None
    batch: int | None = None
    held_out: int | None = None
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    say: Callable[[str], None] = _silent
    stop: Callable[[], None] = _never
    counting: Callable[[str, int | None, str], contextlib.AbstractContextManager[Callable[[int], None]]] = (
        _uncounted
    )


@dataclass(frozen=True)
class TrainOptions:
    """How a task is trained.

    epochs, steps   the length, by one of the two; a step is one change of the weights
    warmup          share of the steps in which the rate rises from 0 to `lr`
    schedule        then `constant`, or `linear` down to 0
    weight_decay    for matrices; biases and LayerNorm have none
    clip            the gradient's largest norm; 0: unbounded
    accumulate      batches that are summed up for a step (each counts equally)
    optimizer       adamw or lamb
    precision       auto (bf16 on CUDA devices that have it, else fp16 there; float32 on a CPU), or by name
    evaluate_every, checkpoint_every    in steps (None: ten evaluations; a checkpoint every ten minutes)
    keep            weights that are saved in the end: those of the `best` evaluation, or the `last` ones
    threads         of torch (None: as torch has them); device: auto, cpu, cuda
    """

    epochs: int | None = None
    steps: int | None = None
    lr: float = 5e-5
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    optimizer: str = "adamw"
    precision: str = "auto"
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    keep: str = "best"
    seed: int = 0
    threads: int | None = None
    device: str = "auto"


def read_settings(kind: str, defaults: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a kind: its defaults, overridden by texts of --set, each read as its default's type.

    Raises UnknownName for one that the kind does not have, UserError for a value of another type.
    """
    values = dict(defaults)
    for name, text in given.items():
        if name not in defaults:
            raise UnknownName(f"setting of {kind}", name, list(defaults))
        values[name] = _typed(name, text, defaults[name])
    return values


def _typed(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise UserError(f"--set {name}={text}: give true or false")
        return text == "true"
    kind: type = type(default)
    if kind not in (int, float):
        return text
    try:
        value = kind(text)
        sensible = math.isfinite(value) and (kind is float or abs(value) < 1 << 31)
    except (ValueError, OverflowError):
        sensible = False
    if not sensible:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"--set {name}={text}: give {wanted}, such as {default}")
    return value


def create_task(kind: str, options: TaskOptions) -> Task:
    """The task registered as `kind`. Raises UnknownName, MissingExtra without torch, what the task finds."""
    from retrieval import registry

    factory = None
    if kind in registry.names("training task"):
        torch = _torch()
        torch.manual_seed(options.seed)  # new layers begin with the same weights every time
    factory = registry.lookup(kind, kind="training task")
    task: Task = factory(options)
    return task


def with_recipe(task: Task, given: Mapping[str, Any]) -> TrainOptions:
    """The options of a training: what the user gave, else what the task wants, else the defaults."""
    recipe = dict(task.recipe)
    if {"epochs", "steps"} & set(given):
        recipe = {name: value for name, value in recipe.items() if name not in ("epochs", "steps")}
    return TrainOptions(**{**recipe, **given})


def _torch() -> Any:
    try:
        import safetensors  # noqa: F401
        import torch
    except ImportError:
        raise MissingExtra("models", "training needs torch and safetensors") from None
    return torch


def train(
    task: Task,
    out: str,
    options: TrainOptions,
    progress: Progress | None = None,
    *,
    stop: Callable[[], None] = _never,
    say: Callable[[str], None] = _silent,
) -> dict[str, Any]:
    """Trains a task in the directory `out`, going on where an earlier call with the same options stopped.

    progress   counts steps, and shows the loss
    stop       called after each step; when it raises, a checkpoint is written first

    The result does not depend on interruptions: the same bits come out of one run and of many. OUT/model is
    the model at the end, OUT/curve.jsonl and curve.svg its history, OUT/checkpoint-N what is resumed from,
    OUT/best-N the weights of the best evaluation. Returns {"steps", "loss", "best", "held_out", "model"}.
    Raises UserError for options of no sense, a loss that is not finite, or a directory that holds a training
    with other options; Locked, StorageError.
    """
    from retrieval.index.train_state import claim, locked, states

    check_options(options)
    torch = _torch()
    lasting = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in _PASSING}
    with locked(out):
        if not states(out, "checkpoint"):  # an attempt that came to nothing binds nobody
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(out, "training.json"))
        claim(out, "training.json", {"kind": task.name, **lasting, **task.facts})
        from retrieval.index.train_loop import Loop

        before = torch.get_num_threads()
        if options.threads:
            torch.set_num_threads(options.threads)
        try:
            return Loop(task, out, options, progress, stop, say).run()
        finally:
            torch.set_num_threads(before)


_PASSING = ("threads", "checkpoint_every", "device")  # may differ when a training is resumed
_CHOICES = {
    "schedule": ("constant", "linear"),
    "optimizer": ("adamw", "lamb"),
    "precision": ("auto", "float32", "bf16", "fp16"),
    "keep": ("best", "last"),
    "device": ("auto", "cpu", "cuda"),
}


def check_options(options: TrainOptions) -> None:
    """Raises UserError, UnknownName for values of no sense."""
    if options.epochs is not None and options.steps is not None:
        raise UserError("give --steps or --epochs, not both")
    for name, known in _CHOICES.items():
        if getattr(options, name) not in known:
            raise UnknownName(name, getattr(options, name), known)
    for name in ("epochs", "steps", "accumulate", "evaluate_every", "checkpoint_every", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give 1 or more")
    if not (math.isfinite(options.lr) and options.lr > 0):
        raise UserError(f"the learning rate is {options.lr}; give a number above 0, such as 5e-5")
    if not 0 <= options.warmup <= 1:
        raise UserError(f"warmup is {options.warmup}; give a share of the steps, from 0 to 1")
    for name in ("weight_decay", "clip"):
        if not (math.isfinite(getattr(options, name)) and getattr(options, name) >= 0):
            raise UserError(f"{name} is {getattr(options, name)}; give 0 or more")


def rate_at(step: int, total: int, options: TrainOptions) -> float:
    """The learning rate of a step, counted from 0: up to `lr` in the warm-up, then as the schedule says."""
    rise = round(options.warmup * total)
    if step < rise:
        return options.lr * (step + 1) / (rise + 1)
    if options.schedule == "constant":
        return options.lr
    return options.lr * (total - step) / max(1, total - rise)
