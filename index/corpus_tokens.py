"""A corpus as token ids on disk, made once below a training's directory: what pre-training reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.data.corpus import open_corpus
from retrieval.diskio import disk_errors, make_directories
from retrieval.errors import UserError
from retrieval.index.examples import Tokens
from retrieval.index.train_state import claim, locked

if TYPE_CHECKING:
    from retrieval.index.trainer import TaskOptions

_TEXTS = 64  # that are tokenised together; they may be long


def corpus_tokens(
    options: TaskOptions,
    name: str,
    what: str,
    documents: int,
    facts: Mapping[str, Any],
    tokenise: Callable[[Sequence[str]], list[NDArray[np.int32]]],
) -> Tokens:
    """What `tokenise` makes of the texts of options.corpus, below options.out or found there.

    name       of the files
    what       they are, for the error where the directory holds others
    documents  at most so many; 0: all
    facts      what the tokens depend on
    tokenise   texts to token ids; what it leaves out is left out

    Raises UserError where there are fewer than two, or the directory holds others; BadLine; Locked.
    """
    folder = os.path.join(options.out, "tokens")
    with locked(options.out):
        with disk_errors("write", folder, placing=True):
            make_directories(folder)
        stem = os.path.join(folder, name)
        if not os.path.exists(f"{stem}.ends"):  # an attempt that failed binds nobody
            for file in ("source.json", f"{name}.ids"):
                if os.path.exists(os.path.join(folder, file)):
                    os.unlink(os.path.join(folder, file))
        claim(folder, "source.json", json.loads(json.dumps(dict(facts))), what)
        found = Tokens.open(stem) or Tokens.write(stem, _batches(options, what, documents, tokenise))
        if len(found) < 2:
            os.unlink(f"{stem}.ends")
            raise UserError(f"the corpus holds {len(found)} documents with words; give at least two")
    return found


def _batches(
    options: TaskOptions,
    what: str,
    documents: int,
    tokenise: Callable[[Sequence[str]], list[NDArray[np.int32]]],
) -> Iterator[list[NDArray[np.int32]]]:
    texts = (document.full_text() for source in options.corpus for document in open_corpus(source))
    limited = islice(texts, documents or None)
    with options.counting(f"making the {what}", documents or None, "documents") as count:
        while batch := list(islice(limited, _TEXTS)):
            options.stop()
            yield tokenise(batch)
            count(len(batch))
