"""Long documents with one relevant passage, somewhere: python -m retrieval.bench.far_relevant SOURCE OUT.

Of a collection of passages (a BEIR folder) each relevant passage of the chosen queries becomes a long
document: the passage among distractors, at a depth. For every depth there is a folder with the same queries,
the same documents, the same distractors in the same order; only the place of the passage differs, so that any
two depths compare query by query. Distractors are relevant to none of the chosen queries, nor equal in text
to a passage that is. They are dealt from a shuffled pack, and a new pack is opened when it is used up; never
twice in one document. Equal settings and source give equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.bench.arguments import positive
from retrieval.bench.far_plan import DEPTHS, MISSING, Composition, Depth, compose, counter, places, survey
from retrieval.data.beir import corpus_file, split_source
from retrieval.data.corpus import open_corpus
from retrieval.data.jsonl import write_corpus
from retrieval.data.output import atomic
from retrieval.data.qrels import read_qrels, write_qrels
from retrieval.data.queries import read_queries, write_queries
from retrieval.diskio import disk_errors
from retrieval.errors import RetrievalError, UserError
from retrieval.types import Document, Qrels, Query

SETTINGS = "far-relevant.json"  # written last: a folder that has it is whole
BETWEEN = "\n\n"  # of two passages
LENGTH, QUERIES = 4096, 200


def judged(source: str) -> tuple[list[Query], dict[str, dict[str, int]]]:
    """(the queries that have a relevant passage, passages and grades of each). Raises UserError for none."""
    relevant = {
        name: {passage: grade for passage, grade in grades.items() if grade > 0}
        for name, grades in read_qrels(source).items()
    }
    queries = [query for query in read_queries(source) if relevant.get(query.query_id)]
    if not queries:
        raise UserError(f"no query of {source} has a relevant passage; give judgements with grades above 0")
    return queries, {query.query_id: relevant[query.query_id] for query in queries}


def draw(queries: Sequence[Query], most: int | None, seed: int) -> list[Query]:
    """At most so many of the queries, drawn by the seed, in their order."""
    if most is None or most >= len(queries):
        return list(queries)
    drawn = np.random.default_rng(seed).choice(len(queries), most, replace=False)
    return [queries[at] for at in sorted(drawn.tolist())]


def texts_of(folder: str, made: Sequence[Composition]) -> dict[int, tuple[str, str]]:
    """Ordinal -> (id, text) of all passages that documents hold."""
    used = {at for document in made for at in (document.relevant, *document.distractors)}
    corpus = enumerate(open_corpus(folder))
    return {at: (document.doc_id, document.full_text()) for at, document in corpus if at in used}


def documents_of(
    made: Sequence[Composition],
    places: Sequence[int],
    passages: Mapping[int, tuple[str, str]],
    tokens: NDArray[np.int64],
) -> Iterator[Document]:
    """The documents, with `tokens` and `passages` (ids in order) in the metadata.

    Where one is relevant also `relevant` (its id), `start` and `end` (its characters in the text, the end
    excluded) and `before` (the tokens in front of it).
    """
    for document, name, place in zip(made, doc_ids(len(made)), places, strict=True):
        order = list(document.distractors)
        if document.relevant != MISSING:
            order.insert(place, document.relevant)
        parts = [passages[at][1] for at in order]
        about: dict[str, Any] = {
            "tokens": int(tokens[order].sum()),
            "passages": [passages[at][0] for at in order],
        }
        if document.relevant != MISSING:
            start = sum(map(len, parts[:place])) + place * len(BETWEEN)
            about |= {
                "relevant": passages[document.relevant][0],
                "start": start,
                "end": start + len(parts[place]),
                "before": int(tokens[order[:place]].sum()),
            }
        yield Document(name, BETWEEN.join(parts), metadata=about)


def doc_ids(count: int) -> list[str]:
    """far-001 and so on, of one width."""
    return [f"far-{at:0{len(str(count))}}" for at in range(1, count + 1)]


def make(
    source: str,
    out: str,
    depths: Sequence[str] = DEPTHS,
    *,
    length: int = LENGTH,
    documents: int | None = None,
    queries: int | None = QUERIES,
    longest: int | None = None,
    seed: int = 0,
    vocabulary: str = "",
    overwrite: bool = False,
) -> list[Path]:
    """Writes OUT/DEPTH for each depth, and returns these folders.

    source      a BEIR folder of passages, PATH or PATH@SPLIT
    length      tokens that a document has at most: words, or word pieces of the model directory `vocabulary`
    documents   how many; None: one for each relevant passage
    queries     how many at most, drawn by the seed; None: all
    longest     draw only from queries whose relevant passages have at most so many tokens

    Memory: the texts of the passages that are used, and 16 bytes for each of the corpus. Raises UserError for
    a depth or a length that cannot be, a folder that is there already, and a collection that lacks something.
    """
    wanted = [Depth.parse(depth) for depth in dict.fromkeys(depths)]
    folder, split = split_source(source)
    targets = [Path(out) / depth.name for depth in wanted]
    for target in targets:
        if target.exists() and not overwrite:
            raise UserError(f"{str(target)!r} is there already; give --overwrite, or another folder")
    asked, relevant = judged(source)
    count, unit = counter(vocabulary)
    found = survey(folder, {name for grades in relevant.values() for name in grades}, count)
    fitting = [
        query
        for query in asked
        if longest is None
        or all(found.tokens[found.placed[name]] <= longest for name in relevant[query.query_id])
    ]
    if not fitting:
        raise UserError(f"no query has only relevant passages of at most {longest} {unit}; raise --longest")
    chosen = draw(fitting, queries, seed)
    relevant = {query.query_id: relevant[query.query_id] for query in chosen}
    wanted_ids = {name for grades in relevant.values() for name in grades}
    found = replace(found, placed={name: at for name, at in found.placed.items() if name in wanted_ids})
    made = compose(found, length, documents, seed, unit)
    placed = [places(found, made, depth, unit) for depth in wanted]
    passages = texts_of(folder, made)
    holds = {document.relevant: name for document, name in zip(made, doc_ids(len(made)), strict=True)}
    qrels = {
        query: {holds[found.placed[passage]]: grade for passage, grade in grades.items()}
        for query, grades in relevant.items()
    }
    used = np.bincount([at for document in made for at in document.distractors])
    about = {
        "source": Path(folder).resolve().name + (f"@{split}" if split else ""),
        "corpus_sha256": _sha256(corpus_file(folder)),
        "length": length, "unit": unit, "seed": seed, "queries": len(chosen), "longest": longest,
        "documents": len(made),
        "relevant_documents": len(found.placed), "distractors": int(np.count_nonzero(used)),
        "most_uses_of_a_distractor": int(used.max()),
    }  # fmt: skip
    for depth, target, where in zip(wanted, targets, placed, strict=True):
        with disk_errors("write to", out, placing=True):
            (target / "qrels").mkdir(parents=True, exist_ok=True)
            (target / SETTINGS).unlink(missing_ok=True)
        write_corpus(documents_of(made, where, passages, found.tokens), target / "corpus.jsonl.gz")
        write_queries(chosen, target / "queries.jsonl.gz")
        write_qrels(Qrels(qrels), target / "qrels" / "test.tsv", "beir")
        _put(target / "README.md", readme(about, depth.name, Path(folder)))
        _put(target / SETTINGS, json.dumps({"depth": depth.name, **about}, indent=1) + "\n")
    return targets


def readme(about: Mapping[str, Any], depth: str, folder: Path) -> str:
    """What a folder says of itself, with what its source says of its licence."""
    theirs = folder / "README.md"
    quoted = theirs.read_text(encoding="utf-8", errors="replace").strip() if theirs.is_file() else ""
    facts = "\n".join(f"- {name}: {value}" for name, value in {"depth": depth, **about}.items())
    end = f"; its README:\n\n{_indented(quoted)}" if quoted else ", which has no README."
    return (
        f"# {about['source']}, the relevant passage {depth}\n"
        "Made by `python -m retrieval.bench.far_relevant`: each document is one relevant passage among "
        "others, relevant to none of these queries. Those are dealt from a shuffled pack, and a new pack is "
        "opened when it is used up. Folders of one run differ in the place of the passage alone; its span is "
        f"in the metadata.\n\n{facts}\n\nThe texts, and so their licence, are the source's{end}\n"
    )


def _indented(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _put(path: Path, text: str) -> None:
    with atomic(path) as write:
        write(text.encode())


def _sha256(path: Path) -> str:
    with disk_errors("read", path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; exits with the error's code where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.bench.far_relevant", description=__doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="BEIR folder of passages, PATH or PATH@SPLIT")
    add("out", metavar="OUT", help="folder that gets a folder for each depth")
    add(
        "--depth", action="append", metavar="D", help="first, middle, last (default: these), beyond-N; repeat"
    )
    add("--length", type=positive, default=LENGTH, metavar="N", help="tokens of a document, at most")
    add("--documents", type=positive, metavar="N", help="default: one for each relevant passage")
    add("--queries", type=positive, default=QUERIES, metavar="N", help="at most so many, drawn by the seed")
    add("--longest", type=positive, metavar="N", help="only queries whose relevant passages are no longer")
    add("--vocabulary", default="", metavar="DIR", help="count this model's word pieces instead of words")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true")
    given = parser.parse_args(arguments)
    try:
        targets = make(
            given.source, given.out, given.depth or DEPTHS, length=given.length, documents=given.documents,
            queries=given.queries, longest=given.longest, seed=given.seed, vocabulary=given.vocabulary,
            overwrite=given.overwrite,
        )  # fmt: skip
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(error.exit_code) from None
    sys.stdout.write("".join(f"{target}\n" for target in targets))


if __name__ == "__main__":
    main()
