"""Metadata columns of a part: numbers, flags and strings by field, to filter by.

Files, only when a document has metadata:
    fields.json           field -> where its values stand in the arrays below
    columns_docs.npy      int32, the document of each value, ascending within a field
    columns_numbers.npy   float64 (an integer beyond 2**53 is rounded, and its field marked "inexact")
    columns_flags.npy     uint8
    columns_codes.npy     int32 into the field's own values, which are sorted by code point
    values.bin, values_offsets.npy   those values in UTF-8
A list of strings is several values of one document. Other values (lists of numbers, objects) stay with the
stored document only.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CorruptIndex, UserError
from retrieval.part import Part
from retrieval.snapshot import PartSource

MOST_FIELDS = 10_000
_EXACT = 1 << 53
_FEW = 64


class _Field:
    """The values of one field so far."""

    def __init__(self) -> None:
        self.number_docs, self.numbers = array("i"), array("d")
        self.flag_docs, self.flags = array("i"), array("B")
        self.string_docs, self.codes = array("i"), array("i")
        self.values: dict[str, int] = {}
        self.inexact = False
        self.other = False

    def add_all(self, docs: Sequence[int], values: Sequence[Any]) -> None:
        """add() for each document and its value; values of one type in a few passes."""
        kinds = set(map(type, values))
        if kinds == {str}:
            known = self.values
            self.string_docs.extend(docs)
            self.codes.extend([known.setdefault(value, len(known)) for value in values])
        elif kinds == {float} or (kinds == {int} and max(values) <= _EXACT and min(values) >= -_EXACT):
            self.number_docs.extend(docs)
            self.numbers.extend(values)
        else:
            for doc, value in zip(docs, values, strict=True):
                self.add(doc, value)

    def add(self, doc: int, value: Any) -> None:
        if isinstance(value, str):
            self.string_docs.append(doc)
            self.codes.append(self.values.setdefault(value, len(self.values)))
        elif isinstance(value, bool):
            self.flag_docs.append(doc)
            self.flags.append(value)
        elif isinstance(value, (int, float)):
            try:
                number = float(value)
            except OverflowError:
                self.other = True
                return
            self.inexact |= isinstance(value, int) and abs(value) > _EXACT
            self.number_docs.append(doc)
            self.numbers.append(number)
        elif isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
            for each in dict.fromkeys(value):
                self.add(doc, each)
        elif value is not None:
            self.other = True


class MetadataWriter:
    """Collects the metadata of documents and writes it as columns."""

    def __init__(self) -> None:
        self._fields: dict[str, _Field] = {}
        self._strings = 0

    def add(self, docs: Sequence[int], metadata: Sequence[Mapping[str, Any]]) -> None:
        """Append each document's metadata, ordinals ascending. Raises UserError for too many fields."""
        names = dict.fromkeys(chain.from_iterable(metadata))
        if len(names) > _FEW:  # nearly each document has fields of its own
            for doc, each in zip(docs, metadata, strict=True):
                for name, value in each.items():
                    self._field(name).add(doc, value)
            return
        for name in names:
            field = self._field(name)
            try:
                field.add_all(docs, [each[name] for each in metadata])
            except KeyError:  # not every document has it
                pairs = [(doc, each[name]) for doc, each in zip(docs, metadata, strict=True) if name in each]
                field.add_all([doc for doc, _ in pairs], [value for _, value in pairs])

    def _field(self, name: str) -> _Field:
        field = self._fields.get(name)
        if field is not None:
            return field
        if len(self._fields) >= MOST_FIELDS:
            raise UserError(
                f"more than {MOST_FIELDS} different metadata fields, {name!r} among them; put what varies "
                "into the values of one field"
            )
        field = self._fields[name] = _Field()
        return field

    @property
    def nbytes(self) -> int:
        """About how much memory is held."""
        return sum(
            12 * len(each.numbers) + 5 * len(each.flags) + 8 * len(each.codes) + 120 * len(each.values) + 1000
            for each in self._fields.values()
        )

    def finish(self, part: Part) -> None:
        """Write the files. Raises StorageError."""
        if not self._fields:
            return
        docs: list[Any] = []
        numbers: list[Any] = []
        flags: list[Any] = []
        codes: list[Any] = []
        lengths: list[NDArray[np.int64]] = []
        place = dict.fromkeys(("docs", "numbers", "flags", "codes", "values"), 0)
        facts: dict[str, Any] = {}

        def put(kind: str, target: list[Any], of: array[int], values: NDArray[Any]) -> list[int]:
            span = [place["docs"], place[kind], len(values)]
            docs.append(np.asarray(of, np.int32))
            target.append(values)
            place["docs"] += len(values)
            place[kind] += len(values)
            return span

        with part.stream("values.bin") as blob:
            for name in sorted(self._fields):
                field = self._fields.pop(name)
                fact: dict[str, Any] = {}
                if len(field.numbers):
                    fact["numbers"] = put("numbers", numbers, field.number_docs, np.asarray(field.numbers))
                if len(field.flags):
                    fact["flags"] = put("flags", flags, field.flag_docs, np.asarray(field.flags))
                if len(field.codes):
                    values = sorted(field.values)
                    turn = np.empty(len(values), np.int32)
                    turn[[field.values[value] for value in values]] = np.arange(len(values), dtype=np.int32)
                    span = put("codes", codes, field.string_docs, turn[np.asarray(field.codes)])
                    fact["strings"] = [*span, place["values"], len(values)]
                    raw = [value.encode() for value in values]
                    blob.write(b"".join(raw))
                    lengths.append(np.fromiter(map(len, raw), np.int64, len(raw)))
                    place["values"] += len(values)
                fact.update({flag: True for flag in ("inexact", "other") if getattr(field, flag)})
                facts[name] = fact
        part.json("fields.json", facts)
        for file, arrays, dtype in (
            ("columns_docs.npy", docs, np.int32),
            ("columns_numbers.npy", numbers, np.float64),
            ("columns_flags.npy", flags, np.uint8),
            ("columns_codes.npy", codes, np.int32),
        ):
            part.array(file, np.concatenate([np.zeros(0, dtype), *arrays]))
        part.array("values_offsets.npy", np.cumsum(np.concatenate([np.zeros(1, np.int64), *lengths])))


