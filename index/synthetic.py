"""Queries made from a corpus itself: titles, sentences, spans and sets of keywords, each with its passage.

Inverse cloze (Lee et al., "Latent Retrieval for Weakly Supervised Open Domain Question Answering", ACL 2019):
what has become a query is taken out of its passage, except now and then, so that a model must learn which
other words go with it. Nothing here depends on the order of documents or on the machine: a document's draws
come from (seed, its number).
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from retrieval.errors import UserError
from retrieval.index.stopwords import NLTK_ENGLISH
from retrieval.types import Document

KINDS = ("title", "sentence", "span", "keywords")
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\s*\n\s*\n\s*")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_SPACE = re.compile(r"\s+")
_LEAST = 5  # words that a passage must keep when its query is taken out
_TRIES = 4


class Recipe(NamedTuple):
    """How queries are made.

    words    a passage has about so many at most; longer documents are cut into several at sentence ends.
             0: documents stay whole
    queries  wanted from each passage
    remove   share of the queries that are taken out of their passage
    weights  how often each kind is drawn: title, sentence, span, keywords
    """

    words: int = 100
    queries: int = 2
    remove: float = 0.8
    weights: Mapping[str, float] = dict.fromkeys(KINDS, 1.0)


class Made(NamedTuple):
    """A passage of a document, and (query, passage as it is without the query) pairs."""

    passage: str
    queries: list[tuple[str, str]]


def count_words(documents: Iterable[Document]) -> Counter[str]:
    """In how many documents each word stands, lower case: what keywords are weighed by."""
    found: Counter[str] = Counter()
    for document in documents:
        found.update({word.lower() for word in _WORD.findall(document.full_text())})
    return found


def make_queries(
    document: Document, number: int, recipe: Recipe, counts: Mapping[str, int], seed: int
) -> Iterator[Made]:
    """The passages of one document with their queries.

    counts: of count_words(), with their total under "" (the number of documents counted).
    """
    draw = random.Random(f"{seed} {number}")
    title = _clean(document.title)
    windows = passages(document.text, recipe.words)
    for at, sentences in enumerate(windows):
        body = " ".join(sentences)
        whole = f"{title} {body}" if title and body else title or body
        found: dict[str, str] = {}
        for _ in range(recipe.queries * _TRIES):
            if len(found) == recipe.queries:
                break
            kind = _choose(draw, recipe.weights, {"title": bool(title and body) and at == 0})
            made = _MAKERS[kind](draw, title, sentences, whole, counts)
            if made is None:
                continue
            query, rest = made
            kept = rest if draw.random() < recipe.remove and len(rest.split()) >= _LEAST else whole
            found.setdefault(query, kept)
        yield Made(whole, list(found.items()))


def check_recipe(recipe: Recipe) -> None:
    """Raises UserError for a recipe of which nothing can come."""
    if (recipe.words < 10 and recipe.words != 0) or recipe.queries < 1:
        raise UserError(
            "queries are made from passages of 10 words or more (0: whole documents), 1 or more from each"
        )
    if not 0 <= recipe.remove <= 1:
        raise UserError(f"remove is {recipe.remove}; give a share of the queries, from 0 to 1")
    values = recipe.weights.values()
    if not all(math.isfinite(value) and value >= 0 for value in values) or not any(values):
        raise UserError(f"the weights of {', '.join(KINDS)} are 0 or more, and one of them is above 0")


def passages(text: str, words: int) -> list[list[str]]:
    """The sentences of a text in passages of about `words` words at most; a longer sentence is cut.

    words 0: all of them in one passage.
    """
    if not words:
        return [sentences(text)]
    found: list[list[str]] = [[]]
    filled = 0
    for sentence in sentences(text):
        pieces = sentence.split()
        for start in range(0, len(pieces), words):
            piece = pieces[start : start + words]
            if filled and filled + len(piece) > words:
                found.append([])
                filled = 0
            found[-1].append(" ".join(piece))
            filled += len(piece)
    if len(found) > 1 and filled < words // 4:  # a short rest belongs to what stands before it
        rest = found.pop()
        found[-1] += rest
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text, without line ends."""
    return [clean for part in _SENTENCE.split(text) if part and (clean := _clean(part))]


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()


def _choose(draw: random.Random, weights: Mapping[str, float], possible: Mapping[str, bool]) -> str:
    kinds = [kind for kind in KINDS if weights.get(kind, 0.0) > 0 and possible.get(kind, True)]
    if not kinds:
        return "span"  # a passage without a title, where only titles were wanted, still gives something
    return draw.choices(kinds, [weights[kind] for kind in kinds])[0]


_Found = tuple[str, str] | None  # the query, and what is left of the passage without it


def _title(draw: random.Random, title: str, body: list[str], whole: str, counts: Mapping[str, int]) -> _Found:
    return title, " ".join(body)


def _sentence(
    draw: random.Random, title: str, body: list[str], whole: str, counts: Mapping[str, int]
) -> _Found:
    if not body:
        return None
    at = draw.randrange(len(body))
    length = len(body[at].split())
    if not 3 <= length <= 30:
        return None
    rest = [*([title] if title else []), *body[:at], *body[at + 1 :]]
    return body[at], " ".join(rest)


def _span(draw: random.Random, title: str, body: list[str], whole: str, counts: Mapping[str, int]) -> _Found:
    words = whole.split()
    if len(words) < 3:
        return None
    length = min(draw.randint(3, 10), len(words))
    start = draw.randint(0, len(words) - length)
    return " ".join(words[start : start + length]), " ".join(words[:start] + words[start + length :])


def _keywords(
    draw: random.Random, title: str, body: list[str], whole: str, counts: Mapping[str, int]
) -> _Found:
    """Two to five words, more likely the rarer ones, in the order of the passage; they stay in it."""
    times = Counter(word.lower() for word in _WORD.findall(whole))
    total = counts.get("", 1)
    weighed = {
        word: (1 + math.log(count)) * math.log(1 + total / (1 + counts.get(word, 0)))
        for word, count in times.items()
        if word not in NLTK_ENGLISH and len(word) > 1
    }
    if len(weighed) < 2:
        return None
    wanted = min(draw.randint(2, 5), len(weighed))
    # Efraimidis and Spirakis: the largest u^(1/w) are a weighted sample without replacement.
    keys = {word: math.log(max(draw.random(), 1e-300)) / weight for word, weight in weighed.items()}
    chosen = set(sorted(keys, key=keys.__getitem__, reverse=True)[:wanted])
    return " ".join(word for word in weighed if word in chosen), whole


_MAKERS = {"title": _title, "sentence": _sentence, "span": _span, "keywords": _keywords}
