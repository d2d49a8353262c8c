"""The verb demo: index the packaged sample, search it, measure it, and say how to do the same by hand."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from contextlib import ExitStack
from time import perf_counter

from retrieval.cli_common import note, watching
from retrieval.cli_parser import Parser

_QUERIES = ("river in England", "composer of operas", "volcano in Japan")


def demo_options(parser: Parser) -> None:
    parser.option("--out", metavar="DIR", help="keep the index and the run there")


def demo(given: Namespace) -> None:
    """Index, search and measure the packaged sample: WordNet's named entities, searched by their type."""
    from retrieval.bench.evaluate import evaluate
    from retrieval.cli_interrupt import interrupts
    from retrieval.cli_search import show
    from retrieval.data.corpus import open_corpus
    from retrieval.data.qrels import read_qrels
    from retrieval.data.queries import read_queries
    from retrieval.data.runs import write_run
    from retrieval.data.wordnet import sample_path
    from retrieval.index.index import Index

    sample = sample_path()
    with ExitStack() as stack:
        if given.out is None:
            import tempfile

            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="retrieve-demo-"))
        else:
            os.makedirs(given.out, exist_ok=True)
            folder = given.out
        path, run_path = os.path.join(folder, "sample.index"), os.path.join(folder, "bm25.trec")
        note("building the index (the very first time, compiling takes some seconds more)")
        start = perf_counter()
        corpus = open_corpus(sample)
        index = stack.enter_context(Index.create(path, overwrite=True))
        with interrupts() as stop:
            with watching(corpus, stop) as count:
                index.add(corpus, progress=count)
            stop.check()
            index.commit()
        print(f"indexed {len(index):,} documents in {perf_counter() - start:.1f} s")
        for query in _QUERIES:
            hits = index.search(query, k=3)
            print(f"\n> {query}")
            show(index, query, hits, index.documents([hit.doc_id for hit in hits]))
        queries, judgements = read_queries(sample), read_qrels(sample)
        start = perf_counter()
        run = (index.bm25() % 1000)(queries)
        spent = perf_counter() - start
        write_run(run, run_path)
        mean, low, high = evaluate(run, judgements, ["nDCG@10"]).interval("nDCG@10")
        print(
            f"\nnDCG@10 {mean:.4f} (95 % interval {low:.4f} to {high:.4f}) over {len(queries)} queries, "
            f"searched in {spent:.2f} s"
        )
        print("\nthe same by hand:")
        for line in _by_hand(str(sample)):
            print(f"  {line}")
        sys.stdout.flush()


def _by_hand(sample: str) -> list[str]:
    import shlex

    folder = shlex.quote(sample)
    return [
        f"retrieve index {folder} --out sample.index",
        f'retrieve search sample.index "{_QUERIES[0]}"',
        f"retrieve search sample.index --queries {folder}@test --run bm25.trec",
        f"retrieve eval bm25.trec {folder}@test -m nDCG@10",
    ]
