"""Metrics that work offline, and the way from model outputs to what they score."""

from __future__ import annotations

from .answer_extraction import AnswerSpan, answer_candidates, best_answers
from .compute_metrics import entity_metrics, predictions_to_tags, tagging_metrics
from .efficiency import (
    EfficiencyReport,
    count_parameters,
    efficiency_report,
    latency,
    sentences_per_second,
    stored_bytes,
)
from .entity_f1 import EntityF1, entity_scores
from .masked_lm_perplexity import masked_lm_perplexity
from .question_answering_metrics import question_answering_metrics
from .squad_score import SquadScore, squad_scores
from .tagging_accuracy import TaggingAccuracy, tagging_scores

__all__ = [
    "AnswerSpan",
    "EfficiencyReport",
    "EntityF1",
    "SquadScore",
    "TaggingAccuracy",
    "answer_candidates",
    "best_answers",
    "count_parameters",
    "efficiency_report",
    "entity_metrics",
    "entity_scores",
    "latency",
    "masked_lm_perplexity",
    "predictions_to_tags",
    "question_answering_metrics",
    "sentences_per_second",
    "squad_scores",
    "stored_bytes",
    "tagging_metrics",
    "tagging_scores",
]
