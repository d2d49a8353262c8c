"""Re-ranking with a decoder: `bm25 % 100 >> pointwise(./qwen)`, `bm25 % 20 >> listwise(./qwen)`.

pointwise asks of every candidate by itself whether it is relevant; the score is log p(yes) - log p(no)
of the next token, each summed over its spellings (Liang et al., "Holistic Evaluation of Language Models",
TMLR 2023; Nogueira et al., monoT5, Findings of EMNLP 2020). listwise shows a window of candidates at a time,
from the back to the front, and asks for their order (Sun et al., RankGPT, EMNLP 2023); replies are greedy,
bounded, and always read as a permutation (llm_parse.py). Scores of listwise are n, n - 1, ... 1.

The prompts are our own. A model is what `--dense llm:MODEL` takes: a directory or a GGUF file. What of a text
does not fit its place is cut off and counted in the trace (tokens dropped), once for each pair.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from retrieval.errors import MissingExtra, UserError
from retrieval.index.learned import need_torch
from retrieval.registry import register
from retrieval.rerank.text_stage import TextStage
from retrieval.stage import Lookup, Param
from retrieval.types import Query, Run

if TYPE_CHECKING:
    from retrieval.rerank.llm_decoder import Decoder
    from retrieval.rerank.llm_prompts import Form, Ids

_PAIRS = 128  # whose texts are in memory at a time
_LEAST = 16  # tokens of a text, below which there is nothing to judge
_SLACK = 8  # tokens of a reply beyond the bare list
_YES, _NO = ("Yes", "yes", " Yes", " yes"), ("No", "no", " No", " no")
_POINTWISE = "Query: {query}\n\nPassage: {passage}\n\nIs the passage relevant to the query? Reply Yes or No."
_LISTWISE = (
    "Here are {n} passages, each with its number in square brackets. Rank them by how well they answer the "
    "query: {query}\n\n{passages}\n\nQuery: {query}\n\nReply with the numbers of all {n} passages, the best "
    "first, in the form [2] > [1], and with nothing else."
)


class _Reader(TextStage):
    """What both have in common: a model, the documents' texts, whole numbers as parameters."""

    def __init__(self, model: str, precision: str, numbers: Mapping[str, tuple[int, int, int]]) -> None:
        """numbers: name -> (value, default, least)."""
        from importlib.util import find_spec

        need_torch("re-ranking with a language model")
        if find_spec("transformers") is None:
            raise MissingExtra("models", "re-ranking with a language model")
        from retrieval.index.llm_files import LlmFiles

        self.params: dict[str, Param] = {"model": model}
        for name, (value, usual, least) in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"{self.name} cannot take {name}={value!r}; give a whole number, {least} or more"
                )
            if value != usual:
                self.params[name] = value
        if precision not in ("float32", "bfloat16"):
            raise UserError(f"{self.name} cannot take precision={precision!r}; give float32 or bfloat16")
        if precision != "float32":
            self.params["precision"] = precision
        self._precision = precision
        self._files = LlmFiles(model)
        self._decoder: Decoder | None = None

    def _run(self, queries: list[Query], run: Run | None) -> Run:
        run, lookup = self._given(run)
        if self._decoder is None:
            from retrieval.rerank.llm_decoder import open_decoder

            self._decoder = open_decoder(self._files, self._precision)
        return self._rank(self._decoder, lookup, queries, run)

    def _rank(self, decoder: Decoder, lookup: Lookup, queries: list[Query], run: Run) -> Run:
        raise NotImplementedError


