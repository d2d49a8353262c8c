"""From files or a corpus to prepared examples: queries made, BM25 hard negatives found, a teacher asked."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import orjson

from retrieval.data.corpus import open_corpus
from retrieval.data.output import atomic
from retrieval.data.training import Example, read_examples
from retrieval.encoder import Kind
from retrieval.errors import UserError
from retrieval.index.examples import EXAMPLES, FACTS, FOLDER, PASSAGES, Lines, Prepared, Relevant
from retrieval.index.synthetic import KINDS, Recipe, check_recipe, count_words, make_queries
from retrieval.index.train_state import claim, locked
from retrieval.index.trainer import TaskOptions
from retrieval.types import Document

SETTINGS: dict[str, Any] = {
    "words": 100,  # of a passage of a corpus, at most; 0: whole documents. Passages of files are never cut
    "queries": 2,  # made from each passage
    "remove": 0.8,  # share of the queries that are taken out of their passage
    "title": 1.0, "sentence": 1.0, "span": 1.0, "keywords": 1.0,  # how often each kind is made
    "documents": 0,  # of a corpus, drawn at random; 0: all
    "examples": 0,  # of a file, the first so many; 0: all
    "negatives": 7,  # hard negatives of each query
    "depth": 50,  # BM25's passages that they are drawn from
    "mined": 0,  # queries of other documents that a passage gets too, where the teacher finds them close ...
    "mined_least": 0.55,  # ... by at least this cosine
}  # fmt: skip
"""Settings of preparation, with their defaults; a task joins them to its own."""

_LEAST = {"documents": 0, "examples": 0, "negatives": 0, "depth": 1, "mined": 0}
_NOTHING = "no example could be made from what was given; are the texts very short?"
_PAIRS = "pairs.jsonl"
_COUNTED = 100_000  # documents whose words are counted for the keywords
_CHUNK = 2048  # texts given to the teacher together: what a kill may cost
_SEARCHED = 4000


def prepare(options: TaskOptions, settings: Mapping[str, Any], *, negatives: bool) -> Prepared:
    """The examples of options.data and options.corpus, prepared below options.out, or found there.

    settings   those of SETTINGS, others are ignored
    negatives  find hard negatives for examples that have none

    Raises UserError where nothing is given, or the directory holds examples made in another way; BadLine;
    Locked where another process prepares or trains there.
    """
    if not options.data and not options.corpus:
        raise UserError(
            "nothing to train on; give --data FILE of examples, or --corpus CORPUS to make them from"
        )
    for name, least in _LEAST.items():
        if settings[name] < least:
            raise UserError(f"--set {name}={settings[name]}: give a number of {least} or more")
    if settings["mined"] and not options.teacher:
        raise UserError("mined queries are what a teacher finds; give --teacher DIR, or --set mined=0")
    wanted = int(settings["negatives"]) if negatives else 0
    used = {name: settings[name] for name in SETTINGS}
    facts = {
        "data": list(options.data), "corpus": list(options.corpus), "teacher": options.teacher,
        "seed": options.seed, **used, "negatives": wanted,
    }  # fmt: skip
    folder = os.path.join(options.out, FOLDER)
    with locked(options.out):  # two that append the teacher's vectors to one file would mix them up
        _fill(options, used, facts, wanted, folder)
    found = Prepared(folder)
    if not len(found):
        raise UserError(_NOTHING)
    return found


def _fill(
    options: TaskOptions, used: Mapping[str, Any], facts: Mapping[str, Any], wanted: int, folder: str
) -> None:
    """Makes what the folder does not hold yet."""
    if not os.path.exists(os.path.join(folder, _PAIRS)):  # an attempt that failed binds nobody
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "source.json"))
    claim(folder, "source.json", facts, "set of examples")
    if not os.path.exists(os.path.join(folder, FACTS)):
        _write_pairs(options, used, folder)
        if not os.path.getsize(os.path.join(folder, _PAIRS)):
            os.unlink(os.path.join(folder, _PAIRS))  # so that it binds nobody
            raise UserError(_NOTHING)
        if wanted:
            _write_negatives(options, used, wanted, folder)
        else:
            _copy(os.path.join(folder, _PAIRS), os.path.join(folder, EXAMPLES))
        if options.teacher:
            _ask_teacher(options, folder)
        if used["mined"]:
            _mine(options, used, folder)
        with atomic(os.path.join(folder, FACTS)) as write:
            write(orjson.dumps(facts))


# --- pairs --------------------------------------------------------------------------------------------------


class _Writer:
    """Numbers passages, each text once, and writes them and the examples."""

    def __init__(self, passages: Callable[[bytes], object], pairs: Callable[[bytes], object]) -> None:
        self._write_passage, self._write_pair = passages, pairs
        self._numbers: dict[bytes, int] = {}
        self.passages = 0
        self.origins = 0  # documents of corpora so far

    def passage(self, text: str, origin: int | None = None, made: bool = False) -> int:
        """The number of a text. origin: of which document (None: of itself); made: no hard negative."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == self.passages:
            self.passages += 1
            if origin is None:
                origin = self.origins + number
            record: dict[str, Any] = {"text": text, "origin": origin}
            if made:
                record["made"] = True
            self._write_passage(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        return number

    def pair(self, query: str, positive: int, negatives: list[int], scores: list[float]) -> None:
        record: dict[str, Any] = {"query": query, "positive": positive}
        if negatives:
            record["negatives"] = negatives
        if scores:
            record["scores"] = scores
        self._write_pair(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))


