"""Documents, queries, runs and judgements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.types import Document, Hit, Qrels, Query, Run, StageTrace, as_queries

IDS = st.text("abcß語\U0001f600\ue000", min_size=1, max_size=3)
SCORES = st.sampled_from([-2.0, -0.0, 0.0, 0.5, 1.0]) | st.floats(-(2.0**100), 2.0**100, width=32)
RUNS = st.dictionaries(st.text("qr", max_size=3), st.dictionaries(IDS, SCORES, max_size=12), max_size=5)


class Ranked(list[str]):
    """A table of ids that knows their order."""

    @property
    def rank(self) -> np.ndarray:
        place = {name: rank for rank, name in enumerate(sorted(self))}
        return np.array([place[name] for name in self], np.int32)


class Counting(list[str]):
    """A table of ids that counts how often it is asked."""

    asked = 0

    def __getitem__(self, key: int) -> str:  # type: ignore[override]
        self.asked += 1
        return super().__getitem__(key)


def by_hand(hits: dict[str, float]) -> list[Hit]:
    ranked = sorted(hits.items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
    return [Hit(doc, score, rank) for rank, (doc, score) in enumerate(ranked, 1)]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (Document("d", "body", "head"), "head body"),
        (Document("d", "body"), "body"),
        (Document("d", "", "head"), "head"),
        (Document("d", ""), ""),
    ],
)
def test_full_text_is_title_space_text(document: Document, text: str) -> None:
    assert document.full_text() == text


def test_as_queries_takes_texts_queries_and_mappings() -> None:
    assert as_queries("solar") == [Query("1", "solar")]
    assert as_queries(Query("x", "solar")) == [Query("x", "solar")]
    assert as_queries(["a", Query("q", "b"), "c"]) == [Query("1", "a"), Query("q", "b"), Query("3", "c")]
    assert as_queries({"q7": "a"}) == [Query("q7", "a")]
    assert as_queries([]) == []


@pytest.mark.parametrize("queries", [[Query("a", "x"), Query("a", "y")], ["x", Query("1", "y")], [3], [None]])
def test_as_queries_refuses_ids_twice_and_what_is_no_text(queries: list[str]) -> None:
    with pytest.raises(UserError):
        as_queries(queries)


@given(RUNS)
def test_a_run_is_in_rank_order_as_sorted_by_hand(run: dict[str, dict[str, float]]) -> None:
    made = Run.from_dict(run)
    assert list(made) == list(run)
    assert {query: made[query] for query in made} == {query: by_hand(hits) for query, hits in run.items()}


@given(RUNS)
def test_a_run_survives_the_way_through_dicts(run: dict[str, dict[str, float]]) -> None:
    made = Run.from_dict(run)
    assert made.to_dict() == run
    again = Run.from_dict(made.to_dict())
    assert again == made
    assert [str(column.dtype) for column in (made.docs, made.scores, made.offsets)] == [
        "int32",
        "float32",
        "int64",
    ]


@given(RUNS)
def test_a_table_that_knows_its_order_gives_the_same_run(run: dict[str, dict[str, float]]) -> None:
    made = Run.from_dict(run)
    spans = [np.arange(start, end)[::-1] for start, end in zip(made.offsets, made.offsets[1:])]
    turned = np.concatenate([np.arange(0), *spans])
    table = Ranked(made.doc_ids)
    assert Run(made.queries, made.offsets, made.docs[turned], made.scores[turned], table) == made


def test_only_ids_in_tied_groups_are_read() -> None:
    table = Counting(f"d{number:04}" for number in range(1000))
    scores = np.arange(1000, dtype=np.float32)
    scores[500:503] = 7.5
    run = Run([Query("q", "")], [0, 1000], np.arange(1000), scores, table)
    assert table.asked == 3
    tied = [hit.doc_id for hit in run["q"] if hit.score == 7.5]
    assert tied == ["d0502", "d0501", "d0500"]


def test_ordered_is_trusted() -> None:
    run = Run([Query("q", "")], [0, 2], [0, 1], [1.0, 2.0], ["a", "b"], ordered=True)
    assert [hit.doc_id for hit in run["q"]] == ["a", "b"]


@given(RUNS, st.integers(1, 14))
def test_cut_takes_the_front_of_each_query(run: dict[str, dict[str, float]], k: int) -> None:
    made = Run.from_dict(run)
    cut = made.cut(k)
    assert {query: cut[query] for query in cut} == {query: made[query][:k] for query in made}
    assert len(cut.docs) == cut.offsets[-1] == len(cut.scores)


@given(RUNS, st.lists(st.text("qr", max_size=3), unique=True))
def test_aligned_answers_just_these_queries(run: dict[str, dict[str, float]], wanted: list[str]) -> None:
    made = Run.from_dict(run)
    aligned = made.aligned([Query(name, "text") for name in wanted])
    assert aligned.query_ids == wanted
    assert {q: aligned[q] for q in aligned} == {q: made.get(q, []) for q in wanted}


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf"), 1e39])
@pytest.mark.parametrize("ordered", [False, True])
def test_scores_that_cannot_be_ranked_are_refused_by_name(score: float, ordered: bool) -> None:
    with np.errstate(over="ignore"), pytest.raises(UserError, match="'q2': document 'c'"):
        Run(
            [Query("q1", ""), Query("q2", "")],
            [0, 1, 3],
            [0, 1, 2],
            [1.0, 2.0, score],
            ["a", "b", "c"],
            ordered,
        )


def test_from_dict_refuses_what_is_no_number() -> None:
    with pytest.raises(UserError, match="not a number"):
        Run.from_dict({"q": {"d": "high"}})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="'q': document 'd'"):
        Run.from_dict({"q": {"d": 1e300}})


@pytest.mark.parametrize("offsets", [[0], [0, 1], [1, 2], [0, 3], [0, 2, 2], [2, 0], [0, 3, 2]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    queries = [Query(str(number), "") for number in range(max(1, len(offsets) - 1))]
    if len(offsets) == 3:
        queries = queries[:1] if offsets[1] == 2 else queries
    with pytest.raises(UserError, match="offsets"):
        Run(queries, offsets, [0, 1], [1.0, 2.0], ["a", "b"])


def test_each_document_has_a_score() -> None:
    with pytest.raises(UserError, match="scores"):
        Run([Query("q", "")], [0, 2], [0, 1], [1.0], ["a", "b"])


def test_a_run_is_a_mapping_with_a_history() -> None:
    run = Run.from_dict({"q": {"a": 1.0}}, {"q": "solar"})
    assert "q" in run
    assert "x" not in run
    assert run.get("x") is None
    with pytest.raises(KeyError):
        run["x"]
    assert run.queries == [Query("q", "solar")]
    assert repr(run) == "<Run: 1 queries, 1 documents>"
    traced = run.with_trace([StageTrace("bm25", 0.1, 0, 1, 0)])
    assert [step.stage for step in traced.trace] == ["bm25"]
    assert run.trace == []


def test_qrels_copy_and_count() -> None:
    judged = {"q": {"a": 1, "b": 0}, "r": {}}
    qrels = Qrels.from_dict(judged)
    assert qrels.to_dict() == judged
    assert qrels.to_dict()["q"] is not judged["q"]
    assert repr(qrels) == "<Qrels: 2 queries, 2 judgements>"
    with pytest.raises(UserError, match="'a' is judged '1'"):
        Qrels.from_dict({"q": {"a": "1"}})  # type: ignore[dict-item]
