"""The compiled tokeniser: bytes of a batch to word ids in one numba pass (encoder.py drives it).

A word of at most 16 bytes is its own key in the hash table, so a look-up touches one cache line; a longer one
has a hash there and is compared byte by byte. Eight bytes are classified at a time.
"""

from __future__ import annotations

import numpy as np

from retrieval.index.jit import jit
from retrieval.index.unicode import DEAD, MAX_BYTES, START, WIDTH

_M1 = np.uint64(0x9E3779B97F4A7C15)
_M2 = np.uint64(0xD6E8FEB86659FD93)
_LONG = np.uint64(0xFF << 56)  # no UTF-8 byte is FF: the key of a long word never equals one of a short word
_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_LOW7 = np.uint64(0x7F7F7F7F7F7F7F7F)
_FROM_A, _PAST_Z = _ONES * np.uint64(0x80 - 0x61), _ONES * np.uint64(0x80 - 0x7B)
_FROM_0, _PAST_9 = _ONES * np.uint64(0x80 - 0x30), _ONES * np.uint64(0x80 - 0x3A)
_U0, _U1, _U2, _U4, _U7, _U8 = (np.uint64(i) for i in (0, 1, 2, 4, 7, 8))
_MAX_UNIT_BYTES = 3  # UTF-8 bytes of one UTF-16 unit, at most
_NO_LIMIT = 1 << 62
PADDING = 24  # bytes that may be read past the end of a batch
BLOCK = 512  # words that are cut before they are looked up
POSITION, TOKENS, TEXTS, WORDS, BLOB = 0, 1, 2, 3, 4  # places of `state`


@jit(inline="always")
def _load(buffer, at):
    # Eight bytes, the first one lowest. With unsigned places LLVM makes one unaligned load of this.
    return (
        np.uint64(buffer[at])
        | np.uint64(buffer[at + _U1]) << _U8
        | np.uint64(buffer[at + _U2]) << np.uint64(16)
        | np.uint64(buffer[at + np.uint64(3)]) << np.uint64(24)
        | np.uint64(buffer[at + _U4]) << np.uint64(32)
        | np.uint64(buffer[at + np.uint64(5)]) << np.uint64(40)
        | np.uint64(buffer[at + np.uint64(6)]) << np.uint64(48)
        | np.uint64(buffer[at + _U7]) << np.uint64(56)
    )


@jit(inline="always")
def _stops(chunk):
    # The high bit of each of eight bytes that is not one of a-z, 0-9.
    low = chunk & _LOW7
    letters = (low + _FROM_A) & ~(low + _PAST_Z)
    digits = (low + _FROM_0) & ~(low + _PAST_9)
    return ~((letters | digits) & ~chunk) & _HIGH


@jit(inline="always")
def _bytes_below(lowest):
    # How many bytes lie below the one whose high bit is `lowest`.
    return np.int64((((lowest - _U1) & _ONES) * _ONES) >> np.uint64(56)) - 1


@jit(inline="always")
def _hash(key0, key1):
    mixed = (key0 ^ (key1 * _M2)) * _M1
    mixed ^= mixed >> np.uint64(32)
    return mixed * _M2


@jit()
def _keys(buffer, start, size):
    # A word as two keys: its bytes when there are at most 16, else the first 8 and a hash of all.
    first = np.uint64(start)
    key0, key1 = _load(buffer, first), _U0
    if size < 8:
        key0 &= (_U1 << np.uint64(8 * size)) - _U1
    elif 8 < size <= 16:
        key1 = _load(buffer, first + _U8)
        if size < 16:
            key1 &= (_U1 << np.uint64(8 * (size - 8))) - _U1
    elif size > 16:
        key1 = np.uint64(size)
        for at in range(start + 8, start + size - 8, 8):
            key1 = _hash(_load(buffer, np.uint64(at)), key1)
        key1 = _hash(_load(buffer, np.uint64(start + size - 8)), key1) | _LONG
    return key0, key1


@jit()
def _match(buffer, start, limit, units, classes, steps, accepting):
    # (end of the longest accepted run, place where the automaton died), up to `limit` bytes and `units`.
    position, end, state = start, start, START
    while position < limit:
        byte = np.int64(buffer[position])
        if byte < 0x80:
            code, after = byte, position + 1
        elif byte < 0xE0:
            code, after = ((byte & 0x1F) << 6) | (buffer[position + 1] & 0x3F), position + 2
        elif byte < 0xF0:
            code = (
                ((byte & 0x0F) << 12) | ((buffer[position + 1] & 0x3F) << 6) | (buffer[position + 2] & 0x3F)
            )
            after = position + 3
        else:
            code = ((byte & 0x07) << 18) | ((buffer[position + 1] & 0x3F) << 12)
            code |= ((buffer[position + 2] & 0x3F) << 6) | (buffer[position + 3] & 0x3F)
            after = position + 4
        units -= 1 if byte < 0xF0 else 2
        state = steps[state * WIDTH + classes[code]]
        if state == DEAD or units < 0:
            break
        position = after
        if accepting[state]:
            end = position
    return end, position


