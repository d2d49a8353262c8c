"""RM3 and Rocchio against plain Python, a worked example, and where there is little to learn from."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import Index
from retrieval.errors import CompositionError, UnknownName, UserError
from retrieval.registry import make
from retrieval.stage import Given
from retrieval.testing import check_stage
from retrieval.types import Query, Run
from tests.index.hashing_encoder import install, made, remove

WORDS = ["sun", "sea", "wind", "bird", "7", "Öl", "o", "extraordinarilylongword", "sky-blue", "moon"]
QUERIES = [Query("1", "sun sea sun"), Query("2", "wind"), Query("3", "moon 7"), Query("4", "unheard")]
ALL = "max_df=1"


def collection(seed: int, n: int = 24) -> dict[str, str]:
    rng = random.Random(seed)
    return {f"d{i}": " ".join(rng.choices(WORDS, k=rng.randint(0, 9))) + " x" for i in range(n)}


def indexed(path: Path, texts: dict[str, str], *, dead: int = 0, **options: Any) -> Index:
    """Three segments; the first `dead` documents are deleted again, more of them were there and are gone."""
    index = Index.create(path / "index", analyzer="words", **options)
    gone = {f"gone{i}": "sun moon wind" for i in range(5)}
    items = [*texts.items(), *gone.items()]
    for start in range(3):
        index.add([{"id": name, "text": text, "group": len(text) % 2} for name, text in items[start::3]])
        index.commit()
    index.delete([*gone, *list(texts)[:dead]])
    index.commit()
    return index


def terms(text: str) -> list[str]:
    return text.lower().replace("-", " ").split()


def top(weights: dict[str, float], k: int) -> dict[str, float]:
    order = sorted(weights, key=lambda term: (-weights[term], term))
    return {term: weights[term] for term in order[:k]}


def learned_from(texts: dict[str, str], text: str, max_df: float, alphanumeric: bool) -> dict[str, float]:
    """What of a document may be added to a query."""
    df = Counter(term for other in texts.values() for term in set(terms(other)))
    return {
        term: float(count)
        for term, count in Counter(terms(text)).items()
        if 2 <= len(term) <= 20
        and df[term] / len(texts) <= max_df
        and (not alphanumeric or all(letter.isalnum() for letter in term))
    }


def plain_rm3(
    query: str, documents: list[dict[str, float]], scores: list[float], fb_terms: int, share: float
) -> dict[str, float]:
    model: dict[str, float] = {}
    for term in {term for document in documents for term in document}:
        for document, score in zip(documents, scores, strict=True):
            kept = top(document, fb_terms)
            model[term] = model.get(term, 0.0) + kept.get(term, 0.0) / max(1.0, sum(kept.values())) * score
    model = top({term: weight for term, weight in model.items() if weight}, fb_terms)
    total, asked = sum(model.values()), Counter(terms(query))
    return {
        term: share * asked[term] / max(1, sum(asked.values()))
        + (1 - share) * (model.get(term, 0.0) / total if total else 0.0)
        for term in {*asked, *model}
    }


def unit(weights: dict[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {term: weight / length for term, weight in weights.items()} if length else {}


def plain_rocchio(
    query: str, best: list[dict[str, float]], last: list[dict[str, float]], k: tuple[int, int], gamma: float
) -> dict[str, float]:
    means = []
    for documents, most in zip((best, last), k, strict=True):
        units = [unit(document) for document in documents]
        mean = {t: sum(each.get(t, 0.0) for each in units) / len(units) for each in units for t in each}
        means.append(unit(top(mean, most)))
    asked = unit({term: float(count) for term, count in Counter(terms(query)).items()})
    total = {
        term: asked.get(term, 0.0) + 0.75 * means[0].get(term, 0.0) - gamma * means[1].get(term, 0.0)
        for term in {*asked, *means[0], *means[1]}
    }
    return {term: weight for term, weight in total.items() if weight > 0}


def plain_bm25(texts: dict[str, str], weights: dict[str, float]) -> dict[str, float]:
    documents = {name: Counter(terms(text)) for name, text in texts.items()}
    mean = sum(sum(document.values()) for document in documents.values()) / len(documents)
    scores = {}
    for name, document in documents.items():
        score = 0.0
        for term, weight in weights.items():
            df = sum(term in other for other in documents.values())
            tf = document[term]
            if tf:
                idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
                score += weight * idf * tf / (tf + 0.9 * (0.6 + 0.4 * sum(document.values()) / mean))
        if score:
            scores[name] = score
    return scores


def stages(index: Index, text: str) -> tuple[Any, Any]:
    """(the feedback, the expanding stage) of a pipeline."""
    pipeline = index.pipeline(text)
    return pipeline.parts[0], getattr(pipeline.parts[1], "stage", pipeline.parts[1])


@pytest.mark.parametrize("seed", range(4))
def test_as_plain_python(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    texts, dead = collection(seed), rng.choice([0, 4])
    index = indexed(tmp_path, texts, dead=dead)
    alive = dict(list(texts.items())[dead:])
    run = (index.bm25() % 8)(QUERIES)
    for name in ["rm3", "rocchio"] * 6:
        fb_terms, fb_docs, max_df = rng.choice([1, 2, 3, 10]), rng.choice([1, 2, 5]), rng.choice([0.3, 1.0])
        share, gamma, bottom = rng.choice([0.2, 0.5]), rng.choice([0, 0.4]), rng.choice([2, 30])
        settings: dict[str, Any] = {
            "rm3": {"fb_terms": fb_terms, "fb_docs": fb_docs, "original_query_weight": share},
            "rocchio": {
                "top_fb_terms": fb_terms, "top_fb_docs": fb_docs, "bottom_fb_terms": 2,
                "bottom_fb_docs": bottom, "gamma": gamma,
            },
        }[name]  # fmt: skip
        stage = make(name, {**settings, "max_df": max_df}).with_representation(index.bm25())
        found = stage(QUERIES, run).to_dict()
        for query, expanded in zip(QUERIES, stage.expand(QUERIES, run), strict=True):
            hits = run[query.query_id]
            vectors = [learned_from(alive, alive[hit.doc_id], max_df, name == "rm3") for hit in hits]
            if name == "rm3":
                scores = [hit.score for hit in hits[:fb_docs]]
                wanted = plain_rm3(query.text, vectors[:fb_docs], scores, fb_terms, share)
            else:
                last = vectors[fb_docs:][-bottom:] if gamma else []
                wanted = plain_rocchio(query.text, vectors[:fb_docs], last, (fb_terms, 2), gamma)
            assert expanded == pytest.approx(wanted, rel=1e-5)
            assert found[query.query_id] == pytest.approx(plain_bm25(alive, wanted), rel=1e-4)


def test_a_worked_example(tmp_path: Path) -> None:
    """d1 (score 2) is cat 2/3, dog 1/3; d2 (score 1) is dog 1/2, bird 1/2. So cat 4/3, dog 7/6, bird 1/2;
    of two terms cat is 8/15 and dog 7/15; half of that, and half of the query's one word."""
    index = indexed(tmp_path, {"d1": "cat cat dog", "d2": "dog bird", "d3": "bird", "d4": "cat"})
    run = Run.from_dict({"1": {"d1": 2.0, "d2": 1.0, "d3": 0.5}}, {"1": "bird"})
    rm3 = make("rm3", {"fb_terms": 2, "fb_docs": 2, "max_df": 1}).with_representation(index.bm25())
    (expanded,) = rm3.expand([Query("1", "bird")], run)
    assert expanded == pytest.approx({"bird": 1 / 2, "cat": 4 / 15, "dog": 7 / 30})
    found = rm3([Query("1", "bird")], run)["1"]
    assert {hit.doc_id for hit in found} == {"d1", "d2", "d3", "d4"}  # d4 was not in the run
    assert rm3.within(2)([Query("1", "bird")], run)["1"] == found[:2]


