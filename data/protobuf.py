"""Protocol buffers' wire form, as far as CIFF needs it: varints, fields, and repeated postings all at once.

Source: "Encoding" of the Protocol Buffers documentation. A message is fields, each a tag (number * 8 + kind)
and a value: kind 0 a varint (7 bits a byte, lowest first), 1 and 5 eight and four bytes, 2 a length and as
many bytes. proto3 leaves out fields whose value is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends), signed as int64. Raises IndexError, ValueError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            value &= 2**64 - 1
            return value - 2**64 if value >> 63 else value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 10 bytes")


def fields(data: bytes, at: int = 0) -> Iterator[tuple[int, Any, int]]:
    """(number, value, where it begins) of each field. Raises IndexError, ValueError for what is none."""
    while at < len(data):
        begin = at
        tag, at = varint(data, at)
        kind = tag & 7
        value: Any
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 1:
            value, at = data[at : at + 8], at + 8
        elif kind == 2:
            size, at = varint(data, at)
            if size < 0:
                raise ValueError("a field of negative length")
            value, at = data[at : at + size], at + size
        elif kind == 5:
            value, at = data[at : at + 4], at + 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if at > len(data):
            raise IndexError
        yield tag >> 3, value, begin


def any_postings(data: bytes) -> tuple[Numbers, Numbers]:
    """Postings of a message, whatever the order and the number of its fields."""
    pairs = []
    for number, value, _ in fields(data):
        if number == 4:
            if not isinstance(value, bytes):
                raise ValueError("a posting of another kind")
            posting = {inner: found for inner, found, _ in fields(value) if isinstance(found, int)}
            pairs.append((posting.get(1, 0), posting.get(2, 0)))
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def plain_postings(data: bytes) -> tuple[Numbers, Numbers] | None:
    """The same for nothing but postings as everybody writes them, docid before tf; None for anything else."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 128)
    if not len(ends) or ends[-1] != len(raw) - 1:
        return None
    starts = np.append(0, ends[:-1] + 1)
    sizes = ends - starts + 1
    if sizes.max() > 5:
        return None
    shifts = 7 * (np.arange(len(raw)) - np.repeat(starts, sizes))
    numbers = np.add.reduceat((raw & 127).astype(np.int64) << shifts, starts)
    if len(numbers) > 3 and numbers[2] == 0x10:  # the first posting is of document 0, which is left out
        numbers = np.insert(numbers, 2, [0x08, 0])
        sizes = np.insert(sizes, 2, [0, 0])
    if len(numbers) % 6:
        return None
    table, widths = numbers.reshape(-1, 6), sizes.reshape(-1, 6)
    tags = (table[:, [0, 2, 4]] == (0x22, 0x08, 0x10)).all()
    return (table[:, 3], table[:, 5]) if tags and (table[:, 1] == widths[:, 2:].sum(axis=1)).all() else None


def encode_postings(gaps: Numbers, values: Numbers) -> bytes:
    """Field 4 of a PostingsList for each posting; a gap of 0 (document 0) is left out, as proto3 does."""
    wide, tall = _widths(gaps), _widths(values)
    wide_field = np.where(gaps == 0, 0, wide + 1)
    sizes = 3 + wide_field + tall
    ends = np.cumsum(sizes)
    starts = ends - sizes
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    out[starts] = 0x22
    out[starts + 1] = sizes - 2
    first = np.flatnonzero(wide_field)
    out[starts[first] + 2] = 0x08
    _put(out, starts[first] + 3, gaps[first], wide[first])
    out[starts + 2 + wide_field] = 0x10
    _put(out, starts + 3 + wide_field, values, tall)
    return out.tobytes()


def _widths(numbers: Numbers) -> Numbers:
    """Bytes of each number as a varint."""
    return 1 + np.searchsorted(np.array([1 << 7, 1 << 14, 1 << 21, 1 << 28]), numbers, side="right")


def _put(out: NDArray[np.uint8], places: Numbers, numbers: Numbers, widths: Numbers) -> None:
    for byte in range(5):
        at = np.flatnonzero(widths > byte)
        more = np.where(widths[at] > byte + 1, 128, 0)
        out[places[at] + byte] = (numbers[at] >> (7 * byte)) & 127 | more


def varint_bytes(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


def number_field(field: int, value: int) -> bytes:
    """A field of a whole number of 0 and more; 0 is left out, as proto3 does."""
    return varint_bytes(field << 3) + varint_bytes(value) if value else b""


def sized(data: bytes) -> bytes:
    return varint_bytes(len(data)) + data
