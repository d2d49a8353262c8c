"""The loop behind `train`: steps, their clock, evaluations and checkpoints of one training."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from retrieval.errors import UserError
from retrieval.index.curve import Curve
from retrieval.index.lamb import Lamb
from retrieval.index.train_state import (
    load_state,
    model_tensors,
    optimizer_tensors,
    remove_others,
    restore_model,
    restore_optimizer,
    save_state,
    states,
)
from retrieval.index.trainer import Figures, Task, TrainOptions, rate_at

if TYPE_CHECKING:
    from retrieval.progress import Progress

_POINTS = 500  # of a curve
_EVALUATIONS = 10
_CHECKPOINT_SECONDS = 600.0
_DEAD = 0.95
_STATE = {"step", "epoch", "batch", "total", "sums", "best", "held_out", "loss", "scaler"}
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loop:
    """One call of train(): the state of a training, from its last checkpoint to its end."""

    def __init__(
        self,
        task: Task,
        out: str,
        options: TrainOptions,
        progress: Progress | None,
        stop: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.task, self.out, self.options = task, out, options
        self.progress, self.stop, self.say = progress, stop, say
        self.device = _device(options.device)
        self.precision = _precision(options.precision, self.device)
        self.model = task.model.to(self.device)
        self.optimizer = _optimizer(self.model, options, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.total = self._count()
        self.every = options.evaluate_every or max(1, self.total // _EVALUATIONS)
        self.log_every = max(1, self.total // _POINTS)
        # What a checkpoint holds beside tensors.
        self.step = self.epoch = self.batch = 0
        self.sums: Figures = {}
        self.best: dict[str, Any] | None = None
        self.held_out: Figures = {}
        self.last_loss = math.nan
        self.warned = False

    # --- the length -----------------------------------------------------------------------------------------

    def _count(self) -> int:
        """How many steps there are in all."""
        options = self.options
        if options.steps is not None:
            return options.steps
        batches = 0
        for epoch in range(options.epochs or 1):
            batches += sum(1 for _ in self.task.batches(epoch, options.seed))
        if batches < options.accumulate:
            raise UserError(
                f"the training data make {batches} batches, fewer than one step needs "
                f"({options.accumulate}); give more data, or a smaller --batch"
            )
        return batches // options.accumulate

    def _batches(self) -> Iterator[Any]:
        """The batches from the present position on, epoch after epoch; keeps the position."""
        while True:
            found = False
            for at, batch in enumerate(self.task.batches(self.epoch, self.options.seed)):
                found = True
                if at >= self.batch:
                    self.batch = at + 1
                    yield batch
            if not found:
                raise UserError("the training data make no batch; give more of them, or a smaller --batch")
            self.epoch, self.batch = self.epoch + 1, 0

    # --- checkpoints ----------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Takes up the newest checkpoint, if there is one."""
        found = states(self.out, "checkpoint")
        if not found:
            return
        path = found[-1][1]
        tensors, facts = load_state(path)
        if lacking := sorted(_STATE - facts.keys()):
            raise UserError(f"the checkpoint {path!r} is damaged (no {lacking[0]}); delete it to begin anew")
        if facts["total"] != self.total:
            raise UserError(
                f"the checkpoint {path!r} is of a training of {facts['total']} steps, and this one has "
                f"{self.total}; delete it to begin anew"
            )
        restore_model(self.model, tensors, path)
        restore_optimizer(self.optimizer, tensors)
        self.step, self.epoch, self.batch = facts["step"], facts["epoch"], facts["batch"]
        self.sums, self.best, self.held_out = facts["sums"], facts["best"], facts["held_out"]
        self.last_loss = math.nan if facts["loss"] is None else facts["loss"]
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(facts["scaler"])
        self.say(f"going on after step {self.step:,} of {self.total:,} ({path})")

    def _checkpoint(self) -> None:
        facts = {
            "step": self.step, "epoch": self.epoch, "batch": self.batch, "total": self.total,
            "sums": self.sums, "best": self.best, "held_out": self.held_out, "loss": self.last_loss,
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
        }  # fmt: skip
        tensors = {**model_tensors(self.model), **optimizer_tensors(self.optimizer)}
        path = save_state(self.out, f"checkpoint-{self.step}", tensors, facts)
        kept = {path}
        if self.best is not None:
            kept.add(self._best_path())
        remove_others(self.out, kept)
        self._saved, self._saved_at = time.monotonic(), self.step
        self._draw()

    def _best_path(self) -> str:
        assert self.best is not None  # for the type checker
        return os.path.join(self.out, f"best-{self.best['step']}")

    # --- evaluation -----------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        self.model.eval()
        with torch.no_grad(), self._cast():
            self.held_out = dict(self.task.evaluate())
        self.model.train()
        if not self.held_out:
            return
        self.curve.add({"step": self.step, "held_out": self.held_out})
        name, value = next(iter(self.held_out.items()))
        if not math.isfinite(value):
            return
        sign = 1 if self.task.better == "higher" else -1
        if self.best is None or sign * value > sign * self.best["value"]:
            self.best = {"step": self.step, "figure": name, "value": value}
            facts = {"step": self.step, "held_out": self.held_out}
            save_state(self.out, f"best-{self.step}", model_tensors(self.model), facts)

    # --- steps ----------------------------------------------------------------------------------------------

    def _cast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_TYPES[self.precision])

    def _one_step(self, batches: Iterator[Any]) -> None:
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.total, options) * group.get("rate", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(options.accumulate):
            torch.manual_seed(
                _seed(options.seed, self.step, part)
            )  # so that no generator is part of the state
            with self._cast():
                loss, figures = self.task.loss(next(batches))
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}")
            self.scaler.scale(loss / options.accumulate).backward()  # type: ignore[no-untyped-call]
            for name, figure in {"loss": value, **figures}.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(figure)
            self.sums["count"] = self.sums.get("count", 0.0) + 1
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.clip or math.inf)
        if not self.scaler.is_enabled() and not bool(
            torch.isfinite(norm)
        ):  # the scaler leaves such steps out
            raise self._diverged(f"the gradient is {float(norm)}")
        self.scaler.step(self.optimizer)
        # The fused AdamW does not, and what encoders made of their old weights would look fresh.
        torch.autograd.graph.increment_version(parameters)
        self.scaler.update()
        self.step += 1

    def _diverged(self, what: str) -> UserError:
        found = states(self.out, "checkpoint")
        last = f"the last good checkpoint is {found[-1][1]!r}" if found else "there is no checkpoint yet"
        return UserError(
            f"{what} at step {self.step + 1}; {last}. Train again with a lower learning rate than "
            f"{self.options.lr:g}, in another --out"
        )

    def _log(self) -> None:
        count = self.sums.pop("count", 0.0) or 1.0
        figures = {name: value / count for name, value in self.sums.items()}
        self.sums = {}
        self.last_loss = figures.get("loss", math.nan)
        if self.progress is not None:
            self.progress.label = f"training, loss {self.last_loss:.4g}"
        self.curve.add({"step": self.step, "epoch": self.epoch, "lr": self._rate(), **figures})
        if figures.get("zeros", 0.0) > _DEAD and not self.warned:
            self.warned = True
            self.say(
                f"warning: {figures['zeros']:.1%} of the outputs are 0 at step {self.step}: the ReLU is "
                f"dying; a lower learning rate than {self.options.lr:g} may help"
            )

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _draw(self) -> None:
        self.curve.draw(f"{self.task.name}: {self.step:,} of {self.total:,} steps")

    def run(self) -> dict[str, Any]:
        """Trains to the end; see train()."""
        self._resume()
        self.curve = Curve(self.out, self.step)
        self._saved, self._saved_at = time.monotonic(), self.step
        if self.progress is not None:
            self.progress.total = self.total
            self.progress.start_at(self.step)
        if self.step == 0:
            self._evaluate()
        self.model.train()
        batches = self._batches()
        while self.step < self.total:
            self._one_step(batches)
            if self.step % self.log_every == 0 or self.step == self.total:
                self._log()
            if self.step % self.every == 0 or self.step == self.total:
                self._evaluate()
            self._keep_state()
            if self.progress is not None:
                self.progress.update()
        return self._finish()

    def _keep_state(self) -> None:
        """Writes a checkpoint where one is due, and always before Ctrl-C is heeded."""
        every = self.options.checkpoint_every
        due = self.step % every == 0 if every else time.monotonic() - self._saved > _CHECKPOINT_SECONDS
        if due or self.step == self.total:
            self._checkpoint()
        try:
            self.stop()
        except BaseException:
            if self._saved_at != self.step:
                self._checkpoint()
            raise

    def _finish(self) -> dict[str, Any]:
        last = states(self.out, "checkpoint")[-1][1]
        if self.best is not None and self.options.keep == "best":
            path = self._best_path()
            if os.path.isdir(path):
                tensors, _ = load_state(path)
                restore_model(self.model, tensors, path)
        self.model.eval()
        final = os.path.join(self.out, "model")
        self.task.save(final)
        self._draw()
        loss = None if math.isnan(self.last_loss) else self.last_loss
        return {
            "steps": self.step, "loss": loss, "best": self.best, "held_out": self.held_out, "model": final,
            "checkpoint": last,
        }  # fmt: skip


