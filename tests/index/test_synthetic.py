"""Queries made from a corpus: from the text itself, repeatable, taken out of their passages."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import UserError
from retrieval.index.synthetic import (
    KINDS,
    Recipe,
    check_recipe,
    count_words,
    make_queries,
    passages,
    sentences,
)
from retrieval.types import Document

TEXT = (
    "The index holds every term of a document. Postings are sorted by document. A query is a list of terms! "
    'Does "order" matter? It does not, except for phrases; see section 2.5 there. Segments are merged later.'
)
WORDS = st.lists(
    st.sampled_from(["alpha", "Beta.", "gamma,", "delta!", "42", "é", "x-y", "\n\n"]), max_size=60
)


def only(*kinds: str) -> dict[str, float]:
    return {kind: float(kind in kinds) for kind in KINDS}


def made(document: Document, recipe: Recipe, seed: int = 0, number: int = 0, **counts: int) -> list[Any]:
    return list(make_queries(document, number, recipe, {"": 10, **counts}, seed))


@settings(max_examples=100, deadline=None)
@given(WORDS, st.integers(1, 12))
def test_passages_are_the_text_in_pieces(words: list[str], size: int) -> None:
    text = " ".join(words)
    found = passages(text, size)
    joined = [word for passage in found for sentence in passage for word in sentence.split()]
    assert joined == text.split()
    for passage in found[:-1]:
        assert 0 < sum(len(sentence.split()) for sentence in passage) <= size + size // 4
    assert len(found) == 1 or all(found)


def test_sentences_end_where_people_end_them() -> None:
    found = sentences(TEXT)
    assert found[:3] == [
        "The index holds every term of a document.",
        "Postings are sorted by document.",
        "A query is a list of terms!",
    ]
    assert "see section 2.5 there." in found[4]
    assert sentences("one\nline\n\nanother  paragraph") == ["one line", "another paragraph"]
    assert sentences(" \n ") == []


@settings(max_examples=60, deadline=None)
@given(WORDS, WORDS, st.integers(0, 5), st.sampled_from([*KINDS, None]), st.floats(0, 1))
def test_queries_come_from_the_document(
    title: list[str], words: list[str], seed: int, kind: str | None, remove: float
) -> None:
    document = Document("d", " ".join(words), " ".join(title))
    weights = only(kind) if kind else dict.fromkeys(KINDS, 1.0)
    recipe = Recipe(words=12, queries=3, remove=remove, weights=weights)
    vocabulary = set(re.findall(r"[\w-]+", document.full_text().lower()))
    for passage, queries in made(document, recipe, seed):
        assert len({query for query, _ in queries}) == len(queries) <= 3
        for query, positive in queries:
            assert query.strip()
            assert set(re.findall(r"[\w-]+", query.lower())) <= vocabulary
            assert set(positive.split()) <= set(passage.split())


def test_what_is_asked_is_taken_out() -> None:
    document = Document("d", TEXT, "How an index works")
    for kind in ("title", "sentence", "span"):
        recipe = Recipe(words=200, queries=2, remove=1.0, weights=only(kind))
        ((passage, queries),) = made(document, recipe)
        assert queries
        for query, positive in queries:
            assert query in passage
            assert query not in positive
            assert len(positive.split()) == len(passage.split()) - len(query.split())
        ((passage, queries),) = made(document, recipe._replace(remove=0.0))
        assert all(positive == passage for _, positive in queries)
    shares = [
        positive != passage
        for number in range(300)
        for passage, queries in made(document, Recipe(200, 1, 0.25, only("span")), number=number)
        for _, positive in queries
    ]
    assert 0.15 < sum(shares) / len(shares) < 0.35


def test_titles_ask_for_the_first_passage_only() -> None:
    document = Document("d", TEXT, "A title")
    recipe = Recipe(words=12, queries=1, remove=1.0, weights=only("title"))
    found = made(document, recipe)
    assert len(found) > 2
    assert found[0].queries == [("A title", found[0].passage.removeprefix("A title "))]
    assert all(query != "A title" for passage in found[1:] for query, _ in passage.queries)
    assert all(one.passage.startswith("A title ") for one in found)


def test_keywords_stay_in_their_passage_and_are_rare_rather_than_common() -> None:
    document = Document("d", "common zebra common yak common words of the house " * 2)
    recipe = Recipe(words=50, queries=1, remove=1.0, weights=only("keywords"))
    seen = {"zebra": 0, "common": 0}
    for number in range(200):
        ((passage, queries),) = made(document, recipe, number=number, common=9, zebra=0, yak=0)
        ((query, positive),) = queries
        assert positive == passage
        assert 2 <= len(query.split()) <= 5
        assert not {"of", "the"} & set(query.split())
        for word in seen:
            seen[word] += word in query.split()
    assert seen["zebra"] > 1.3 * seen["common"]


def test_a_document_s_queries_do_not_depend_on_the_others() -> None:
    recipe = Recipe(words=12)
    document = Document("d", TEXT, "t")
    assert made(document, recipe, 1, 5) == made(document, recipe, 1, 5)
    assert made(document, recipe, 1, 5) != made(document, recipe, 2, 5)
    assert made(document, recipe, 1, 5) != made(document, recipe, 1, 6)


def test_documents_of_few_words_make_no_trouble() -> None:
    for document in (Document("d", "word"), Document("d", "", "title"), Document("d", "...", "")):
        for one in made(document, Recipe()):
            assert one.passage == document.full_text()
    assert count_words([Document("d", "One one two-three")]) == {"one": 1, "two-three": 1}


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(words=5),
        Recipe(queries=0),
        Recipe(remove=1.5),
        Recipe(weights=only()),
        Recipe(weights={"title": -1.0, "span": 2.0}),
        Recipe(weights={"span": float("nan")}),
    ],
)
def test_recipes_of_no_sense(recipe: Recipe) -> None:
    with pytest.raises(UserError):
        check_recipe(recipe)
    check_recipe(Recipe())
