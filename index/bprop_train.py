"""`retrieve train bprop`: pre-training of a BERT by PROP or B-PROP on a corpus, without labels. Needs torch.

Word sets come from PROP's language model or from B-PROP's contrast (--set source=prop|bprop); pairs of
instances stand side by side in every batch; the loss is MLM + ROP. B-PROP's attention is that of the model it
starts from. Model and papers: bprop_model.py; sets: wordsets.py, contrast.py.

Papers and published code: batch 80, lr 2e-5, 512 tokens, one epoch; of documents of less than 200 pieces
(PROP: 100) only every fifth. Here short documents are kept (--set short=200 for the published rule), and the
defaults are those that a small model on one core does well with.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval import registry
from retrieval.data.corpus import open_corpus
from retrieval.errors import UserError
from retrieval.index.bert import pack
from retrieval.index.bprop_data import PreparedDocuments, prepare
from retrieval.index.bprop_model import BProp, Instances, bprop_loss, drift, first_rows, load_bprop
from retrieval.index.bprop_pairs import mask_words, side_by_side
from retrieval.index.model_files import ModelFiles, save_model
from retrieval.index.tilde_train import start_files, training_config
from retrieval.index.trainer import Figures, TaskOptions, read_settings
from retrieval.index.wordset_source import WordSets, word_sets
from retrieval.index.wordsets import Pair

DEFAULTS: Mapping[str, Any] = {
    "source": "bprop",  # word sets: bprop or prop
    "length": 128,  # tokens of a sequence, special ones included
    "pairs": 1,  # pairs of a document and epoch
    "mean": 3.0,  # of the Poisson draw of a set's size
    "rop": "hinge",  # or softmax
    "keep": 1.0,  # weight of what holds the attention of [CLS] to the start model's (0: the papers' loss)
    "dropout": 0.0,  # while training (BERT's own is 0.1; small models do without)
    "mask": 0.15,  # share of the document's tokens
    "masks_most": 60,
    "documents": 0,  # at most so many of the corpus (0: all)
    "shortest": 10,  # different words that a document must have
    "short": 0,  # a document of fewer tokens ...
    "short_kept": 0.2,  # ... is kept with this probability
    "contrast": "entropy",  # bprop: or kl, subtract
    "temperature": 0.0,  # bprop: of the draw (0: 1, for subtract .1)
    "effective": 0.0,  # bprop: choose each document's temperature for this share of its words instead
    "pieces": "first",  # bprop: attention of a word: its first piece's, or the sum
    "saturation": 0.01,  # bprop
    "background": "df",  # prop: P(w|C) from df or tf
    "least": 10,  # prop: occurrences of a word to be in it
    "subsample": 1e-4,  # prop: word2vec's threshold (0: off)
    "dtype": "float16",  # of the saved weights: float32, float16 or int8
}
_CHOICES = {
    "source": ("bprop", "prop"), "rop": ("hinge", "softmax"), "contrast": ("entropy", "kl", "subtract"),
    "pieces": ("first", "sum"), "background": ("df", "tf"), "dtype": ("float32", "float16", "int8"),
}  # fmt: skip
# What the prepared documents depend on.
_READING = ("source", "length", "documents", "shortest", "short", "short_kept", "pieces", "saturation")
_HELD_OUT = 200
_HELD_OUT_PAIRS = 2


class Batch(NamedTuple):
    """Documents of a step, and what its random draws are seeded with."""

    seed: int
    epoch: int
    documents: NDArray[np.int64]


@registry.register("bprop", kind="training task")
def create(options: TaskOptions) -> BPropTask:
    """The task: reads the corpus, once. Raises UserError, UnknownName."""
    settings = read_settings("bprop", DEFAULTS, options.settings)
    check_settings(settings)
    if not options.corpus:
        raise UserError("bprop learns from documents alone; give --corpus FILE (JSON lines, TSV, a folder)")
    files = start_files(options)
    model, fresh = load_bprop(files, training_config(files, settings["dropout"]))
    limit = model.bert.config.max_position_embeddings
    if not 16 <= settings["length"] <= limit:
        raise UserError(f"--set length={settings['length']}: this model reads 16 to {limit} tokens")
    facts = {
        "corpus": list(options.corpus), "start": files.identity, "seed": options.seed, "settings": settings,
    }  # fmt: skip
    texts = (document.full_text() for source in options.corpus for document in open_corpus(source))
    bert = model.bert.eval() if settings["source"] == "bprop" else None
    read = {**facts, "settings": {name: settings[name] for name in _READING}}
    prepared = prepare(options, texts, files.vocabulary, bert, settings, read)
    task = BPropTask(options, files, model, prepared, word_sets(prepared, settings), settings, facts)
    report = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in task.sets.facts().items())
    options.say(f"{len(prepared.words):,} documents; word sets of {settings['source']}: {report}")
    if fresh:
        options.say(
            f"begins without {len(fresh)} tensors of the heads, which {options.start!r} does not have"
        )
    return task


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises UserError for a value out of its range."""
    for name, known in _CHOICES.items():
        if settings[name] not in known:
            raise UserError(f"--set {name}={settings[name]}: choose one of {', '.join(known)}")
    for name in ("mean", "saturation", "pairs", "shortest"):
        if not settings[name] > 0:
            raise UserError(f"--set {name}={settings[name]}: give a number above 0")
    if not 0.01 <= settings["mean"] <= 100:
        raise UserError(f"--set mean={settings['mean']}: give a mean size of word sets, from 0.01 to 100")
    for name in ("keep", "temperature", "subsample", "documents", "short", "masks_most", "least"):
        if settings[name] < 0:
            raise UserError(f"--set {name}={settings[name]}: give a number of 0 or more")
    for name in ("mask", "effective", "short_kept"):
        if not 0 <= settings[name] <= 1:
            raise UserError(f"--set {name}={settings[name]}: give a share, from 0 to 1")


