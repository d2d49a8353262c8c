"""Approximate nearest neighbours: a faiss structure that finds candidates, and the float32 truth that scores.

The structure is disposable. It is built from the vectors, measured while it is built (ann_recall.py), stored
as bytes beside facts in JSON, and can be built again at any time. Every candidate gets its exact score
(exact.py), ties go by document id, documents that are not alive are left out, and where a filter leaves few
documents, or the structure finds fewer than there are, the exact search answers instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index import ann_files, exact
from retrieval.index.ann_kinds import KINDS, Made, Progress, choose, defaults, import_faiss, make, searchable
from retrieval.index.ann_recall import check_ladder, knobs, ladder
from retrieval.index.consistency import corrupt
from retrieval.index.exact import EVERYTHING, Found, Mask, Vectors

Effort = Mapping[str, int]
_FEW_ALIVE = 20_000  # documents: their exact search takes about a millisecond
_LEAST_SHARE = {"hnsw": 0.1}  # of documents alive that a structure is asked for; else _SHARE
_SHARE = 0.02
_MOST = 4096  # candidates beyond which ties are cut as they come
_COLD = 16  # queries answered by numpy, before numba (0.6 s to load) is worth it
_GROUP = 256  # queries asked together


class Ann:
    """A structure over vectors float32[n, d]: Ann.build makes it, Ann.load reads it.

    facts: JSON: kind, options, faiss, documents, dim, seed, queries, ladder, reached, seconds, bytes.
    """

    def __init__(self, made: Made, facts: dict[str, Any], norm: float, source: Any = None) -> None:
        self.facts = facts
        self.kind: str = facts["kind"]
        self._faiss = import_faiss()
        self._made = made
        self._index = searchable(self._faiss, self.kind, made)
        self._norm = norm
        self._source = source
        self._asked = 0
        self._params: dict[tuple[int, ...], Any] = {}

    def __repr__(self) -> str:
        return f"<Ann {self.kind} of {self.facts['documents']} x {self.facts['dim']}>"

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        kind: str = "auto",
        *,
        options: Effort | None = None,
        seed: int = 0,
        queries: Vectors | None = None,
        threads: int = 1,
        memory: int | None = None,
        progress: Progress | None = None,
        measured: int = 100,
    ) -> Ann | None:
        """A structure for vectors float32[n, d]; None where exact search is as good (kind "exact" or "auto").

        options: over `defaults`. queries: vectors of real queries, to measure recall on beside `measured`
        documents. memory in bytes: what "auto" may count on. progress(added, of). The same seed and one
        thread give the same bytes. Raises UserError, UnknownName, MissingExtra.
        """
        start = perf_counter()
        vectors = exact.checked(vectors, None, "vectors")
        n, d = vectors.shape
        chosen = defaults(kind, n, d) if kind != "auto" else {}
        if kind == "auto":
            kind, chosen = choose(n, d, memory)
        if kind == "exact" or n < (16 if kind == "pq" else 1):  # it has as many code words
            return None
        for name, value in (options or {}).items():
            if name not in chosen or type(value) is not int or value < 0:
                raise UserError(
                    f"{kind} has no option {name}={value!r}; it has whole numbers {sorted(chosen)}"
                )
            chosen[name] = value
        if kind == "ivf" and not 1 <= chosen["lists"] <= n:
            raise UserError(f"{chosen['lists']} lists for {n} vectors; give 1 to {n}")
        if queries is not None:
            queries = exact.checked(queries, d, "queries")
        faiss = import_faiss()
        with _Threads(faiss, threads):
            made = make(faiss, vectors, kind, chosen, seed, progress)
        data = ann_files.to_bytes(faiss, kind, made)
        facts: dict[str, Any] = {
            "kind": kind, "options": made.options, "faiss": faiss.__version__, "documents": n, "dim": d,
            "seed": seed, "bytes": len(data), "queries": {}, "ladder": [], "reached": 0.0,
        }  # fmt: skip
        ann = cls(made, facts, exact.largest_norm_of(vectors), _kept(kind, made, data))
        ladder(ann, vectors, queries, measured, np.random.default_rng(seed), threads)
        facts["seconds"] = round(perf_counter() - start, 3)
        return ann

    def to_bytes(self) -> bytes:
        """What `load` reads."""
        if self._source is not None:
            return bytes(self._source)
        return ann_files.to_bytes(self._faiss, self.kind, self._made)

    @classmethod
    def load(
        cls, data: Any, facts: Any, vectors: Vectors, part: str = "ann", *, norm: float | None = None
    ) -> Ann:
        """The structure of `to_bytes` and its facts, over the vectors it was built from (they may be mapped).

        part: what errors name. norm: largest_norm_of the vectors, where it is known. Raises CorruptIndex
        where bytes, facts and vectors do not fit each other; bytes from anyone are safe to load, though
        hostile ones may find less. MissingExtra without faiss.
        """
        n, d = vectors.shape
        if not isinstance(facts, dict) or (facts.get("documents"), facts.get("dim")) != (n, d):
            raise corrupt(part, "facts.json", f"is not about {n} vectors of {d} elements")
        kind, options = facts.get("kind"), facts.get("options")
        if kind not in KINDS or kind == "exact" or not isinstance(options, dict):
            raise corrupt(part, "facts.json", f"gives the kind {kind!r} and the options {options!r}")
        check_ladder(facts, part)
        made = ann_files.from_bytes(import_faiss(), data, kind, options, vectors, part)
        norm = exact.largest_norm_of(vectors) if norm is None else norm
        return cls(made, facts, norm, _kept(kind, made, data))

    def effort(self, k: int, recall: float = 0.95) -> Effort:
        """The least effort that reached `recall` when it was measured (at 10 for k up to 10, else at 100);
        the highest one where none did."""
        if not 0 < recall <= 1:
            raise UserError(f"recall {recall}; give more than 0 and at most 1")
        steps: list[dict[str, Any]] = self.facts["ladder"]
        column = "recall10" if k <= 10 else "recall100"
        found: Effort = next((s["effort"] for s in steps if s[column] >= recall), steps[-1]["effort"])
        return found

    def search(
        self,
        vectors: Vectors,
        queries: Vectors,
        k: int,
        *,
        recall: float = 0.95,
        effort: Effort | None = None,
        alive: NDArray[np.uint8] = EVERYTHING.alive,
        rank: NDArray[np.int32] = EVERYTHING.rank,
        threads: int = 1,
        complete: bool = True,
    ) -> list[Found]:
        """Up to k documents of each query, as exact.search gives them: rows int64[m], scores float32[m].

        effort: instead of recall: {"nprobe"}, {"ef"}, {"refine"} or {"nprobe", "refine"}; see the ladder.
        complete: where the structure finds fewer than there are, exact search answers. Raises UserError.
        """
        if k < 1 or threads < 1:
            raise UserError(f"k and threads are whole numbers of 1 and more; got {k} and {threads}")
        mask = exact.fitting(vectors, queries, Mask(alive, rank))
        n = len(vectors)
        if n != self.facts["documents"]:
            raise UserError(f"{n} vectors for a structure of {self.facts['documents']}; build it again")
        if effort is None:
            effort = self.effort(k, recall)
        elif set(effort) != set(knobs(self.kind, self.facts["options"])) or min(effort.values()) < 1:
            raise UserError(
                f"effort {dict(effort)!r} for {self.kind}; "
                f"give {' and '.join(knobs(self.kind, self.facts['options']))}, 1 and more"
            )
        living = int(np.count_nonzero(mask.alive)) if len(mask.alive) else n
        share = living / n if n else 1.0
        wanted = min(k, living)
        whole = self._exhaustive(effort, wanted, n) or wanted >= living
        few = len(mask.alive) > 0 and (living <= _FEW_ALIVE or share < _LEAST_SHARE.get(self.kind, _SHARE))
        if whole or few or not len(queries):
            return exact.search(vectors, queries, k, alive=alive, rank=rank, threads=threads, norm=self._norm)
        frozen = exact.read_only(vectors)
        found: list[Found] = []
        for start in range(0, len(queries), _GROUP):
            found += self._group(
                frozen, queries[start : start + _GROUP], wanted, effort, mask, share, threads
            )
        for i, (rows, _) in enumerate(found):
            if complete and len(rows) < wanted:
                found[i] = exact.search(
                    vectors, queries[i : i + 1], k, alive=alive, rank=rank, threads=threads
                )[0]
        return found

    def _exhaustive(self, effort: Effort, k: int, n: int) -> bool:
        """Whether every document would be a candidate."""
        lists = self.facts["options"].get("lists", 0)
        return (
            effort.get("nprobe", lists) >= lists and "ef" not in effort and effort.get("refine", n) * k >= n
        )

    def _group(
        self,
        vectors: Vectors,
        queries: Vectors,
        k: int,
        effort: Effort,
        mask: Mask,
        share: float,
        threads: int,
    ) -> list[Found]:
        coarse = "refine" in effort  # the truth decides among many, and ties are not followed
        count = k * effort["refine"] if coarse else k + max(6, k // 8)
        count = min(count, len(vectors))
        asked = np.ascontiguousarray(queries)
        found, unsure = self._picked(vectors, asked, count, k, effort, mask, share, threads)
        if coarse:
            return found
        for i in unsure:  # ties, most likely: more candidates until they end
            wider, still = 4 * count, [0]
            while still and wider <= _MOST + 4 * k and wider < 4 * len(vectors):
                some, still = self._picked(
                    vectors, asked[i : i + 1], min(wider, len(vectors)), k, effort, mask, share, threads
                )
                found[i] = some[0]
                wider *= 4
        return found

    def _picked(
        self, vectors: Vectors, queries: Vectors, count: int, k: int, effort: Effort, mask: Mask,
        share: float, threads: int,
    ) -> tuple[list[Found], list[int]]:  # fmt: skip
        """The k best of `count` candidates by their exact scores; the queries for which others could be as
        good as the last of them, to judge by the products."""
        rows, products = self._candidates(queries, count, effort, mask, share, threads)
        bound = exact.error_bound(queries.shape[1], 1.0, self._norm) * 1.01
        self._asked += len(queries)
        if "numba" not in sys.modules and self._asked <= _COLD:
            found, unsure = [], []
            for i, (query, candidates) in enumerate(zip(queries, rows)):
                some = candidates[(candidates >= 0) & (candidates < len(vectors))]
                some = some[mask.alive[some] != 0] if len(mask.alive) else some
                found.append(exact.in_order(some, exact.rescore(vectors, query, some), k, mask.rank))
                reach = float(products[i, -1]) + bound * max(
                    1.0, float(np.linalg.norm(query.astype(np.float64)))
                )
                if candidates[-1] >= 0 and len(found[-1][0]) == k and reach >= found[-1][1][-1]:
                    unsure.append(i)
            return found, unsure
        from retrieval.index.exact_kernels import pick, scores_of

        n = len(rows)
        keys, counts, open_ = np.empty(rows.shape, np.int64), np.empty(n, np.int64), np.empty(n, np.uint8)
        pick(vectors, queries, rows, products, *mask, k, (bound, bound), keys, counts, open_)
        found = [(rows[i, :m].copy(), scores_of(keys[i], m)) for i, m in enumerate(counts.tolist())]
        return found, np.flatnonzero(open_).tolist() if n > 1 else [0] * int(open_[0])

    def _candidates(
        self, queries: Vectors, count: int, effort: Effort, mask: Mask, share: float, threads: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What faiss finds: rows int64[q, count] (-1: none) and its products."""
        faiss = self._faiss
        rows = np.empty((len(queries), count), np.int64)
        products = np.empty((len(queries), count), np.float32)
        selector = bitmap = None
        nprobe, ef = effort.get("nprobe", 0), effort.get("ef", 0)
        if len(mask.alive):
            if self.kind == "pq" and not nprobe:  # this one takes no selector: more, and _picked leaves out
                count = min(len(mask.alive), int(count / share) + 64)
                rows, products = (
                    np.empty((len(queries), count), np.int64),
                    np.empty((len(queries), count), np.float32),
                )
            else:
                bitmap = np.packbits(mask.alive != 0, bitorder="little")
                selector = faiss.IDSelectorBitmap(len(bitmap), faiss.swig_ptr(bitmap))
                # The k best of those alive are scattered as the k / share best of all: look at more.
                ef = int(ef / share)
                nprobe = min(int(np.ceil(nprobe / np.sqrt(share))), self.facts["options"].get("lists", 0))
        params = self._parameters(nprobe, max(ef, count) if ef else 0, selector)
        with _Threads(faiss, threads):
            self._index.search_c(
                len(queries),
                faiss.swig_ptr(queries),
                count,
                faiss.swig_ptr(products),
                faiss.swig_ptr(rows),
                params,
            )
        return rows, products

    def _parameters(self, nprobe: int, ef: int, selector: Any) -> Any:
        if selector is None and (nprobe, ef) in self._params:
            return self._params[nprobe, ef]
        faiss = self._faiss
        given = {} if selector is None else {"sel": selector}
        if nprobe:
            params = faiss.SearchParametersIVF(nprobe=nprobe, **given)
        elif ef:
            params = faiss.SearchParametersHNSW(efSearch=ef, **given)
        else:
            params = faiss.SearchParameters(**given) if given else None
        if selector is None:
            self._params[nprobe, ef] = params
        return params


class _Threads:
    """faiss with so many threads of OpenMP, for the calling thread."""

    def __init__(self, faiss: Any, threads: int) -> None:
        self._faiss, self._threads = faiss, threads

    def __enter__(self) -> None:
        self._before = self._faiss.omp_get_max_threads()
        if self._before != self._threads:
            self._faiss.omp_set_num_threads(self._threads)

    def __exit__(self, *_: object) -> None:
        if self._before != self._threads:
            self._faiss.omp_set_num_threads(self._before)


def _kept(kind: str, made: Made, data: Any) -> Any:
    """The bytes, where the structure is changed for searching and could not be written again."""
    return data if kind == "pq" and made.options["lists"] else None