class Values(Sequence[str]):
    """The sorted values of a string field, decoded when looked at."""

    def __init__(self, blob: memoryview, offsets: NDArray[np.int64]) -> None:
        self._blob = blob
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, slice):
            return [self[each] for each in range(*item.indices(len(self)))]
        if not 0 <= item < len(self):
            raise IndexError(f"value {item} of {len(self)}")
        return str(self._blob[int(self._offsets[item]) : int(self._offsets[item + 1])], "utf-8")


class Column(NamedTuple):
    """One field: by kind, documents int32[m] ascending and their values[m]; m = 0 where there are none."""

    number_docs: NDArray[np.int32]
    numbers: NDArray[np.float64]
    flag_docs: NDArray[np.int32]
    flags: NDArray[np.uint8]
    string_docs: NDArray[np.int32]
    codes: NDArray[np.int32]
    values: Sequence[str]

    def kinds(self) -> set[str]:
        """Which of "numbers", "flags" and "strings" it holds."""
        sizes = {"numbers": len(self.numbers), "flags": len(self.flags), "strings": len(self.codes)}
        return {kind for kind, size in sizes.items() if size}


class MetadataReader:
    """The columns of one part."""

    def __init__(self, snapshot: PartSource, part: str, docs: int) -> None:
        self._snapshot = snapshot
        self._part = part
        self._docs = docs
        self._facts: dict[str, Any] = {}
        if f"{part}/fields.json" in snapshot:
            facts = snapshot.json(f"{part}/fields.json")
            self._facts = facts if isinstance(facts, dict) else {}
        self._columns: dict[str, Column] = {}

    @property
    def fields(self) -> dict[str, set[str]]:
        """Field -> the kinds of its values: "numbers", "flags", "strings", "other"."""
        kinds = ("numbers", "flags", "strings", "other")
        return {name: {kind for kind in kinds if fact.get(kind)} for name, fact in self._facts.items()}

    def column(self, name: str) -> Column | None:
        """The values of a field, or None where no document has it."""
        if name not in self._facts:
            return None
        column = self._columns.get(name)
        if column is None:
            try:
                column = self._columns[name] = self._read(self._facts[name])
            except (TypeError, ValueError, AttributeError):
                problem = f"{self._part}/fields.json does not fit its columns; index again"
                raise CorruptIndex(problem) from None
        return column

    def _read(self, fact: dict[str, Any]) -> Column:
        def take(file: str, start: int, count: int) -> NDArray[Any]:
            values = self._snapshot.array(f"{self._part}/{file}")
            if start < 0 or count < 0 or start + count > len(values):
                raise ValueError(file)
            return values[start : start + count]

        def pairs(kind: str, file: str) -> tuple[NDArray[np.int32], NDArray[Any]]:
            at, start, count = (fact.get(kind) or [0, 0, 0])[:3]
            docs = take("columns_docs.npy", at, count)
            if count and not 0 <= docs.min() <= docs.max() < self._docs:
                raise ValueError(kind)
            return docs, take(file, start, count)

        first, count = (fact.get("strings") or [0] * 5)[3:]
        values = Values(
            self._snapshot.bytes(f"{self._part}/values.bin"), take("values_offsets.npy", first, count + 1)
        )
        return Column(
            *pairs("numbers", "columns_numbers.npy"),
            *pairs("flags", "columns_flags.npy"),
            *pairs("strings", "columns_codes.npy"),
            values,
        )
