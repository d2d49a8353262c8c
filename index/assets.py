"""What a method needs beside its settings (a tokenizer's file): a part of the index, once a representation.

The commit's entry of a representation is the method's settings and, where it has assets, "assets": the name
of a part whose files they are. The part is hashed, checked and collected like every other; a commit that
changes nothing about them names the part that is there already, and equal assets share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from retrieval.diskio import hash_bytes
from retrieval.errors import CorruptIndex
from retrieval.index.method import Method, restore_method
from retrieval.manifest import ASSETS, FILE_NAME, PART_NAME

if TYPE_CHECKING:
    from retrieval.artefact import Transaction
    from retrieval.snapshot import Snapshot


class Assets(Mapping[str, bytes]):
    """The assets of one representation, read from the index when they are asked for.

    Raises CorruptIndex, and no KeyError, for one that the index ought to hold and does not.
    """

    def __init__(self, snapshot: Snapshot, part: str, representation: str) -> None:
        self._snapshot = snapshot
        self._part = part
        self._representation = representation
        self._names = [path.partition("/")[2] for path in snapshot.files(f"{part}/")] if part else []

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise CorruptIndex(
                f"the index at {self._snapshot.path!r} lacks {name!r} of representation "
                f"{self._representation!r}; restore it from a copy or index the documents again"
            )
        return bytes(self._snapshot.bytes(f"{self._part}/{name}"))

    def get(self, name: str, default: Any = None) -> Any:
        """The asset, or the default where there is none of that name."""
        return self[name] if name in self._names else default

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def restored(snapshot: Snapshot) -> dict[str, Method]:
    """The methods of a commit by the names of their representations. Raises UserError, CorruptIndex."""
    methods = {}
    for name, entry in snapshot.commit["representations"].items():
        settings = dict(entry)
        part = settings.pop(ASSETS, "")
        kind = settings.get("kind")
        if not isinstance(kind, str) or not isinstance(part, str) or (part and not PART_NAME.fullmatch(part)):
            raise CorruptIndex(
                f"COMMIT of {snapshot.path!r} says of representation {name!r} that it is a {kind!r} with "
                f"assets in {part!r}; restore the index from a copy or index the documents again"
            )
        methods[name] = restore_method(settings, Assets(snapshot, part, name))
    return methods


def entries(transaction: Transaction, methods: Mapping[str, Method]) -> dict[str, dict[str, Any]]:
    """What a commit says of its representations; writes the assets that the index does not hold yet.

    Raises StorageError, and ValueError for a method whose assets cannot be files of an index.
    """
    parts = _held(transaction.base)
    made = {}
    for name, method in methods.items():
        assets: Mapping[str, bytes] = getattr(method, "assets", {})
        made[name] = dict(method.settings)
        if ASSETS in made[name]:
            raise ValueError(
                f"the settings of {method.kind} have a key {ASSETS!r}, which is the commit's own"
            )
        if not assets:
            continue
        files = {each: bytes(assets[each]) for each in sorted(assets)}
        content = tuple((each, hash_bytes(data)) for each, data in files.items())
        if content not in parts:
            part = transaction.part()
            for each, data in files.items():
                if not FILE_NAME.fullmatch(each):
                    raise ValueError(f"{each!r} is no name for an asset; use 1 to 40 of a-z 0-9 _ .")
                part.bytes(each, data)
            parts[content] = part.name
        made[name][ASSETS] = parts[content]
    return made


def _held(commit: Mapping[str, Any]) -> dict[tuple[tuple[str, str], ...], str]:
    """The assets that a commit has: ((file, sha256) ...) -> part."""
    found: dict[tuple[tuple[str, str], ...], str] = {}
    for entry in commit["representations"].values():
        part = entry.get(ASSETS)
        if isinstance(part, str):
            prefix = f"{part}/"
            content = sorted(
                (path.removeprefix(prefix), facts["sha256"])
                for path, facts in commit["files"].items()
                if path.startswith(prefix)
            )
            found[tuple(content)] = part
    return found
