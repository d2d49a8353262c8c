"""Measures of one ranking: names, parameters and values as in ir-measures, own code, numpy only.

A measure is written as ir-measures writes it: `nDCG@10`, `AP(rel=2)@100`, `RR`, `P(judged_only=True)@5`.
Two orders of a ranking exist, and each measure says which one it reads:

* trec_eval (nearly all): scores compared as float32, descending; ties by document id, descending;
* MS MARCO (`RR` with a cutoff, and `Judged`): scores as they are, descending; ties by id, ascending.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import UnknownName, UserError

Grades = NDArray[np.int64]
# The grade of a document without judgement. (A negative judgement is "pooled, not judged" to trec_eval.)
UNJUDGED = int(np.iinfo(np.int64).min)
REQUIRED = object()
_ROUNDING = 0.9  # what trec_eval adds before it cuts a recall down to a number of documents


class Ranking(NamedTuple):
    """One query's ranking, seen through its judgements.

    grades: int64 [hits], the judged grade at each rank, UNJUDGED where there is none.
    judged: int64 [judgements], the grades of all the query's judgements, in any order.
    """

    grades: Grades
    judged: Grades


@dataclass(frozen=True)
class Kind:
    """What a name stands for: its function, its parameters with their defaults, which of them @ sets."""

    compute: Callable[..., float]
    defaults: dict[str, Any]
    at: str
    total: bool  # summed over queries, not averaged


KINDS: dict[str, Kind] = {}
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "BPref": ("Bpref", {}),
    "MAP": ("AP", {}),
    "MRR": ("RR", {}),
    "NDCG": ("nDCG", {}),
    "NumRelRet": ("NumRet", {"rel": 1}),
    "Precision": ("P", {}),
    "RPrec": ("Rprec", {}),
    "Recall": ("R", {}),
    "SetRelP": ("SetP", {"relative": True}),
}


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _number(value: Any) -> bool:
    return type(value) in (int, float)


# What a parameter's value must be, and the words for it.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "beta": (lambda v: _number(v) and 0 < v < 1e6, "a number above 0"),
    "cutoff": (_whole, "a whole number from 1"),
    "dcg": (lambda v: v in ("log2", "exp-log2"), "'log2' or 'exp-log2'"),
    "gains": (
        lambda v: (
            type(v) is dict and all(type(n) is int and abs(n) < 1000 for pair in v.items() for n in pair)
        ),
        "a mapping",
    ),
    "judged_only": (lambda v: type(v) is bool, "True or False"),
    "multiple": (lambda v: _number(v) and 0 < v < 1e6, "a number above 0"),
    "recall": (lambda v: _number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "rel": (_whole, "a whole number from 1"),
    "relative": (lambda v: type(v) is bool, "True or False"),
}


@dataclass(frozen=True)
class Measure:
    """A measure with its parameters (those that differ from the default). Built by `parse`."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        at = KINDS[self.name].at
        inside = ",".join(f"{key}={value!r}" for key, value in self.params if key != at)
        after = "".join(f"@{value}" for key, value in self.params if key == at)
        return f"{self.name}({inside}){after}" if inside else f"{self.name}{after}"

    @property
    def marco(self) -> bool:
        """Whether the measure reads the MS MARCO order (see the module's text)."""
        return self.name == "Judged" or (self.name == "RR" and "cutoff" in dict(self.params))

    def value(self, ranking: Ranking) -> float:
        """The measure of one ranking, which stands in the order that `marco` names."""
        kind = KINDS[self.name]
        return float(kind.compute(ranking, **{**kind.defaults, **dict(self.params)}))

    def summary(self, values: NDArray[np.float64]) -> float:
        """The figure over queries: the sum for NumQ, NumRel and NumRet, else the mean."""
        return float(values.sum() if KINDS[self.name].total else values.mean()) if len(values) else 0.0


def parse(text: str | Measure) -> Measure:
    """The measure that `text` names. UnknownName for an unknown name, UserError for a wrong form or value."""
    if isinstance(text, Measure):
        return text
    name, given, at = _split(text)
    name, preset = ALIASES.get(name, (name, {}))
    if name not in KINDS:
        hint = _trec_eval(name)
        raise UnknownName("measure", name, [] if hint else [*KINDS, *ALIASES], hint)
    kind = KINDS[name]
    params = {**preset, **given}
    if at is not None:
        if not kind.at:
            raise UserError(f"measure {text!r}: {name} takes no @")
        params[kind.at] = at
    for key, value in params.items():
        if key not in kind.defaults:
            known = ", ".join(kind.defaults) or "none"
            raise UserError(f"measure {text!r}: no parameter {key!r}; those of {name}: {known}")
        accepts, wanted = _RULES[key]
        if not accepts(value):
            raise UserError(f"measure {text!r}: {key} is {value!r}; it must be {wanted}")
    if kind.defaults.get(kind.at) is REQUIRED and kind.at not in params:
        usual = 10 if kind.at == "cutoff" else 0.5
        raise UserError(f"measure {text!r} needs a {kind.at}: write {name}@{usual}")
    if isinstance(params.get("gains"), dict):
        params["gains"] = Gains(params["gains"])
    kept = tuple((key, value) for key, value in params.items() if value != kind.defaults[key])
    return Measure(name, kept)