@jit()
def _word(buffer, start, length, max_units, classes, steps, accepting):
    # (end of the word that begins at start, or start; where to go on).
    limit = length
    if max_units:
        limit = min(length, start + _MAX_UNIT_BYTES * max_units)
    end, reached = _match(buffer, start, limit, _NO_LIMIT, classes, steps, accepting)
    if max_units and reached - start > max_units:
        end, reached = _match(buffer, start, limit, max_units, classes, steps, accepting)
    if end > start:
        return end, end
    if reached == start:
        reached += 1
        while (buffer[reached] & 0xC0) == 0x80:
            reached += 1
    return start, reached


@jit()
def _same(blob, start, end, buffer, place, size):
    if end - start != size:
        return False
    for i in range(size):  # noqa: SIM110
        if blob[start + i] != buffer[place + i]:
            return False
    return True


@jit()
def scan(buffer, length, classes, steps, accepting, max_units, table, blob, starts, ids, ends, state):
    """Cut the texts in buffer[:length] (lower-cased UTF-8, each ended by a NUL) into numbered words.

    buffer: uint8[>= length + PADDING]; classes: uint8[0x110000]; table: uint64[slots * 4] of (key, key,
    id + 1, unused); blob, starts: bytes of the words so far; ids: int32 word ids out; ends: int64 tokens up
    to the end of each text. Returns True when done, False when `table`, `blob` or `starts` must grow before
    the call is repeated.
    """
    slots = np.uint64(table.size // 4 - 1)
    most_words = min(table.size // 8, starts.size - 1)
    position, tokens, texts, words, used = (
        state[POSITION],
        state[TOKENS],
        state[TEXTS],
        state[WORDS],
        state[BLOB],
    )
    keys = np.empty((BLOCK, 2), dtype=np.uint64)
    places = np.empty((BLOCK, 2), dtype=np.int64)
    done = True
    while position < length:
        if words + BLOCK > most_words or used + BLOCK * MAX_BYTES > blob.size:
            done = False
            break
        # First cut a block of words, then look them all up: cache misses of the second loop overlap.
        found = 0
        while position < length and found < BLOCK:
            first = np.uint64(position)
            chunk = _load(buffer, first)
            byte = chunk & np.uint64(0xFF)
            if byte < np.uint64(0x80) and classes[byte] == 0:
                if byte == _U0:
                    ends[texts] = tokens + found
                    texts += 1
                position += 1
                continue
            # The quick way: ASCII letters and digits, at most 16, then a separator.
            stop = _stops(chunk)
            key0, key1, size = chunk, _U0, 17
            if stop:
                lowest = stop & (~stop + _U1)
                size = _bytes_below(lowest)
                key0 &= (lowest >> _U7) - _U1
            else:
                key1 = _load(buffer, first + _U8)
                stop = _stops(key1)
                if stop:
                    lowest = stop & (~stop + _U1)
                    size = 8 + _bytes_below(lowest)
                    key1 &= (lowest >> _U7) - _U1
            end = position + size
            byte = np.uint64(buffer[np.uint64(end)])
            if size > 16 or byte >= np.uint64(0x80) or classes[byte] != 0:
                end, after = _word(buffer, position, length, max_units, classes, steps, accepting)
                if end == position:
                    position = after
                    continue
                size = end - position
                if size > MAX_BYTES:
                    size = MAX_BYTES
                    while (buffer[position + size] & 0xC0) == 0x80:
                        size -= 1
                key0, key1 = _keys(buffer, position, size)
            keys[found, 0], keys[found, 1] = key0, key1
            places[found, 0], places[found, 1] = position, size
            found += 1
            position = end
        for i in range(found):
            key0, key1 = keys[i, 0], keys[i, 1]
            slot = (_hash(key0, key1) >> np.uint64(20)) & slots
            while True:
                at = slot * _U4
                word = np.int64(table[at + _U2]) - 1
                if word < 0:
                    word = words
                    table[at], table[at + _U1], table[at + _U2] = key0, key1, np.uint64(word + 1)
                    for place in range(places[i, 0], places[i, 0] + places[i, 1]):
                        blob[used] = buffer[place]
                        used += 1
                    words += 1
                    starts[words] = used
                    break
                same = table[at] == key0 and table[at + _U1] == key1
                if same and key1 >= _LONG:
                    same = _same(blob, starts[word], starts[word + 1], buffer, places[i, 0], places[i, 1])
                if same:
                    break
                slot = (slot + _U1) & slots
            ids[tokens + i] = word
        tokens += found
    state[POSITION], state[TOKENS], state[TEXTS], state[WORDS], state[BLOB] = (
        position,
        tokens,
        texts,
        words,
        used,
    )
    return done


@jit()
def rehash(old, new):
    """Put every slot of an old table into a new, empty one."""
    slots = np.uint64(new.size // 4 - 1)
    for at in range(0, old.size, 4):
        if old[at + 2]:
            slot = (_hash(old[at], old[at + 1]) >> np.uint64(20)) & slots
            while new[slot * np.uint64(4) + np.uint64(2)]:
                slot = (slot + np.uint64(1)) & slots
            for i in range(3):
                new[slot * np.uint64(4) + np.uint64(i)] = old[at + i]


@jit()
def to_terms(ids, ends, term_of_word, terms, offsets):
    """Word ids to term ids (int32, stop words dropped); fills offsets[1:] and returns the number of terms."""
    token, total = 0, 0
    for text in range(ends.size):
        while token < ends[text]:
            term = term_of_word[ids[token]]
            terms[total] = term
            total += term >= 0
            token += 1
        offsets[text + 1] = total
    return total
