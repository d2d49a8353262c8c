"""What this machine computes fast, measured: a flag of the processor does not say it. Needs torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import thread_time

import torch
from torch import Tensor

_GAIN = 1.2  # what bfloat16 must be faster by


@cache
def bfloat16_pays() -> bool:
    """Whether products in bfloat16 take less time on this processor than in float32.

    A processor may have the instruction (avx512_bf16) and run it at half the rate of float32's; with AMX,
    or on AMD's, it is three to four times faster. 30 ms, once in a process.
    """
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    with torch.inference_mode():
        x, w = torch.ones(512, 512), torch.ones(1024, 512)
        x16, w16 = x.bfloat16(), w.bfloat16()
        wide, narrow = _seconds(lambda: x @ w.T), _seconds(lambda: x16 @ w16.T)
    return narrow * _GAIN < wide


def _seconds(product: Callable[[], Tensor]) -> float:
    product()
    times = []
    for _ in range(3):
        start = thread_time()
        product()
        times.append(thread_time() - start)
    return min(times)