@register("pointwise")
class Pointwise(_Reader):
    """Every candidate by itself.

    model      a decoder's directory or GGUF file
    length     tokens of a prompt, the question and what the chat template adds included
    precision  float32 or bfloat16

    Raises UserError, MissingExtra, StorageError.
    """

    name = "pointwise"

    def __init__(self, model: str, length: int = 512, precision: str = "float32") -> None:
        super().__init__(model, precision, {"length": (length, 512, 2 * _LEAST)})
        self._length = length

    def _rank(self, decoder: Decoder, lookup: Lookup, queries: list[Query], run: Run) -> Run:
        from retrieval.rerank.llm_prompts import slot

        prompts = decoder.prompts
        form = prompts.form(_POINTWISE.format(query=slot(0), passage=slot(1)))
        room = min(self._length, decoder.context) - form.fixed
        if self._length > decoder.context or room < 2 * _LEAST:
            raise UserError(
                f"pointwise cannot take length={self._length}: {self._files.path!r} reads "
                f"{decoder.context} tokens, of which the prompt takes {form.fixed} without its texts; "
                f"give {form.fixed + 2 * _LEAST} to {decoder.context}"
            )
        yes, no = prompts.first_tokens(_YES), prompts.first_tokens(_NO)
        yes, no = yes - no, no - yes
        if not yes or not no:
            raise UserError(f"the tokenizer of {self._files.path!r} cannot tell yes from no; try listwise")
        asked = prompts.read([one.text for one in queries])
        query = np.repeat(np.arange(len(run)), np.diff(run.offsets))
        scores, dropped = np.empty(len(run.docs), np.float32), 0
        for at in range(0, len(scores), _PAIRS):
            distinct, local = np.unique(run.docs[at : at + _PAIRS], return_inverse=True)
            documents = lookup([run.doc_ids[doc] for doc in distinct.tolist()])
            read = prompts.read([one.full_text() for one in documents])
            filled = []
            for q, d in zip(query[at : at + _PAIRS].tolist(), local.tolist(), strict=True):
                question = asked[q][: room // 2]
                passage = read[d][: room - len(question)]
                dropped += len(asked[q]) - len(question) + len(read[d]) - len(passage)
                filled.append(form.fill([question, passage]))
            scores[at : at + _PAIRS] = decoder.odds(filled, yes, no)
        return Run(queries, run.offsets, run.docs, scores, run.doc_ids, dropped=dropped)


@register("listwise")
class Listwise(_Reader):
    """Candidates in windows, each compared with the others of its window.

    model      a decoder's directory or GGUF file
    window     candidates that are shown together
    step       how far a window begins before the one behind it, window or less (0: half of it): the best
               window - step of a window are shown again in the next
    passage    tokens of a candidate, and of the query, at most; fewer where a window would not fit the model
    precision  float32 or bfloat16

    Raises UserError, MissingExtra, StorageError.
    """

    name = "listwise"

    def __init__(
        self, model: str, window: int = 20, step: int = 0, passage: int = 256, precision: str = "float32"
    ) -> None:
        numbers = {"window": (window, 20, 2), "step": (step, 0, 0), "passage": (passage, 256, _LEAST)}
        super().__init__(model, precision, numbers)
        if step > window:
            raise UserError(
                f"listwise cannot take step={step} with window={window}; candidates would be left out, give "
                "a step no longer than the window"
            )
        self._window, self._step, self._passage = window, step or window // 2, passage
        self._forms: dict[int, tuple[Form, int]] = {}  # by number of passages: see _question

    def _rank(self, decoder: Decoder, lookup: Lookup, queries: list[Query], run: Run) -> Run:
        from retrieval.rerank.llm_parse import slide

        most = self._room(decoder)
        docs, scores, dropped = run.docs.copy(), np.empty(len(run.docs), np.float32), 0
        for number, asked in enumerate(decoder.prompts.read([one.text for one in queries])):
            mine = slice(int(run.offsets[number]), int(run.offsets[number + 1]))
            documents = lookup([run.doc_ids[doc] for doc in run.docs[mine].tolist()])
            query, passages = asked[:most], []
            for document in documents:
                (whole,) = decoder.prompts.read([document.full_text()])
                passages.append(whole[:most].copy())
                dropped += len(asked) - len(query) + max(0, len(whole) - most)
            ask = partial(self._ask, decoder, query, passages)
            order = slide(len(passages), self._window, self._step, ask)
            docs[mine] = run.docs[mine][order]
            scores[mine] = np.arange(len(passages), 0, -1)
        return Run(queries, run.offsets, docs, scores, run.doc_ids, dropped=dropped)

    def _ask(self, decoder: Decoder, query: Ids, passages: list[Ids], part: list[int]) -> str:
        """The reply about the passages at some places, shown as [1], [2] ..."""
        if len(part) not in self._forms:
            self._forms[len(part)] = _question(decoder, len(part))
        form, limit = self._forms[len(part)]
        return "[" + decoder.reply(form.fill([query, *(passages[place] for place in part)]), limit)

    def _room(self, decoder: Decoder) -> int:
        """Tokens of a passage. Raises UserError where a full window leaves too few for each."""
        form, limit = _question(decoder, self._window)
        share = max(0, decoder.context - form.fixed - limit) // len(form.slots)
        if share < _LEAST:
            raise UserError(
                f"listwise cannot take window={self._window}: {self._files.path!r} reads {decoder.context} "
                f"tokens, which leaves {share} for each passage; give a smaller window"
            )
        return min(self._passage, share)


def _question(decoder: Decoder, n: int) -> tuple[Form, int]:
    """The prompt for n passages, slot 0 the query and 1 ... n the passages, and the tokens of its reply."""
    from retrieval.rerank.llm_prompts import slot

    passages = "\n".join(f"[{place}] {slot(place)}" for place in range(1, n + 1))
    form = decoder.prompts.form(_LISTWISE.format(n=n, query=slot(0), passages=passages), "[")
    ideal = " > ".join(f"[{place}]" for place in range(1, n + 1))
    return form, decoder.prompts.count(ideal) + _SLACK
