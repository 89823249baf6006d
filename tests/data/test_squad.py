"""Reader of SQuAD files."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest

from alad_hf.data.squad import SQUAD_FEATURES, read_squad

CONTEXT = "Zoë sang in Rome\u00a0City."
ARTICLE = {
    "title": "Songs",
    "paragraphs": [
        {
            "context": CONTEXT,
            "qas": [
                {
                    "id": "q1",
                    "question": "Where?",
                    "answers": [
                        {"text": "Rome", "answer_start": 12},
                        {"text": "in Rome", "answer_start": 9},
                    ],
                },
                {
                    "id": "q2",
                    "question": "When?",
                    "answers": [],
                    "is_impossible": True,
                    "plausible_answers": [{"text": "Rome", "answer_start": 12}],
                },
            ],
        }
    ],
}


@pytest.fixture
def write(tmp_path: Path):
    def write_file(content: object) -> Path:
        path = tmp_path / "squad.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write_file


def altered(**changes: object) -> dict:
    """The article with other values in its first question."""
    article = copy.deepcopy(ARTICLE)
    question = article["paragraphs"][0]["qas"][0]
    question.update(changes)
    for key, value in changes.items():
        if value is None:
            del question[key]
    return {"version": "v2.0", "data": [article]}


def test_both_versions_give_the_columns_of_the_hub(write) -> None:
    dataset = read_squad(write({"version": "v2.0", "data": [ARTICLE]}))
    assert dataset.features == SQUAD_FEATURES
    assert dataset.column_names == ["id", "title", "context", "question", "answers"]
    common = {"title": "Songs", "context": CONTEXT}
    assert dataset.to_list() == [
        {
            "id": "q1",
            "question": "Where?",
            "answers": {"text": ["Rome", "in Rome"], "answer_start": [12, 9]},
            **common,
        },
        {"id": "q2", "question": "When?", "answers": {"text": [], "answer_start": []}, **common},
    ]


def test_title_may_be_absent(write) -> None:
    article = {key: value for key, value in ARTICLE.items() if key != "title"}
    assert read_squad(write({"data": [article]}))["title"][0] == ""


def test_other_white_space_is_taken_from_the_context(write, caplog: pytest.LogCaptureFixture) -> None:
    answers = [{"text": "Rome City", "answer_start": 12}]
    with caplog.at_level(logging.WARNING):
        dataset = read_squad(write(altered(answers=answers)))
    assert dataset[0]["answers"]["text"] == ["Rome\u00a0City"]
    assert "squad.json: took 1 answers from the context" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            altered(answers=[{"text": "Rome", "answer_start": 13}]),
            r"squad\.json, question id 'q1': found 'ome\\xa0' in the context at answer_start=13, expected .*'Rome'",
        ),
        (altered(answers=[{"text": "City.", "answer_start": -5}]), r"found '' in the context at answer_start=-5"),
        (altered(answers=[{"text": "City. x", "answer_start": 17}]), r"found 'City\.' in the context"),
        (altered(answers=[{"text": "", "answer_start": 3}]), r"question id 'q1': found ''"),
        (altered(answers=[{"text": "Rome", "answer_start": "12"}]), r"id 'q1': found str at 'answer_start'.*a int"),
        (altered(answers=[]), r"found 0 answers and is_impossible=False, expected answers, or no answers and"),
        (altered(is_impossible=True), r"id 'q1': found 2 answers and is_impossible=True"),
        (altered(id="q2"), r"question id 'q2': found the id twice"),
        (altered(id=7), r"squad\.json: found int at 'id', expected a str"),
        (altered(question=None), r"question id 'q1': found nothing at 'question'"),
        ({"data": [{"title": "a"}]}, r"squad\.json, article 1: found nothing at 'paragraphs', expected a list"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"article 1, paragraph 1: found nothing at 'context'"),
        ([ARTICLE], r"squad\.json: found nothing at 'data'.*SQuAD is"),
        ({"data": []}, r"squad\.json: found no question"),
        ('{"data":\n [}', r"squad\.json, line 2: found invalid JSON"),
    ],
)
def test_malformed_files_are_named(write, content: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_squad(write(content))


@pytest.mark.parametrize(
    ("name", "questions", "contexts"),
    [("squadshifts_new_wiki/new_wiki_v1.0.json", 7938, 1581), ("xquad_en/xquad.en.json", 1190, 240)],
)
def test_real_files(shared_data: Path, name: str, questions: int, contexts: int) -> None:
    dataset = read_squad(shared_data / name)
    assert len(dataset) == len(set(dataset["id"])) == questions
    assert len(set(dataset["context"])) == contexts
    for row in dataset:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text
