"""TILDE as a method of the index: each document's most likely terms with their log-likelihoods above a floor.

`--sparse tilde[:MODEL]`. TILDE stores log10 p(t | d) of the whole vocabulary, 500 GB for MS MARCO. Here a
document keeps its `top` most likely terms (512) among those that a query can have, and all other terms have
one `floor` (-4), the same in every document. What is stored is log10 p - floor, above 0 and on 8 bits, so
that the sum over a query's tokens is the query likelihood QL up to a constant of the query, its number of
tokens times the floor: the ranking is that of QL (alpha = 1). For alpha below 1, which needs the model at
query time, see rerank/likelihood.py. A long document is read in windows, and a term's likelihood is the
largest over them.

Settings of the model ("retrieval" in config.json): window 128, windows 8, top 512, floor -4, precision.

Zhuang and Zuccon: TILDE: Term Independent Likelihood moDEl for Passage Re-ranking. SIGIR 2021. The model
and its loss are in tilde_model.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.encoding import Encoded, cut_windows, strongest
from retrieval.index.expansion import id_mask
from retrieval.index.learned import LearnedMethod, read_common, whole
from retrieval.index.quantise import Quantiser

if TYPE_CHECKING:
    from retrieval.index.model_files import ModelFiles

_TOP = 512
_FLOOR = -4.0


@registry.register("tilde", kind="sparse method")
class TildeMethod(LearnedMethod):
    """The method; see LearnedMethod for queries."""

    kind = "tilde"

    @classmethod
    def described(cls, files: ModelFiles) -> dict[str, Any]:
        """Windows, top, floor and the quantiser, which the floor settles: no log-likelihood is above 0."""
        settings = files.settings
        floor = settings.get("floor", _FLOOR)
        if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not -100 <= floor < 0:
            raise UserError(
                f'{files.path!r}: config.json gives floor of "retrieval" as {floor!r}; it is the log10 '
                "likelihood of terms that are not stored, -100 and more, below 0"
            )
        return {
            **read_common(files),
            "top": whole(files, settings, "top", _TOP, 1, 1 << 20),
            "floor": float(floor),
            "quantiser": Quantiser.of(-floor, rounding="nearest").facts,
        }

    def load(self, files: ModelFiles) -> TildeEncoder:
        """The model with the settings of the index."""
        return TildeEncoder(files, self.settings)


class TildeEncoder:
    """Texts to log-likelihoods above the floor."""

    def __init__(self, files: ModelFiles, settings: Mapping[str, Any]) -> None:
        from retrieval.index.tilde_model import Markers, load_tilde

        vocabulary = files.vocabulary
        self._vocabulary = vocabulary
        self._marker = Markers.of(vocabulary).document
        self._size = settings["window"] - 2
        self._windows, self._precision = settings["windows"], settings["precision"]
        self._top, self._floor = settings["top"], settings["floor"]
        self._kept = ~id_mask(vocabulary.size, vocabulary.index_stop | vocabulary.special)
        self._model = load_tilde(files)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """log10 p(t | d) - floor of each text's most likely terms."""
        import torch

        from retrieval.index.tilde_model import log10_likelihoods, logit_batches, marked

        ids = self._vocabulary.encode(list(texts))
        windows = cut_windows(ids, self._size, self._windows)
        sequences = [marked(window, self._marker, self._vocabulary.sep) for window in windows.ids]
        owners: list[NDArray[Any]] = []
        terms: list[NDArray[Any]] = []
        weights: list[NDArray[Any]] = []
        kept: Any = None
        for rows, logits in logit_batches(self._model, sequences, self._precision):
            if kept is None:
                padding = np.zeros(logits.shape[1] - len(self._kept), bool)
                kept = torch.from_numpy(np.append(self._kept, padding)).to(logits.device)
            top = min(self._top, int(self._kept.sum()))
            best, found = logits.masked_fill(~kept, -math.inf).topk(top, dim=1, sorted=False)
            likely = (log10_likelihoods(best) - self._floor).cpu().numpy()
            owners.append(np.repeat(windows.owner[rows], top))
            terms.append(found.cpu().numpy().ravel())
            weights.append(likely.ravel())
        best_of = strongest(
            _joined(owners), _joined(terms), _joined(weights).astype(np.float32), len(ids), self._kept
        )
        return Encoded(best_of, windows.tokens, windows.dropped)


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
