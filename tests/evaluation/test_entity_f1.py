from __future__ import annotations

import random
import warnings

import pytest

from alad_hf.evaluation import EntityF1, entity_scores

TYPES = ("PER", "LOC", "ORG")


def entities(sentences):
    """(sentence, type, first, last) of each entity, read off tag by tag; a stray I- begins one."""
    found = set()
    for number, tags in enumerate(sentences):
        for first, tag in enumerate(tags):
            before = tags[first - 1] if first else "O"
            if tag == "O" or (tag.startswith("I-") and before[2:] == tag[2:]):
                continue
            last = first
            while last + 1 < len(tags) and tags[last + 1] == f"I-{tag[2:]}":
                last += 1
            found.add((number, tag[2:], first, last))
    return found


def ratio(part, whole):
    return part / whole if whole else 0.0


def brute_force(predictions, references):
    predicted, expected = entities(predictions), entities(references)

    def score(chosen):
        one, other = ({entity for entity in group if chosen(entity)} for group in (predicted, expected))
        precision, recall = ratio(len(one & other), len(one)), ratio(len(one & other), len(other))
        f1 = ratio(2 * precision * recall, precision + recall)
        return {"precision": precision, "recall": recall, "f1": f1, "support": len(other)}

    types = {entity[1] for entity in predicted | expected}
    per_type = {name: score(lambda entity, name=name: entity[1] == name) for name in types}
    micro = score(lambda entity: True)
    del micro["support"]
    pairs = [pair for rows in zip(predictions, references, strict=True) for pair in zip(*rows, strict=True)]
    return micro | {
        "macro_f1": ratio(sum(row["f1"] for row in per_type.values()), len(per_type)),
        "accuracy": ratio(sum(one == other for one, other in pairs), len(pairs)),
        "per_type": {name: pytest.approx(row) for name, row in per_type.items()},
    }


@pytest.mark.parametrize("seed", range(20))
def test_equals_brute_force_on_random_tags_valid_or_not(seed):
    rng = random.Random(seed)
    tags = ["O", "O", *(f"{prefix}-{name}" for prefix in "BI" for name in TYPES)]
    lengths = [rng.randrange(9) for _ in range(30)]
    references = [[rng.choice(tags) for _ in range(length)] for length in lengths]
    predictions = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in row] for row in references]
    expected = brute_force(predictions, references)
    per_type = expected.pop("per_type")
    scores = EntityF1().compute(predictions=predictions, references=references)
    assert scores.pop("per_type") == per_type
    assert scores == pytest.approx(expected)
    assert 0 < scores["f1"] < 1


def test_a_stray_inside_tag_begins_an_entity():
    scores = entity_scores([["I-PER", "O", "B-LOC"]], [["B-PER", "O", "B-LOC"]])
    assert (scores["precision"], scores["recall"]) == (1.0, 1.0)
    scores = entity_scores([["B-PER", "I-LOC", "O"]], [["B-PER", "I-PER", "O"]])
    assert (scores["precision"], scores["recall"]) == (0.0, 0.0)


@pytest.mark.parametrize("sentences", [[], [[]], [["O", "O"], ["O"]]])
def test_without_entities_scores_are_zero_and_nothing_warns(sentences):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = entity_scores(sentences, sentences)
    assert scores["f1"] == scores["macro_f1"] == 0.0
    assert scores["per_type"] == {}
    assert scores["accuracy"] == (1.0 if any(sentences) else 0.0)


def test_type_found_on_one_side_only_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = entity_scores([["B-PER", "O"]], [["O", "B-LOC"]])
    assert scores["per_type"]["PER"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert scores["per_type"]["LOC"]["support"] == 1


def test_values_are_plain_numbers():
    scores = entity_scores([["B-PER"]], [["B-PER"]])
    assert {type(scores[name]) for name in ("precision", "recall", "f1", "macro_f1", "accuracy")} == {float}
    assert type(scores["per_type"]["PER"]["support"]) is int


def test_batches_add_up():
    metric = EntityF1()
    metric.add_batch(predictions=[["B-PER"]], references=[["B-PER"]])
    metric.add_batch(predictions=[["O"]], references=[["B-PER"]])
    assert metric.compute()["recall"] == 0.5


def test_unequal_lengths_are_named():
    with pytest.raises(ValueError, match=r"Sentence 1 has 1 predicted tags but 2 reference tags.*predictions_to_tags"):
        EntityF1().compute(predictions=[["O"], ["O"]], references=[["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="2 predicted sentences but 1 reference"):
        entity_scores([["O"], ["O"]], [["O"]])


@pytest.mark.parametrize("tag", ["PER", "E-PER", "LABEL_0", "", "B-", "Other"])
def test_other_tags_are_refused(tag):
    with pytest.raises(ValueError, match=rf"predictions\[1\]\[0\] is '{tag}', which is not an IOB2 tag"):
        entity_scores([["O"], [tag]], [["O"], ["O"]])