def test_frequent_and_odd_terms_are_not_added(tmp_path: Path) -> None:
    texts = {f"d{i}": f"common rare{i} o sky.blue extraordinarilylongword" for i in range(20)}
    index = indexed(tmp_path, texts)
    for name in ("rm3", "rocchio"):
        first, stage = stages(index, f"bm25 % 1 >> {name}")
        (expanded,) = stage.expand([Query("1", "rare7")], first("rare7"))
        assert expanded.keys() == {"rare7"}
    (expanded,) = stages(index, "bm25 % 1 >> rm3(max_df=1)")[1].expand([Query("1", "rare7")], first("rare7"))
    assert "common" in expanded
    assert "o" not in expanded
    assert "extraordinarilylongword" not in expanded


@pytest.mark.parametrize("filter_terms", [True, False])
def test_letters_of_any_language_and_signs_only_where_asked_for(tmp_path: Path, filter_terms: bool) -> None:
    index = Index.create(tmp_path / "index", ["impacts"])
    index.add([{"id": "1", "text": "-", "vector": {"öl": 9, "##ing": 4, "c++": 3}}])
    index.commit()
    run = Run.from_dict({"1": {"1": 1.0}}, {"1": "öl"})
    stage = make("rm3", {"model": "impacts", "max_df": 1, "filter_terms": filter_terms})
    (expanded,) = stage.with_representation(index.stage("impacts")).expand(run.queries, run)
    assert expanded.keys() == ({"öl"} if filter_terms else {"öl", "##ing", "c++"})


