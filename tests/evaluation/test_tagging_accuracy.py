from __future__ import annotations

import random
import warnings

import pytest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from alad_hf.evaluation import TaggingAccuracy, tagging_scores


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn(seed):
    rng = random.Random(seed)
    tags = ["NOUN", "VERB", "ADJ", "X"]
    references = [[rng.choice(tags[:3]) for _ in range(rng.randrange(7))] for _ in range(20)]
    predictions = [[tag if rng.random() < 0.6 else rng.choice(tags) for tag in row] for row in references]
    scores = TaggingAccuracy().compute(predictions=predictions, references=references)

    flat = [[tag for row in rows for tag in row] for rows in (references, predictions)]
    names = sorted(set(flat[0]) | set(flat[1]))
    rows = zip(*precision_recall_fscore_support(*flat, labels=names, zero_division=0), strict=True)
    assert scores["accuracy"] == pytest.approx(accuracy_score(*flat))
    assert list(scores["per_tag"]) == names
    for name, row in zip(names, rows, strict=True):
        assert list(scores["per_tag"][name].values()) == pytest.approx(list(row)), name
    assert scores["macro_f1"] == pytest.approx(sum(row["f1"] for row in scores["per_tag"].values()) / len(names))


def test_worked_example():
    scores = tagging_scores([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["per_tag"] == {
        "NOUN": {"precision": 1.0, "recall": pytest.approx(2 / 3), "f1": pytest.approx(0.8), "support": 3},
        "VERB": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    }
    assert scores["macro_f1"] == pytest.approx(0.4)


def test_no_tokens():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tagging_scores([[]], [[]]) == {"accuracy": 0.0, "macro_f1": 0.0, "per_tag": {}}


def test_unequal_lengths_are_named():
    with pytest.raises(ValueError, match="Sentence 0 has 2 predicted tags but 1 reference tags"):
        TaggingAccuracy().compute(predictions=[["X", "X"]], references=[["X"]])