def parse_all(texts: Iterable[str | Measure]) -> list[Measure]:
    """Each measure once, in the order given."""
    return list(dict.fromkeys(map(parse, texts)))


class Gains(dict[int, int]):
    """A grade -> gain mapping that can be hashed and prints as ir-measures prints it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))

    def __repr__(self) -> str:
        return (
            "{" + ",".join(f"{grade}:{gain}" for grade, gain in sorted(self.items()) if grade != gain) + "}"
        )


def _split(text: str) -> tuple[str, dict[str, Any], Any]:
    """`NAME(key=value, ...)@AT` taken apart; UserError when it is not of this form."""
    wrong = UserError(f"measure {text[:80]!r} cannot be read; write it as nDCG@10 or AP(rel=2)@100")
    if len(text) > 200:  # Python's parser is deep in its own recursion with a hostile text
        raise wrong
    try:
        node: ast.expr = ast.parse(text.strip(), mode="eval").body
        at = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            at = ast.literal_eval(node.right)
            node = node.left
        params: dict[str, Any] = {}
        if isinstance(node, ast.Call):
            if node.args:
                raise wrong
            params = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            node = node.func
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise wrong from None
    if not isinstance(node, ast.Name):
        raise wrong
    return node.id, params, at


def _trec_eval(name: str) -> str:
    """How the measure that trec_eval calls so is written here, as a sentence; empty for other names."""
    stem = name.rstrip("0123456789").rstrip("_")
    here = {
        "map_cut": "AP@100",
        "ndcg_cut": "nDCG@10",
        "recip_rank": "RR",
        "recall": "R@100",
        "iprec_at_recall": "IPrec@.5",
    }
    return f"trec_eval's {name} is written {here[stem]}" if stem in here else ""


def measure(name: str, *, at: str = "cutoff", total: bool = False, **defaults: Any) -> Callable[..., Any]:
    """Registers the decorated function, of (Ranking, **parameters), under `name`."""

    def register(compute: Callable[..., float]) -> Callable[..., float]:
        KINDS[name] = Kind(compute, defaults, at if at in defaults else "", total)
        return compute

    return register


def _relevant(ranking: Ranking, rel: int, judged_only: bool = False) -> NDArray[np.bool_]:
    """bool [hits]: relevant at this rank; without the documents not judged if `judged_only`."""
    grades = ranking.grades
    if judged_only:
        grades = grades[grades >= 0]
    return grades >= rel


def _wanted(ranking: Ranking, rel: int) -> int:
    return int(np.count_nonzero(ranking.judged >= rel))


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@measure("nDCG", cutoff=None, dcg="log2", gains=None, judged_only=False)
def ndcg(ranking: Ranking, cutoff: int | None, dcg: str, gains: Gains | None, judged_only: bool) -> float:
    """Gain of the ranking over that of the ideal one; a gain is the grade, or 2**grade - 1 (exp-log2)."""
    grades, judged = ranking
    if gains:
        grades, judged = (_mapped(side, gains) for side in (grades, judged))
    if judged_only:
        grades = grades[grades >= 0]
    ideal = -np.sort(-judged[judged > 0])
    return _over(_dcg(grades[:cutoff], dcg), _dcg(ideal[:cutoff], dcg))


def _mapped(grades: Grades, gains: Gains) -> Grades:
    return np.array([gains.get(grade, grade) for grade in grades.tolist()], dtype=np.int64)


def _dcg(grades: Grades, form: str) -> float:
    ranks = np.flatnonzero(grades > 0)
    gains = grades[ranks].astype(np.float64)
    if form == "exp-log2":
        gains = np.exp2(gains) - 1.0
    return float((gains / np.log2(2.0 + ranks)).sum())


@measure("AP", cutoff=None, rel=1, judged_only=False)
def ap(ranking: Ranking, cutoff: int | None, rel: int, judged_only: bool) -> float:
    """Mean over all relevant documents of the precision where each is found (0 where it is not)."""
    ranks = np.flatnonzero(_relevant(ranking, rel, judged_only)[:cutoff]) + 1.0
    return _over(float((np.arange(1, len(ranks) + 1) / ranks).sum()), _wanted(ranking, rel))


@measure("RR", cutoff=None, rel=1, judged_only=False)
def rr(ranking: Ranking, cutoff: int | None, rel: int, judged_only: bool) -> float:
    """1 / rank of the first relevant document."""
    ranks = np.flatnonzero(_relevant(ranking, rel, judged_only)[:cutoff])
    return 1.0 / (int(ranks[0]) + 1) if len(ranks) else 0.0


@measure("P", cutoff=REQUIRED, rel=1, judged_only=False)
def precision(ranking: Ranking, cutoff: int, rel: int, judged_only: bool) -> float:
    """Relevant documents among the first k, over k."""
    return float(np.count_nonzero(_relevant(ranking, rel, judged_only)[:cutoff])) / cutoff


@measure("R", cutoff=REQUIRED, rel=1, judged_only=False)
def recall(ranking: Ranking, cutoff: int, rel: int, judged_only: bool) -> float:
    """Relevant documents among the first k, over all relevant ones."""
    found = np.count_nonzero(_relevant(ranking, rel, judged_only)[:cutoff])
    return _over(float(found), _wanted(ranking, rel))


@measure("Rprec", rel=1, judged_only=False)
def rprec(ranking: Ranking, rel: int, judged_only: bool) -> float:
    """Precision at the number of relevant documents."""
    wanted = _wanted(ranking, rel)
    return _over(float(np.count_nonzero(_relevant(ranking, rel, judged_only)[:wanted])), wanted)


@measure("Rmult", at="multiple", multiple=REQUIRED, rel=1)
def multiple_recall(ranking: Ranking, multiple: float, rel: int) -> float:
    """Recall at so many times the number of relevant documents; at 1 it is Rprec. ir-measures has no such."""
    wanted = _wanted(ranking, rel)
    found = np.count_nonzero(_relevant(ranking, rel)[: int(multiple * wanted + 1e-9)])
    return _over(float(found), wanted)


@measure("Success", cutoff=REQUIRED, rel=1, judged_only=False)
def success(ranking: Ranking, cutoff: int, rel: int, judged_only: bool) -> float:
    """1 if a relevant document is among the first k."""
    return float(_relevant(ranking, rel, judged_only)[:cutoff].any())


@measure("Judged", cutoff=None)
def judged(ranking: Ranking, cutoff: int | None) -> float:
    """Share of the first k (of all, where there are fewer) that have any judgement."""
    top = ranking.grades[:cutoff]
    return _over(float(np.count_nonzero(top != UNJUDGED)), len(top))


@measure("Bpref", rel=1)
def bpref(ranking: Ranking, rel: int) -> float:
    """Share of (relevant, judged not relevant) pairs in the right order; unjudged ones are passed over."""
    right = _relevant(ranking, rel, judged_only=True)
    wanted, wrong = _wanted(ranking, rel), np.count_nonzero((ranking.judged >= 0) & (ranking.judged < rel))
    # Judged not relevant and ranked above, for each relevant document.
    above = np.minimum(np.cumsum(~right)[right], wanted)
    return _over(float((1.0 - above / max(1, min(int(wrong), wanted))).sum()), wanted)


@measure("IPrec", at="recall", recall=REQUIRED, rel=1, judged_only=False)
def iprec(ranking: Ranking, recall: float, rel: int, judged_only: bool) -> float:
    """The best precision at or below the rank where the recall is reached."""
    right = _relevant(ranking, rel, judged_only)
    found = np.cumsum(right)
    # ir-measures hands the recall over with two digits.
    needed = int(float(f"{recall:.2f}") * _wanted(ranking, rel) + _ROUNDING)
    enough = found >= needed
    precisions = (found / np.arange(1, len(right) + 1))[enough]
    return float(precisions.max()) if len(precisions) else 0.0


@measure("SetP", rel=1, relative=False, judged_only=False)
def set_precision(ranking: Ranking, rel: int, relative: bool, judged_only: bool) -> float:
    """Relevant documents over those retrieved; `relative` to the best for a result of that size."""
    right = _relevant(ranking, rel, judged_only)
    whole = min(len(right), _wanted(ranking, rel)) if relative else len(right)
    return _over(float(np.count_nonzero(right)), whole)


@measure("SetR", rel=1)
def set_recall(ranking: Ranking, rel: int) -> float:
    """Relevant documents retrieved over all relevant ones."""
    return _over(float(np.count_nonzero(_relevant(ranking, rel))), _wanted(ranking, rel))


@measure("SetF", rel=1, beta=1.0, judged_only=False)
def set_f(ranking: Ranking, rel: int, beta: float, judged_only: bool) -> float:
    """Weighted harmonic mean of set precision and set recall; trec_eval's weight is beta, not its square."""
    right = _relevant(ranking, rel, judged_only)
    found = float(np.count_nonzero(right))
    p, r = _over(found, len(right)), _over(found, _wanted(ranking, rel))
    return _over((1.0 + beta) * p * r, r + beta * p)


@measure("SetAP", rel=1, judged_only=False)
def set_ap(ranking: Ranking, rel: int, judged_only: bool) -> float:
    """Set precision times set recall."""
    right = _relevant(ranking, rel, judged_only)
    found = float(np.count_nonzero(right))
    return _over(found, len(right)) * _over(found, _wanted(ranking, rel))


@measure("NumQ", total=True)
def num_q(ranking: Ranking) -> float:
    """1 for each judged query that the run holds."""
    return 1.0


@measure("NumRel", total=True, rel=1)
def num_rel(ranking: Ranking, rel: int) -> float:
    """Relevant documents of the judged queries that the run holds."""
    return float(_wanted(ranking, rel))


@measure("NumRet", total=True, rel=None)
def num_ret(ranking: Ranking, rel: int | None) -> float:
    """Documents retrieved; with `rel` only those of that grade."""
    return float(len(ranking.grades) if rel is None else np.count_nonzero(_relevant(ranking, rel)))
