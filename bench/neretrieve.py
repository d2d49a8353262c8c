"""The suite neretrieve: for a type of entity, every paragraph that mentions one (data/neretrieve.py).

Tasks: `types`, whose queries are the names of a split's types in words; `intersections`, of pairs of types,
for which a paragraph is relevant that mentions an entity of both. The split `test` has the types that were
kept from training. Rankings are as deep as twice the most relevant paragraphs of a query, so that
R-precision, which is recall at their number (Recall@|REL|), is that of all. The type `other` is left out.

    --set negatives=N    a part of the corpus: all paragraphs that are relevant to a query, and N others,
                         drawn by the seed. Such rows are of the split `test-downsampled`
    --set names=FILE     type<TAB>words, in place of the words that the type's name is split into
    --set depth=N        shallower rankings; queries with more relevant paragraphs are counted in the note

No figures of the paper's baselines are quoted: none were at hand. `python -m retrieval.bench.neretrieve
FOLDER` looks into the files: types of both splits, and whether mentions stand where the labels say.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from retrieval.bench.arguments import positive
from retrieval.bench.suite import SuiteSettings, Task, chosen, drawn, known_options
from retrieval.data.neretrieve import (
    SPLITS,
    Label,
    corpus_path,
    labels,
    labels_path,
    mentions,
    paragraphs,
)
from retrieval.data.type_names import read_names, verbalised
from retrieval.errors import RetrievalError, UnknownName, UserError
from retrieval.registry import register
from retrieval.types import Document, Query

TASKS = ("types", "intersections")
MEASURES = ("Rprec", "nDCG@10", "P@10", "AP", "Rmult@0.5", "Rmult@2")
SIZES = "|REL|"
PAIRS = 100  # intersections that are asked for, unless the settings say how many
_LEAST = 10  # paragraphs that an intersection needs
_MOST = 0.9  # share of either type's paragraphs, above which one is as good as contained in the other
_DEEPER = 2  # times the most relevant paragraphs
_NO_TYPE = "other"
_BOUNDS = (10, 100, 1000, 10_000)

Found = dict[str, dict[str, int]]


@register("neretrieve", kind="suite")
def neretrieve(settings: SuiteSettings) -> Iterator[Task]:
    """The tasks. Raises UserError, BadLine, UnknownName for what is missing or wrong."""
    known_options(settings, ("negatives", "names", "depth"))
    split = settings.split or "test"
    if split not in SPLITS:
        raise UnknownName("split of NERetrieve", split, SPLITS)
    negatives, asked = (_count(settings, name) for name in ("negatives", "depth"))
    table = read_names(settings.options["names"]) if "names" in settings.options else {}
    corpus, labelled = corpus_path(settings.data), labels_path(settings.data, split)
    for name in chosen(settings.tasks, TASKS):
        kinds, total, judged = _judged(name, labelled, settings)
        if not kinds and name not in settings.tasks and name != TASKS[0]:
            continue  # not all files have pairs of types that one entity is of
        if not kinds:
            raise UserError(f"{labelled} has no {name} to ask for; leave this task out")
        documents: Callable[[], Iterable[Document]] = lambda: paragraphs(corpus)  # noqa: E731
        notes, part = [], False
        if negatives is not None:
            kept, held = downsample(corpus, judged, negatives, settings.seed)
            part = kept is not None
            judged, lost = _held(judged, held)
            if kept is not None:
                documents = _of(corpus, kept)
                notes.append(
                    f"a part of the corpus: the {len(kept) - negatives:,} paragraphs that are relevant to a "
                    f"query, and {negatives:,} others; figures do not compare with those of all"
                )
            if lost:
                notes.append(f"{lost:,} judged paragraphs are not in the corpus")
        depth = asked or _DEEPER * max(map(len, judged.values()), default=1)
        yield Task(
            suite="neretrieve",
            name=name,
            split=f"{split}-downsampled" if part else split,
            documents=documents,
            queries=[
                Query(_query_id(kind), " and ".join(verbalised(each, table) for each in kind))
                for kind in kinds
                if judged.get(_query_id(kind))
            ],
            judgements=judged,
            measures=MEASURES,
            depth=depth,
            buckets={SIZES: {query: size_bucket(len(found)) for query, found in judged.items()}},
            files=[str(corpus), str(labelled)],
            corpus_files=[] if part else [str(corpus)],
            note="; ".join([*notes, *depth_notes(judged, depth)]),
            of=total,
        )


def size_bucket(count: int) -> str:
    """The label of a number of relevant documents: 1-9, 10-99 and so on."""
    low = 1
    for bound in _BOUNDS:
        if count < bound:
            return f"{low:,}-{bound - 1:,}"
        low = bound
    return f">={low:,}"


def depth_notes(judged: Mapping[str, Mapping[str, int]], depth: int) -> list[str]:
    """What to say of a depth at which not all relevant documents of a query can be found."""
    sizes = [len(found) for found in judged.values()]
    if short := sum(size > depth for size in sizes):
        return [f"the depth {depth:,} is below |REL| of {short:,} queries, whose Rprec it cuts"]
    if short := sum(_DEEPER * size > depth for size in sizes):
        return [f"the depth {depth:,} cuts Rmult@{_DEEPER} of {short:,} queries"]
    return []


def _judged(name: str, labelled: Path, settings: SuiteSettings) -> tuple[list[tuple[str, ...]], int, Found]:
    """(the types, or pairs of types, that are asked for; how many there are; query id -> paragraphs)."""
    of: Callable[[Label], Collection[tuple[str, ...]]] = _types if name == "types" else _pairs
    counts: Counter[tuple[str, ...]] = Counter()
    single: Counter[tuple[str, ...]] = Counter()
    for label in labels(labelled):
        counts.update(of(label))
        if name != "types":
            single.update(_types(label))
    known = sorted(counts)
    most = settings.queries
    if name != "types":
        known = [
            pair for pair in known if _LEAST <= counts[pair] <= _MOST * min(single[(each,)] for each in pair)
        ]
        most = most or PAIRS
    kinds = drawn(known, most, settings.seed)
    judged: Found = {_query_id(kind): {} for kind in kinds}
    wanted = set(kinds)
    for label in labels(labelled):
        for kind in wanted.intersection(of(label)):
            judged[_query_id(kind)][label.doc_id] = 1
    return kinds, len(known), judged


def _types(label: Label) -> list[tuple[str, ...]]:
    return [(kind,) for kind in label.types if kind.lower() != _NO_TYPE]


def _pairs(label: Label) -> set[tuple[str, ...]]:
    """The pairs of types that one entity of the paragraph has."""
    of: dict[str, list[str]] = {}
    for kind, entities in label.tagged.items():
        if kind.lower() != _NO_TYPE:
            for entity in entities:
                of.setdefault(entity, []).append(kind)
    return {pair for kinds in of.values() for pair in combinations(sorted(kinds), 2)}


def _query_id(kind: Sequence[str]) -> str:
    return "_and_".join("_".join(each.split()) for each in kind)


def downsample(corpus: Path, judged: Found, negatives: int, seed: int) -> tuple[set[str] | None, set[str]]:
    """(ids to keep, or None where that is all; the judged ids that the corpus has).

    Kept are all judged paragraphs and `negatives` others, those of the smallest hashes of seed and id: what
    is kept does not depend on the order of the corpus, and more of them are a superset of fewer.
    """
    relevant = {name for found in judged.values() for name in found}
    held: set[str] = set()

    def others() -> Iterator[tuple[bytes, str]]:
        for document in paragraphs(corpus):
            if document.doc_id in relevant:
                held.add(document.doc_id)
            else:
                key = f"{seed} {document.doc_id}".encode("utf-8", "replace")
                yield hashlib.blake2b(key, digest_size=8).digest(), document.doc_id

    found = heapq.nsmallest(negatives + 1, others())
    if len(found) <= negatives:
        return None, held
    return held.union(name for _, name in found[:negatives]), held


def _held(judged: Found, held: set[str]) -> tuple[Found, int]:
    """The judgements of paragraphs that there are, and how many are gone."""
    kept = {query: {name: 1 for name in found if name in held} for query, found in judged.items()}
    lost = sum(map(len, judged.values())) - sum(map(len, kept.values()))
    return {query: found for query, found in kept.items() if found}, lost


def _of(corpus: Path, kept: set[str]) -> Callable[[], Iterable[Document]]:
    return lambda: (document for document in paragraphs(corpus) if document.doc_id in kept)


def _count(settings: SuiteSettings, name: str) -> int | None:
    text = settings.options.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(f"--set {name}={text}: give a whole number of 1 or more")
    return int(text)


def look(folder: str, split: str = "test", most: int = 10_000) -> dict[str, Any]:
    """What the files hold: types of each split, and "paragraphs", "mentions", "exact", "outside".

    Mentions are those of the split's first `most` labelled paragraphs; exact: the surface stands where the
    words say; outside: places beyond the paragraph's end.
    """
    found: dict[str, Any] = {"types": {}}
    listed: dict[str, set[str]] = {}
    for each in SPLITS:
        listed[each] = {kind for label in labels(labels_path(folder, each)) for kind in label.types}
        found["types"][each] = len(listed[each])
    found["types"]["in both"] = len(listed["train"] & listed["test"])
    wanted: Mapping[str, Label] = {
        label.doc_id: label for label in islice(labels(labels_path(folder, split)), most)
    }
    counts: Counter[str] = Counter(paragraphs=0, mentions=0, exact=0, outside=0)
    for document in paragraphs(corpus_path(folder)):
        if document.doc_id in wanted:
            placed, outside = mentions(wanted[document.doc_id], document.text)
            counts["paragraphs"] += 1
            counts["mentions"] += len(placed)
            counts["exact"] += sum(mention.exact for mention in placed)
            counts["outside"] += outside
            if counts["paragraphs"] == len(wanted):
                break
    return {**found, **counts, "without a paragraph": len(wanted) - counts["paragraphs"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.neretrieve", description=look.__doc__)
    parser.add_argument(
        "folder", metavar="FOLDER", help="that holds NERetrive_IR_corpus.jsonl and the labels"
    )
    parser.add_argument("--split", default="test", choices=SPLITS)
    parser.add_argument("--most", type=positive, default=10_000, metavar="N", help="paragraphs looked into")
    given = parser.parse_args(arguments)
    try:
        found = look(given.folder, given.split, given.most)
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
