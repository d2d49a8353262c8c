"""Every query algorithm gives the brute-force scorer's documents, scores and order, bit for bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import UnknownName, UserError

ALGORITHMS = ("maxscore", "exhaustive", "portable")
SOME = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

terms = st.sampled_from([f"t{i}" for i in range(12)])
words = st.lists(terms, max_size=30)
# Long repeats too: frequencies beyond half a byte, and beyond a byte, seldom or often.
documents = st.lists(st.one_of(words, words, words.map(lambda doc: doc * 20)), min_size=1, max_size=40)
queries = st.dictionaries(terms, st.sampled_from([1.0, 2.0, 0.25]), min_size=1, max_size=8)
vectors = st.lists(st.dictionaries(terms, st.integers(1, 255), max_size=10), min_size=1, max_size=40)
parameters = st.sampled_from([(0.9, 0.4), (1.2, 0.75), (0.0, 0.4), (3.0, 1.0), (0.9, 0.0)])


def found(searcher: Any, query: dict[str, float], k: int, algorithm: str) -> list[tuple[int, float]]:
    offsets, docs, scores = searcher.search([query], k, algorithm=algorithm)
    assert offsets.tolist() == [0, len(docs)]
    return list(zip(docs.tolist(), scores.tolist(), strict=True))


def weigh(query: dict[str, float], statistics: Any) -> dict[str, float]:
    return {term: weight * statistics.idf(term) for term, weight in query.items() if statistics.idf(term) > 0}


@SOME
@given(documents, queries, parameters, st.integers(1, 45), st.booleans(), st.randoms())
def test_bm25_equals_brute_force(
    tools: Any, tmp_path: Path, docs: Any, query: Any, params: Any, k: int, compact: bool, rng: random.Random
) -> None:
    rank = rng.sample(range(len(docs)), len(docs))
    alive = rng.choices([0, 1], k=len(docs)) if rng.random() < 0.5 else []
    statistics = tools.statistics_of(docs)
    searcher = tools.bm25_searcher(
        [(tools.bm25_postings(docs, tmp_path, compact=compact), rank, alive)], statistics, *params
    )
    wanted = tools.best(tools.brute_bm25(docs, query, statistics, *params), rank, alive, k)
    for algorithm in ALGORITHMS:
        assert found(searcher, weigh(query, statistics), k, algorithm) == wanted, algorithm


@SOME
@given(documents, queries, parameters)
def test_the_definition_is_bm25(tools: Any, docs: Any, query: Any, params: Any) -> None:
    statistics = tools.statistics_of(docs)
    exact = tools.brute_bm25(docs, query, statistics, *params)
    assert exact == pytest.approx(tools.plain_bm25(docs, query, *params), abs=1e-5)


@SOME
@given(vectors, queries, st.integers(1, 45), st.booleans(), st.randoms())
def test_impacts_equal_brute_force(
    tools: Any, tmp_path: Path, docs: Any, query: Any, k: int, compact: bool, rng: random.Random
) -> None:
    rank = rng.sample(range(len(docs)), len(docs))
    alive = rng.choices([0, 1], k=len(docs)) if rng.random() < 0.5 else []
    searcher = tools.impact_searcher(tools.impact_postings(docs, tmp_path, compact=compact), rank, alive)
    scores = [sum(weight * vector.get(term, 0) for term, weight in query.items()) for vector in docs]
    wanted = tools.best(scores, rank, alive, k)
    for algorithm in ALGORITHMS:
        assert found(searcher, query, k, algorithm) == wanted, algorithm


@SOME
@given(documents, queries, st.integers(1, 5), st.integers(1, 45))
def test_segments_rank_as_one(tools: Any, tmp_path: Path, docs: Any, query: Any, pieces: int, k: int) -> None:
    statistics = tools.statistics_of(docs)
    size = -(-len(docs) // pieces)
    parts = [docs[start : start + size] for start in range(0, len(docs), size)]
    segments: list[Any] = [(tools.bm25_postings(part, tmp_path), range(len(part)), []) for part in parts]
    searcher = tools.bm25_searcher(segments, statistics)
    scores = tools.brute_bm25(docs, query, statistics, 0.9, 0.4)
    wanted = [score for _, score in tools.best(scores, range(len(docs)), [], k)]
    for algorithm in ALGORITHMS:
        pairs = found(searcher, weigh(query, statistics), k, algorithm)
        assert sorted((score for _, score in pairs), reverse=True)[:k] == wanted
        assert all(scores[doc] == score for doc, score in pairs)


@SOME
@given(vectors, queries, st.booleans(), st.booleans(), st.randoms())
def test_rescoring_equals_the_scores(
    tools: Any, tmp_path: Path, docs: Any, query: Any, forward: bool, compact: bool, rng: random.Random
) -> None:
    searcher = tools.impact_searcher(
        tools.impact_postings(docs, tmp_path, forward=forward, compact=compact), range(len(docs))
    )
    wanted = rng.sample(range(len(docs)), rng.randint(0, len(docs)))
    exact = [sum(weight * docs[doc].get(term, 0) for term, weight in query.items()) for doc in wanted]
    offsets = np.array([0, len(wanted)])
    assert searcher.rescore([query], offsets, np.array(wanted, np.int32)).tolist() == exact


@pytest.fixture(scope="module")
def rows(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Documents of 0 to 60 of 700 terms with a forward view, and their values as a matrix."""
    rng = np.random.default_rng(7)
    values = np.zeros((400, 700), np.int64)
    vectors = []
    for document, count in enumerate(rng.integers(0, 61, len(values)).tolist()):
        terms = rng.choice(700, count, replace=False)
        values[document, terms] = rng.integers(1, 256, count)
        vectors.append({f"t{term}": int(values[document, term]) for term in terms})
    vectors[9] = {f"t{term}": 1 for term in range(700)}
    values[9] = 1
    scratch = tmp_path_factory.mktemp("scratch")
    made = {c: tools.impact_postings(vectors, scratch, forward=True, compact=c) for c in (False, True)}
    return made, values


