"""The verbs for models: what an encoder is, a hub id fetched, a published checkpoint converted."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from retrieval.cli_common import JSON_HELP, note, valid_text, write_json
from retrieval.cli_parser import Parser, whole
from retrieval.errors import UserError


def show_model_options(parser: Parser) -> None:
    parser.positional(
        "model",
        "[METHOD:]MODEL",
        "as --dense takes it: a directory, GGUF file or hub id, with (settings); "
        "or cross:DIR, a cross-encoder (cross: the one that comes with the package)",
    )
    parser.flag("--json", JSON_HELP)


def show_model(given: Namespace) -> None:
    """What an encoder is: all that decides about its vectors, how they are computed, and the test of that."""
    from retrieval.index.dense_spec import open_encoder, parse_dense

    model = valid_text(given.model, "model")
    kind, _, named = model.partition(":")
    if kind == "cross":
        facts = _cross(named)
    else:
        spec = parse_dense(f"m={model}")
        encoder = open_encoder(spec.model, spec.method, spec.params)
        facts = {"identity": dict(encoder.identity), "runtime": dict(encoder.runtime)}
    if given.json:
        write_json(facts)
        return
    from retrieval.render import columns, printable

    rows = [(key, _shown(value)) for part in facts.values() for key, value in part.items()]
    print("\n".join(printable(line) for line in columns(rows)))


def _cross(model: str) -> dict[str, dict[str, Any]]:
    """The same of a cross-encoder: its files, and how it reads pairs."""
    from retrieval.rerank.cross import Cross

    stage = Cross(model)
    return {"identity": {"model": dict(stage.identity)}, "runtime": dict(stage.runtime)}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return value if len(value) != 64 else value[:12]  # a hash
    return str(value)


def save_model_options(parser: Parser) -> None:
    parser.positional("model", "[METHOD:]MODEL", "as --dense takes it, with (settings), which are kept")
    parser.positional("out", "DIR", "where the model directory goes")


def save_model(given: Namespace) -> None:
    """Write an encoder as a model directory: a GGUF file unpacked once, an adapter merged, settings kept."""
    from retrieval.index.dense_spec import open_encoder, parse_dense

    spec = parse_dense(f"m={valid_text(given.model, 'model')}")
    encoder: Any = open_encoder(spec.model, spec.method, spec.params)
    if not hasattr(encoder, "save"):
        raise UserError(f"{given.model!r}: a graph of another library is not saved; leave backend= out")
    encoder.save(valid_text(given.out, "path"))
    write_json({"model": given.out, "dim": encoder.dim})


def fetch_model_options(parser: Parser) -> None:
    parser.positional("model", "OWNER/NAME[@REVISION]", "a model of the hub")


def fetch_model(given: Namespace) -> None:
    """Fetch a model of the hub into its cache: safetensors, GGUF, JSON and text, nothing that runs code.

    The only verb that connects to anything. --dense then takes the same name.
    """
    from retrieval.index.hub import fetch

    note("fetching from the hub")
    write_json({"model": given.model, "directory": fetch(valid_text(given.model, "model"))})


def convert_model_options(parser: Parser) -> None:
    parser.positional("source", "CHECKPOINT", "a directory, or a .bin, .pt or .safetensors file")
    parser.positional("out", "DIR", "where the model directory goes")
    parser.option(
        "--length", metavar="N", read=whole, help="grow its tables to N tokens, as a start to train"
    )
    parser.option("--tokenizer", metavar="DIR", help="that of another directory, where it has none")


def convert_model(given: Namespace) -> None:
    """Convert a published M2-BERT checkpoint, once, to a directory that --dense and train take.

    Pickled weights are read as weights only, which runs no code.
    """
    from retrieval.index.learned import need_torch

    need_torch("converting a checkpoint")
    from retrieval.index.m2bert_files import convert

    write_json(
        convert(
            valid_text(given.source, "path"), valid_text(given.out, "path"), length=given.length,
            tokenizer=given.tokenizer,
        )
    )  # fmt: skip
