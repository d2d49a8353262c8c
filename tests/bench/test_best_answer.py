"""Ada-LEval's files, written here in their layout: loaders, parsers of replies, BestAnswer as re-ranking."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval import UserError
from retrieval.bench import ada_leval, best_answer
from retrieval.bench.ada_leval import Question, Shuffled

WORDS = [a + b + c for a in "bdg" for b in "aei" for c in "mn"]

Records = list[dict[str, Any]]


def records(count: int = 30, seed: int = 0) -> Records:
    """Questions of five words; the accepted answer repeats three of them, every third question's only one."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        asked = rng.choice(WORDS, 5, replace=False).tolist()
        others = [word for word in WORDS if word not in asked]
        answers = ["\n" + " ".join(rng.choice(others, 12)) + "\n" for _ in range(int(rng.integers(2, 7)))]
        right = int(rng.integers(len(answers)))
        kept = asked[: 3 if number % 3 else 1]
        answers[right] = " ".join([*kept, *rng.choice(others, 9)])
        wrong = (right + 1) % len(answers)
        answers[wrong] += " ".join(asked[3:])  # two words of the question, in a wrong answer
        made.append(
            {
                "question_id": str(1000 + number), "question": "\n" + " ".join(asked), "all_answers": answers,
                "answer": f"A{right + 1}", "tags": ["c"],
            }
        )  # fmt: skip
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as a published file."""

    def make(found: Any, name: str = "stackselect_1k.json") -> Path:
        path = tmp_path / name
        path.write_text(found if isinstance(found, str) else json.dumps(found, indent=4))
        return path

    return make


# --- files ------------------------------------------------------------------------------------------------


def test_questions_are_read_as_they_stand(write: Callable[..., Path]) -> None:
    given = records()
    found, warnings = ada_leval.read_questions(write(given))
    assert [(q.question_id, q.text, q.answers, f"A{q.accepted + 1}", q.tags) for q in found] == [
        tuple(record[name] for name in ("question_id", "question", "all_answers", "answer", "tags"))
        for record in given
    ]
    assert len(warnings) == 1
    assert "has 30 records, where published scores of 1k are over 1000" in warnings[0]


def test_as_many_are_read_as_published_scores_take(write: Callable[..., Path]) -> None:
    assert [ada_leval.counted(s) for s in ada_leval.SETTINGS] == [1000] * 7 + [200] * 3
    assert [ada_leval.counted(s, less=True) for s in ada_leval.SETTINGS] == [200] * 7 + [50] * 3
    many = records(1) * 230
    found, warnings = ada_leval.read_questions(write(many, "stackselect_64k.json"))
    assert (len(found), warnings) == (200, [])
    assert len(ada_leval.read_questions(write(many, "stackselect_64k.json"), 7)[0]) == 7
    found, warnings = ada_leval.read_questions(write(many, "mine.json"))
    assert len(found) == 230
    assert "is not named as a published setting" in warnings[0]


def test_what_is_no_such_file_is_refused_with_its_record(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such|does not exist|No such"):
        ada_leval.read_questions(tmp_path / "stackselect_2k.json")
    for text, problem in (("[{", "is not JSON"), ("{}", "holds no list"), ("[]", "holds no list")):
        with pytest.raises(UserError, match=problem):
            ada_leval.read_questions(write(text))
    changes: list[tuple[Any, str]] = [
        ({"answer": "A9"}, "the answer 'A9' is none of A1 to A"),
        ({"answer": "A0"}, "is none of A1"),
        ({"answer": 2}, "is none of A1"),
        ({"all_answers": []}, "no list of texts"),
        ({"all_answers": ["a", 1]}, "no list of texts"),
        ({"question": " "}, "the question is no text"),
        (None, "it is no object"),
        ("answer", "it has no answer"),
    ]
    for change, problem in changes:
        given: list[Any] = records(3)
        if isinstance(change, str):
            del given[1][change]
        elif change is None:
            given[1] = []
        else:
            given[1].update(change)
        with pytest.raises(UserError, match=rf"record 2: .*{problem}"):
            ada_leval.read_questions(write(given))


def test_shuffled_segments_are_read(write: Callable[..., Path]) -> None:
    given: Records = [
        {"book_id": 7, "para_offset": [3, 9], "prompt": "sort", "answer": "[2, 1, 4, 3]"},
        {"book_id": 8, "para_offset": 5, "prompt": "sort", "answer": [4, 3, 2, 1]},
    ]
    found, _ = ada_leval.read_shuffled(write(given, "textsort_2k.json"))
    assert found == [Shuffled("7_3_9", "sort", [2, 1, 4, 3]), Shuffled("8_5", "sort", [4, 3, 2, 1])]
    for wrong in ([1, 2, 3], [1, 1, 2, 3], "x", None):
        with pytest.raises(UserError, match=r"record 1: .* is no order of 1 to 4"):
            ada_leval.read_shuffled(write([{**given[0], "answer": wrong}], "textsort_2k.json"))


# --- replies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "count", "ours", "released"),
    [
        ("Answer: A3", 5, 2, 2),
        ("A1 or A4, not A2", 5, 3, 3),  # the last listed, not the last said
        ("A12", 5, None, 0),
        ("A12", 12, 11, 11),
        ("(A2).", 5, 1, 1),
        ("the answer is 4.", 5, 3, 3),
        ("7 of 10 say 2", 5, 1, 1),
        ("A2, by 5 votes", 5, 1, 1),  # a number counts only where no label does
        ("0.5", 5, None, 4),
        ("none of them", 5, None, None),
        ("", 5, None, None),
    ],
)
def test_labels_in_replies(reply: str, count: int, ours: int | None, released: int | None) -> None:
    assert ada_leval.parse_label(reply, count) == ours
    assert ada_leval.parse_label(reply, count, compat=True) == released


def test_orders_in_replies() -> None:
    for order in itertools.permutations(range(1, 5)):
        wanted = list(order)
        for reply in (
            f"{wanted}",
            f"Answer: {wanted}",
            f"I think 5. Answer:\n{wanted}",
            " > ".join(map(str, order)),
        ):
            assert ada_leval.parse_order(reply) == wanted
    assert ada_leval.parse_order("1 or 2 first? Answer: [2, 1, 4, 3]") == [2, 1, 4, 3]
    for reply in ("1 2 3", "", "1 2 3 4 3", "Answer: [true, 2, 3, 4]"):
        assert ada_leval.parse_order(reply) is None
    shuffled = [Shuffled("a", "", [2, 1, 4, 3])] * 4
    scores = ada_leval.order_scores(shuffled, ["[2, 1, 4, 3]", "[2, 1]", "[]", "2143"])
    assert scores == [1, 0, 0, 1]  # the released evaluation gives 1 to all of these
    with pytest.raises(UserError, match="3 replies to 4 records"):
        ada_leval.order_scores(shuffled, ["", "", ""])


def test_scores_of_labels_and_chance() -> None:
    questions = [Question("q", "t", ["x"] * count, count - 1, []) for count in (2, 4, 5)]
    assert ada_leval.chance(questions) == pytest.approx((1 / 2 + 1 / 4 + 1 / 5) / 3)
    assert ada_leval.label_scores(questions, ["A2", "A3", "A12"]) == [1, 0, 0]
    with pytest.raises(UserError, match="1 replies to 3 records"):
        ada_leval.label_scores(questions, ["A1"])


def test_the_command_scores_replies(write: Callable[..., Path], tmp_path: Path, capsys: Any) -> None:
    replies = tmp_path / "replies.jsonl"

    def command(path: Path, said: list[Any], *more: str) -> dict[str, Any]:
        replies.write_text("".join(json.dumps(reply) + "\n" for reply in said))
        ada_leval.main([str(path), str(replies), *more])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    given = records(4)
    said = [{"reply": f"Answer: {record['answer']}"} for record in given[:3]]
    found = command(write(given), [*said, {"reply": "A12"}])
    assert (found["records"], found["accuracy"], found["unread"]) == (4, 0.75, 1)
    assert found["chance"] == pytest.approx(np.mean([1 / len(record["all_answers"]) for record in given]))
    assert len(found["warnings"]) == 1
    assert command(write(given), [*said, {"reply": "A12"}], "--compat")["unread"] == 0
    sort = {"book_id": 1, "para_offset": 2, "prompt": "p", "answer": [2, 1, 4, 3]}
    found = command(
        write([sort] * 60, "textsort_32k.json"),
        [{"reply": "[2, 1, 4, 3]"}] * 25 + [{"reply": ""}] * 25,
        "--less",
    )
    assert (found["records"], found["accuracy"], found["unread"]) == (50, 0.5, 25)
    assert (found["chance"], found["warnings"]) == (1 / 24, [])
    for line, problem in (([{"reply": 1}], ":1: no reply"), ([{"reply": "A1"}], "1 replies to 4 records")):
        with pytest.raises(SystemExit) as stopped:
            command(write(given), line)
        assert stopped.value.code == 2
        assert problem in capsys.readouterr().err


# --- re-ranking -------------------------------------------------------------------------------------------


def test_candidates_are_reranked_by_bm25_over_all_answers(
    write: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    given = records(60)
    given[4]["all_answers"][0 if given[4]["answer"] != "A1" else 1] = " \n"
    path, report = write(given), tmp_path / "report.json"
    systems = ["--system", "BM25=bm25", "--system", "tf=bm25(b=0)"]
    best_answer.main([str(path), *systems, "--work", str(tmp_path / "work"), "--json", str(report)])
    printed = capsys.readouterr()
    (found,) = json.loads(report.read_text())["files"]
    # BM25 anew, over all answers of the file, and only the question's own ones ranked.
    from retrieval import Index

    questions, _ = ada_leval.read_questions(path)
    with Index.create(tmp_path / "again") as index:
        index.add(best_answer.documents(questions))
        index.commit()
        for label, b in (("BM25", 0.4), ("tf", 0.0)):
            hits, ranks = [], []
            for number, question in enumerate(questions, 1):
                names = best_answer.candidate_ids(number, question)
                whole = {
                    hit.doc_id: hit.score
                    for hit in index.search(question.text, 1000, pipeline=f"bm25(b={b})")
                }
                ranked = sorted(names, key=lambda name: (whole.get(name, 0.0), name), reverse=True)
                ranks.append(1 + ranked.index(names[question.accepted]))
                hits.append(ranks[-1] == 1)
            figures = found["systems"][label]
            assert figures["accuracy"]["mean"] == pytest.approx(np.mean(hits))
            assert figures["rr"]["mean"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
            assert 0.5 < figures["accuracy"]["mean"] < 1
            thirds = [3 * q.accepted // len(q.answers) for q in questions]
            for at, name in enumerate(("first", "middle", "last")):
                there = [hit for hit, third in zip(hits, thirds) if third == at]
                assert figures["by_place"][name]["questions"] == len(there)
                assert figures["by_place"][name]["accuracy"] == pytest.approx(np.mean(there))
    assert found["chance"] == pytest.approx(np.mean([1 / len(q.answers) for q in questions]))
    assert "p" not in found["systems"]["BM25"]["accuracy"]
    assert 0 <= found["systems"]["tf"]["accuracy"]["p"] <= 1
    assert "1 candidate answers are empty" in printed.err
    assert "where published scores of 1k are over 1000" in printed.out
    assert f"| 1k | 60 | {found['candidates']:.1f} |" in printed.out


def test_the_index_is_kept_and_another_file_gets_its_own(
    write: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    work = tmp_path / "work"
    arguments = ["--work", str(work), "--questions", "5"]
    best_answer.main([str(write(records(5))), *arguments])
    once = capsys.readouterr().out
    made = sorted(each.name for each in work.iterdir())
    best_answer.main([str(write(records(5))), *arguments])
    assert sorted(each.name for each in work.iterdir()) == made
    assert capsys.readouterr().out.split("|")[:20] == once.split("|")[:20]
    best_answer.main([str(write(records(5, seed=1))), *arguments])
    assert len(list(work.iterdir())) == 2 * len(made)


def test_a_cross_encoder_reranks_after_a_representation(
    write: Callable[..., Path], tiny_model: Callable[..., Path], capsys: Any
) -> None:
    model = tiny_model("cross")
    best_answer.main([
        str(write(records(6))), "--system", "BM25=bm25", "--system", f"cross=bm25 >> cross({model})",
    ])  # fmt: skip
    assert f"- cross: `bm25 >> cross({model})`" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        best_answer.main([str(write(records(6))), "--system", f"cross=cross({model})"])
    assert stopped.value.code == 2
    assert "put a retriever and >> before it" in capsys.readouterr().err
