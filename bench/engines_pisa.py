"""PISA of the engine comparison, through pyterrier-pisa's native module: BM25 on text, and given impacts.

Queries go to the native function without pyterrier's data frames, which would cost more than the search.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrieval.bench.engines_files import about, load_texts

ENCODING = "block_simdbp"
MODES = {
    "maxscore, 8 bit": ("maxscore", True),
    "block_max_maxscore, 8 bit": ("block_max_maxscore", True),
    "block_max_wand, float": ("block_max_wand", False),
}
IMPACT_MODES = {"maxscore": ("maxscore", False), "block_max_maxscore": ("block_max_maxscore", False)}


class Pisa:
    """One index, several algorithms; `8 bit` modes score with quantised impacts, which is PISA's fast way."""

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        if about(corpus)["kind"] == "impacts":
            build_impacts(corpus, index)
            self.prepare(index, impacts=True)
        else:
            from pyterrier_pisa import PisaIndex

            engine = PisaIndex(str(index), text_field="text", stemmer="none", stops="none", threads=1)
            engine.index({"docno": doc_id, "text": text} for doc_id, text in load_texts(corpus))
            self.prepare(index, impacts=False, quantised_only=option != "float")
        lists = {path.name: path.stat().st_size for path in index.glob(f"*.{ENCODING}")}
        bounds = sum(path.stat().st_size for path in index.glob("*.bmw.64"))
        names = sum((index / name).stat().st_size for name in ("fwd.doclex", "fwd.termlex"))
        needed = min(lists.values()) + names + bounds // max(len(lists), 1)
        return {"list_bytes": min(lists.values()), "bounds_bytes": bounds, "needed_bytes": needed}

    def prepare(self, index: Path, impacts: bool, quantised_only: bool = False) -> None:
        """Compress what is not compressed yet, and open it."""
        from pyterrier_pisa import _pisathon

        self.native = _pisathon
        self.modes = IMPACT_MODES if impacts else MODES
        self.contexts = {}
        for quantised in {q for _, q in self.modes.values()}:
            if quantised_only and not quantised:
                continue
            context = _pisathon.RetrievalContext()
            scorer = {} if impacts else {"bm25_k1": 0.9, "bm25_b": 0.4}
            _pisathon.prepare_index(
                context,
                str(index),
                ENCODING,
                "quantized" if impacts else "bm25",
                "",
                quantize=int(quantised),
                stop_fname="",
                **scorer,
            )
            self.contexts[quantised] = context

    def open(self, corpus: Path, index: Path) -> list[str]:
        self.impacts = (index / "impacts.json").exists()
        self.prepare(index, self.impacts)
        return list(self.modes)

    def retrieve(self, queries: list[Any], k: int, threads: int, mode: str) -> Any:
        import numpy as np

        algorithm, quantised = self.modes[mode]
        room = len(queries) * k
        ids, numbers = np.empty(room, dtype=object), np.empty(room, dtype=np.int32)
        ranks, scores = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.float32)
        if self.impacts:  # weights must be floats; PISA repeats a term so many times
            queries = [{term: float(weight) for term, weight in query.items()} for query in queries]
        size = self.native.retrieve(
            self.contexts[quantised],
            algorithm,
            list(enumerate(queries)),
            k=k,
            threads=threads,
            query_weighted=int(self.impacts),
            pretokenised=self.impacts,
            result_qidxs=numbers,
            result_docnos=ids,
            result_ranks=ranks,
            result_scores=scores,
        )
        return ids[:size], scores[:size]

    def search(self, query: Any, k: int, mode: str) -> Any:
        return self.retrieve([query], k, 1, mode)

    def hits(self, result: Any) -> list[tuple[str, float]]:
        return list(zip(result[0].tolist(), result[1].tolist()))

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        self.retrieve(queries, k, threads, mode)


def build_impacts(corpus: Path, index: Path) -> None:
    """PISA's own uncompressed collection (docs, freqs, sizes), straight from document-major arrays."""
    import numpy as np
    from pyterrier_pisa import _pisathon

    index.mkdir(parents=True)
    offsets, terms = np.load(corpus / "offsets.npy"), np.load(corpus / "terms.npy")
    weights = np.load(corpus / "weights.npy")
    docs = offsets.size - 1
    order = np.argsort(terms, kind="stable")  # a radix sort
    owners = np.repeat(np.arange(docs, dtype=np.uint32), np.diff(offsets))[order]
    values = weights[order].astype(np.uint32)
    counts = np.bincount(terms)
    starts = np.concatenate([[0], np.cumsum(counts)])
    del order, terms
    by_name = sorted((f"t{term}", term) for term in np.flatnonzero(counts).tolist())
    with open(index / "inv.docs", "wb") as docs_file, open(index / "inv.freqs", "wb") as freqs_file:
        docs_file.write(np.array([1, docs], dtype=np.uint32).tobytes())
        for _, term in by_name:
            span = slice(starts[term], starts[term + 1])
            size = np.array([counts[term]], dtype=np.uint32).tobytes()
            docs_file.write(size + owners[span].tobytes())
            freqs_file.write(size + values[span].tobytes())
    sizes = np.add.reduceat(weights.astype(np.uint32), offsets[:-1])
    (index / "inv.sizes").write_bytes(np.concatenate([[docs], sizes]).astype(np.uint32).tobytes())
    (index / "fwd.terms").write_text("".join(f"{name}\n" for name, _ in by_name))
    (index / "fwd.documents").write_text("".join(f"d{number}\n" for number in range(docs)))
    for name, lexicon in (("fwd.documents", "fwd.doclex"), ("fwd.terms", "fwd.termlex")):
        _pisathon.build_binlex(str(index / name), str(index / lexicon))
    (index / "impacts.json").write_text(json.dumps({"docs": docs}))
