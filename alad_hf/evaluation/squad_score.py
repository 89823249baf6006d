"""Exact match and F1 of extractive question answering, after SQuAD 1.1 and 2.0.

References: Rajpurkar et al., 2016 (https://arxiv.org/abs/1606.05250) and 2018 (https://arxiv.org/abs/1806.03822).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower the case, remove ASCII punctuation and the articles a, an and the, and join words by single spaces.

    Args:
        text: An answer.

    Returns:
        The form in which answers are compared.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def answer_f1(prediction: str, reference: str) -> float:
    """F1 of the two answers' words as multisets, from 0 to 1.

    Where one of them has no word after normalisation (no answer), it is 1 if the other has none either, else 0.

    Args:
        prediction: The predicted answer.
        reference: One reference answer.

    Returns:
        The F1.
    """
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def squad_scores(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float | int]:
    """Score predicted answers; each question takes the best score over its reference answers.

    Args:
        predictions: `{"id", "prediction_text"}` a question, in any order; "" predicts that there is no answer.
        references: `{"id", "answers": {"text": [...], "answer_start": [...]}}` a question; no text at all means that
            the question has no answer (SQuAD 2.0).

    Returns:
        `exact_match` and `f1`, means from 0 to 100, and `total`, the number of questions. If some questions have an
        answer and some have none, also `HasAns_exact`, `HasAns_f1`, `HasAns_total` and the same three as `NoAns_`.

    Raises:
        ValueError: If ids repeat, or the ids of predictions and references differ.

    Example:
        >>> squad_scores(
        ...     [{"id": "1", "prediction_text": "Eiffel tower"}],
        ...     [{"id": "1", "answers": {"text": ["the Eiffel Tower"], "answer_start": [0]}}],
        ... )
        {'exact_match': 100.0, 'f1': 100.0, 'total': 1}
    """
    _check_ids([row["id"] for row in predictions], [row["id"] for row in references])
    predicted_text = {row["id"]: row["prediction_text"] for row in predictions}
    scores: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for row in references:
        answers = row["answers"]["text"]
        # An answer of articles and punctuation only is no answer once normalised; it counts where nothing else can.
        accepted = [answer for answer in answers if normalise_answer(answer)] or [""]
        prediction = predicted_text[row["id"]]
        same = any(normalise_answer(prediction) == normalise_answer(answer) for answer in accepted)
        scores[bool(answers)].append((float(same), max(answer_f1(prediction, answer) for answer in accepted)))

    exact, f1, total = _means(scores[True] + scores[False])
    result: dict[str, float | int] = {"exact_match": exact, "f1": f1, "total": total}
    if scores[True] and scores[False]:
        for name, has_answer in (("HasAns", True), ("NoAns", False)):
            exact, f1, total = _means(scores[has_answer])
            result |= {f"{name}_exact": exact, f"{name}_f1": f1, f"{name}_total": total}
    return result


class SquadScore(evaluate.Metric):
    """Exact match and F1 of SQuAD 1.1 and 2.0 as an `evaluate` metric that needs no network.

    `compute(predictions=..., references=...)` takes and returns what `squad_scores` does. Further fields of a row,
    such as a score or a context, are left unread, so answers of `best_answers` and rows of a dataset go in as they
    are.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        answers = {"text": datasets.Sequence(text), "answer_start": datasets.Sequence(datasets.Value("int64"))}
        return evaluate.MetricInfo(
            description="Exact match and F1 as SQuAD 1.1 and 2.0 define them, from 0 to 100.",
            citation="",
            inputs_description="predictions: {id, prediction_text}; references: {id, answers: {text, answer_start}}.",
            features=datasets.Features(
                {"predictions": {"id": text, "prediction_text": text}, "references": {"id": text, "answers": answers}}
            ),
        )

    def add_batch(
        self,
        *,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> None:
        """Add answered questions.

        Args:
            predictions: Rows with `id` and `prediction_text`.
            references: As many rows with `id` and `answers`.
            **kwargs: For the base class, which names the ones it does not know.

        Raises:
            ValueError: If the numbers of rows differ.
        """
        # `evaluate` stores rows in pairs and knows neither surplus fields nor, where the counts differ, the ids.
        if len(predictions) != len(references):
            _check_ids([row["id"] for row in predictions], [row["id"] for row in references])
        super().add_batch(
            predictions=[{"id": row["id"], "prediction_text": row["prediction_text"]} for row in predictions],
            references=[
                {"id": row["id"], "answers": {name: row["answers"][name] for name in ("text", "answer_start")}}
                for row in references
            ],
            **kwargs,
        )

    def _compute(
        self, predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
    ) -> dict[str, float | int]:
        return squad_scores(predictions, references)


def _check_ids(predicted: list[str], expected: list[str]) -> None:
    for name, ids in (("predictions", predicted), ("references", expected)):
        repeated = [value for value, count in Counter(ids).items() if count > 1]
        if repeated:
            raise ValueError(
                f"{len(repeated)} ids repeat in the {name}, such as {_some(repeated)}: keep one row an id."
            )
    missing, extra = sorted(set(expected) - set(predicted)), sorted(set(predicted) - set(expected))
    if missing or extra:
        raise ValueError(
            f"{len(missing)} questions have no prediction ({_some(missing)}) and {len(extra)} predictions have no "
            f"question ({_some(extra)}): predict once for each question, with prediction_text='' where there is no "
            "answer, and score against the same split."
        )


def _some(ids: list[str]) -> str:
    return ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "") if ids else "none"


def _means(scores: list[tuple[float, float]]) -> tuple[float, float, int]:
    total = len(scores)
    exact, f1 = (100.0 * sum(score[part] for score in scores) / max(total, 1) for part in (0, 1))
    return exact, f1, total
