"""Seismic of the engine comparison: approximate search over learned-sparse vectors; recall is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# mode -> (query_cut, heap_factor): how many query terms open lists, and how eagerly blocks are skipped.
MODES = {"cut 5 heap .9": (5, 0.9), "cut 10 heap .9": (10, 0.9), "cut 30 heap .7": (30, 0.7)}


class Seismic:
    """Lists of six thousandths of the documents; what is pruned from them cannot be found."""

    def build(self, corpus: Path, index: Path, option: str) -> dict[str, Any]:
        import numpy as np
        import seismic

        index.mkdir(parents=True)
        text = seismic.get_seismic_string()
        offsets, terms = np.load(corpus / "offsets.npy"), np.load(corpus / "terms.npy")
        weights = np.load(corpus / "weights.npy").astype(np.float32)
        names = np.array([f"t{number}" for number in range(int(terms.max()) + 1)], dtype=text)
        dataset = seismic.SeismicDataset()
        for number in range(offsets.size - 1):
            span = slice(offsets[number], offsets[number + 1])
            dataset.add_document(f"d{number}", names[terms[span]], weights[span])
        engine = seismic.SeismicIndex.build_from_dataset(
            dataset,
            n_postings=max(6 * (offsets.size - 1) // 1000, 100),
            centroid_fraction=0.1,
            summary_energy=0.4,
            num_threads=1,
        )
        engine.save(str(index / "lists"))
        return {"list_bytes": (index / "lists.index.seismic").stat().st_size}

    def open(self, corpus: Path, index: Path) -> list[str]:
        import numpy as np
        import seismic

        self.numpy, self.text = np, seismic.get_seismic_string()
        self.engine = seismic.SeismicIndex.load(str(index / "lists.index.seismic"))
        return list(MODES)

    def arrays(self, query: dict[str, int]) -> Any:
        terms = self.numpy.array(list(query), dtype=self.text)
        return terms, self.numpy.array(list(query.values()), dtype=self.numpy.float32)

    def search(self, query: dict[str, int], k: int, mode: str) -> Any:
        terms, values = self.arrays(query)
        cut, heap = MODES[mode]
        return self.engine.search("q", terms, values, k, cut, heap)

    def hits(self, result: Any) -> list[tuple[str, float]]:
        return [(str(doc_id), float(score)) for _, score, doc_id in result]

    def batch(self, queries: list[Any], k: int, threads: int, mode: str) -> None:
        terms, values = zip(*(self.arrays(query) for query in queries))
        cut, heap = MODES[mode]
        ids = self.numpy.array([str(i) for i in range(len(queries))], dtype=self.text)
        self.engine.batch_search(ids, list(terms), list(values), k, cut, heap, num_threads=threads)
