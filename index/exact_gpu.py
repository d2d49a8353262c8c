"""Exact search on a CUDA device, through torch: the device multiplies, the same scores as on the CPU decide.

The products pick candidates within the proven bound (exact.py; wider where TF32 is on), whose scores are
computed on the CPU, so the results are the same to the last bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import MissingExtra, UserError
from retrieval.index import exact
from retrieval.index.exact import EVERYTHING, Found, Mask, Vectors

_GROUP = 64  # queries multiplied together: n * 64 products stay on the device
_MOST = 1 << 16  # candidates a query before the CPU answers it


class ExactGpu:
    """Vectors float32[n, d] copied to a device once, for many searches. Raises MissingExtra, UserError."""

    def __init__(self, vectors: Vectors, device: str = "cuda") -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingExtra("models", "search on a GPU") from error
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device {device!r}: there is no CUDA device here; search on 'cpu'")
        self._torch = torch
        self._truth = vectors
        self._device = device
        self._norm = exact.largest_norm_of(vectors)
        self._vectors = torch.empty(vectors.shape, dtype=torch.float32, device=device)
        for start in range(0, len(vectors), 65_536):
            block = np.array(vectors[start : start + 65_536])  # torch takes no read-only map
            self._vectors[start : start + len(block)] = torch.from_numpy(block).to(device)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        alive: NDArray[np.uint8] = EVERYTHING.alive,
        rank: NDArray[np.int32] = EVERYTHING.rank,
    ) -> list[Found]:
        """As exact.search. Raises UserError."""
        if k < 1:
            raise UserError(f"k is a whole number of 1 and more; got {k}")
        mask = exact.fitting(self._truth, queries, Mask(alive, rank))
        k = min(k, int(np.count_nonzero(alive)) if len(alive) else len(self._truth))
        if not k:
            return [(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in queries]
        dead: Any = None
        if len(alive):
            dead = self._torch.from_numpy(np.array(mask.alive == 0)).to(self._device)
        found: list[Found] = []
        with self._torch.inference_mode():
            for start in range(0, len(queries), _GROUP):
                found += self._group(queries[start : start + _GROUP], k, mask, dead)
        return found

    def _group(self, queries: Vectors, k: int, mask: Mask, dead: Any) -> list[Found]:
        torch = self._torch
        products = torch.from_numpy(np.array(queries)).to(self._device) @ self._vectors.T
        if dead is not None:
            products.masked_fill_(dead, -torch.inf)
        kth = torch.topk(products, k, dim=1).values[:, -1].cpu().numpy()
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        margins = 2 * exact.error_bound(queries.shape[1], norms, self._norm) * (1 + 2.0**-20)
        if self._device.startswith("cuda") and torch.backends.cuda.matmul.allow_tf32:
            margins = margins + 2 * 2.0**-9 * norms * self._norm  # factors rounded to 11 bits
        found = []
        for i, line in enumerate(products):
            least = float(np.nextafter(np.float32(kth[i] - margins[i]), np.float32(-np.inf)))
            rows = torch.nonzero(line >= least)[:, 0].cpu().numpy()
            if len(rows) > _MOST + k:
                found += exact.search(self._truth, queries[i : i + 1], k, alive=mask.alive, rank=mask.rank)
                continue
            found.append(exact.in_order(rows, exact.rescore(self._truth, queries[i], rows), k, mask.rank))
        return found