@SOME
@given(st.integers(0, 700), st.integers(0, 1200), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_rows_and_lists_give_the_same_scores(
    tools: Any, rows: Any, terms: int, candidates: int, forward: bool, compact: bool, seed: int
) -> None:
    """With more terms than a byte counts, rows of any length, candidates that come twice."""
    from retrieval.index import forward as module

    made, values = rows
    rng = np.random.default_rng(seed)
    asked = rng.choice(700, terms, replace=False)
    weights = rng.integers(1, 4, terms)
    wanted = rng.integers(0, len(values), candidates).astype(np.int32)
    searcher = tools.impact_searcher(made[compact], range(len(values)))
    query = {f"t{term}": float(weight) for term, weight in zip(asked.tolist(), weights.tolist(), strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "by_rows", lambda *_: forward)
        found = searcher.rescore([query], np.array([0, candidates]), wanted)
    assert found.tolist() == (values[wanted][:, asked] @ weights).tolist()
    for name in ("few", "many"):
        assert not getattr(made[compact]._local, name, np.zeros(1)).any()  # clean for the next query


def test_many_terms_are_rescored_by_rows_and_few_by_lists(rows: Any) -> None:
    from retrieval.index.forward import by_rows

    plain, compact = rows[0][False], rows[0][True]
    assert not by_rows(plain, 1, 1000)
    assert by_rows(plain, 50, 1000)
    assert by_rows(plain, 1, 20)  # sorting and finding the lists would take longer
    assert by_rows(compact, 1, 1000)
    choices = [by_rows(plain, terms, 1000) for terms in range(60)]
    assert choices == sorted(choices)  # once by rows, by rows for more terms too


def test_without_a_forward_view_only_lists(tools: Any, tmp_path: Path) -> None:
    from retrieval.index.forward import by_rows

    assert not by_rows(tools.impact_postings([{"a": 1}], tmp_path), 700, 1)


@pytest.mark.parametrize("forward", [False, True])
def test_segments_rescore_their_own_documents(tools: Any, tmp_path: Path, forward: bool) -> None:
    """Ordinals of several segments mixed, several queries, and ones that no segment has."""
    from retrieval.index.searcher import Searcher

    parts = [[{"a": 3}, {"b": 5}], [{"a": 7, "b": 2}], [{"c": 9}, {"a": 11}]]
    segments: list[Any] = []
    base = 0
    for part in parts:
        made = tools.impact_searcher(
            tools.impact_postings(part, tmp_path, forward=forward), range(len(part))
        ).segments[0]
        segments.append(made._replace(base=base))
        base += len(part)
    searcher = Searcher(segments, 255.0)
    docs = np.array([4, 0, 2, 1, 3, 9, -1, 2], np.int32)
    found = searcher.rescore([{"a": 1.0}, {"b": 2.0, "a": 1.0}], np.array([0, 5, 8]), docs)
    assert found.tolist() == [11, 3, 7, 0, 0, 0, 0, 11]


@pytest.fixture(scope="module")
def large(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three chunks of documents with rare, common and very common terms, and frequencies beyond a byte."""
    rng = np.random.default_rng(5)
    n, vocabulary = 150_000, 400
    lengths = rng.integers(0, 12, n)
    lengths[[5, 70_000, 140_001]] = 700
    tokens = np.minimum((rng.pareto(0.6, lengths.sum()) * 2).astype(np.int64), vocabulary - 1)
    ends = np.zeros(n + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    for document in (5, 70_000, 140_001):
        tokens[ends[document] : ends[document + 1] - 20] = 3
    numbers = [f"t{i}" for i in range(vocabulary)]
    from retrieval.index.postings import Postings
    from retrieval.index.postings_writer import PostingsWriter
    from retrieval.index.statistics import Statistics

    made = {}
    for compact in (False, True):
        writer = PostingsWriter(str(tmp_path_factory.mktemp("scratch")), 1 << 22 if compact else 1 << 30)
        for start in range(0, n, 9999):
            stop = min(n, start + 9999)
            own = ends[start : stop + 1] - ends[start]
            writer.add(own, tokens[ends[start] : ends[stop]].astype(np.int32))
        part = tools.MemoryPart()
        writer.finish(part, numbers, compact=compact)
        made[compact] = Postings(part, "p")
    pairs = np.unique(np.repeat(np.arange(n), lengths) * vocabulary + tokens, return_counts=True)
    df = np.bincount(pairs[0] % vocabulary, minlength=vocabulary)
    statistics = Statistics(n, int(lengths.sum()), dict(zip(numbers, df.tolist(), strict=True)))
    rank = rng.permutation(n)
    return made, statistics, rank, (pairs[0] // vocabulary, pairs[0] % vocabulary, pairs[1], lengths)


def dense_scores(large: Any, query: dict[str, float], k1: float, b: float) -> np.ndarray[Any, Any]:
    """Fixed-point sums of all documents, vectorised, from the token counts."""
    from retrieval.index.bounds import length_norms
    from retrieval.index.searcher import fixed_point

    _, statistics, _, (docs, numbers, tf, lengths) = large
    terms, scaled, scale = fixed_point(weigh(query, statistics), 1.0)
    norms = length_norms(lengths.astype(np.int32), statistics.mean, k1, b)
    sums = np.zeros(len(lengths), np.int64)
    for term, weight in zip(terms, scaled, strict=True):
        mine = numbers == int(term[1:])
        f = tf[mine].astype(np.float32)
        sums[docs[mine]] += (np.float32(weight) * (f / (f + norms[docs[mine]]))).astype(np.int64)
    return sums.astype(np.float32) / np.float32(scale)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("k", [1, 10, 1000, 10_000])
def test_many_chunks_equal_brute_force(tools: Any, large: Any, compact: bool, k: int) -> None:
    made, statistics, rank, _ = large
    rng = random.Random(k)
    masks: list[Any] = [[], (np.arange(len(rank)) % 3 > 0).astype(np.uint8)]
    for k1, b in ((0.9, 0.4), (2.0, 0.9)):
        for alive in masks:
            searcher = tools.bm25_searcher([(made[compact], rank, alive)], statistics, k1, b)
            for _ in range(4):
                query = {
                    f"t{rng.choice([0, 1, 2, 3, 5, 30, 399, rng.randrange(400)])}": 1.0 for _ in range(5)
                }
                scores = dense_scores(large, query, k1, b)
                if len(alive):
                    scores[alive == 0] = 0
                order = np.lexsort((-rank, -scores))[:k]
                order = order[scores[order] > 0]
                wanted = list(zip(order.tolist(), scores[order].tolist(), strict=True))
                for algorithm in ALGORITHMS:
                    assert found(searcher, weigh(query, statistics), k, algorithm) == wanted


def test_rescoring_many_chunks(tools: Any, large: Any) -> None:
    made, statistics, rank, _ = large
    query = {"t0": 1.0, "t3": 2.0, "t40": 1.0, "t399": 1.0}
    scores = dense_scores(large, query, 0.9, 0.4)
    wanted = np.append(np.random.default_rng(1).choice(len(rank), 3000, replace=False), [5, 70_000, 140_001])
    wanted = np.unique(wanted)[::-1].astype(np.int32)
    for compact in (False, True):
        searcher = tools.bm25_searcher([(made[compact], rank, [])], statistics)
        got = searcher.rescore([weigh(query, statistics)], np.array([0, len(wanted)]), wanted)
        assert got.tolist() == scores[wanted].tolist()


def test_batches_and_threads_change_nothing(tools: Any, large: Any) -> None:
    made, statistics, rank, _ = large
    searcher = tools.bm25_searcher([(made[False], rank, [])], statistics)
    asked = [weigh({f"t{i}": 1.0, f"t{2 * i + 1}": 1.0, "t2": 1.0}, statistics) for i in range(40)]
    one = [searcher.search([query], 20, algorithm="maxscore") for query in asked]
    for threads in (1, 2, 3):
        offsets, docs, scores = searcher.search(asked, 20, algorithm="maxscore", threads=threads)
        for i, (_, some_docs, some_scores) in enumerate(one):
            mine = slice(offsets[i], offsets[i + 1])
            assert docs[mine].tolist() == some_docs.tolist()
            assert scores[mine].tolist() == some_scores.tolist()


def test_a_float32_tie_is_not_pruned(tools: Any, tmp_path: Path) -> None:
    docs = [{"t0": 255, "t1": 1}, {"t0": 255, "t1": 2}, {"t0": 254}]
    postings = tools.impact_postings(docs, tmp_path)
    rng = random.Random(2)
    for _ in range(500):
        query = {"t0": rng.uniform(1, 2), "t1": rng.uniform(1e-9, 1e-7)}
        for k in (1, 2):
            wanted = found(tools.impact_searcher(postings, [2, 1, 0]), query, k, "exhaustive")
            assert found(tools.impact_searcher(postings, [2, 1, 0]), query, k, "maxscore") == wanted
            assert found(tools.impact_searcher(postings, [2, 1, 0]), query, k, "portable") == wanted


def test_weights_that_are_no_numbers_are_refused(tools: Any, tmp_path: Path) -> None:
    searcher = tools.impact_searcher(tools.impact_postings([{"t0": 1}], tmp_path), [0])
    for weight in (float("nan"), float("inf"), 1e308):
        with pytest.raises(UserError, match="weight"):
            searcher.search([{"t0": weight}], 1)
    assert found(searcher, {"t0": 1e-320}, 1, "maxscore") == found(searcher, {"t0": 1e-320}, 1, "portable")
    with pytest.raises(UnknownName, match="did you mean 'maxscore'"):
        searcher.search([{"t0": 1.0}], 1, algorithm="maxscor")