def test_stored_weights_are_read_where_there_are_some(tmp_path: Path) -> None:
    vectors = [{"sun": 200, "sea": 100}, {"sea": 50, "bird": 50}, {"bird": 7}]
    index = Index.create(tmp_path / "index", ["impacts", "bm25"])
    for number, vector in enumerate(vectors):
        index.add([{"id": f"d{number}", "text": "other words", "vector": vector}])
        index.commit()
    first, stage = stages(index, f"impacts % 2 >> rm3(impacts, fb_docs=1, {ALL}) % 10")
    run = first("sun")
    (expanded,) = stage.expand(run.queries, run)
    assert expanded == pytest.approx({"sun": 0.5 + 0.5 * 2 / 3, "sea": 0.5 / 3})
    assert [hit.doc_id for hit in stage("sun", run)["1"]] == ["d0", "d1"]
    index.merge()
    assert stages(index, f"impacts % 2 >> rm3(impacts, fb_docs=1, {ALL})")[1].expand(run.queries, run) == [
        pytest.approx(expanded)
    ]


def test_scores_that_are_no_weights_count_alike(tmp_path: Path) -> None:
    index = indexed(tmp_path, {"d1": "cat", "d2": "dog", "d3": "bird"})
    stage = make("rm3", {"max_df": 1}).with_representation(index.bm25())
    for low in (0.0, -3.0):
        run = Run.from_dict({"1": {"d1": 5.0, "d2": low}}, {"1": "bird"})
        (expanded,) = stage.expand(run.queries, run)
        assert expanded == pytest.approx({"bird": 0.5, "cat": 0.25, "dog": 0.25})


@pytest.mark.parametrize("name", ["rm3", "rocchio"])
def test_little_to_learn_from(tmp_path: Path, name: str) -> None:
    index = indexed(tmp_path, {"d1": "cat dog", "d2": "- o", "d3": "cat", "d4": "bird"})
    plain = index.bm25()
    stage = make(name, {"max_df": 1}).with_representation(plain)
    queries = [Query("1", "cat"), Query("2", ""), Query("3", "unheard"), Query("4", "o")]
    empty = Run.from_dict({query.query_id: {} for query in queries})
    found, wanted = stage(queries, empty), plain(queries)
    for query in queries:  # without feedback the query stays as it is
        assert [hit.doc_id for hit in found[query.query_id]] == [hit.doc_id for hit in wanted[query.query_id]]
    few = Run.from_dict({"1": {"d2": 1.0}, "2": {"d1": 1.0}, "3": {"d1": 1.0}, "4": {"d2": 2.0, "d4": 1.0}})
    found = stage(queries, few)  # fb_docs is 10; d2 has no term to add
    assert {hit.doc_id for hit in found["1"]} == {"d1", "d3"}
    assert found["2"] == []  # nothing was asked
    assert {hit.doc_id for hit in found["3"]} == {"d1", "d3"}
    assert {hit.doc_id for hit in found["4"]} == {"d2", "d4"}
    check_stage(stage, queries, few)
    check_stage(index.pipeline(f"bm25 % 3 >> {name}(bm25, {ALL}) % 3"), ["cat", "dog bird"])
    check_stage(index.pipeline(f"bm25 % 3 >> {name}(bm25, {ALL}) % 3 >> bm25"), ["cat", "dog bird"])


def test_filter_threads_and_many_queries(tmp_path: Path) -> None:
    texts = collection(3, n=40)
    index = indexed(tmp_path, texts, dead=3)
    text = f"bm25 % 5 >> rm3(bm25, {ALL}) % 20"
    queries = [Query(str(i), " ".join(random.Random(i).choices(WORDS, k=2))) for i in range(150)]
    plain = index.pipeline(text)(queries)
    assert index.pipeline(text, threads=3)(queries).to_dict() == plain.to_dict()
    for query in queries[60:70]:
        assert index.pipeline(text)([query]).to_dict() == {query.query_id: plain.to_dict()[query.query_id]}
    kept = index.pipeline(text, filter="group = 1")(queries)
    groups = {hit.doc_id: len(texts[hit.doc_id]) % 2 for hits in kept.values() for hit in hits}
    assert set(groups.values()) == {1}


