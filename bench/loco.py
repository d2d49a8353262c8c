"""The suites loco-v0 and loco-v1: retrieval of long documents, five and twelve tasks (data/loco.py).

The evaluator's rules: every answer has the grade 1, 1,000 documents of a ranking count, one with the query's
id is dropped, the figure of a task is the mean nDCG@10 over its queries, that of the suite the plain mean
over tasks. The evaluator leaves queries without results out of its mean; here they count 0. Split `part`
takes files of other counts than the published ones, and such rows are of that split.

What is reported beside: nDCG@10 by the length of the relevant document, and with judgements that know
duplicates. QMSum holds a meeting under several ids, of which one is marked: all documents that end alike
(4,096 characters) and are about as long (a tenth) count as the answer there, since each begins with another
question.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from retrieval.bench.suite import SuiteSettings, Task, chosen, drawn, known_options
from retrieval.data.loco import TASKS, V0, LocoTask
from retrieval.registry import register
from retrieval.types import Document

MEASURES = ("nDCG@10", "nDCG@1", "nDCG@3", "nDCG@5", "nDCG@100", "nDCG@1000", "R@10", "R@100", "R@1000")
LENGTHS = "length of the relevant document"
DUPLICATES = "duplicate-aware"
_BOUNDS = ((2048, "<2k"), (8192, "2-8k"), (32768, "8-32k"))
_LONGEST = ">32k"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_ALONE = re.compile(r"\s*bm25\s*(?:\([^()]*\))?\s*(?:%\s*\d+)?\s*")
_BM25 = re.compile(r"\bbm25\b")
_TAIL = 4096  # characters by which duplicates are told
_ALIKE = 0.1  # of the longer one, by which their lengths may differ
_BESIDE = (
    "published for BM25 (Elasticsearch): {mean}, the mean over all tasks; read every figure beside the rows "
    "of BM25 and of a hybrid, and say what a system was trained on"
)


@register("loco-v0", kind="suite")
def loco_v0(settings: SuiteSettings) -> Iterator[Task]:
    """The five tasks of LoCoV0. Raises UserError, BadLine, UnknownName."""
    return _tasks("loco-v0", V0, ".898", settings)


@register("loco-v1", kind="suite")
def loco_v1(settings: SuiteSettings) -> Iterator[Task]:
    """The twelve tasks of LoCoV1. Raises UserError, BadLine, UnknownName."""
    return _tasks("loco-v1", TASKS, ".799", settings)


def _tasks(suite: str, names: tuple[str, ...], mean: str, settings: SuiteSettings) -> Iterator[Task]:
    known_options(settings, ())
    for name in chosen(settings.tasks, names):
        found = LocoTask(settings.data, name, settings.split or "test")
        queries = drawn(found.queries, settings.queries, settings.seed)
        judged = {query.query_id: found.judgements[query.query_id] for query in queries}
        lengths, alike = survey(found.documents())
        yield Task(
            suite=suite,
            name=name,
            split=found.split,
            documents=found.documents,
            queries=queries,
            judgements=judged,
            measures=MEASURES,
            buckets={LENGTHS: by_length(judged, lengths)},
            same_id=True,
            secondary={DUPLICATES: with_duplicates(judged, alike)},
            files=found.files,
            corpus_files=found.own_documents,
            note="; ".join(part for part in (found.note, _BESIDE.format(mean=mean)) if part),
            missing=missing,
            of=len(found.queries),
        )


def missing(pipelines: Sequence[str]) -> str:
    """What must stand beside any system: BM25, which solves much of LoCo by itself, and a sum with it."""
    alone = any(_ALONE.fullmatch(text) for text in pipelines)
    summed = any("+" in text and _BM25.search(text) for text in pipelines)
    lacks = [name for name, there in (("bm25", alone), ("0.5 * bm25 + 0.5 * NAME", summed)) if not there]
    return f"also measure a system with the pipeline {' and one with '.join(lacks)}" if lacks else ""


def survey(documents: Iterator[Document]) -> tuple[dict[str, int], list[list[str]]]:
    """(tokens of each document, groups of two documents or more that are duplicates).

    Tokens are words and punctuation marks, which are an eighth fewer than BERT's word pieces (QMSum).
    """
    tokens: dict[str, int] = {}
    tails: dict[bytes, list[tuple[int, str]]] = defaultdict(list)
    for document in documents:
        text = " ".join(document.text.split())
        tokens[document.doc_id] = sum(1 for _ in _TOKEN.finditer(text))
        key = hashlib.blake2b(text[-_TAIL:].encode("utf-8", "replace"), digest_size=16).digest()
        tails[key].append((len(text), document.doc_id))
    groups = []
    for found in tails.values():
        group: list[tuple[int, str]] = []
        for length, doc_id in sorted(found):
            if group and length - group[0][0] > _ALIKE * length:
                groups.append([name for _, name in group])
                group = []
            group.append((length, doc_id))
        groups.append([name for _, name in group])
    return tokens, [group for group in groups if len(group) > 1]


def by_length(judged: Mapping[str, Mapping[str, int]], tokens: Mapping[str, int]) -> dict[str, str]:
    """Query id -> the bucket of its longest relevant document."""
    return {query: _bucket(max(tokens[doc] for doc in answers)) for query, answers in judged.items()}


def _bucket(tokens: int) -> str:
    return next((label for bound, label in _BOUNDS if tokens < bound), _LONGEST)


def with_duplicates(
    judged: Mapping[str, Mapping[str, int]], groups: list[list[str]]
) -> dict[str, dict[str, int]]:
    """The judgements, with the duplicates of every answer as answers too."""
    twins = {name: group for group in groups for name in group}
    return {
        query: {twin: 1 for answer in answers for twin in twins.get(answer, [answer])}
        for query, answers in judged.items()
    }
