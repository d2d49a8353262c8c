"""The verbs that write an index or verify it: index, add, delete, merge, check."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from retrieval.cli_common import (
    DIRECTORY_HELP,
    JSON_HELP,
    counting,
    note,
    note_compiling,
    open_index,
    refuse_file,
    size_in_bytes,
    valid_text,
    watching,
    write_json,
)
from retrieval.cli_interrupt import Stoppable, interrupts
from retrieval.cli_parser import Parser
from retrieval.errors import UserError
from retrieval.manifest import BLOCKS, DENSE

if TYPE_CHECKING:
    from retrieval.data.corpus import Corpus
    from retrieval.index.index import Index

_CORPUS_HELP = (
    "FILE.jsonl, .tsv, .trec or .ciff (each may end in .gz), a BEIR folder or one of JSON lines, an "
    "ir_datasets id, or - (stdin)"
)


def _representations(parser: Parser) -> None:
    parser.repeated(
        "--sparse",
        metavar="[NAME=]METHOD[:MODEL]",
        help="a sparse representation: bm25, tilde, tildev2, bprop (each may name a model), or weights of "
        "your own, unicoil=impacts:FILE (JSON vectors, a folder of them, or CIFF)",
    )
    parser.repeated(
        "--dense",
        metavar="[NAME=]MODEL",
        help="a dense representation: minilm=DIR, a GGUF file or a fetched hub id, settings in brackets: "
        "'DIR(precision=bfloat16, ann=hnsw)'; METHOD:MODEL where the files do not say (bert, m2bert, llm)",
    )


def _memory(parser: Parser) -> None:
    parser.option(
        "--memory",
        metavar="SIZE",
        default="1GB",
        help="what building may hold before it spills to disk (default: 1GB)",
    )


def index_options(parser: Parser) -> None:
    parser.positional("corpus", "CORPUS", _CORPUS_HELP)
    parser.option("--out", metavar="DIR", help="where the index goes", required=True)
    _representations(parser)
    parser.option(
        "--analyzer", metavar="A", help="english (default), lucene, words, a language, or wordpiece:FILE"
    )
    parser.flag("--append", "add to the index there; a known id is a bad line")
    parser.flag("--update", "add to the index there; a known id is replaced")
    parser.flag("--overwrite", "replace the index there, in one step")
    parser.flag("--skip-bad", "count bad lines and report them, instead of giving up at the first")
    parser.flag("--repair-encoding", "undo the double encoding of MS MARCO's collection.tsv")
    _memory(parser)
    parser.flag("--compact", "smaller lists, slower to search")
    parser.flag("--no-text", "do not store the documents' text")
    parser.flag("--strict-length", "refuse documents of which a model would not read all tokens")
    parser.option(
        "--pipeline", metavar="P", help="what a search does that names none: '0.55 * bm25 + 0.45 * minilm'"
    )


def index(given: Namespace) -> None:
    """Index a corpus. The last line of output is {"committed": N, "generation": G}, once that is durable."""
    modes = [f"--{mode}" for mode in ("append", "overwrite", "update") if getattr(given, mode)]
    if len(modes) > 1:
        raise UserError(f"{' and '.join(modes)} exclude one another; give one of them")
    budget = size_in_bytes(given.memory)
    from retrieval.data.corpus import open_corpus

    corpus = open_corpus(given.corpus, skip_bad=given.skip_bad, repair_encoding=given.repair_encoding)
    with interrupts() as stop, _opened(given, corpus, budget) as target:
        note_compiling()
        with _keeping(target), watching(corpus, stop) as count:
            documents: Any = Stoppable(corpus, stop)
            target.add(documents, update=bool(given.update), progress=count)
            stop.check()
        generation = target.commit()
        _report_skipped(corpus)
        _report_built(target)
        write_json({"committed": len(target), "generation": generation})


@contextmanager
def _keeping(target: Index) -> Iterator[None]:
    """Says, where a model reads the documents, what an interruption leaves."""
    try:
        yield
    except KeyboardInterrupt:
        settings = [facts.get("of", facts) for facts in target.representations.values()]
        if any("model" in facts or "identity" in facts for facts in settings):
            note("what was encoded is kept: the same command goes on from there")
        raise


def _opened(given: Namespace, corpus: Corpus, memory: int) -> Index:
    """The index to write to: the one that is there if it is to grow, else a new one."""
    from retrieval.artefact import Store
    from retrieval.index.index import Index

    path = given.out
    if (given.append or given.update) and Store.exists(path):
        target = Index.open(path, memory=memory)
        if target.representations:  # else it is what a killed first build left behind
            for option in ("sparse", "dense", "analyzer", "compact", "no_text", "pipeline", "strict_length"):
                if getattr(given, option):
                    raise UserError(
                        f"--{option.replace('_', '-')} was settled when {path!r} was made; leave it out, or "
                        "build anew with --overwrite"
                    )
            if not corpus.has_text:
                raise UserError(
                    f"{given.corpus!r} holds no text, which documents that come later must have; "
                    "make an index of its own of it"
                )
            return target
        target.close()
    sparse, dense = given.sparse or None, [valid_text(spec, "representation") for spec in given.dense]
    if not corpus.has_text:
        if dense:
            raise UserError(f"{given.corpus!r} holds no text, which --dense {dense[0]} would read")
        sparse = [_of_file(spec, given.corpus) for spec in given.sparse or ["impacts"]]
    return Index.create(
        path, sparse, dense, analyzer=given.analyzer or "english", overwrite=given.overwrite,
        compact=given.compact, store_text=corpus.has_text and not given.no_text,
        pipeline=given.pipeline, strict_length=given.strict_length, memory=memory,
    )  # fmt: skip


def _of_file(spec: str, path: str) -> str:
    """A representation of a corpus without text: one of its own lists. Raises UserError for any other."""
    from retrieval.index.method import parse_spec

    name, method, model, _ = parse_spec(spec)
    if method == "impacts" or (method == "bm25" and model):
        return f"{name}={method}:{model or path}"
    raise UserError(
        f"{path!r} holds no text, from which {spec!r} could be built; use --sparse impacts for its weights, "
        f"or --sparse bm25:{path} if they are term frequencies"
    )


def _report_skipped(corpus: Corpus) -> None:
    if corpus.skipped_count:
        more = "" if corpus.skipped_count <= len(corpus.skipped) else f"; the first {len(corpus.skipped)}"
        note(f"skipped {corpus.skipped_count:,} bad line{'s'[: corpus.skipped_count > 1]}{more}:")
        for bad in corpus.skipped:
            note(f"  {bad}")


def _report_built(target: Index, names: Collection[str] | None = None) -> None:
    """What people should know of representations that a model made: tokens left out, recall reached."""
    from retrieval.index.record_builder import left_out

    for name, settings in target.representations.items():
        if names is not None and name not in names:
            continue
        if "splitter" in settings or "model" in settings or "identity" in settings:
            sentence = left_out(name, target.encoding(name))
            if sentence:
                note(sentence)
        for line in dict.fromkeys(map(structure_line, target.structures(name))):
            note(f"{name}: {line}")


def add_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    _representations(parser)
    _memory(parser)


def add(given: Namespace) -> None:
    """Build further representations of an index from its stored text."""
    wanted = [(spec, False) for spec in given.sparse] + [(spec, True) for spec in given.dense]
    if not wanted:
        raise UserError(
            "nothing to add; give --sparse [NAME=]METHOD[:MODEL] or --dense [NAME=]MODEL (documents: "
            "retrieve index --append)"
        )
    with interrupts() as stop, open_index(given.directory, given.memory) as target:
        note_compiling()
        before = set(target.representations)
        for spec, dense in wanted:
            stop.check()
            valid_text(spec, "representation")
            with _keeping(target), counting(f"building {spec.partition('=')[0]}", len(target), stop) as count:
                target.add_representation(spec, dense=dense, progress=count)
        _report_built(target, set(target.representations) - before)
        write_json({"committed": len(target), "generation": target.generation})


def delete_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.positional("ids", "ID", "documents to delete", "*")
    parser.option("--ids", metavar="FILE", help="a file with one id a line; - for stdin", into="ids_file")


def delete(given: Namespace) -> None:
    """Delete documents by id; an unknown id is an error, and nothing is deleted then."""
    wanted = [valid_text(doc_id, "id") for doc_id in given.ids]
    if given.ids_file is not None:
        wanted += _read_ids(given.ids_file)
    if not wanted:
        raise UserError("no ids given; name them, or give a file with one a line: --ids FILE")
    with open_index(given.directory) as target:
        deleted = target.delete(wanted)
        generation = target.commit()
        write_json({"committed": len(target), "generation": generation, "deleted": deleted})


def _read_ids(path: str) -> list[str]:
    from retrieval.data.lines import Source, text_lines

    with Source(path) as file:
        return [line.strip() for _, line in text_lines(file) if line.strip()]


def merge_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.flag("--reorder", "put similar documents together: smaller and faster lists; takes longer")
    parser.flag("--compact", "smaller lists, slower to search")
    parser.flag("--no-compact", "the opposite of --compact (default: as the lists are)")
    _memory(parser)


def merge(given: Namespace) -> None:
    """Make one segment of all, without the deleted documents; results stay the same."""
    if given.compact and given.no_compact:
        raise UserError("--compact and --no-compact exclude one another; give one of them")
    compact = True if given.compact else False if given.no_compact else None
    with interrupts() as stop, open_index(given.directory, given.memory) as target:
        note_compiling()
        with counting("merging", len(target), stop) as count:
            generation = target.merge(reorder=given.reorder, compact=compact, progress=count)
        write_json({"committed": len(target), "generation": generation})


def check_options(parser: Parser) -> None:
    parser.positional("directory", "DIR", DIRECTORY_HELP)
    parser.flag("--json", JSON_HELP)
    parser.flag("--rollback", "go back to the former commit (a second rollback undoes it)")


def check(given: Namespace) -> None:
    """Verify every byte of an index."""
    refuse_file(given.directory)
    from retrieval import check as checks

    facts: dict[str, Any] = (checks.rollback if given.rollback else checks.check)(given.directory)
    if any(settings.get("kind") in (DENSE, BLOCKS) for settings in facts["representations"].values()):
        from retrieval.index.vector_part import check_vectors

        check_vectors(given.directory)
    if given.json:
        write_json(facts)
        return
    state = "rolled back" if given.rollback else "ok"
    print(f"{state}: generation {facts['generation']}, {facts['docs']:,} documents")
    print(f"ids sha256 {facts['ids_sha256']}")
    for name, settings in facts["representations"].items():
        print(f"representation {name}: {_summary(settings)}")
        for structure in facts.get("structures", {}).get(name, []):
            print(f"  {structure_line(structure)}")


def _summary(settings: dict[str, Any]) -> str:
    from retrieval.render import printable

    if settings.get("kind") == BLOCKS and isinstance(settings.get("of"), dict):
        cut = settings.get("splitter")
        how = ", ".join(f"{key} {value}" for key, value in cut.items()) if isinstance(cut, dict) else "?"
        return printable(f"{_summary(settings['of'])}; {how}")
    parts = [str(settings.get("kind", "?"))]
    analyzer, identity, runtime = (settings.get(key) for key in ("analyzer", "identity", "runtime"))
    if isinstance(analyzer, dict) and "name" in analyzer:
        parts.append(f"analyzer {analyzer['name']}")
    if isinstance(identity, dict):
        model = identity.get("model")
        named = model.get("name", "?") if isinstance(model, dict) else "?"
        parts.append(f"{identity.get('encoder')} {named}, {identity.get('dim')} numbers")
        parts += [f"{key} {identity[key]}" for key in ("pooling", "length", "pad") if key in identity]
    if isinstance(runtime, dict):
        parts.append(" ".join(str(runtime[key]) for key in ("backend", "precision") if key in runtime))
        gate = runtime.get("gate")
        if isinstance(gate, dict) and isinstance(gate.get("min"), float):
            parts.append(f"cosine to float32 {gate['min']:.5f} or more")
    parts += [key for key, value in settings.items() if value is True]
    return printable(", ".join(parts))


def structure_line(facts: dict[str, Any]) -> str:
    """What was built above the vectors of a segment, and the recall that it reached then."""
    from retrieval.render import printable

    ladder = facts.get("ladder")
    steps = [step for step in ladder if isinstance(step, dict)] if isinstance(ladder, list) else []
    reached = ", ".join(f"{step.get('recall10')} at {_effort(step.get('effort'))}" for step in steps)
    return printable(f"{facts.get('kind')}, recall of the best 10 when it was built: {reached}")


def _effort(effort: Any) -> str:
    return " ".join(f"{key} {value}" for key, value in effort.items()) if isinstance(effort, dict) else "?"
