"""What an id, a text and a metadata value must be, whatever the form that they are read from."""

from __future__ import annotations

import re
from typing import Any

from retrieval.types import Document

_BAD_IN_ID = re.compile(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_DEPTH = 32  # of nested metadata: far below what the JSON writers of the store refuse


def shown(value: object) -> str:
    """A value for a message: its repr, cut to a length that fits a line."""
    text = repr(value[:80] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def id_problem(value: object, what: str = "id") -> str | None:
    """What is wrong with an id, or None: it is a text without white space and control characters."""
    if value is None:
        return f"no {what}"
    if not isinstance(value, str):
        return f"the {what} {shown(value)} is {_kind(value)}, not a string"
    if not value:
        return f"the {what} is empty"
    if value.isprintable() and " " not in value:
        return None
    found = _BAD_IN_ID.search(value)
    if found is None:
        return None
    if found[0].isspace():
        return f"the {what} {shown(value)} holds white space"
    kind = "a surrogate" if found[0] >= "\ud800" else "a control character"
    return f"the {what} {shown(value)} holds {kind}"


def text_problem(value: object, what: str) -> str | None:
    """What is wrong with a text, or None: it is a string that UTF-8 can write."""
    if not isinstance(value, str):
        return f"the {what} is {_kind(value)}, not a string"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"the {what} holds a surrogate"
    return None


def metadata_problem(metadata: dict[str, Any]) -> str | None:
    """What is wrong with metadata, or None: JSON values that are not nested beyond reason."""
    for name, value in metadata.items():
        if isinstance(value, dict | list) and _too_deep(value, _DEPTH):
            return f"the field {shown(name)} is nested more than {_DEPTH} levels deep"
    return None


def make_document(
    doc_id: Any, text: Any, title: Any, metadata: dict[str, Any] | None = None
) -> Document | str:
    """A Document, or in a few words why these make none; white space alone is no text."""
    problem = id_problem(doc_id) or text_problem(text, "text") or text_problem(title, "title")
    if problem is None and metadata:
        problem = metadata_problem(metadata)
    if problem is not None:
        return problem
    if not title.strip() and not text.strip():
        return "title and text are both empty"
    return Document(doc_id, text, title, metadata) if metadata else Document(doc_id, text, title)


def _too_deep(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_too_deep(each, levels - 1) for each in inner)


def _kind(value: object) -> str:
    """What JSON calls a value that should have been a string."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return "a number"
    return (
        "a list"
        if isinstance(value, list)
        else "an object"
        if isinstance(value, dict)
        else type(value).__name__
    )
