"""A corpus made ready for PROP or B-PROP: word numbers and, for B-PROP, what [CLS] attends to. Needs torch.

One pass over the documents; what it found is stored in OUT/prepared.npz, so that a training that goes on, or
is run again, does not encode the corpus a second time. Word sets are not stored: each step draws its own from
a generator seeded with (seed, epoch, document), so that they can be drawn again after a kill, by any number
of processes.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.diskio import disk_errors
from retrieval.errors import UserError
from retrieval.index.contrast import RandomProcess, saturated, summed
from retrieval.index.train_state import locked
from retrieval.index.wholewords import Ragged, WordTable, cut_to

if TYPE_CHECKING:
    from retrieval.index.bert import Bert
    from retrieval.index.trainer import TaskOptions
    from retrieval.index.vocabulary import Vocabulary

FILE = "prepared.npz"
_TEXTS = 256  # texts that are encoded together
_ARRAYS = ("words", "word_ends", "distinct", "weights", "distinct_ends", "long_ids", "long_sizes")


class PreparedDocuments(NamedTuple):
    """n documents, each cut to what the model reads.

    words     each one's words in order, by number of `table`
    distinct  each one's distinct words, ascending; weights: their saturated attention (both empty for PROP)
    """

    table: WordTable
    words: Ragged
    distinct: Ragged
    weights: Ragged

    def random_process(self) -> RandomProcess:
        """P_rand of these documents."""
        process = RandomProcess()
        for words, weights in zip(self.distinct, self.weights, strict=True):
            process.add(words, weights)
        return process


def prepare(
    options: TaskOptions,
    texts: Iterator[str],
    vocabulary: Vocabulary,
    bert: Bert | None,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> PreparedDocuments:
    """The documents of a corpus, from OUT/prepared.npz if that was made of the same facts, or anew.

    bert: whose attention to take; None for PROP. settings: see bprop_train.DEFAULTS. Raises UserError where
    fewer than two documents are long enough, Locked where another process prepares or trains there.
    """
    path = os.path.join(options.out, FILE)
    key = json.dumps(dict(facts), sort_keys=True)
    with locked(options.out):
        found = _stored(path, key, vocabulary)
        if found is None:
            found = _read(options, texts, vocabulary, bert, settings)
            _store(path, key, found)
    if len(found.words) < 2:
        raise UserError(
            f"of the corpus {len(found.words)} documents have {settings['shortest']} different words or "
            "more; word sets need at least two such documents"
        )
    return found


def _read(
    options: TaskOptions,
    texts: Iterator[str],
    vocabulary: Vocabulary,
    bert: Bert | None,
    settings: Mapping[str, Any],
) -> PreparedDocuments:
    table = WordTable(vocabulary)
    rows = Ragged(np.int32), Ragged(np.int32), Ragged(np.float32)
    rng = np.random.default_rng([options.seed, 0])
    waiting: list[NDArray[np.int32]] = []
    taken = 0
    with options.counting("reading words" if bert is None else "attending", None, "documents") as count:
        for batch in _batches(texts):
            options.stop()
            for ids, word in vocabulary.words(batch):
                short = len(ids) < settings["short"] and rng.random() >= settings["short_kept"]
                words = table.add(ids, word)
                words = words[: cut_to(words, table.sizes(words), settings["length"] - 2)]
                if not short and len(np.unique(words)) >= settings["shortest"]:
                    waiting.append(words)
            waiting = waiting[: (settings["documents"] or taken + len(waiting)) - taken]
            taken += len(waiting)
            _attend(waiting, table, bert, settings, *rows)
            waiting = []
            count(len(batch))
            if settings["documents"] and taken >= settings["documents"]:
                break
    return PreparedDocuments(table, *rows)


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _TEXTS:
            yield batch
            batch = []
    if batch:
        yield batch


def _attend(
    documents: Sequence[NDArray[np.int32]],
    table: WordTable,
    bert: Bert | None,
    settings: Mapping[str, Any],
    words: Ragged,
    distinct: Ragged,
    weights: Ragged,
) -> None:
    """Adds documents, with the saturated attention to each word where there is a model."""
    for document in documents:
        words.add(document)
    if bert is None:
        return
    from retrieval.index.bprop_model import cls_attention, word_attention

    vocabulary = table.vocabulary
    tokens = [table.tokens(document) for document in documents]
    attention = cls_attention(bert, [ids for ids, _ in tokens], vocabulary.cls, vocabulary.sep)
    for document, (_, word), values in zip(documents, tokens, attention, strict=True):
        each = word_attention(values, word, len(document), settings["pieces"])
        numbers, sums = summed(document, each)
        distinct.add(numbers)
        weights.add(saturated(sums, settings["saturation"]))


def _store(path: str, key: str, found: PreparedDocuments) -> None:
    temporary = f"{path}.tmp"
    arrays: dict[str, Any] = {
        "key": np.frombuffer(key.encode(), np.uint8),
        "words": found.words.flat, "word_ends": found.words.ends,
        "distinct": found.distinct.flat, "weights": found.weights.flat, "distinct_ends": found.distinct.ends,
        **found.table.state(),
    }  # fmt: skip
    with disk_errors("write", temporary):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)


def _stored(path: str, key: str, vocabulary: Vocabulary) -> PreparedDocuments | None:
    """What is stored, or None: nothing, something else, or a damaged file (which is made anew)."""
    if not os.path.exists(path):
        return None
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            if bytes(file["key"]).decode() != key:
                return None
            arrays = {name: file[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    table = WordTable.restore(vocabulary, arrays)
    return PreparedDocuments(
        table,
        Ragged.of(arrays["words"], arrays["word_ends"]),
        Ragged.of(arrays["distinct"], arrays["distinct_ends"]),
        Ragged.of(arrays["weights"], arrays["distinct_ends"]),
    )