def test_settings_of_the_representation_are_handed_on(tmp_path: Path) -> None:
    index = indexed(tmp_path, collection(1))
    text = "bm25 % 3 >> rm3(bm25, fb_docs=2, k1=2, b=0)"
    pipeline = index.pipeline(text)
    assert repr(pipeline) == text
    first, stage = stages(index, text)
    run = first(QUERIES)
    other = index.bm25(k1=2, b=0)
    weights = [other.method.weigh(terms, other.statistics) for terms in stage.expand(QUERIES, run)]
    assert stage(QUERIES, run).to_dict() == other.retrieve(QUERIES, weights).to_dict()
    with pytest.raises(UserError, match="k1=-1"):
        index.pipeline("bm25 >> rm3(bm25, k1=-1)")
    with pytest.raises(CompositionError, match=r"rm3 has model, fb_terms, .* hands the rest on: .*docs=3"):
        index.pipeline("bm25 >> rm3(bm25, docs=3)")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    install()
    try:
        index = made(tmp_path, [{"id": "1", "text": "sun"}], sparse=["bm25", "parts=bm25(blocks=sentences)"])
        for wrong in ("vec", "parts"):
            with pytest.raises(CompositionError, match="searches terms of whole documents"):
                index.pipeline(f"bm25 >> rm3({wrong})")
    finally:
        remove()
    with pytest.raises(UnknownName, match="unknown representation 'bm52'; did you mean 'bm25'"):
        index.pipeline("bm25 >> rm3(bm52)")
    with pytest.raises(UnknownName, match="unknown representation 'nope'"):
        Index.create(tmp_path / "other", pipeline="bm25 % 10 >> rm3(nope)")
    with pytest.raises(CompositionError, match="re-ranks and needs a run"):
        index.pipeline("rm3")
    with pytest.raises(CompositionError, match="searches an index"):
        (Given(Run.from_dict({"1": {"1": 1.0}}, {"1": "sun"})) >> make("rm3", {}))("sun")
    strange = Run.from_dict({"1": {"elsewhere": 1.0}}, {"1": "sun"})
    with pytest.raises(UserError, match="'elsewhere', which is not in the index"):
        make("rm3", {}).with_representation(index.bm25())("sun", strange)
    wrong_values: list[tuple[str, dict[str, Any]]] = [
        ("rm3", {"fb_terms": 0}), ("rm3", {"fb_docs": 1.5}), ("rm3", {"fb_docs": True}),
        ("rm3", {"original_query_weight": 1.1}), ("rm3", {"max_df": "all"}), ("rm3", {"filter_terms": 2}),
        ("rocchio", {"top_fb_docs": 0}), ("rocchio", {"bottom_fb_terms": "x"}), ("rocchio", {"beta": -1}),
        ("rocchio", {"gamma": math.nan}),
    ]  # fmt: skip
    for name, params in wrong_values:
        (key,) = params
        with pytest.raises(UserError, match=f"{name} cannot take {key}="):
            make(name, params)


def test_an_index_without_text(tmp_path: Path) -> None:
    index = indexed(tmp_path, collection(1), store_text=False)
    with pytest.raises(UserError, match="built without text, which bm25 needs"):
        index.pipeline("bm25 % 3 >> rm3")("sun")


def test_compiled_and_plain_analysis_count_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {f"d{i}": f"{text} Straße I\u0307 naïve \x00 suns don't 東京" for i, text in enumerate(WORDS)}
    index = Index.create(tmp_path / "index")
    index.add([{"id": name, "text": text} for name, text in texts.items()])
    index.commit()
    docs = np.array([3, 0, 7, 3], np.int32)
    compiled = index.bm25().term_vectors(docs)
    monkeypatch.delitem(sys.modules, "numba")
    assert index.bm25().term_vectors(docs) == compiled
    assert compiled[0] == index.bm25().method.query(list(texts.values())[3])
    monkeypatch.undo()
    monkeypatch.setattr("retrieval.index.term_vectors._MOST", 0)  # the encoder is made anew each time
    reader = index.bm25()
    assert [reader.term_vectors(docs) for _ in range(2)] == [compiled, compiled]