def _seed(seed: int, step: int, part: int) -> int:
    digest = hashlib.blake2b(f"{seed} {step} {part}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no CUDA device that torch can use; leave --device out, or give cpu")
    return torch.device(name)


def _precision(name: str, device: torch.device) -> str:
    if name == "auto":
        if device.type != "cuda":
            return "float32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if name == "fp16" and device.type != "cuda":
        raise UserError("fp16 needs a CUDA device; give --precision bf16 or float32")
    return name


def _optimizer(model: torch.nn.Module, options: TrainOptions, device: torch.device) -> torch.optim.Optimizer:
    """AdamW or LAMB; biases and LayerNorm (all that is no matrix) are neither decayed nor adapted.

    A model with a method parameter_groups(weight_decay) says itself which parameters are decayed, and which
    have a "rate" of their own, a multiple of the learning rate.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError("the model has no parameter to train; take back what freezes them")
    own = getattr(model, "parameter_groups", None)
    groups: list[dict[str, Any]] = (own or functools.partial(_usual_groups, model))(options.weight_decay)
    for group in groups:
        group["params"] = [p for p in group["params"] if p.requires_grad]
    if options.optimizer == "lamb":
        for group in groups:
            group["adapt"] = any(p.ndim >= 2 for p in group["params"])
        return Lamb([group for group in groups if group["params"]], lr=options.lr)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=options.lr, fused=True)


def _usual_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
