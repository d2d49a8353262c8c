"""What SMITH is pre-trained on: a corpus as framed blocks of tokens, made once, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.index.corpus_tokens import corpus_tokens
from retrieval.index.examples import Tokens

if TYPE_CHECKING:
    from retrieval.index.trainer import TaskOptions
    from retrieval.longdoc.smith import SmithEncoder


def read_documents(options: TaskOptions, reader: SmithEncoder, documents: int) -> Tokens:
    """The documents of options.corpus as `reader` prepares them, below options.out or found there.

    documents: at most so many; 0: all. Those without a token are left out. Raises UserError where there are
    fewer than two, or the directory holds others; BadLine; Locked.
    """
    config = reader.module.config
    facts = {
        "corpus": list(options.corpus), "tokenizer": reader.words.sha256, "documents": documents,
        "block": config.block, "compat": config.compat,
    }  # fmt: skip
    empty = len(reader.prepare([""]).ids[0])

    def cut(texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [ids for ids in reader.prepare(texts).ids if len(ids) > empty]

    return corpus_tokens(options, "blocks", "corpus cut into blocks", documents, facts, cut)
