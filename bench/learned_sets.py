"""The collections of the learned-sparse comparison: queries, judgements, an index each, and its size."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.artefact import Store
from retrieval.data.beir import corpus_file
from retrieval.data.corpus import Corpus, open_corpus
from retrieval.data.qrels import read_qrels
from retrieval.data.queries import read_queries
from retrieval.errors import UserError
from retrieval.index.creation import make_methods
from retrieval.index.index import Index
from retrieval.index.postings import Postings
from retrieval.manifest import BLOCKS, DENSE
from retrieval.types import Query

SPLIT = "test"
KINDS = ("tildev2", "bprop", "tilde")
_FORWARD = ("row_ends.npy", "row_terms.npy", "row_values.npy")


@dataclass(frozen=True)
class Collection:
    """Queries of one split with their judgements; `total`: how many the split has."""

    name: str
    split: str
    folder: Path
    queries: list[Query]
    judgements: Mapping[str, Mapping[str, int]]
    total: int

    @property
    def label(self) -> str:
        """`scifact`, or `scifact@train`."""
        return self.name if self.split == SPLIT else f"{self.name}@{self.split}"


def read_collection(folder: Path, text: str, most: int | None = None, seed: int = 0) -> Collection:
    """The collection NAME or NAME@SPLIT, a BEIR folder in `folder`.

    most: so many of its queries, drawn by the seed; all without it. Raises UserError for what is not there.
    """
    name, _, split = text.partition("@")
    split = split or SPLIT
    here = folder / name
    if not here.is_dir():
        raise UserError(f"there is no folder {name!r} among the collections")
    corpus_file(here)
    source = f"{here}@{split}"
    queries, judgements = read_queries(source), read_qrels(source)
    total = len(queries)
    if most is not None and most < total:
        chosen = np.random.default_rng(seed).choice(total, most, replace=False)
        queries = [queries[i] for i in sorted(chosen.tolist())]
    return Collection(name, split, here, queries, judgements, total)


class Indexes:
    """One index a collection below a folder; a folder that is used again has them ready.

    specs, dense: what `--sparse` and `--dense` take. The name of an index says what it is made of: the
    settings of each method, the models' weights included, and the corpus file with its size and time.
    """

    def __init__(self, work: Path, specs: Sequence[str], memory: int, dense: Sequence[str] = ()) -> None:
        self._work, self._specs, self._dense, self._memory = work, list(specs), list(dense), memory
        methods = make_methods(specs, dense, analyzer="english", compact=False)
        self.settings: dict[str, dict[str, Any]] = {
            name: {k: v for k, v in made.settings.items() if k != "source"} for name, made in methods.items()
        }

    def path(self, collection: Collection) -> Path:
        """Where the index of a collection lies, or will."""
        file = corpus_file(collection.folder)
        status = file.stat()
        content = [self.settings, file.name, status.st_size, status.st_mtime_ns]
        key = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=6).hexdigest()
        return self._work / f"{collection.name}-{key}"

    def open(self, collection: Collection, progress: Callable[[Corpus], Callable[[int], None]]) -> Index:
        """The index of a collection, built where it is not there. A build that was cut short goes on.

        progress: given the corpus, what is called with the number of documents of each batch.
        """
        path = self.path(collection)
        if (path / "COMMIT").exists():
            found = Index.open(path, memory=self._memory)
            if found.representations:
                return found
            found.close()
        index = Index.create(path, self._specs, self._dense, memory=self._memory)
        corpus = open_corpus(collection.folder)
        index.add(corpus, progress=progress(corpus))
        index.commit()
        return index


def facts(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """What each representation of an index takes, by name; documents count whether deleted or not.

    bytes, list_bytes (without the forward view), terms (none of vectors and blocks): a document. Of those
    that a model encoded also seconds a document (or block), tokens and dropped (all together), and cut
    (how many lost some).
    """
    with Store.open(path) as snapshot:
        commit = snapshot.commit
        documents = sum(segment["docs"] for segment in commit["segments"])
        found = {}
        for name in commit["representations"]:
            total = forward = postings = 0
            encoding: dict[str, float] = {}
            for segment in commit["segments"]:
                part = segment["parts"][name]
                sizes = {file: snapshot.size(file) for file in snapshot.files(f"{part}/")}
                total += sum(sizes.values())
                forward += sum(sizes.get(f"{part}/{file}", 0) for file in _FORWARD)
                if commit["representations"][name]["kind"] not in (DENSE, BLOCKS):
                    postings += int(Postings(snapshot, part).df.sum(dtype=np.int64))
                if f"{part}/encoding.json" in snapshot:
                    for key, value in snapshot.json(f"{part}/encoding.json").items():
                        encoding[key] = encoding.get(key, 0) + value
            found[name] = {
                "bytes": total / documents,
                "list_bytes": (total - forward) / documents,
                "terms": postings / documents,
                **_encoded(encoding),
            }
    return found


def _encoded(sums: Mapping[str, float]) -> dict[str, float]:
    if not sums:
        return {}
    fresh = sums["documents"] - sums["reused"]  # what came from a journal took its time in another run
    return {
        **{key: sums[key] for key in ("tokens", "dropped", "cut")},
        **({"seconds": sums["seconds"] / fresh} if fresh else {}),
    }
