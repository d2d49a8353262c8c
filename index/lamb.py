"""LAMB: Adam's step, scaled tensor by tensor to the size of the weights, for very large batches.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (ICLR 2020), algorithm
2. As there: the trust ratio is phi(|w|) / |r| with phi a clamp to 0..10, and 1 where either is 0. Bias
correction of the two moments, which the later versions of the paper's code leave out, is a flag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lamb(torch.optim.Optimizer):
    """m, v as in Adam; r = m / (sqrt(v) + eps) + weight_decay * w; w -= lr * trust * r, tensor by tensor.

    clamp            the largest |w| that counts in the ratio
    bias_correction  divide m and v by 1 - beta^t
    adapt            in a group: False leaves the trust ratio at 1 (biases, LayerNorm)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        clamp: float = 10.0,
        bias_correction: bool = True,
        adapt: bool = True,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "clamp": clamp,
            "bias_correction": bias_correction, "adapt": adapt,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: torch.Tensor, group: dict[str, Any]) -> None:
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None  # for the type checker
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        first, second = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.mul_(first).add_(gradient, alpha=1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = unit = 1.0
        if group["bias_correction"]:
            steps = int(state["step"])
            scale, unit = 1 - first**steps, 1 - second**steps
        ratio = (mean / scale) / ((square / unit).sqrt_().add_(group["eps"]))
        if group["weight_decay"]:
            ratio.add_(weight, alpha=group["weight_decay"])
        trust: torch.Tensor | float = 1.0
        if group["adapt"]:
            size, length = weight.norm().clamp(0, group["clamp"]), ratio.norm()
            trust = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
        weight.sub_(ratio.mul_(group["lr"] * trust))
