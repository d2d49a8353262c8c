"""What SMITH is pre-trained on: a corpus as framed blocks of tokens, made once, on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.data.corpus import open_corpus
from retrieval.diskio import disk_errors, make_directories
from retrieval.errors import UserError
from retrieval.index.examples import Tokens
from retrieval.index.train_state import claim, locked

if TYPE_CHECKING:
    from retrieval.index.trainer import TaskOptions
    from retrieval.longdoc.smith import SmithEncoder

_TEXTS = 64  # that are cut into blocks together


def read_documents(options: TaskOptions, reader: SmithEncoder, documents: int) -> Tokens:
    """The documents of options.corpus as `reader` prepares them, below options.out or found there.

    documents: at most so many; 0: all. Those without a token are left out. Raises UserError where there are
    fewer than two, or the directory holds others; BadLine; Locked.
    """
    folder = os.path.join(options.out, "tokens")
    config = reader.module.config
    facts = {
        "corpus": list(options.corpus), "tokenizer": reader.words.sha256, "documents": documents,
        "block": config.block, "compat": config.compat,
    }  # fmt: skip
    with locked(options.out):
        with disk_errors("write", folder, placing=True):
            make_directories(folder)
        stem = os.path.join(folder, "blocks")
        if not os.path.exists(f"{stem}.ends"):  # an attempt that failed binds nobody
            for name in ("source.json", "blocks.ids"):
                if os.path.exists(os.path.join(folder, name)):
                    os.unlink(os.path.join(folder, name))
        claim(folder, "source.json", json.loads(json.dumps(facts)), "corpus cut into blocks")
        found = Tokens.open(stem) or Tokens.write(stem, _blocks(options, reader, documents))
        if len(found) < 2:
            os.unlink(f"{stem}.ends")
            raise UserError(f"the corpus holds {len(found)} documents with words; give at least two")
    return found


def _blocks(options: TaskOptions, reader: SmithEncoder, documents: int) -> Iterator[list[NDArray[np.int32]]]:
    texts = (document.full_text() for source in options.corpus for document in open_corpus(source))
    limited = islice(texts, documents or None)
    with options.counting("cutting into blocks", documents or None, "documents") as count:
        while batch := list(islice(limited, _TEXTS)):
            options.stop()
            empty = len(reader.prepare([""]).ids[0])
            yield [ids for ids in reader.prepare(batch).ids if len(ids) > empty]
            count(len(batch))
