"""Whether the files of a part of lists fit each other: its checksums may be right and its numbers hostile.

Compiled code reads these arrays without bounds checks, so every number that becomes an index is checked
before: here what takes a few milliseconds at the first use of a part, in postings.py and packing.py what
would need all postings to be read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CorruptIndex
from retrieval.index.list_files import CHUNK, DENSE

if TYPE_CHECKING:
    from retrieval.index.postings import Lists, Postings

Array = NDArray[Any]
PADDING = 8  # bytes behind the last packed list, which decoding may touch
_MOST_DOCUMENTS = 2**31 - 1
_BLOCK = 1 << 20  # postings looked at together


def corrupt(part: str, file: str, problem: str) -> CorruptIndex:
    """The error for a file that does not fit the others."""
    return CorruptIndex(
        f"{part}/{file} {problem}; restore the index from a copy or index the documents again"
    )


def check_facts(facts: Any, part: str) -> dict[str, Any]:
    """The facts of a part, of the right types and ranges. Raises CorruptIndex."""
    if not isinstance(facts, dict):
        raise corrupt(part, "facts.json", "is no object")
    for key in ("documents", "tokens", "postings", "terms"):
        if type(facts.get(key)) is not int or not 0 <= facts[key] < 1 << 62:
            raise corrupt(part, "facts.json", f"gives {key} as {facts.get(key)!r}")
    for key in ("compact", "weighted", "forward"):
        if type(facts.get(key)) is not bool:
            raise corrupt(part, "facts.json", f"gives {key} as {facts.get(key)!r}")
    mean, bits = facts.get("mean"), facts.get("bits")
    if isinstance(mean, bool) or not isinstance(mean, (int, float)) or not math.isfinite(mean) or mean < 0:
        raise corrupt(part, "facts.json", f"gives mean as {mean!r}")
    if type(bits) is not int or bits not in DENSE or (bits != 8 and (facts["compact"] or facts["weighted"])):
        raise corrupt(part, "facts.json", f"gives bits as {bits!r}")
    if facts["documents"] > _MOST_DOCUMENTS:
        raise corrupt(part, "facts.json", f"counts {facts['documents']} documents")
    return facts


def check_lists(postings: Postings, documents: int) -> None:
    """Raises CorruptIndex, naming part and file, where the files do not fit a segment of `documents`.

    Takes O(terms + directory entries + documents); reads no postings.
    """
    part, facts = postings.part, postings.facts
    if postings.documents != documents:
        raise corrupt(part, "facts.json", f"counts {postings.documents} documents, its segment {documents}")
    _check_lexicon(postings)
    df = _array(postings, "df", "uint32", facts["terms"])
    if int(df.max(initial=0)) > documents:
        raise corrupt(part, "df.npy", f"counts more than the {documents} documents there are")
    if int(df.sum(dtype=np.int64)) != facts["postings"]:
        raise corrupt(part, "df.npy", f"does not count {facts['postings']} postings, as facts.json does")
    _array(postings, "kth", "uint8", len(df), 4)
    _array(postings, "peak", "uint8", len(df))
    if not postings.weighted:
        _check_lengths(postings)
    if len(order := postings.order):
        _array(postings, "order", "int32", documents)
        if not _is_permutation(order):
            raise corrupt(part, "order.npy", "does not hold every document once")
    _check_large(postings)
    if postings.compact:
        _check_packed(postings, df)
    else:
        _check_plain(postings, df)


def _array(postings: Postings, name: str, dtypes: str, length: int | None = None, columns: int = 0) -> Array:
    """An array, if it has one of the dtypes, its dimensions and the length."""
    array = postings.array(name)
    if str(array.dtype) not in dtypes.split() or array.shape[1:] != ((columns,) if columns else ()):
        raise corrupt(postings.part, f"{name}.npy", f"holds {array.dtype} in the shape {array.shape}")
    if not array.ndim or (length is not None and len(array) != length):
        raise corrupt(
            postings.part, f"{name}.npy", f"has the shape {array.shape} instead of {length} entries"
        )
    return array


def _is_permutation(numbers: Array) -> bool:
    if not len(numbers):
        return True
    if int(numbers.min()) < 0 or int(numbers.max()) >= len(numbers):
        return False
    seen = np.zeros(len(numbers), np.bool_)
    seen[numbers] = True
    return bool(seen.all())


def _is_rising(ends: Array, first: int, last: int) -> bool:
    """Whether numbers begin at `first`, never fall and end at `last`."""
    return bool(len(ends) and ends[0] == first and ends[-1] == last and (ends[1:] >= ends[:-1]).all())


def _check_lexicon(postings: Postings) -> None:
    terms = postings.facts["terms"]
    ends = _array(postings, "terms_ptr", "uint32 int64", terms + 1)
    if not _is_rising(ends, 0, postings.lexicon.nbytes):
        raise corrupt(postings.part, "terms_ptr.npy", "does not fit terms.bin")
    if not _is_permutation(_array(postings, "terms_sorted", "uint32", terms)):
        raise corrupt(postings.part, "terms_sorted.npy", "does not hold every term once")


def _check_lengths(postings: Postings) -> None:
    lengths = _array(postings, "lengths", "int32")
    if len(lengths) and (int(lengths[0]) < 0 or (lengths[1:] <= lengths[:-1]).any()):
        raise corrupt(postings.part, "lengths.npy", "does not ascend")
    codes = _array(postings, "codes", "uint16 uint32", postings.documents)
    if len(codes) and int(codes.max()) >= len(lengths):
        raise corrupt(postings.part, "codes.npy", f"points beyond the {len(lengths)} lengths")


def _check_large(postings: Postings) -> None:
    if not postings.has("big_place") and not postings.has("big_tf"):
        return
    place = _array(postings, "big_place", "int64")
    exact = _array(postings, "big_tf", "int32", len(place))
    if len(place) and (int(place[0]) < 0 or (place[1:] <= place[:-1]).any()):
        raise corrupt(postings.part, "big_place.npy", "does not ascend")
    if int(exact.min(initial=255)) < (1 << postings.bits) - 1:
        raise corrupt(postings.part, "big_tf.npy", "holds frequencies that are not large")


def _check_plain(postings: Postings, df: Array) -> None:
    part, bits = postings.part, postings.bits
    count = _array(postings, "dir_count", "uint16")
    chunk = _array(postings, "dir_chunk", "uint16", len(count))
    _array(postings, "dir_bound", "uint8", len(count))
    ptr = _array(postings, "dir_ptr", "uint32", len(df) + 1)
    if not _is_rising(ptr, 0, len(count)):
        raise corrupt(part, "dir_ptr.npy", f"does not fit the {len(count)} entries of the directory")
    if len(count):
        last = (postings.documents - 1) // CHUNK  # -1 where there are no documents
        if int(chunk.max()) > last:
            raise corrupt(part, "dir_chunk.npy", f"points beyond the {postings.documents} documents")
        rising = chunk[1:] > chunk[:-1]
        begins = ptr[1:-1][(ptr[1:-1] > 0) & (ptr[1:-1] < len(count))]
        rising[begins.astype(np.int64) - 1] = True
        if not rising.all():
            raise corrupt(part, "dir_chunk.npy", "does not ascend within a term")
        # modulo 2**32, which is exact: a term has fewer than 2**15 + 1 ascending chunks
        sums = np.zeros(len(count) + 1, np.uint32)
        np.cumsum(count, dtype=np.uint32, out=sums[1:])
        sums = sums[ptr]
        counted = sums[1:] - sums[:-1] + (ptr[1:] - ptr[:-1])
    else:
        counted = np.zeros(len(df), np.uint32)
    if not np.array_equal(counted, df):
        raise corrupt(part, "dir_count.npy", "does not add up to df.npy")
    dense = count[count >= DENSE[bits] - 1].astype(np.int64) + 1
    listed = int(postings.facts["postings"]) - int(dense.sum())
    _array(postings, "docs", "uint16", listed)
    _array(postings, "values", "uint8", (listed * bits + 7) // 8)
    _array(postings, "dense", "uint8", len(dense) * CHUNK * bits // 8)


def _check_packed(postings: Postings, df: Array) -> None:
    packed = _array(postings, "packed", "uint8")
    ptr = _array(postings, "packed_ptr", "int64", len(df) + 1)
    if not _is_rising(ptr, 0, len(packed) - PADDING):
        raise corrupt(postings.part, "packed_ptr.npy", "does not fit packed.npy")
    if ((df.astype(np.int64) + 63) >> 6 > ptr[1:] - ptr[:-1]).any():  # a block of 64 takes a byte at least
        raise corrupt(postings.part, "packed_ptr.npy", "leaves too little room for the postings of df.npy")


def check_rows(postings: Postings) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint8]]:
    """The forward view, checked: one pass over it. Raises CorruptIndex."""
    ends = _array(postings, "row_ends", "int64", postings.documents + 1)
    terms = _array(postings, "row_terms", "uint32")
    values = _array(postings, "row_values", "uint8", len(terms))
    if not _is_rising(ends, 0, len(terms)):
        raise corrupt(postings.part, "row_ends.npy", "does not fit row_terms.npy")
    if len(terms) and int(terms.max()) >= postings.facts["terms"]:
        raise corrupt(postings.part, "row_terms.npy", "points beyond the terms")
    return ends, terms, values


def check_written_out(postings: Postings, lists: Lists, entries: slice) -> None:
    """Raises CorruptIndex unless lists of whole terms (a byte a value, in the order of the directory's
    `entries`) ascend, stay within the documents, and have a value everywhere.

    Takes one pass over the postings.
    """
    if not len(lists.docs):
        return
    docs, values = lists.docs, lists.values
    chunk = lists.dir_chunk[entries]
    ends = np.cumsum(lists.dir_count[entries], dtype=np.int64) + np.arange(1, len(chunk) + 1)
    ordered = not (docs[ends - 1] >= postings.documents - (chunk.astype(np.int64) << 16)).any()
    file = "packed.npy" if postings.compact else "values.npy"
    for start in range(0, len(docs), _BLOCK):
        here = docs[start : start + _BLOCK + 1]
        falls = np.flatnonzero(here[1:] <= here[:-1]) + (start + 1)  # only where another entry begins
        ordered = ordered and np.array_equal(ends[np.searchsorted(ends, falls)], falls)
        large = np.flatnonzero(values[start : start + _BLOCK] == 255) + start
        lo, hi = np.searchsorted(lists.big_place, [start, start + _BLOCK])
        if not postings.weighted and not np.array_equal(large, lists.big_place[lo:hi]):
            raise corrupt(postings.part, "big_place.npy", f"does not hold the large frequencies of {file}")
    if not ordered:
        raise corrupt(postings.part, "docs.npy", "does not ascend within the documents of the segment")
    if not values.all():
        raise corrupt(postings.part, file, "holds a posting without a value")
