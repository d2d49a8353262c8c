"""TILDEv2 as a method of the index: documents expanded by TILDE, each term with a weight of its context.

`--sparse tildev2[:MODEL]` expands, weighs, quantises and writes impacts in one pass. A document is cut into
windows; each is expanded by the TILDE model that the model's config names, and weighed as a passage of its
own ([CLS] window [SEP] new terms [SEP]); a term's weight is the largest over positions and windows. What
stop words, special tokens and a ReLU at 0 leave is stored on 8 bits, by TILDE's rule (floor) but that a
positive weight stays at least 1: the score is 0 only where nothing matches.

Settings of the model ("retrieval" in config.json):
    expansion  {"model": directory, relative to this one, "top": m}, or null for none
    window     128, tokens of a passage with special ones, before expansion
    windows    8, how many a document may have; tokens beyond are counted as dropped
    length     192 (or what the model can read), of the expanded passage
    maximum    the weight that becomes 255, from training; without it the bound that the model's last layer
               norm sets, which is never reached and costs precision

Zhuang and Zuccon: Fast Passage Re-ranking with Contextualized Exact Term Matching and Efficient Passage
Expansion. arXiv 2108.08513, 2021. What differs: windows instead of a cut at 128 tokens; one weight a term and
document instead of one a position; the floor rule above. The model is in tildev2_model.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval import registry
from retrieval.errors import UserError
from retrieval.index.encoding import Encoded, cut_windows, strongest
from retrieval.index.expansion import expanded_sequence, id_mask
from retrieval.index.learned import LearnedMethod, open_model, positions, read_common, whole
from retrieval.index.quantise import Quantiser

if TYPE_CHECKING:
    from retrieval.index.model_files import ModelFiles


@registry.register("tildev2", kind="sparse method")
class TildeV2Method(LearnedMethod):
    """The method; see LearnedMethod for queries."""

    kind = "tildev2"

    @classmethod
    def described(cls, files: ModelFiles) -> dict[str, Any]:
        """Windows, expansion (with the other model's identity) and quantiser."""
        settings = files.settings
        most = positions(files)
        expander = open_expander(files)
        expansion = None
        if expander is not None:
            expansion = {"top": _top(files), "model": expander.identity}
        maximum = settings.get("maximum")
        if maximum is None:
            from retrieval.index.tildev2_model import load_tildev2

            maximum = load_tildev2(files).bound()
        return {
            **read_common(files),
            "length": whole(files, settings, "length", min(192, most), 3, most),
            "expansion": expansion,
            "quantiser": Quantiser.of(maximum, rounding=settings.get("rounding", "floor")).facts,
        }

    def load(self, files: ModelFiles) -> TildeV2Encoder:
        """The model with the settings of the index."""
        return TildeV2Encoder(files, self.settings)


def open_expander(files: ModelFiles) -> ModelFiles | None:
    """The TILDE model that a TILDEv2 model expands with; None for no expansion. Raises UserError."""
    expansion = files.settings.get("expansion")
    if expansion is None:
        return None
    model = expansion.get("model") if isinstance(expansion, Mapping) else None
    if not isinstance(model, str) or not model:
        raise UserError(
            f'{files.path!r}: config.json gives expansion of "retrieval" as {expansion!r}; it is null, or '
            '{"model": directory, "top": m}'
        )
    path = os.path.normpath(os.path.join(files.path, model))
    if not os.path.isdir(path):
        raise UserError(
            f"{files.path!r} expands documents by a TILDE model at {path!r}, which is not there; put it "
            'there, or set expansion of "retrieval" in config.json'
        )
    expander = open_model("tilde", path)
    if expander.vocabulary.pieces != files.vocabulary.pieces:
        raise UserError(
            f"{path!r}, which expands documents, has another vocabulary than {files.path!r}; use models "
            "of one vocabulary"
        )
    return expander


def _top(files: ModelFiles) -> int:
    return whole(files, files.settings["expansion"], "top", 200, 0, 1 << 20)


class TildeV2Encoder:
    """Texts to term weights, by way of expansion."""

    def __init__(self, files: ModelFiles, settings: Mapping[str, Any]) -> None:
        from retrieval.index.tilde_model import load_tilde
        from retrieval.index.tildev2_model import load_tildev2

        vocabulary = files.vocabulary
        self._vocabulary = vocabulary
        self._size = settings["window"] - 2
        self._windows, self._length = settings["windows"], settings["length"]
        self._precision = settings["precision"]
        self._kept = ~id_mask(vocabulary.size, vocabulary.index_stop | vocabulary.special)
        self._model = load_tildev2(files)
        expander = open_expander(files)
        self._expander = None if expander is None else load_tilde(expander)
        self._top = 0 if expander is None else settings["expansion"]["top"]
        # As wide as what expands: the rows of a model may be filled up beyond its vocabulary.
        rows = vocabulary.size if self._expander is None else self._expander.bert.config.vocab_size
        self._excluded = id_mask(rows, vocabulary.expansion_stop)
        self._excluded[vocabulary.size :] = True

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The weights of each text's terms and of those that it gains."""
        from retrieval.index.tildev2_model import token_weights

        ids = self._vocabulary.encode(list(texts))
        windows = cut_windows(ids, self._size, self._windows)
        sequences = self.sequences(windows.ids)
        weights = token_weights(self._model, sequences, self._precision)
        owners = np.repeat(windows.owner, [len(sequence) for sequence in sequences])
        terms = np.concatenate([np.empty(0, np.int32), *sequences])
        return Encoded(
            strongest(owners, terms, weights, len(ids), self._kept), windows.tokens, windows.dropped
        )

    def sequences(self, passages: Sequence[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        """What the model reads of each passage: with special tokens, expanded, at most `length` ids."""
        from retrieval.index.tilde_model import expansions

        gained = [np.empty(0, np.int32)] * len(passages)
        if self._expander is not None:
            gained = expansions(
                self._expander, self._vocabulary, passages, self._top, self._excluded, self._precision
            )
        cls, sep = self._vocabulary.cls, self._vocabulary.sep
        return [
            expanded_sequence(passage, new, cls, sep, self._length)
            for passage, new in zip(passages, gained, strict=True)
        ]
