from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from alad_hf.evaluation import entity_metrics, entity_scores, predictions_to_tags, tagging_metrics

NAMES = ["O", "B-PER", "I-PER"]
LABELS = np.array([[-100, 1, 2, -100, 0], [-100, 0, -100, -100, -100]])
IDS = np.array([[2, 1, 0, 2, 0], [1, 1, -100, -100, -100]])
TAGS = ([["B-PER", "O", "O"], ["B-PER"]], [["B-PER", "I-PER", "O"], ["O"]])


def as_logits(ids):
    logits = np.full((*ids.shape, len(NAMES)), -100.0)
    for place in np.argwhere(ids >= 0):
        logits[(*place, ids[tuple(place)])] = 3.0
    return logits


@pytest.mark.parametrize("names", [NAMES, tuple(NAMES), dict(enumerate(NAMES))])
@pytest.mark.parametrize("output", [IDS, as_logits(IDS), (as_logits(IDS), np.zeros(3)), torch.tensor(IDS)])
def test_unlabelled_positions_are_left_out(output, names):
    assert predictions_to_tags(output, LABELS, names) == TAGS


def test_any_negative_label_is_left_out():
    assert predictions_to_tags(IDS, np.where(LABELS < 0, -1, LABELS), NAMES) == TAGS


@pytest.mark.parametrize("with_states", [False, True])
def test_metrics_do_not_depend_on_whether_the_trainer_joins_batches(with_states, tmp_path):
    class Echo(torch.nn.Module):
        """Answers with the batch's own predictions."""

        def forward(self, predicted, labels):
            logits = torch.nn.functional.one_hot(predicted.clamp(min=0), len(NAMES)).float()
            return (torch.zeros(()), logits, logits) if with_states else (torch.zeros(()), logits)

    def evaluate(**arguments):
        # Rows of two lengths, which do not become one array.
        rows = [
            {"predicted": IDS[0].tolist(), "labels": LABELS[0].tolist()},
            {"predicted": [1, 1], "labels": [-100, 0]},
        ]
        args = TrainingArguments(tmp_path, per_device_eval_batch_size=1, report_to="none", use_cpu=True, **arguments)
        trainer = Trainer(Echo(), args, eval_dataset=rows, compute_metrics=entity_metrics(NAMES))
        scores = trainer.evaluate()
        return {name: scores[f"eval_{name}"] for name in ("precision", "recall", "f1", "accuracy", "f1_PER")}

    assert evaluate(eval_do_concat_batches=False) == evaluate()
    assert evaluate()["accuracy"] == 0.5


def test_entity_metrics_are_flat_floats_equal_to_the_metric():
    metrics = entity_metrics(NAMES)(EvalPrediction(predictions=(as_logits(IDS), None), label_ids=LABELS))
    scores = entity_scores(*TAGS)
    assert metrics == {
        **{name: scores[name] for name in ("precision", "recall", "f1", "macro_f1", "accuracy")},
        "f1_PER": scores["per_type"]["PER"]["f1"],
    }
    assert {type(value) for value in metrics.values()} == {float}
    assert metrics["accuracy"] == 0.5


def test_entity_metrics_of_right_predictions():
    metrics = entity_metrics(NAMES)(EvalPrediction(predictions=as_logits(np.maximum(LABELS, 0)), label_ids=LABELS))
    assert set(metrics.values()) == {1.0}


def test_tagging_metrics():
    names = {0: "NOUN", 1: "VERB"}
    prediction = EvalPrediction(predictions=np.array([[0, 1, 1]]), label_ids=np.array([[0, 1, 0]]))
    two_thirds = pytest.approx(2 / 3)
    assert tagging_metrics(names)(prediction) == {
        "accuracy": two_thirds,
        "macro_f1": two_thirds,
        "f1_NOUN": two_thirds,
        "f1_VERB": two_thirds,
    }


def test_label_names_are_checked_before_training():
    with pytest.raises(ValueError, match=r"label_names\[0\] is 'LABEL_0', which is not an IOB2 tag"):
        entity_metrics(["LABEL_0", "LABEL_1"])
    with pytest.raises(ValueError, match=r"label_names has the keys \[1, 2\].*id2label"):
        tagging_metrics({1: "NOUN", 2: "VERB"})


def test_disagreeing_inputs_are_named():
    with pytest.raises(ValueError, match="score 3 labels, but 2 label names"):
        predictions_to_tags(as_logits(IDS), LABELS, NAMES[:2])
    with pytest.raises(ValueError, match=r"shape \(2, 5\) do not match labels of shape \(2, 4\)"):
        predictions_to_tags(IDS, LABELS[:, :4], NAMES)
    with pytest.raises(ValueError, match="reference label id 2 has no name: 2 label names cover the ids 0 to 1"):
        predictions_to_tags(np.zeros_like(IDS), LABELS, NAMES[:2])
    with pytest.raises(ValueError, match="predicted label id -100 has no name"):
        predictions_to_tags(np.full_like(IDS, -100), LABELS, NAMES)