def _write_pairs(options: TaskOptions, settings: Mapping[str, Any], folder: str) -> None:
    pairs, passages = os.path.join(folder, _PAIRS), os.path.join(folder, PASSAGES)
    if os.path.exists(pairs):
        return
    with atomic(pairs) as write_pair, atomic(passages) as write_passage:
        writer = _Writer(write_passage, write_pair)
        for source in options.corpus:
            writer.origins = _add_corpus(writer, options, settings, source, writer.origins)
        # After the corpora, so that a passage of theirs keeps its document.
        for source in options.data:
            with options.counting(f"reading {os.path.basename(source)}", None, "examples") as count:
                found: Iterator[Example] = read_examples(source)
                for example in islice(found, int(settings["examples"]) or None):
                    _add_example(writer, example)
                    options.stop()
                    count(1)


def _add_example(writer: _Writer, example: Example) -> None:
    positive = writer.passage(example.positive)
    negatives = [writer.passage(text) for text in example.negatives]
    writer.pair(example.query, positive, negatives, list(example.scores))


def _add_corpus(
    writer: _Writer, options: TaskOptions, settings: Mapping[str, Any], source: str, origin: int
) -> int:
    """Makes the examples of one corpus; its documents count as origins from `origin` on."""
    recipe = Recipe(
        settings["words"], settings["queries"], settings["remove"], {kind: settings[kind] for kind in KINDS}
    )
    check_recipe(recipe)
    name = os.path.basename(os.path.normpath(source))
    with options.counting(f"counting the words of {name}", None, "documents") as count:
        total = 0

        def first() -> Iterator[Document]:
            nonlocal total
            for document in open_corpus(source):
                total += 1
                if not total % 1000:
                    options.stop()
                    count(1000)
                if total <= _COUNTED:
                    yield document

        words: dict[str, int] = dict(count_words(first()))
        words[""] = min(total, _COUNTED)
    share = int(settings["documents"]) / total if settings["documents"] else 1.0
    with options.counting(f"making queries from {name}", total, "documents") as count:
        for number, document in enumerate(open_corpus(source), origin):
            if number % 200 == 199:
                options.stop()
                count(200)
            if share < 1.0 and _fraction(options.seed, number) >= share:
                continue
            _add_document(writer, document, number, recipe, words, options.seed)
    return origin + total


def _add_document(
    writer: _Writer, document: Document, number: int, recipe: Recipe, words: Mapping[str, int], seed: int
) -> None:
    for made in make_queries(document, number, recipe, words, seed):
        before = writer.passages
        if writer.passage(made.passage, number) < before:
            continue  # a licence, a footer: the same text in many documents answers no query
        for query, positive in made.queries:
            writer.pair(query, writer.passage(positive, number, positive != made.passage), [], [])


def _fraction(seed: int, number: int) -> float:
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as file, atomic(target) as write:
        while block := file.read(1 << 20):
            write(block)


# --- negatives ----------------------------------------------------------------------------------------------