class BPropTask:
    """See retrieval.index.trainer.Task."""

    name = "bprop"
    better: Literal["higher", "lower"] = "lower"
    recipe: Mapping[str, Any] = {"lr": 3e-4, "epochs": 1, "warmup": 0.1, "schedule": "linear"}

    def __init__(
        self,
        options: TaskOptions,
        files: ModelFiles,
        model: BProp,
        prepared: PreparedDocuments,
        sets: WordSets,
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
    ) -> None:
        self._bprop = model
        self.model: torch.nn.Module = model
        self._start = copy.deepcopy(model.bert).eval()
        self.facts: Mapping[str, Any] = {**facts, "batch": options.batch or 16, "held_out": options.held_out}
        self.sets = sets
        self.settings = settings
        self._files = files
        self._prepared = prepared
        self._batch = options.batch or 16
        wanted = _HELD_OUT if options.held_out is None else options.held_out
        usable = np.array([n for n in range(len(prepared.words)) if sets.usable(n)], np.int64)
        if len(usable) < 2:
            raise UserError(
                f"of {len(prepared.words):,} documents {len(usable)} can give word sets; give more or longer "
                "text, or lower --set shortest"
            )
        order = np.random.default_rng([options.seed, 1]).permutation(usable)
        count = min(wanted, len(order) // 10)
        self._held_out, self._train = np.sort(order[:count]), np.sort(order[count:])

    def batches(self, epoch: int, seed: int) -> Iterator[Batch]:
        """Each document `pairs` times an epoch, shuffled; both instances of a pair are in one batch."""
        rng = np.random.default_rng([seed, 2, epoch])
        turns = np.repeat(self._train, self.settings["pairs"])
        order = rng.permutation(len(turns))
        for start in range(0, len(order) - self._batch + 1, self._batch):
            yield Batch(seed, epoch, turns[np.sort(order[start : start + self._batch])])

    def instances(self, batch: Batch, pairs: int = 1) -> Instances:
        """The sequences of a batch, better and worse in turn, masked; the same for the same batch."""
        vocabulary, table = self._files.vocabulary, self._prepared.table
        rng = np.random.default_rng([batch.seed, 3, batch.epoch, *batch.documents.tolist()])
        quads = []
        for document in batch.documents.tolist():
            tokens, word = table.tokens(self._prepared.words[document])
            for pair in self._drawn(document, pairs, rng):
                better, worse = (table.tokens(np.array(side))[0] for side in (pair.better, pair.worse))
                quads.append((better, worse, tokens, word))
        if not quads:
            raise UserError(
                "no document of a batch gives two word sets that differ in their scores: their words are all "
                "alike to --set contrast and temperature; give other text, or a larger --batch"
            )
        share, most = self.settings["mask"], self.settings["masks_most"]
        made = side_by_side(quads, self.settings["length"], vocabulary)
        masked = [mask_words(one, vocabulary, rng, share=share, most=most) for one in made]
        device = next(self.model.parameters()).device
        packed = pack([one.ids for one in masked], [one.segments for one in made], device)
        starts = packed.offsets.cpu().numpy()[:-1]
        rows = np.concatenate([start + one.places for start, one in zip(starts, masked, strict=True)])
        labels = np.concatenate([one.labels for one in masked]).astype(np.int64)
        return Instances(packed, torch.from_numpy(rows).to(device), torch.from_numpy(labels).to(device))

    def _drawn(self, document: int, count: int, rng: np.random.Generator) -> list[Pair[int]]:
        """`count` pairs of a document; a tie is drawn again, a few times."""
        found: list[Pair[int]] = []
        for _ in range(8):
            found += self.sets.pairs(document, count - len(found), rng)
            if len(found) == count:
                break
        return found

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Figures]:
        """MLM + ROP of a batch, and what `keep` asks for."""
        loss, figures = bprop_loss(self._bprop, self.instances(batch), self.settings["rop"])
        if self.settings["keep"] > 0:
            moved = self._drift(batch.documents)
            figures["drift"] = float(moved.detach())
            loss = loss + self.settings["keep"] * moved
        return loss, figures

    def _drift(self, documents: NDArray[np.int64]) -> torch.Tensor:
        """How far the attention to these documents is from what it was at the start."""
        table = self._prepared.table
        words, device = table.vocabulary, next(self.model.parameters()).device
        read = [table.tokens(self._prepared.words[document])[0] for document in documents.tolist()]
        packed = pack([np.concatenate([[words.cls], ids, [words.sep]]) for ids in read], device=device)
        with torch.no_grad():
            before = first_rows(self._start.to(device), packed, "all")
        return drift(first_rows(self._bprop.bert, packed, "all"), before, packed)

    def evaluate(self) -> Figures:
        """MLM + ROP, and how often the better set of a held-out document is told: always the same sets."""
        sums: Figures = {}
        for start in range(0, len(self._held_out), self._batch):
            documents = self._held_out[start : start + self._batch]
            ready = self.instances(Batch(0, 1 << 30, documents), _HELD_OUT_PAIRS)
            loss, figures = bprop_loss(self._bprop, ready, self.settings["rop"])
            if self.settings["keep"] > 0:
                figures["drift"] = float(self._drift(documents).detach())
            share = len(documents) / len(self._held_out)
            for name, value in {"loss": float(loss.detach()), **figures}.items():
                sums[name] = sums.get(name, 0.0) + share * value
        return sums

    def save(self, directory: str) -> None:
        """The model directory: body, both heads, settings of the index method."""
        settings = {
            "kind": "bprop", "source": self.settings["source"], "saturation": self.settings["saturation"],
            "word_sets": self.sets.facts(),
        }  # fmt: skip
        config = {**self._files.config, "architectures": ["BertForPreTraining"], "retrieval": settings}
        vocabulary = self._files.vocabulary
        tensors = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        save_model(directory, config, tensors, vocabulary.data, vocabulary.name, dtype=self.settings["dtype"])
