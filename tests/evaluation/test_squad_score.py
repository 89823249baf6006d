from __future__ import annotations

import pytest

from alad_hf.evaluation import SquadScore, squad_scores
from alad_hf.evaluation.squad_score import answer_f1, normalise_answer


def predicted(**texts):
    return [{"id": name, "prediction_text": text} for name, text in texts.items()]


def expected(**answers):
    return [
        {"id": name, "answers": {"text": texts, "answer_start": [0] * len(texts)}} for name, texts in answers.items()
    ]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel\tTower!", "eiffel tower"),
        ("an apple a day", "apple day"),
        ("Theatre and another", "theatre and another"),
        ("U.S.A.", "usa"),
        ("twenty-one", "twentyone"),
        ("the", ""),
        ("a.", ""),
        ("über “x”", "über “x”"),
    ],
)
def test_normalisation(text, normal):
    assert normalise_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("in the old town", "old town", 0.8),  # 2 of 3 words, 2 of 2
        ("new new york", "new york york", 2 / 3),  # words count as often as they occur in both
        ("red", "blue", 0.0),
        ("", "blue", 0.0),
        ("blue", "", 0.0),
        ("the", "", 1.0),
    ],
)
def test_f1_worked_by_hand(prediction, reference, f1):
    assert answer_f1(prediction, reference) == pytest.approx(f1)


def test_best_reference_counts_and_scores_are_percentages():
    scores = SquadScore().compute(
        predictions=predicted(a="Saint Bernadette", b="in 1858"),
        references=expected(a=["Bernadette", "Saint Bernadette Soubirous", "the saint Bernadette"], b=["1858"]),
    )
    assert scores == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 2 / 3) / 2), "total": 2}


def test_questions_without_answer_are_scored_and_broken_down():
    scores = squad_scores(
        predicted(a="Paris", b="", c="", d="London"), expected(a=["Paris"], b=["Rome, Italy"], c=[], d=[])
    )
    assert scores == {
        "exact_match": 50.0,
        "f1": 50.0,
        "total": 4,
        "HasAns_exact": 50.0,
        "HasAns_f1": 50.0,
        "HasAns_total": 2,
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
        "NoAns_total": 2,
    }
    assert "NoAns_f1" not in squad_scores(predicted(c=""), expected(c=[]))


def test_reference_of_articles_only_counts_where_there_is_no_other():
    assert squad_scores(predicted(a="the"), expected(a=["the", "band"]))["exact_match"] == 0.0
    assert squad_scores(predicted(a="the"), expected(a=["the"]))["exact_match"] == 100.0


def test_order_of_the_rows_does_not_matter():
    references = expected(a=["x"], b=["y"])
    assert squad_scores(predicted(b="y", a="x"), references)["exact_match"] == 100.0
    assert SquadScore().compute(predictions=predicted(b="y", a="x"), references=references)["f1"] == 100.0


def test_surplus_fields_are_left_unread():
    predictions = [row | {"score": 0.5} for row in predicted(a="x")]
    references = [row | {"context": "x", "title": "t"} for row in expected(a=["x"])]
    assert SquadScore().compute(predictions=predictions, references=references)["f1"] == 100.0


@pytest.mark.parametrize(
    "score", [squad_scores, lambda one, two: SquadScore().compute(predictions=one, references=two)]
)
def test_ids_must_be_the_same(score):
    with pytest.raises(ValueError, match=r"1 questions have no prediction \('b'\) and 0 predictions have no question"):
        score(predicted(a=""), expected(a=[], b=[]))
    with pytest.raises(ValueError, match=r"1 questions have no prediction \('b'\) and 1 predictions .* \('c'\)"):
        score(predicted(a="", c=""), expected(a=[], b=[]))
    with pytest.raises(ValueError, match="1 ids repeat in the predictions, such as 'a'"):
        score(predicted(a="") * 2, expected(a=[], b=[]))


def test_predicting_the_answers_of_real_data_scores_full_marks(shared_data):
    import json

    data = json.loads((shared_data / "xquad_en" / "xquad.en.json").read_text())["data"]
    rows = [row for article in data for paragraph in article["paragraphs"] for row in paragraph["qas"]]
    references = expected(**{row["id"]: [answer["text"] for answer in row["answers"]] for row in rows})
    predictions = predicted(**{row["id"]: row["answers"][0]["text"] for row in rows})
    assert SquadScore().compute(predictions=predictions, references=references) == {
        "exact_match": 100.0,
        "f1": 100.0,
        "total": 1190,
    }
