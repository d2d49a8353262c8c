"""Batches of a dense training: examples whose positives do not meet, their negatives, their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UserError
from retrieval.index.examples import Prepared
from retrieval.index.torch_encoder import Sequences

_TRIES = 8  # random passages drawn for each one that is wanted, some of which may be relevant


class Groups(NamedTuple):
    """The passages of some examples, each passage once.

    numbers     int64[p], passages
    place       int64[e, 1 + k], where each example's positive (first) and negatives are among them, -1: none
    slots       int64[e, 1 + k], which of the example's prepared negatives each one is; -1: the positive, a
                random one, or none
    """

    numbers: NDArray[np.int64]
    place: NDArray[np.int64]
    slots: NDArray[np.int64]


def distinct_batches(
    order: NDArray[np.int64], keys: NDArray[np.integer[Any]], size: int
) -> Iterator[NDArray[np.int64]]:
    """Batches of examples in this order, none with two of one key; who must wait comes in a later batch.

    keys[example]. All batches have one size, the number of distinct keys where those are fewer than `size`;
    what is left over at the end is left out.
    """
    size = min(size, len(np.unique(keys[order])))
    source: Iterator[int] = iter(order.tolist())
    waiting: list[int] = []
    while size:
        taken: list[int] = []
        seen: set[int] = set()
        passed: list[int] = []
        queue = iter(waiting)
        for example in chain(queue, source):
            key = int(keys[example])
            if key in seen:
                passed.append(example)
                continue
            seen.add(key)
            taken.append(example)
            if len(taken) == size:
                break
        waiting = [*passed, *queue]
        if len(taken) < size:
            return
        yield np.array(taken, np.int64)


class Drawing:
    """Draws negatives for examples: hard ones that were prepared, and passages at random.

    hard, random   how many of each an example gets
    near           passages that a teacher finds about as good as the positive, within so much of its score,
                   are no negatives. None: nobody asks a teacher
    """

    def __init__(self, prepared: Prepared, hard: int, random: int, near: float | None, seed: int) -> None:
        self.prepared, self.hard, self.random, self.near, self.seed = prepared, hard, random, near, seed

    def groups(self, examples: NDArray[np.int64], draw: Sequence[int]) -> Groups:
        """The passages of these examples; `draw` (with the seed) decides which negatives they get."""
        rng = np.random.default_rng([self.seed, 3, *draw])
        hard = self.prepared.negatives[examples].astype(np.int64)
        for row, relevant in enumerate(self.prepared.relevant(examples)):
            hard[row, self._answers(hard[row], relevant)] = -1
        keys = rng.random(hard.shape)
        keys[hard < 0] = 2.0  # what is not there comes last
        slots = np.argsort(keys, axis=1, kind="stable")[:, : self.hard]
        chosen = np.take_along_axis(hard, slots, 1)
        slots = np.where(chosen >= 0, slots, -1)
        positive = self.prepared.positive[examples].astype(np.int64)[:, None]
        others = self._random(examples, chosen, rng)
        none = np.full((len(examples), 1), -1, np.int64)
        numbers, place = np.unique(np.concatenate([positive, chosen, others], axis=1), return_inverse=True)
        place = place.reshape(len(examples), -1).astype(np.int64)
        if len(numbers) and numbers[0] < 0:
            numbers, place = numbers[1:], place - 1
        return Groups(numbers, place, np.concatenate([none, slots, np.full_like(others, -1)], axis=1))

    def _random(
        self, examples: NDArray[np.int64], hard: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """[e, random]: passages that are neither relevant nor hard; -1 where the draw met no other."""
        found = np.full((len(examples), self.random), -1, np.int64)
        if not self.random:
            return found
        total = len(self.prepared.passages)
        for row, relevant in enumerate(self.prepared.relevant(examples)):
            drawn = rng.integers(0, total, self.random * _TRIES)
            drawn = drawn[~self._answers(drawn, relevant) & ~np.isin(drawn, hard[row])]
            _, first = np.unique(drawn, return_index=True)
            drawn = drawn[np.sort(first)][: self.random]
            found[row, : len(drawn)] = drawn
        return found

    def _answers(self, passages: NDArray[np.int64], relevant: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of these passages (-1 is none) are parts of a relevant document, and may answer as well."""
        origin = self.prepared.origin
        return np.isin(origin[passages], origin[relevant]) & (passages >= 0)

    def ignored(
        self, examples: NDArray[np.int64], numbers: NDArray[np.int64], place: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """bool[e, p]: passages of a batch that are no negatives of an example, its positive not among them.

        They are parts of a document that answers its query, or a teacher finds them about as good.
        """
        prepared = self.prepared
        found = np.zeros((len(examples), len(numbers)), np.bool_)
        for row, relevant in enumerate(prepared.relevant(examples)):
            found[row] = self._answers(numbers, relevant)
        rows = np.arange(len(examples))
        if self.near is not None:
            teacher = prepared.teacher(examples, numbers)
            if teacher is not None:
                found |= teacher >= teacher[rows, place[:, 0]][:, None] - self.near
            elif prepared.scores is not None:
                given, hard = prepared.scores[examples], prepared.negatives[examples]
                near = given[:, 1:] >= given[:, :1] - self.near
                for row in np.flatnonzero(near.any(1)).tolist():
                    found[row] |= np.isin(numbers, hard[row, near[row]])
        found[rows, place[:, 0]] = False
        return found


def teacher_scores(
    prepared: Prepared, examples: NDArray[np.int64], groups: Groups
) -> NDArray[np.float32] | None:
    """float32[e, 1 + k]: a teacher's score of each example's own passages, NaN where it gave none.

    None where there is no teacher.
    """
    teacher = prepared.teacher(examples, groups.numbers)
    if teacher is not None:
        found = np.take_along_axis(teacher, np.maximum(groups.place, 0), 1)
    elif prepared.scores is not None:
        rows = prepared.scores[examples]
        found = np.take_along_axis(rows, np.maximum(groups.slots, 0) + 1, 1)
        found[groups.slots < 0] = np.nan
        found[:, 0] = rows[:, 0]
    else:
        return None
    found[groups.place < 0] = np.nan
    return found.astype(np.float32)


def joined(parts: Sequence[Sequences]) -> Sequences:
    """Several lots of texts as one."""
    return Sequences(
        [ids for part in parts for ids in part.ids], np.concatenate([part.skip for part in parts]),
        np.concatenate([part.tokens for part in parts]), np.concatenate([part.dropped for part in parts]),
    )  # fmt: skip


def cut(sequences: Sequences, limit: int) -> Sequences:
    """Sequences of at most `limit` tokens (0: as they are); the last one, [SEP] or EOS, stays the last.

    Raises UserError where nothing that pooling looks at would be left.
    """
    if not limit:
        return sequences
    long = np.array([len(ids) > limit for ids in sequences.ids], np.bool_)
    if limit < 2 or bool((long & (sequences.skip >= limit - 1)).any()):
        raise UserError(
            f"{limit} tokens leave nothing of a text beside its prompt; give a larger length or query_tokens"
        )
    ids = [np.append(one[: limit - 1], one[-1:]) if cut else one for one, cut in zip(sequences.ids, long)]
    lost = np.array([len(one) - len(new) for one, new in zip(sequences.ids, ids)], np.int64)
    return Sequences(ids, sequences.skip, sequences.tokens, sequences.dropped + lost)