def _write_negatives(options: TaskOptions, settings: Mapping[str, Any], wanted: int, folder: str) -> None:
    """examples.jsonl: the pairs, with hard negatives where they had none."""
    from retrieval.index.negatives import HardNegatives, choose

    pairs, examples = os.path.join(folder, _PAIRS), os.path.join(folder, EXAMPLES)
    if os.path.exists(examples):
        return
    with open(pairs, "rb") as file:
        lacking = sum(b'"negatives":' not in line for line in file)  # inside a text it would be escaped
    if not lacking:
        _copy(pairs, examples)
        return
    passages = Lines(os.path.join(folder, PASSAGES))
    origin = np.fromiter((record["origin"] for record in passages), np.int32)
    texts = ("" if record.get("made") else record["text"] for record in passages)
    with options.counting("indexing passages", len(passages), "passages") as count:

        def watched(done: int) -> None:
            options.stop()
            count(done)

        pool = HardNegatives(folder, texts, watched)
    with open(pairs, "rb") as file:
        positive = np.fromiter((orjson.loads(line)["positive"] for line in file), np.int32)
    with open(pairs, "rb") as file:
        relevant = Relevant.of((orjson.loads(line)["query"] for line in file), positive)
    asking = options.counting("finding hard negatives", lacking, "queries")
    with pool, atomic(examples) as write, open(pairs, "rb") as file, asking as count:
        first = 0
        while lines := list(islice(file, _SEARCHED)):
            options.stop()
            records = [orjson.loads(line) for line in lines]
            without = [at for at, record in enumerate(records) if "negatives" not in record]
            found = pool.search([records[at]["query"] for at in without], int(settings["depth"]), _threads())
            excluded = [relevant[first + at].tolist() for at in without]
            drawn = choose(found, excluded, origin, wanted, options.seed, first)
            for at, numbers in zip(without, drawn, strict=True):
                records[at]["negatives"] = numbers.tolist()
            first += len(records)
            write(b"".join(orjson.dumps(r, option=orjson.OPT_APPEND_NEWLINE) for r in records))
            count(len(without))
    passages.close()


def _threads() -> int:
    import torch

    return torch.get_num_threads()


# --- the teacher --------------------------------------------------------------------------------------------


def _ask_teacher(options: TaskOptions, folder: str) -> None:
    """The teacher's vectors of all queries and passages; goes on where a killed run stopped."""
    import torch

    from retrieval.index.processor import bfloat16_pays
    from retrieval.index.teacher import Teacher

    assert options.teacher is not None  # for the type checker
    on_gpu = torch.cuda.is_available()
    bf16 = on_gpu or bfloat16_pays()
    teacher = Teacher(options.teacher, bf16=bf16, device="cuda" if on_gpu else "cpu")
    for name, file, field in (
        ("queries", EXAMPLES, "query"),
        ("passages", PASSAGES, "text"),
    ):
        lines = Lines(os.path.join(folder, file))
        path = os.path.join(folder, f"{name}.f16")
        row = 2 * teacher.size
        done = os.path.getsize(path) // row if os.path.exists(path) else 0
        done = min(done - done % _CHUNK, len(lines)) if done < len(lines) else len(lines)
        kind: Kind = "query" if name == "queries" else "passage"
        with open(path, "ab") as out, options.counting(f"teacher reads {name}", len(lines), name) as count:
            out.truncate(done * row)
            count(done)
            for start in range(done, len(lines), _CHUNK):
                options.stop()
                end = min(start + _CHUNK, len(lines))
                vectors = teacher.encode([lines[at][field] for at in range(start, end)], kind)
                out.write(vectors.astype(np.float16).tobytes())
                out.flush()
                count(end - start)
        lines.close()


def _mine(options: TaskOptions, settings: Mapping[str, Any], folder: str) -> None:
    """mined.jsonl, for passages as they stand in the corpus."""
    from retrieval.index.mining import MINED, mine

    if os.path.exists(os.path.join(folder, MINED)):
        return
    found = Prepared(folder)
    queries, passages = found.vectors()
    made = np.fromiter((bool(record.get("made")) for record in found.passages), bool)
    with options.counting("mining queries", int((~made).sum()), "passages") as count:

        def watched(done: int) -> None:
            options.stop()
            count(done)

        pairs = mine(
            os.path.join(folder, MINED), queries, passages, found.positive, found.origin, ~made,
            int(settings["mined"]), settings["mined_least"], watched,
        )  # fmt: skip
    options.say(f"mined {pairs:,} pairs")
